"""Many linear probes on one frozen network, trained side by side in one pass over the images."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from solo import rng
from solo.backbones import token_features
from solo.config import ConfigError
from solo.config.evaluation import LinearConfig
from solo.data import Batch
from solo.evaluation.encoders import Encoder
from solo.losses import supervised_loss
from solo.methods.probes import Tally, at_least_float32
from solo.methods.training import TrainingModule
from solo.optim import parameter_groups


class Setting(NamedTuple):
    """One probe of a grid: its rate and weight decay, and the features that it sees."""

    features: str
    lr: float
    weight_decay: float


def settings_of(config: LinearConfig) -> list[Setting]:
    """Every combination; what a list leaves out is as in a single run."""
    grid = config.grid
    return [
        Setting(*chosen)
        for chosen in product(
            grid.features or ["backbone"],
            grid.lr or [config.optimizer.lr],
            grid.weight_decay or [config.optimizer.weight_decay],
        )
    ]


class GridProbe(TrainingModule):
    """A linear layer for each setting; the network is frozen, in evaluation mode.

    Each layer begins and trains as it would alone. The best is chosen by images of the training
    set that are held out, and ``val_acc1`` is its accuracy on the validation set.

    Args:
        config: of the evaluation, with a grid.
        encoder: the network.
        num_classes: outputs.
        held: how many of the validation loader's images, its first, are the held-out ones.

    Raises:
        ConfigError: for features that the network does not have.
    """

    loss_name: ClassVar[str] = "loss"

    def __init__(self, config: LinearConfig, encoder: Encoder, num_classes: int, held: int) -> None:
        super().__init__(config)
        self.encoder, self.held = encoder, held
        self.settings = settings_of(config)
        self.kinds = list(dict.fromkeys(setting.features for setting in self.settings))
        if self.kinds != ["backbone"] and encoder.features != "backbone":
            raise ConfigError(
                f"grid.features is {', '.join(self.kinds)}, and features is {encoder.features}; "
                "leave one of them out"
            )
        with torch.no_grad():
            encoder.eval()
            widths = {kind: x.shape[1] for kind, x in self.features(encoder.blank()).items()}
        heads = []
        for setting in self.settings:
            rng.seed_global(config.seed, "head")  # as a single probe begins
            width = widths[setting.features]
            head: nn.Module = nn.Linear(width, num_classes)
            if config.norm == "layer":
                head = nn.Sequential(nn.LayerNorm(width), head)
            heads.append(head)
        self.heads = nn.ModuleList(heads)
        self.encoder.requires_grad_(False)
        self.held_tally = Tally()
        self.rows: list[dict[str, Any]] = []
        """What was found at the last validation, the chosen setting first."""
        self.train()  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> GridProbe:
        """The network is never in training mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Every kind of features of images [N, C, H, W] in 0 to 255."""
        x = self.encoder.normalize(images)
        if self.kinds == ["backbone"]:
            return {"backbone": self.encoder.features_of(x)}
        return token_features(self.encoder.backbone, x, self.kinds)

    def answers(self, images: Tensor) -> list[Tensor]:
        """Each head's logits."""
        with torch.no_grad():
            found = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            exact = {kind: at_least_float32(x) for kind, x in found.items()}
            return [head(exact[s.features]) for head, s in zip(self.heads, self.settings)]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One step of all; their losses have no parameter in common."""
        self.begin_step(batch_idx)
        logits = self.answers(batch.views[0][0])
        smoothing = self.config.label_smoothing
        with torch.autocast(logits[0].device.type, enabled=False):
            losses = [supervised_loss(x, batch.labels, label_smoothing=smoothing) for x in logits]
        log_now = self.is_logging_step(batch_idx)
        # One that diverges must not end the others.
        total = torch.stack([torch.where(x.isfinite(), x, 0.0) for x in losses]).sum()
        if log_now:
            self.log_step({self.loss_name: total / len(losses)})
        return {"loss": total, "logged": log_now}

    def on_after_backward(self) -> None:
        """What diverges stands still."""
        for parameter in self.heads.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)

    def clipped_together(self) -> list[list[Tensor]]:
        """Each head by itself."""
        return [list(head.parameters()) for head in self.heads]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score held-out images and validation images, each by themselves."""
        named = {f"{i}_": logits for i, logits in enumerate(self.answers(batch.views[0][0]))}
        is_held = (batch.indices < self.held).view(-1, *[1] * (batch.labels.ndim - 1))
        self.held_tally.add(named, torch.where(is_held, batch.labels, -1))
        self.tally.add(named, torch.where(is_held, -1, batch.labels))

    def on_validation_epoch_end(self) -> None:
        """Choose by the held-out images."""
        chosen, found = self.held_tally.finish(), self.tally.finish()
        multilabel = "0_map" in found
        score = "map" if multilabel else "acc1"
        rows = []
        for number, setting in enumerate(self.settings):
            own = {
                name.removeprefix(f"{number}_"): float(value)
                for name, value in found.items()
                if name.startswith(f"{number}_")
            }
            held_out = float(chosen[f"{number}_{score}"])
            rows.append({**setting._asdict(), f"held-out {score}": held_out, **own})
        key = f"held-out {score}"
        self.rows = sorted(rows, key=lambda row: (math.isnan(row[key]), -row[key]))
        best = self.rows[0]
        names = ("loss", "acc1", "acc5", "map")
        self.log_dict({f"val_{name}": best[name] for name in names if name in best})
        self.log("val_held_out", best[f"held-out {score}"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What was found goes along: a run that is done is not trained again for its table."""
        checkpoint["grid"] = self.rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As it was saved."""
        self.rows = checkpoint["grid"]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Each head's, with its rate and weight decay."""
        exclude = self.config.optimizer.exclude_bias_n_norm_wd
        return [
            group
            for head, setting in zip(self.heads, self.settings)
            for group in parameter_groups(
                list(head.parameters()), self.scaled(setting.lr), setting.weight_decay, exclude
            )
        ]
