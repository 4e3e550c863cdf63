"""What everything that trains has in common: methods, and probes on trained networks."""

from __future__ import annotations

from typing import Any, ClassVar

import pytorch_lightning as pl
from torch import Tensor

from solo import distributed, kernels, rng
from solo.config import RunConfig
from solo.methods.probes import Tally
from solo.optim import build_optimizer, clip_gradients, scheduled
from solo.rng import Step


class TrainingModule(pl.LightningModule):
    """Seeded steps, logging steps, scaled rates, clipping, and the tally of a validation.

    ``training_step`` returns the loss and, for callbacks, ``logged``: whether the step logged its
    values.

    Args:
        config: of the run.
    """

    loss_name: ClassVar[str]
    """Of the loss, in the log, without "train_"."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config: Any = config
        self.tally = Tally()

    def on_fit_start(self) -> None:
        """Agree with the other processes on whether kernels run."""
        kernels.settle(self.device)

    def begin_step(self, batch_idx: int) -> Step:
        """Which step this is; seeds what networks draw in it (dropout)."""
        step = Step(self.current_epoch, batch_idx)
        rng.seed_global(self.config.seed, "network", *step, distributed.rank())
        return step

    def is_logging_step(self, batch_idx: int) -> bool:
        """Whether this batch ends an optimizer step after which Lightning's loggers listen."""
        accumulated = self.config.accumulate_grad_batches
        last = (batch_idx + 1) % accumulated == 0 or self.trainer.is_last_batch
        return last and (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def log_step(self, values: dict[str, Tensor]) -> None:
        """Log a step's values as ``train_…``, and the rate."""
        self.log_dict({f"train_{name}": value.detach() for name, value in values.items()})
        self.log("lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def on_validation_epoch_end(self) -> None:
        """Log what was tallied, over all processes' images."""
        self.log_dict({f"val_{name}": value for name, value in self.tally.finish().items()})

    def scaled(self, rate: float) -> float:
        """A base rate, which is for 256 images, for the global batch."""
        options = self.config.optimizer
        images = options.batch_size * distributed.world_size()
        return float(rate * images / 256 * self.config.accumulate_grad_batches)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, each with its rate and weight decay."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        """The configured optimizer and its schedule."""
        clips = self.clips_gradients()
        optimizer = build_optimizer(self.config, self.parameter_groups(), clips)
        return scheduled(self.config, optimizer, self.trainer)

    def clips_gradients(self) -> bool:
        """Whether gradients are clipped before an optimizer's step."""
        return self.config.gradient_clip_val is not None

    def loss_parameters(self) -> list[Tensor]:
        """What the loss trains: all that asks for a gradient, but for online probes."""
        named = self.named_parameters()
        return [p for name, p in named if p.requires_grad and not name.startswith("probes.")]

    def clipped_together(self) -> list[list[Tensor]]:
        """Parameters whose gradients have one norm to clip."""
        return [self.loss_parameters()]

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip what the loss trains; online probes, and so labels, do not change how much."""
        if gradient_clip_val is not None:
            for parameters in self.clipped_together():
                clip_gradients(parameters, gradient_clip_val, gradient_clip_algorithm)
