"""What all methods share: views in, features out, one loss, online probes, optimizer.

A method subclasses :class:`SSLMethod`, declares its options as a :class:`MethodOptions` and writes
``compute_loss``. Shapes: V views, B images on this process, F backbone features, D embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from solo import distributed, rng
from solo.backbones import (
    build_backbone,
    checkpoint_blocks,
    compile_calls,
    has_batchnorm,
    has_blocks,
    last_two_cls,
    statistics_kept,
)
from solo.config import Config, ConfigError, Section
from solo.data import Batch
from solo.methods.probes import Encoded, OnlineProbes, global_means, probe_loss, score
from solo.methods.projectors import RECTIFIED, ProjectorType, build_projector
from solo.methods.training import TrainingModule
from solo.optim import parameter_groups
from solo.rng import Step


class MethodOptions(Section):
    """``method_kwargs`` of every method."""

    proj_hidden_dim: int = Field(2048, ge=1)
    """Width of the projector's hidden layers."""
    proj_output_dim: int = Field(2048, ge=1)
    """Size D of the embedding."""
    projector_type: ProjectorType = "mlp"
    """`rectified_mlp` ends with a ReLU: non-negative, sparse embeddings."""
    views_together: bool = False
    """Whether BatchNorm sees all views of a resolution as one batch, as in LeJEPA's code; false:
    each view by itself, as in most published code. Without BatchNorm there is no difference."""
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
    """A method's loss, and its terms to log beside it (names without "train_")."""

    total: Tensor
    terms: dict[str, Tensor] = {}  # noqa: RUF012 - nobody writes to it


