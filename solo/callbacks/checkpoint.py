"""When to save: every so many epochs, steps or minutes, at a signal, and at the end."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from solo import distributed
from solo.callbacks.best import BestValue
from solo.config import RunConfig
from solo.runs.checkpoint_files import BEST, LAST, SafeCheckpointIO
from solo.runs.run import Handler, RunInterrupted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# submitit's signal before a job's end: heeded where it listens, which requeues the job.
LAUNCHER_SIGNAL = signal.SIGUSR2
_GO_ON, _SAVE = 0, 1  # what processes may wish for; a signal's number is to save and stop


class Checkpoints(pl.Callback):
    """Save ``last.ckpt`` when it is due; processes agree, so that all save at the same step.

    At SIGTERM, SIGUSR1 (which a scheduler sends before the time is up) or Ctrl-C the run saves
    after the step it is in and ends; a second Ctrl-C ends it at once. Where a launcher (submitit)
    listens to SIGUSR2, the run saves and hands it on; where it listens to SIGTERM, the run only
    saves.

    Args:
        config: ``checkpoint`` says how often.
        folder: where to.
        io: what writes.
        console: for what a user should know.
    """

    def __init__(
        self, config: RunConfig, folder: Path, io: SafeCheckpointIO, console: Console
    ) -> None:
        self.config, self.folder, self.io, self.console = config, folder, io, console
        self._saved_step = -1
        self._saved_at = self._started = time.monotonic()
        self._seconds_before = 0.0
        self._received = 0
        self._save_now = False
        self._agreed = _GO_ON
        self._vote = distributed.Vote()
        options = config.checkpoint
        self._value: BestValue | None = None
        self._is_best = False
        if options.monitor is not None:
            self._value = BestValue("checkpoint.monitor", options.monitor, options.mode)
        self._handlers: dict[int, Any] = {}
        self._launcher: dict[int, Handler] = {
            number: handler
            for number in (signal.SIGTERM, LAUNCHER_SIGNAL)
            if callable(handler := signal.getsignal(number))
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, in place of Lightning."""
        self._saved_step = trainer.global_step
        self._saved_at = self._started = time.monotonic()
        for number in {*SIGNALS, *self._launcher}:
            try:
                self._handlers[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not in the main thread: somebody else's business
                return

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the config, how many processes there are, and for how long they have trained."""
        checkpoint["seconds"] = self._seconds_before + time.monotonic() - self._started
        checkpoint["config"] = self.config.to_dict()
        checkpoint["processes"] = distributed.world_size()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Earlier parts of the run count too."""
        self._seconds_before = checkpoint.get("seconds", 0.0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, idx: int
    ) -> None:
        """Save if it is due, or asked for by a signal. An epoch's last step waits for its end."""
        self._agreed = max(self._agreed, self._vote.cast(self._wish(trainer)))
        whole_step = (idx + 1) % self.config.accumulate_grad_batches == 0
        if self._agreed and whole_step and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Only now has the saved step reached the log, from which a resumed run goes on."""
        self.io.publish()
        if self._saved_step == trainer.global_step:
            self._stop_if_agreed(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Whether this epoch is the best so far."""
        if self._value is not None:
            self._is_best = self._value.look(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return self._value.state() if self._value is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from it, if the best epoch is kept here; not in a new folder."""
        kept = distributed.broadcast_object((self.folder / BEST).is_file())
        if self._value is not None and kept:
            self._value.load(state_dict)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where an epoch is due, after its validation."""
        due = (trainer.current_epoch + 1) % self.config.checkpoint.frequency == 0
        if (self.config.checkpoint.enabled and due) or self._agreed or self._is_best:
            self._save(trainer)
            self.io.publish()
            if self._is_best and distributed.rank() == 0:
                self.io.keep(self.folder / LAST, BEST)
            self._is_best = False
            if self.config.checkpoint.keep_prev and due and distributed.rank() == 0:
                self.io.keep(self.folder / LAST, f"epoch_{trainer.current_epoch:04d}.ckpt")
        over = trainer.current_epoch + 1 >= self.config.max_epochs
        if not over:  # the last epoch's run is done anyway
            self._stop_if_agreed(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last state, whatever was due."""
        self._save(trainer)
        self.io.publish()
        self._stop_listening()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Let what is being written be finished."""
        self._stop_listening()

    def _wish(self, trainer: pl.Trainer) -> int:
        """What this process wants: a signal's number, to save, or nothing."""
        if self._received:
            return self._received
        if self._save_now:
            self._save_now = False
            return _SAVE
        options = self.config.checkpoint
        if not options.enabled or trainer.global_step == self._saved_step:
            return _GO_ON
        steps = trainer.global_step - self._saved_step
        minutes = (time.monotonic() - self._saved_at) / 60
        due = (options.every_n_steps is not None and steps >= options.every_n_steps) or (
            options.every_n_minutes is not None
            and distributed.rank() == 0  # one clock
            and minutes >= options.every_n_minutes
        )
        return _SAVE if due else _GO_ON

    def _save(self, trainer: pl.Trainer) -> None:
        if self._agreed == _SAVE:
            self._agreed = _GO_ON
        if trainer.global_step == self._saved_step:
            return
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        trainer.save_checkpoint(self.folder / LAST)

    def _stop_if_agreed(self, trainer: pl.Trainer) -> None:
        if self._agreed > _SAVE:
            self.io.wait()
            raise RunInterrupted(self._agreed, self._launcher.get(self._agreed))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received:
            raise KeyboardInterrupt
        if number == signal.SIGTERM and number in self._launcher:
            self._save_now = True
            return
        self._received = number
        if number == signal.SIGINT and distributed.rank() == 0:
            self.console.print("Saving after this step; Ctrl-C again ends the run at once.")

    def _stop_listening(self) -> None:
        self.io.wait()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
