"""The report's pictures on dashboards, while a run goes on."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn

from solo import distributed
from solo.data import ImageData
from solo.methods import SSLMethod
from solo.report.sections import network_sections, validation_features
from solo.runs.media import Media, TakesMedia


class PicturesLogger(pl.Callback):
    """Send pictures and histograms of the validation set to loggers that take them.

    Only the first process looks: the others go on, and wait at their next collective. Neither the
    network nor its generators are changed. Networks in shards (``strategy=fsdp``) are left alone.

    Args:
        data: the run's images.
        every: epochs from one time to the next; the last epoch's always.
    """

    def __init__(self, data: ImageData, every: int) -> None:
        self.data, self.every = data, every

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """Look, where it is time; after validation."""
        done = trainer.current_epoch + 1
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TakesMedia)]
        is_time = done % self.every == 0 or done == trainer.max_epochs
        if not (loggers and is_time and distributed.rank() == 0):
            return
        if pl_module.device_mesh is not None:  # all would have to look
            return
        was_training = {part: part.training for part in pl_module.modules()}
        pl_module.eval()
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        try:
            # As written: compiling for other shapes would take minutes.
            eager = torch.compiler.set_stance("force_eager")
            with torch.random.fork_rng(devices), torch.no_grad(), eager:
                media = self._look(pl_module)
            for logger in loggers:
                logger.log_media(media, trainer.global_step)
        except Exception as error:  # no picture is worth a run
            rank_zero_warn(f"Pictures are left out: {type(error).__name__}: {error}")
        finally:
            for part, training in was_training.items():
                part.training = training

    def _look(self, method: SSLMethod) -> Media:
        features = validation_features(method, self.data)
        histograms = {}
        if features is not None:
            histograms["embedding"] = features.z.flatten().float()
            histograms["l0 of each dimension"] = (features.z != 0).float().mean(0)
        sections = network_sections(method, self.data, features)
        pictures = {title: figure for title, _, figure in sections if figure is not None}
        return Media(pictures, histograms)