class SSLMethod(TrainingModule):
    """A backbone, a projector, one loss and online probes.

    Args:
        config: the resolved config.
        normalize: uint8 images to network input.
        num_classes: outputs of the probes, 0 for no probes.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    min_views: ClassVar[int] = 2
    """Views of an image that the loss needs."""
    against_collapse: ClassVar[str] = "Lower optimizer.lr, or warm up for longer"
    """What to change where embeddings collapse, for a warning."""

    def __init__(
        self,
        config: Config,
        normalize: nn.Module,
        num_classes: int = 0,
    ) -> None:
        super().__init__(config)
        self.options = config.method_kwargs
        self.normalize = normalize
        rng.seed_global(config.seed, "weights")
        backbone, size = config.backbone, config.view_sizes[0]
        channels = config.data.image_channels
        self.backbone = build_backbone(
            backbone.name, backbone.kwargs, *config.view_sizes, channels=channels
        )
        if backbone.grad_checkpointing:
            checkpoint_blocks(self.backbone, backbone.name)
        if config.channels_last:
            for weight in self.backbone.parameters():
                if weight.ndim == 4:  # a network's whole conversion refuses others' five
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        features = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.projector = self.options.build_projector(features)
        self.embedding_dim = self.options.embedding_dim(features)
        self.probes_tokens = config.linear_probe.features == "last_two_cls"
        if self.probes_tokens and not has_blocks(self.backbone, size, channels):
            raise ConfigError(
                f"linear_probe.features is last_two_cls, but {config.backbone.name} is no ViT; "
                "choose backbone"
            )
        self.probes: OnlineProbes | None = None
        if num_classes:
            proj = self.embedding_dim if self.options.add_projector_classifier else 0
            seen = features * (2 if self.probes_tokens else 1)
            self.probes = OnlineProbes(config, features, seen, proj, num_classes)
        recipes = config.augmentations
        self.global_views = sum(r.num_crops for r in recipes if r.crop_size == size)
        """How many views have the first recipe's resolution; they come first in h and z."""
        self.facts: dict[str, float] = {}
        """Numbers known before training, for the log and the summary."""

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """The method's loss on the global batch; logged as ``loss_name``.

        Args:
            encoded: features ``h`` [V, B, F] and embeddings ``z`` [V, B, D], float32.
            batch: what they were made of: B images on this process.
            step: names the step's random draws.
        """
        raise NotImplementedError

    def networks(self) -> list[nn.Module]:
        """What is called by itself and holds weights; lists are lists of such."""
        found: list[nn.Module] = []
        for child in self.children():
            found += list(child) if isinstance(child, nn.ModuleList) else [child]
        return [network for network in found if next(network.parameters(), None) is not None]

    def configure_model(self) -> None:
        """Called by Lightning in each process; shards networks where the strategy has a mesh."""
        if self.device_mesh is None or any(map(distributed.in_parts, self.parameters())):
            return
        from solo.backbones.sharding import shard

        for network in self.networks():
            shard(network, self.device_mesh["data_parallel"])
        if left := [name for name, p in self.named_parameters() if not distributed.in_parts(p)]:
            raise ConfigError(f"strategy is fsdp, but {left[0]} is in no network of the method's")

    def weights_changed(self) -> None:
        """Called when backbone and projector were given other weights before training."""

    def remarks(self, images: int) -> list[str]:
        """What to say before training on global batches of so many images."""
        return []

    def images(self, views: Tensor) -> Tensor:
        """What networks take: [V, B, C, H, W] -> normalised [V B, C, H, W], float32."""
        images: Tensor = self.normalize(views.flatten(0, 1))
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def in_parts(self, call: Callable[..., Any], *tensors: Tensor, dim: int = 0) -> list[Any]:
        """Call networks on parts of a batch, each run again in the backward pass.

        So only one part's activations are held at a time. Without ``config.micro_batch`` there is
        one part, and it is not run again.

        Args:
            call: of a part of each of the tensors.
            tensors: of the batch.
            dim: of the images.
        """
        count = self.config.parts(tensors[0].shape[dim])
        if count == 1:
            return [call(*tensors)]
        parts = zip(*(x.tensor_split(count, dim) for x in tensors))
        return [checkpoint(call, *p, use_reentrant=False, context_fn=self._again) for p in parts]

    def _again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a part's first and second pass: each image counts once for BatchNorm."""
        return contextlib.nullcontext(), statistics_kept(self)

    def encode_batch(self, views: list[Tensor]) -> Encoded:
        """:meth:`encode`, in parts."""
        parts = self.in_parts(lambda *part: self.encode(list(part)), *views, dim=1)
        if len(parts) == 1:
            whole: Encoded = parts[0]
            return whole
        h, z = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("h", "z"))
        if all(part.probe is part.h for part in parts):
            return Encoded(h, z, h)
        return Encoded(h, z, torch.cat([part.probe for part in parts], dim=1))

    def encode(self, views: list[Tensor]) -> Encoded:
        """Views of each resolution, [V_r, B, C, H_r, W_r] -> features [V, B, …].

        BatchNorm sees each view by itself, or all of a resolution (``views_together``). Its running
        statistics follow the first resolution alone, the one that validation uses.
        """
        parts = []
        for number, group in enumerate(views):
            keeping = statistics_kept(self.backbone) if number else contextlib.nullcontext()
            with keeping:
                for part in self.passes(self.backbone, group):
                    features = self.backbone_features(self.images(part))
                    parts.append([x.unflatten(0, part.shape[:2]) for x in features])
        h, probe = (torch.cat(part) for part in zip(*parts))
        embedded = [
            self.projector(part.flatten(0, 1)).unflatten(0, part.shape[:2])
            for part in self.passes(self.projector, h)
        ]
        return Encoded(h, torch.cat(embedded), probe if self.probes_tokens else h)

    def passes(self, network: nn.Module, views: Tensor) -> tuple[Tensor, ...]:
        """[V, B, …] in the parts that go through a network together."""
        together = self.options.views_together or not has_batchnorm(network)
        return (views,) if together else views.split(1)

    def backbone_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What projector and linear probe see, [N, F] and [N, P], of normalised images."""
        if self.probes_tokens:
            return last_two_cls(self.backbone, images)
        h = self.backbone(images)
        return h, h

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One step; callbacks get the detached features beside the loss."""
        step = self.begin_step(batch_idx)
        log_now = self.is_logging_step(batch_idx)
        encoded = self.encode_batch(batch.views)
        with torch.autocast(encoded.h.device.type, enabled=False):
            encoded = encoded.for_losses()
            h, z = encoded.h, encoded.z
            total, terms = self.compute_loss(encoded, batch, step)
            values = {self.loss_name: total, **terms}
            if self.probes is not None:
                labels = batch.labels.repeat(h.shape[0], *[1] * (batch.labels.ndim - 1))
                logits = self.probes(encoded.detached())
                found = global_means(score(logits, labels, metrics=log_now))
                total = total + probe_loss(found)
                found["class_loss"] = found.pop("loss")
                values |= found
        if log_now:
            self.log_step(values)
            self.log_dict(self.facts)
        return {"loss": total, "logged": log_now, "h": h.detach(), "z": z.detach()}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Score the probes; callbacks get the features."""
        encoded = self.encode(batch.views).for_losses().detached()
        if self.probes is not None:
            with torch.autocast(encoded.h.device.type, enabled=False):
                logits = self.probes(encoded)
            self.tally.add(logits, batch.labels)
        return {"h": encoded.h, "z": encoded.z}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the loss trains, and the probes with a rate of their own."""
        options = self.config.optimizer
        groups = parameter_groups(
            self.loss_parameters(),
            self.scaled(options.lr),
            options.weight_decay,
            options.exclude_bias_n_norm_wd,
        )
        if self.probes is not None:
            groups.append(
                {
                    "params": list(self.probes.parameters()),
                    "lr": self.scaled(options.classifier_lr),
                    "weight_decay": options.classifier_weight_decay,
                }
            )
        return groups

    def compile_networks(self, **options: Any) -> None:
        """Compile the networks as this method calls them.

        Args:
            options: of ``torch.compile``.
        """
        if self.config.backbone.grad_checkpointing:  # older ones cannot cut a graph with them
            torch._dynamo.config.optimize_ddp = False  # type: ignore[attr-defined]
        self.backbone.compile(**options)
        self.projector.compile(**options)
        if self.probes_tokens:
            compile_calls(self.backbone, ("forward_intermediates", "forward_head"), **options)
