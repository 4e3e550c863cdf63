"""Probes that train on augmented images: linear, MLP, or the whole network (finetune)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torchvision.transforms import v2

from solo import distributed, rng
from solo.backbones import freeze_unused
from solo.config import ConfigError
from solo.config.evaluation import LinearConfig
from solo.data import Batch
from solo.evaluation.encoders import Encoder
from solo.losses import supervised_loss
from solo.methods.probes import at_least_float32, global_means, mlp_head, score
from solo.methods.training import TrainingModule
from solo.optim import parameter_groups


class TrainedProbe(TrainingModule):
    """A head on a network that is frozen (linear, mlp) or trains along (finetune).

    A frozen network stays in evaluation mode: its BatchNorm statistics do not move.

    Args:
        config: of the evaluation.
        encoder: the network.
        num_classes: outputs of the head.
        multilabel: labels are binary attributes.
    """

    loss_name: ClassVar[str] = "loss"

    def __init__(
        self, config: LinearConfig, encoder: Encoder, num_classes: int, multilabel: bool
    ) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.trains_all = config.mode == "finetune"
        features = encoder.num_features()
        rng.seed_global(config.seed, "head")
        if config.mode == "mlp":
            options = config.mlp
            head: nn.Module = mlp_head(
                features, options.hidden_dim, num_classes, options.num_layers
            )
        else:
            head = nn.Linear(features, num_classes)
            if config.norm == "layer":
                head = nn.Sequential(nn.LayerNorm(features), head)
        self.head = head
        self.encoder.requires_grad_(self.trains_all)
        if self.trains_all:
            blank = encoder.blank()
            freeze_unused(self.encoder, lambda: self.encoder(blank))
        self.mix: v2.Transform | None = None
        kinds = ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
        mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
        if mixes and self.trains_all and not multilabel:
            self.mix = v2.RandomChoice(mixes)
        self.train()  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> TrainedProbe:
        """A frozen network is never in training mode."""
        super().train(mode)
        if not self.trains_all:
            self.encoder.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One step of a probe or of fine-tuning."""
        self.begin_step(batch_idx)
        x = self.encoder.normalize(batch.views[0][0])
        labels = batch.labels
        targets = labels
        if self.mix is not None:
            x, targets = self.mix(x, labels)  # each image has a label: the data were chosen so
        with torch.set_grad_enabled(self.trains_all):
            features = self.encoder.features_of(x)
        with torch.autocast(x.device.type, enabled=False):
            logits = self.head(at_least_float32(features))
            loss = self._loss(logits, targets)
        log_now = self.is_logging_step(batch_idx)
        if log_now:
            found = global_means(score({"": logits.detach()}, labels))
            self.log_step({**found, self.loss_name: loss})
        return {"loss": loss, "logged": log_now}

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over the labelled rows of all processes."""
        smoothing = self.config.label_smoothing
        if targets.is_floating_point():  # mixed: class probabilities
            own = F.cross_entropy(logits, targets, label_smoothing=smoothing)
            return distributed.all_mean(own, alike=True)
        return supervised_loss(logits, targets, label_smoothing=smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a validation batch."""
        x = self.encoder(batch.views[0][0])
        with torch.autocast(x.device.type, enabled=False):
            logits = self.head(at_least_float32(x))
        self.tally.add({"": logits}, batch.labels)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Head and, in finetune, the network, whose rates fall from layer to layer."""
        options = self.config.optimizer
        rate = self.scaled(options.lr)
        decay, exclude = options.weight_decay, options.exclude_bias_n_norm_wd
        groups = parameter_groups(list(self.head.parameters()), rate, decay, exclude)
        return groups + (self._network_groups(rate) if self.trains_all else [])

    def _network_groups(self, rate: float) -> list[dict[str, Any]]:
        """The network's parameters, the last layer's at ``rate * layer_decay``."""
        parts: list[nn.Module] = [self.encoder.backbone]
        if self.encoder.features == "projector" and self.encoder.projector is not None:
            parts.append(self.encoder.projector)
        options, decay = self.config.optimizer, self.config.layer_decay
        if decay == 1:
            everything = [p for part in parts for p in part.parameters()]
            exclude = options.exclude_bias_n_norm_wd
            return parameter_groups(everything, rate, options.weight_decay, exclude)
        groups = []
        for part in parts:
            try:
                found = param_groups_layer_decay(
                    part,
                    weight_decay=options.weight_decay,
                    layer_decay=decay,
                    no_opt_scale=None,
                )
            except Exception as error:  # timm's own account of a network's layers can be wrong
                raise ConfigError(
                    f"layer_decay is {decay}, but timm cannot say which layers {self.encoder.name} "
                    f"has ({error!r}); give layer_decay=1"
                ) from error
            last = max(group["lr_scale"] for group in found)  # EfficientViM's leaves one out
            for group in found:
                groups.append(
                    {
                        "params": group["params"],
                        "lr": rate * decay * group["lr_scale"] / last,
                        "weight_decay": group["weight_decay"],
                    }
                )
        return groups
