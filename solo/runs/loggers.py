"""Where a run's values go: metrics.csv always, and what the config asks for beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from solo.config import ConfigError, RunConfig
from solo.runs.checkpoint_files import read_fact
from solo.runs.dashboard import open_dashboard
from solo.runs.folder import RunFolder
from solo.runs.media import Media
from solo.runs.metrics_csv import MetricsCSV

NAMED = ("csv", "wandb", "tensorboard")


class Wanted(NamedTuple):
    """An entry of ``loggers``: a name of ours or an import path, and arguments."""

    path: str
    arguments: dict[str, Any]


class TensorBoard(TensorBoardLogger):
    """Event files in the run's folder; a continued run takes back what it is about to repeat.

    Args:
        folder: the run's.
        arguments: of Lightning's logger.
    """

    def __init__(self, folder: RunFolder, **arguments: Any) -> None:
        if folder.resume_from is not None:
            arguments = {"purge_step": read_fact(folder.resume_from, "global_step"), **arguments}
        super().__init__(folder.path, **{"name": "tensorboard", "version": "", **arguments})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config has a file of its own."""

    @rank_zero_only
    def log_media(self, media: Media, step: int) -> None:
        """As figures and histograms."""
        for title, figure in media.pictures.items():
            self.experiment.add_figure(title, figure, step, close=False)
        for title, values in media.histograms.items():
            self.experiment.add_histogram(title, values, step)


def wanted(config: RunConfig) -> list[Wanted]:
    """The entries of ``loggers``, each once, and wandb where that is enabled."""
    found = [
        Wanted(entry, {}) if isinstance(entry, str) else _with_arguments(entry)
        for entry in config.loggers
    ]
    if config.uses_wandb:
        found.append(Wanted("wandb", {}))
    return list({entry.path: entry for entry in found}.values())


def _with_arguments(entry: dict[str, Any]) -> Wanted:
    arguments = dict(entry)
    path = arguments.pop("path", None)
    if not isinstance(path, str):
        raise ConfigError(
            f"loggers has {entry}; give a name ({', '.join(NAMED)}) or "
            "{path: package.module.Class, argument: value}"
        )
    if path in ("csv", "wandb"):
        where = "the keys of wandb say where to" if path == "wandb" else "it has none"
        raise ConfigError(f"loggers gives {path} arguments, {arguments}, but {where}; write {path}")
    return Wanted(path, arguments)


def check_loggers(config: RunConfig) -> None:
    """Whether every logger can be made; makes none.

    Raises:
        ConfigError: naming the entry.
    """
    for path, arguments in wanted(config):
        if path not in NAMED:
            _check_arguments(path, found_class(path), arguments)
        elif path == "tensorboard" and not any(map(find_spec, ("tensorboard", "tensorboardX"))):
            raise ConfigError("loggers has tensorboard, which needs: pip install tensorboard")


def _check_arguments(path: str, kind: type[Logger], arguments: dict[str, Any]) -> None:
    try:
        inspect.signature(kind).bind(**_placed(kind, arguments, Path()))
    except TypeError as error:
        raise ConfigError(f"loggers: {path} cannot be made with {arguments}: {error}") from error


def found_class(path: str) -> type[Logger]:
    """The logger behind ``package.module.Class``.

    Raises:
        ConfigError: for a path that leads to none.
    """
    try:
        found = resolve_name(path)
    except Exception as error:  # a user's module can raise anything
        raise ConfigError(
            f"loggers has {path}, which cannot be loaded ({error!r:.200}); give "
            f"{', '.join(NAMED)} or the import path of a Lightning logger"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Logger)):
        raise ConfigError(f"loggers has {path}, which is no logger of pytorch_lightning.loggers")
    return found


def open_loggers(
    config: RunConfig, folder: RunFolder, is_first: bool, say: Callable[[str], None]
) -> list[Logger]:
    """All of a run's loggers.

    Args:
        config: of the run.
        folder: of the run.
        is_first: whether this is the process that logs.
        say: told what goes wrong.
    """
    chosen: list[Logger] = [MetricsCSV(folder.path / "metrics.csv", say)]
    for path, arguments in wanted(config):
        if path == "wandb":
            chosen.append(open_dashboard(config, folder, is_first, say))
        elif path == "tensorboard":
            chosen.append(TensorBoard(folder, **arguments))
        elif path != "csv":
            kind = found_class(path)
            chosen.append(kind(**_placed(kind, arguments, folder.path)))
    return chosen


def _placed(kind: type[Logger], arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments with the run's folder to write to, unless they say where to."""
    if "save_dir" not in inspect.signature(kind).parameters:
        return arguments
    return {"save_dir": str(folder), **arguments}
