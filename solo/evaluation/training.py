"""Probes that train on augmented images: linear, MLP, or the whole network (finetune)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torchvision.transforms import v2

from solo import distributed, rng
from solo.config.evaluation import LinearConfig
from solo.data import Batch
from solo.evaluation.encoders import Encoder
from solo.losses import supervised_loss
from solo.methods.probes import Tally, at_least_float32, global_means, mlp_head, score
from solo.optim import build_optimizer, parameter_groups, scheduled


class TrainedProbe(pl.LightningModule):
    """A head on a network that is frozen (linear, mlp) or trains along (finetune).

    A frozen network stays in evaluation mode: its BatchNorm statistics do not move.

    Args:
        config: of the evaluation.
        encoder: the network.
        num_classes: outputs of the head.
        multilabel: labels are binary attributes.
    """

    headline = "loss"

    def __init__(
        self, config: LinearConfig, encoder: Encoder, num_classes: int, multilabel: bool
    ) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
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
            freeze_unused(self.encoder)
        self.mix: v2.Transform | None = None
        kinds = ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
        mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
        if mixes and self.trains_all and not multilabel:
            self.mix = v2.RandomChoice(mixes)
        self.logged = False
        self._tally = Tally()
        self.train()  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> TrainedProbe:
        """A frozen network is never in training mode."""
        super().train(mode)
        if not self.trains_all:
            self.encoder.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step."""
        rng.seed_global(
            self.config.seed, "network", self.current_epoch, batch_idx, distributed.rank()
        )
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
        accumulated = self.config.accumulate_grad_batches
        ends = (batch_idx + 1) % accumulated == 0 or self.trainer.is_last_batch
        self.logged = ends and (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if self.logged:
            found = global_means(score({"": logits.detach()}, labels))
            found["loss"] = loss.detach()
            rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            self.log_dict({**{f"train_{name}": v for name, v in found.items()}, "lr": rate})
        return {"loss": loss}

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over the labelled rows of all processes."""
        smoothing = self.config.label_smoothing
        if targets.is_floating_point():  # mixed: class probabilities
            return distributed.all_mean(F.cross_entropy(logits, targets, label_smoothing=smoothing))
        return supervised_loss(logits, targets, label_smoothing=smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count."""
        x = self.encoder(batch.views[0][0])
        with torch.autocast(x.device.type, enabled=False):
            logits = self.head(at_least_float32(x))
        self._tally.add({"": logits}, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Over all processes' images."""
        self.log_dict({f"val_{name}": value for name, value in self._tally.finish().items()})

    def configure_optimizers(self) -> Any:
        """Head and, in finetune, the network, whose rates fall from layer to layer."""
        config, options = self.config, self.config.optimizer
        accumulated = config.accumulate_grad_batches
        rate = options.lr * options.batch_size * distributed.world_size() / 256 * accumulated
        decay, exclude = options.weight_decay, options.exclude_bias_n_norm_wd
        groups = parameter_groups(list(self.head.parameters()), rate, decay, exclude)
        if self.trains_all:
            groups += self._network_groups(rate)
        return scheduled(config, build_optimizer(config, groups), self.trainer)

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
            for group in param_groups_layer_decay(
                part,
                weight_decay=options.weight_decay,
                layer_decay=decay,
                no_opt_scale=None,
            ):
                groups.append(
                    {
                        "params": group["params"],
                        "lr": rate * decay * group["lr_scale"],
                        "weight_decay": group["weight_decay"],
                    }
                )
        return groups


def freeze_unused(encoder: Encoder) -> None:
    """Parameters that do not enter the features no longer ask for a gradient.

    A projector behind backbone features, say, or a ViT's last norm behind ``last_two_cls``:
    DistributedDataParallel waits for the gradient of everything that asks for one.
    """
    was_training = encoder.training
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    with torch.enable_grad():
        features = encoder.eval()(encoder.blank())
        found = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found):
        parameter.requires_grad_(gradient is not None)
    encoder.train(was_training)
