"""What all methods share: views in, features out, one loss, online probes, optimizer.

A method subclasses :class:`SSLMethod`, declares its options as a :class:`MethodKwargs` and writes
``compute_loss``. Shapes: V views, B images on this process, F backbone features, D embedding.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from solo import distributed, rng
from solo.backbones import build_backbone, compile_calls, has_blocks, last_two_cls
from solo.config import Config, ConfigError, Section
from solo.data import Batch
from solo.methods.probes import Encoded, OnlineProbes, Tally, global_means, probe_loss, score
from solo.methods.projectors import RECTIFIED, ProjectorType, build_projector
from solo.optim import build_optimizer, clip_gradients, parameter_groups, scheduled


class MethodKwargs(Section):
    """``method_kwargs`` of every method."""

    proj_hidden_dim: int = Field(2048, ge=1)
    """Width of the projector's hidden layers."""
    proj_output_dim: int = Field(2048, ge=1)
    """Size D of the embedding."""
    projector_type: ProjectorType = "mlp"
    """`rectified_mlp` ends with a ReLU: non-negative, sparse embeddings."""
    add_projector_classifier: bool = False
    """Also probe the projector's output."""
    logging_interval: int = Field(50, ge=1)
    """Steps between logged values."""

    @property
    def is_rectified(self) -> bool:
        """Whether embeddings are sparse."""
        return self.projector_type in RECTIFIED

    def build_projector(self, in_features: int) -> nn.Sequential:
        """Backbone features to the embedding, untrained."""
        return build_projector(
            self.projector_type, in_features, self.proj_hidden_dim, self.proj_output_dim
        )

    def embedding_dim(self, in_features: int) -> int:
        """D: that of the projector, or F without one."""
        return in_features if self.projector_type == "identity" else self.proj_output_dim


class Loss(NamedTuple):
    """A method's loss, and the values to log (names without "train_"), the loss itself first."""

    total: Tensor
    logs: dict[str, Tensor]


