"""What every run has, of whatever kind: folder, checkpoints, loggers, trainer, start and end."""

from solo.runs.fit import RunInterrupted, fit, loggers, run_folder
from solo.runs.folder import RunFolder, choose_folder
from solo.runs.trainer import build_trainer, prepare

__all__ = [
    "RunFolder",
    "RunInterrupted",
    "build_trainer",
    "choose_folder",
    "fit",
    "loggers",
    "prepare",
    "run_folder",
]
