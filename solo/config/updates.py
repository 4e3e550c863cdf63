"""How weights are updated, and how rates change."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from solo.config.section import ConfigError, Section
from solo.config.views import Positive


class Optimizer(Section):
    """How weights are updated. Rates are per 256 images: see lr."""

    name: Literal["lars", "sgd", "adam", "adamw"] = "lars"
    """The update rule."""
    batch_size: int = Field(256, ge=2)
    """Images per process and step (each gives several views)."""
    global_batch_size: int | None = Field(None, ge=2)
    """Images of a step over all processes: batch_size follows from how many there are, and a run
    goes on with another number of them."""
    lr: float = Field(0.3, gt=0)
    """Base rate; the rate used is lr * batch_size * processes / 256 (* accumulated batches)."""
    classifier_lr: float = Field(0.1, gt=0)
    """Base rate of the online probes, scaled alike."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of backbone and projector."""
    classifier_weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the online probes."""
    exclude_bias_n_norm_wd: bool = False
    """No weight decay on one-dimensional parameters."""
    kwargs: Any = Field(default_factory=dict)
    """The optimizer's own options, declared in solo/optim."""

    @model_validator(mode="after")
    def _of_one_process(self) -> Optimizer:
        if self.global_batch_size is not None:  # until it is known how many there are
            self.batch_size = self.global_batch_size
        return self

    def share(self, processes: int) -> None:
        """Set batch_size for so many processes, where the global one is given.

        Raises:
            ConfigError: where they cannot have equal shares.
        """
        if self.global_batch_size is None:
            return
        share, rest = divmod(self.global_batch_size, processes)
        if rest or share < 2:
            raise ConfigError(
                f"optimizer.global_batch_size is {self.global_batch_size}, which {processes} "
                "processes cannot share equally, two images or more each"
            )
        self.batch_size = share


class Scheduler(Section):
    """How rates change over a run."""

    name: Literal["warmup_cosine", "step", "exponential", "none"] = "warmup_cosine"
    """Shape of the schedule."""
    warmup_epochs: float = Field(10, ge=0)
    """Epochs of linear warm-up. A run of 10 epochs or fewer that does not set it takes a tenth."""
    warmup_start_lr: float = Field(3e-5, ge=0)
    """Rate of the first step."""
    min_lr: float = Field(0.0, ge=0)
    """Rate of the last step."""
    lr_decay_steps: list[Positive] = Field(default_factory=list)
    """Epochs at which `step` divides the rates by 10."""
    gamma: float = Field(0.95, gt=0, le=1)
    """Factor of `exponential`, per epoch."""
    interval: Literal["step", "epoch"] = "step"
    """Whether rates move every step or every epoch."""