class SSLMethod(pl.LightningModule):
    """A backbone, a projector, one loss and online probes.

    Args:
        config: the resolved config.
        normalize: uint8 images to network input.
        num_classes: outputs of the probes, 0 for no probes.
    """

    Kwargs: ClassVar[type[MethodKwargs]] = MethodKwargs
    min_views: ClassVar[int] = 2
    """Views of an image that the loss needs."""

    def __init__(
        self,
        config: Config,
        normalize: nn.Module,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.kwargs = config.method_kwargs
        self.normalize = normalize
        rng.seed_global(config.seed, "weights")
        size = config.augmentations[0].crop_size
        self.backbone = build_backbone(config.backbone.name, config.backbone.kwargs, size)
        if config.channels_last:
            self.backbone = self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        features = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.projector = self.kwargs.build_projector(features)
        self.embedding_dim = self.kwargs.embedding_dim(features)
        tokens = 2 if config.linear_probe.features == "last_two_cls" else 1
        if tokens == 2 and not has_blocks(self.backbone):
            raise ConfigError(
                f"linear_probe.features is last_two_cls, but {config.backbone.name} is no ViT; "
                "choose backbone"
            )
        self.probes: OnlineProbes | None = None
        if num_classes:
            proj = self.embedding_dim if self.kwargs.add_projector_classifier else 0
            self.probes = OnlineProbes(config, features, features * tokens, proj, num_classes)
        recipes = config.augmentations
        self.global_views = sum(r.num_crops for r in recipes if r.crop_size == size)
        """How many views have the first recipe's resolution; they come first in h and z."""
        self.facts: dict[str, float] = {}
        """Numbers known before training, for the log and the summary."""
        self.logged = False
        """Whether the newest training step logged its values (callbacks follow suit)."""
        self.headline = ""
        """Name of the method's loss in the log, without "train_"."""
        self._tally = Tally()

    def compute_loss(self, h: Tensor, z: Tensor, step: tuple[int, ...]) -> Loss:
        """The method's loss on the global batch.

        Args:
            h: [V, B, F] backbone features, float32.
            z: [V, B, D] embeddings, float32.
            step: (epoch, batch); it names the step's random draws.
        """
        raise NotImplementedError

    def prepare(self, batch: Batch) -> None:
        """Called before :meth:`compute_loss`, for what a method needs beside h and z."""

    def images(self, views: Tensor) -> Tensor:
        """What networks take: uint8 [V, B, 3, H, W] -> normalised [V B, 3, H, W], float32."""
        images: Tensor = self.normalize(views.flatten(0, 1))
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def encode(self, views: list[Tensor]) -> Encoded:
        """Views of each resolution, uint8 [V_r, B, 3, H_r, W_r] -> features [V, B, …].

        All views of a resolution go through the network as one batch. BatchNorm's running
        statistics follow the first resolution alone, the one that validation uses.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        for number, group in enumerate(views):
            if number == 1:
                norms = [m for m in self.backbone.modules() if isinstance(m, _BatchNorm)]
                momenta = [norm.momentum for norm in norms]
                for norm in norms:
                    norm.momentum = 0.0
            images = self.images(group)
            if self.config.linear_probe.features == "last_two_cls":
                h, probe = last_two_cls(self.backbone, images)
            else:
                h = probe = self.backbone(images)
            parts.append((h.unflatten(0, group.shape[:2]), probe.unflatten(0, group.shape[:2])))
        if len(views) > 1:
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum
        h = torch.cat([part[0] for part in parts])
        probe = h
        if self.config.linear_probe.features == "last_two_cls":
            probe = torch.cat([part[1] for part in parts])
        z = self.projector(h.flatten(0, 1)).unflatten(0, h.shape[:2])
        return Encoded(h, z, probe)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step; callbacks get the detached features beside the loss."""
        step = (self.current_epoch, batch_idx)
        rng.seed_global(self.config.seed, "network", *step, distributed.rank())  # dropout
        encoded = self.encode(batch.views)
        log_now = self.logged = self.is_logging_step(batch_idx)
        with torch.autocast(encoded.h.device.type, enabled=False):
            encoded = encoded.for_losses()
            h, z = encoded.h, encoded.z
            self.prepare(batch)
            loss, logs = self.compute_loss(h, z, step)
            self.headline = next(iter(logs))
            if self.probes is not None:
                labels = batch.labels.repeat(h.shape[0], *[1] * (batch.labels.ndim - 1))
                logits = self.probes(encoded.detached())
                found = global_means(score(logits, labels, metrics=log_now))
                loss = loss + probe_loss(found)
                if log_now:
                    found["class_loss"] = found.pop("loss")
                    logs = {**logs, **found}
        if log_now:
            self.log_dict({f"train_{name}": value.detach() for name, value in logs.items()})
            self.log_dict({"lr": self.optimizers().param_groups[0]["lr"], **self.facts})  # type: ignore[union-attr]
        return {"loss": loss, "h": h.detach(), "z": z.detach(), "labels": batch.labels}

    def is_logging_step(self, batch_idx: int) -> bool:
        """Whether this batch ends an optimizer step after which Lightning's loggers listen."""
        accumulated = self.config.accumulate_grad_batches
        last = (batch_idx + 1) % accumulated == 0 or self.trainer.is_last_batch
        return last and (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Score the probes; callbacks get the features."""
        encoded = self.encode(batch.views).for_losses().detached()
        if self.probes is not None:
            with torch.autocast(encoded.h.device.type, enabled=False):
                logits = self.probes(encoded)
            self._tally.add(logits, batch.labels)
        return {"h": encoded.h, "z": encoded.z, "labels": batch.labels}

    def on_validation_epoch_end(self) -> None:
        """Log the probes' results over all processes' images."""
        if self.probes is not None:
            found = self._tally.finish()
            self.log_dict({f"val_{name}": value for name, value in found.items()})

    def configure_optimizers(self) -> Any:
        """The configured optimizer over backbone, projector and probes, and its schedule."""
        options = self.config.optimizer
        accumulated = self.config.accumulate_grad_batches
        scale = options.batch_size * distributed.world_size() / 256 * accumulated
        groups = parameter_groups(
            self.learnable_parameters(),
            options.lr * scale,
            options.weight_decay,
            options.exclude_bias_n_norm_wd,
        )
        if self.probes is not None:
            probes = list(self.probes.parameters())
            groups.append(
                {
                    "params": probes,
                    "lr": options.classifier_lr * scale,
                    "weight_decay": options.classifier_weight_decay,
                }
            )
        return scheduled(self.config, build_optimizer(self.config, groups), self.trainer)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip what the method's loss trains; probes, and so labels, do not change how much."""
        if gradient_clip_val is not None:
            clip_gradients(self.learnable_parameters(), gradient_clip_val, gradient_clip_algorithm)

    def compile_networks(self, **options: Any) -> None:
        """Compile the networks as this method calls them.

        Args:
            options: of ``torch.compile``.
        """
        self.backbone.compile(**options)
        self.projector.compile(**options)
        if self.config.linear_probe.features == "last_two_cls":
            compile_calls(self.backbone, ("forward_intermediates", "forward_head"), **options)

    def learnable_parameters(self) -> list[Tensor]:
        """Parameters that the method's loss trains, in a fixed order."""
        return [*self.backbone.parameters(), *self.projector.parameters()]
