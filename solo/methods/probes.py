"""Online probes: classifiers trained beside the method, on features cut off from its gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from solo import distributed
from solo.config import Config
from solo.losses.supervised import has_label, label_loss, labelled


class Encoded(NamedTuple):
    """What the network makes of images, [V, B, …] or [N, …].

    ``h``: backbone features [.., F]; ``z``: embeddings [.., D]; ``probe``: what the linear probe
    sees [.., P], often ``h`` itself.
    """

    h: Tensor
    z: Tensor
    probe: Tensor

    def detached(self) -> Encoded:
        """Cut off from the gradient, views joined with the batch."""
        h = self.h.detach()
        probe = h if self.probe is self.h else self.probe.detach()
        return Encoded(*(x.flatten(0, 1) for x in (h, self.z.detach(), probe)))

    def for_losses(self) -> Encoded:
        """Features and embeddings in float32 or better."""
        h = at_least_float32(self.h)
        probe = h if self.probe is self.h else at_least_float32(self.probe)
        return Encoded(h, at_least_float32(self.z), probe)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


class Scores(dict[str, Tensor]):
    """Sums over a batch by metric name, and ``count``, how many labelled rows they are over."""


class OnlineProbes(nn.Module):
    """A linear probe on the backbone's features, and optionally more.

    Args:
        config: ``mlp_probe`` adds MLP probes.
        num_features: F, of the backbone.
        probe_features: P, of what the linear probe sees.
        proj_features: D of the projector, 0 for no probe on it.
        num_classes: outputs C.
    """

    def __init__(
        self,
        config: Config,
        num_features: int,
        probe_features: int,
        proj_features: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        linear: nn.Module = nn.Linear(probe_features, num_classes)
        if config.linear_probe.norm == "layer":
            linear = nn.Sequential(nn.LayerNorm(probe_features), linear)
        heads: dict[str, nn.Module] = {"linear": linear}
        if proj_features:
            heads["proj"] = nn.Linear(proj_features, num_classes)
        if config.mlp_probe.enabled:
            layers = config.mlp_probe.num_layers
            heads["mlp"] = mlp_head(num_features, num_features, num_classes, layers)
            if proj_features:
                heads["proj_mlp"] = mlp_head(proj_features, proj_features, num_classes, layers)
        self.heads = nn.ModuleDict(heads)

    def forward(self, encoded: Encoded) -> dict[str, Tensor]:
        """Logits [N, C] of each head on the features of N images, by the prefix of its metrics."""
        logits = {}
        for name, head in self.heads.items():
            if name == "linear":
                logits[""] = head(encoded.probe)
            else:
                logits[f"{name}_"] = head(encoded.z if name.startswith("proj") else encoded.h)
        return logits


def score(logits: dict[str, Tensor], labels: Tensor, metrics: bool = True) -> Scores:
    """The sums behind each metric, over this process's labelled rows.

    Args:
        logits: [N, C] of each head, by the prefix of its metrics.
        labels: [N] or [N, C], -1 where there is none.
        metrics: also count correct answers; otherwise there are losses alone.
    """
    scores = Scores(count=labelled(labels))
    for prefix, guess in logits.items():
        scores[f"{prefix}loss"] = label_loss(guess, labels)
        if metrics:
            for k, hits in correct(guess.detach(), labels).items():
                scores[f"{prefix}acc{k}"] = hits
    return scores


def global_means(scores: Scores) -> dict[str, Tensor]:
    """Each metric over the labelled rows of all processes: one reduction, differentiable."""
    kind = next(value.dtype for name, value in scores.items() if name.endswith("loss"))
    stacked = torch.stack([value.to(kind) for value in scores.values()])
    sums = distributed.all_sum(stacked, alike=True)
    return means(Scores(zip(scores, sums.unbind())))


def probe_loss(found: dict[str, Tensor]) -> Tensor:
    """What probes are trained with: the sum over heads of their mean loss."""
    return torch.stack([value for name, value in found.items() if name.endswith("loss")]).sum()


class Tally:
    """Metrics of a validation epoch, over all processes' images.

    Each is a mean over labelled images; of binary attributes there is also the mean average
    precision (``map``), which needs all answers at once.
    """

    def __init__(self) -> None:
        self._scores: list[Scores] = []
        self._answers: list[tuple[Tensor, Tensor]] = []
        self._prefixes: list[str] = []

    def add(self, logits: dict[str, Tensor], labels: Tensor) -> None:
        """One batch: [N, C] of each head, and [N] or [N, C]."""
        self._scores.append(score(logits, labels))
        if labels.ndim > 1:
            self._prefixes = list(logits)
            self._answers.append((torch.stack(list(logits.values()), dim=1), labels))

    def finish(self) -> dict[str, Tensor]:
        """The means by name (none where nothing was added), and a new start."""
        if not self._scores:
            return {}
        names = list(self._scores[0])
        sums = Scores({n: torch.stack([s[n] for s in self._scores]).sum() for n in names})
        found = global_means(sums)
        if self._answers:
            logits, labels = (distributed.gather_uneven(torch.cat(x)) for x in zip(*self._answers))
            for prefix, scores in zip(self._prefixes, logits.unbind(1)):
                value = mean_average_precision(scores, labels)
                found[f"{prefix}map"] = torch.as_tensor(value, device=logits.device)
        self._scores.clear()
        self._answers.clear()
        return found


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Percent; the mean over attributes of the area under precision against recall.

    Args:
        scores: [N, A], higher for more likely.
        labels: [N, A] in {0, 1}; rows with -1, and attributes that nobody has, are left out.
    """
    from sklearn.metrics import average_precision_score  # slow, and only attributes need it

    rows = has_label(labels)
    present = (labels[rows] == 1).any(0)
    if not bool(present.any()):
        return float("nan")
    truth, guess = labels[rows][:, present].cpu(), scores[rows][:, present].double().cpu()
    return 100 * float(average_precision_score(truth.numpy(), guess.nan_to_num().numpy()))


def correct(logits: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """Labelled rows that are right in the first k guesses; for attributes, the mean over them."""
    if labels.ndim > 1:
        right = ((logits > 0) == (labels == 1)).float().mean(-1)
        return {1: (right * has_label(labels)).sum()}
    ks = [k for k in (1, 5) if k <= logits.shape[-1]]
    guesses = logits.topk(max(ks), dim=-1).indices
    hits = guesses == labels[:, None]  # a missing label, -1, is never guessed
    return {k: hits[:, :k].sum() for k in ks}


def mlp_head(features: int, hidden: int, outputs: int, layers: int) -> nn.Sequential:
    """``layers`` linear layers with BatchNorm and ReLU between them."""
    blocks: list[nn.Module] = []
    for width in [features] + [hidden] * (layers - 2):
        blocks += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*blocks, nn.Linear(hidden, outputs))


def means(scores: Scores) -> dict[str, Tensor]:
    """Each metric of ``scores``: accuracies in percent, losses per row."""
    count = torch.clamp(scores["count"], min=1)
    return {
        name: value / count * (100 if "acc" in name else 1)
        for name, value in scores.items()
        if name != "count"
    }
