"""What every run has, of whatever kind: folder, checkpoints, loggers, trainer, start and end."""

from solo.runs.folder import RunFolder, choose_folder
from solo.runs.run import Run, RunInterrupted
from solo.runs.saved import SavedRun
from solo.runs.trainer import prepare

__all__ = ["Run", "RunFolder", "RunInterrupted", "SavedRun", "choose_folder", "prepare"]
