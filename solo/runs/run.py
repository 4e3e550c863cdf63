"""A run: how it begins, trains and ends, and what is said where it ends early."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from solo import distributed
from solo.config import ConfigError, RunConfig, RunError
from solo.data import ImageData
from solo.runs.checkpoint_files import LAST, SafeCheckpointIO, read_fact
from solo.runs.dashboard import Dashboard, close_dashboard
from solo.runs.folder import RunFolder, choose_folder
from solo.runs.loggers import check_loggers, open_loggers
from solo.runs.saved import SavedRun
from solo.runs.trainer import build_trainer

ROOT = Path(__file__).resolve().parents[2]
Handler = Callable[[int, FrameType | None], Any]


class RunInterrupted(SystemExit):
    """A signal ended the run after its state was saved; exits with 128 + the signal's number."""

    def __init__(self, number: int, launcher: Handler | None = None) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
        self._launcher = launcher

    def pass_on(self) -> None:
        """Let a launcher that listens to this signal do its part (requeue the job)."""
        if self._launcher is not None:
            self._launcher(self.signal, None)


class Run:
    """A run in progress: what holds its parts, and what makes it train.

    Args:
        config: of the run.
        data: what it trains on.
        console: silent on other processes than the first.
        trainer: Lightning's, without callbacks and loggers.
        io: what writes its checkpoints.
        folder: the run's, on every process.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        console: Console,
        trainer: pl.Trainer,
        io: SafeCheckpointIO,
        folder: RunFolder,
    ) -> None:
        self.config, self.data, self.console = config, data, console
        self.trainer, self.io, self.folder = trainer, io, folder
        self.saved = SavedRun(folder.path)

    @classmethod
    @contextlib.contextmanager
    def start(
        cls,
        config: RunConfig,
        data: ImageData,
        console: Console,
        options: dict[str, Any],
        logging_interval: int,
    ) -> Iterator[Run]:
        """A run with its folder, filled, which is nobody else's until the block ends.

        Args:
            config: of the run.
            data: what it trains on.
            console: see the class.
            options: the trainer's arguments that depend on the machine.
            logging_interval: steps between logged values.
        """
        check_loggers(config)
        trainer, io = build_trainer(config, data, options, console)
        interval = data.logging_interval(logging_interval, trainer.world_size)
        trainer.log_every_n_steps = interval  # type: ignore[attr-defined]
        folder = agree_on_folder(config, trainer, console)
        first = trainer.is_global_zero
        try:
            with folder.noting_errors() if first else contextlib.nullcontext():
                if first:
                    folder.create(config)
                    count = trainer.world_size
                    images = data.images_an_epoch(count)
                    folder.note(
                        images_an_epoch=images, precision=trainer.precision, processes=count
                    )
                yield cls(config, data, console, trainer, io, folder)
        finally:
            if config.uses_wandb:
                close_dashboard()
            folder.release()

    def say(self, text: str) -> None:
        """A line, as long as it is."""
        self.console.print(text, soft_wrap=True)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.trainer.is_global_zero

    def fit(self, module: pl.LightningModule, callbacks: list[pl.Callback], script: str) -> None:
        """Train, unless that was done before; where it ends early, say why and how to go on.

        Args:
            module: what trains.
            callbacks: what watches.
            script: what the processes that Lightning launches run.

        Raises:
            RunInterrupted: after a signal, the state saved.
            RunError: where the loss is no number, or another process of the run is gone.
        """
        trainer, folder = self.trainer, self.folder
        if folder.done:
            left = "nothing is left" if folder.done == "finished" else "the results are left"
            self.console.print(f"Training was done before; {left}.")
            return
        trainer.callbacks += callbacks  # type: ignore[attr-defined]
        trainer.loggers = open_loggers(self.config, folder, self.is_first, self.say)
        dashboards = [logger for logger in trainer.loggers if isinstance(logger, Dashboard)]
        if self.is_first and self.config.wandb.watch:
            for dashboard in dashboards:
                dashboard.look_at(module, self.config.wandb.watch, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        try:
            with (
                distributed.closed_afterwards(),
                folder.hand_down(),
                _children_read(folder, script),
            ):
                # Else Lightning would, after it read a checkpoint's float64 weights into float32.
                trainer.precision_plugin.convert_module(module)
                start = folder.resume_from
                trainer.fit(module, datamodule=self.data, ckpt_path=start, weights_only=True)
        except RunInterrupted as interruption:
            if self.is_first:
                say_how_to_go_on(self.console, interruption, folder)
            interruption.pass_on()
            raise
        except (RuntimeError, ValueError) as error:
            reason = explain(error)
            if reason is None:
                raise
            raise RunError(f"{reason} {how_to_go_on(folder)}") from error
        if self.is_first:
            folder.note(status="trained")
            for dashboard in dashboards if self.config.wandb.log_model else ():
                dashboard.log_model(folder.checkpoints / LAST)

    def seconds(self) -> float:
        """Seconds of training, in all parts of a run that was cut; 0 where nothing was saved."""
        last = self.folder.checkpoints / LAST
        return float(read_fact(last, "seconds") or 0.0) if last.is_file() else 0.0


def agree_on_folder(config: RunConfig, trainer: pl.Trainer, console: Console) -> RunFolder:
    """Choose one folder for all processes, whoever launched them."""

    def warn(text: str) -> None:
        console.print(text, soft_wrap=True)

    def choose() -> RunFolder:
        return choose_folder(config, warn, trainer.world_size)

    handed_down = RunFolder.handed_down()
    if handed_down is not None:
        return handed_down
    if trainer.world_size > 1 and distributed.launched_by_cluster():
        trainer.strategy.setup_environment()  # brings up the process group
        folder, fault = None, None
        if trainer.is_global_zero:
            try:
                folder = choose()
            except ConfigError as error:
                fault = str(error)
        fault, words = distributed.broadcast_object((fault, folder.serialize() if folder else None))
        if fault is not None:
            raise ConfigError(fault)
        return folder or RunFolder.deserialize(words)
    return choose()


def say_how_to_go_on(console: Console, interruption: RunInterrupted, folder: RunFolder) -> None:
    """After a signal: what was saved, and how the run continues."""
    folder.note(status="interrupted")
    console.print(
        f"{interruption.signal.name}: saved {folder.checkpoints / LAST}. {how_to_go_on(folder)}",
        soft_wrap=True,
    )


def how_to_go_on(folder: RunFolder) -> str:
    """The two ways to continue a run."""
    last = folder.checkpoints / LAST
    if not last.exists():
        return "Nothing was saved yet."
    return (
        "The same command with ++auto_resume.enabled=true goes on from its last checkpoint; so "
        f"does {_word('resume_from_checkpoint', last)}, in a new folder."
    )


def _word(key: str, path: Path) -> str:
    """An override to type: quoted for the shell, and for Hydra, where the path needs it."""
    if re.fullmatch(r"[\w./-]+", str(path)):
        return f"++{key}={path}"
    inner = str(path).replace("'", "\\'")
    return shlex.quote(f"++{key}='{inner}'")


def explain(error: Exception) -> str | None:
    """What happened, in a user's words, where an error of torch's tells it in its own."""
    text = str(error)
    if "doesn't match the size of optimizer's group" in text:
        return "The checkpoint's optimizer has other parameters: another version wrote it."
    if re.search(r"DataLoader worker .*(killed|exited unexpectedly)", text):
        return (
            "A loader process was killed, as happens when memory runs out; lower data.num_workers "
            "or optimizer.batch_size."
        )
    if re.search(r"[Cc]onnection (closed|reset|refused)|NCCL.*(remote|abort)|Broken pipe", text):
        return "Another process of this run is gone, so this one ends too."
    return None


@contextlib.contextmanager
def _children_read(folder: RunFolder, script: str) -> Iterator[None]:
    """Let the processes that Lightning launches run the saved config.

    It would repeat this process's command line, which in a multirun is the whole sweep.
    """
    argv, hydra = sys.argv, HydraConfig.instance().cfg
    HydraConfig.instance().cfg = None
    sys.argv = [str(ROOT / script), "--config-path", str(folder.path.absolute())]
    sys.argv += ["--config-name", "config"]
    try:
        yield
    finally:
        sys.argv, HydraConfig.instance().cfg = argv, hydra
