"""Multinomial logistic regression on features, to the optimum (L-BFGS)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LinearClassifier(NamedTuple):
    """Scores ``(x - mean) * scale @ weight.T + bias``: mean, scale [F], weight [C, F], bias [C]."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def scores(self, x: Tensor) -> Tensor:
        """[N, F] -> [N, C]."""
        standard = (x.to(self.weight) - self.mean) * self.scale
        return F.linear(standard, self.weight, self.bias)


def fit_logistic(
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    l2: float = 1.0,
    max_iter: int = 500,
    soft: bool = False,
) -> LinearClassifier:
    """Minimise the summed cross-entropy + l2 / 2 ||W||^2 on standardised features.

    In float64 on a CPU, float32 elsewhere. The bias is not penalised. Binary attributes give one
    logistic regression each.

    Args:
        x: [N, F].
        labels: [N] classes, or [N, C] binary attributes.
        num_classes: C.
        l2: weight of the penalty; scikit-learn's C is its inverse.
        max_iter: iterations of L-BFGS at most.
        soft: labels [N, C] are the probabilities of one class each.
    """
    x = x.to(torch.float64 if x.device.type == "cpu" else torch.float32)
    mean = x.mean(0)
    spread = x.std(0, correction=0)
    scale = torch.where(spread > 1e-6 * spread.max().clamp(min=1e-30), 1 / spread, 0.0)
    standard = (x - mean) * scale
    weight = torch.zeros(
        num_classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True
    )
    bias = torch.zeros(num_classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        history_size=10,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = F.linear(standard, weight, bias)
        if labels.ndim == 1 or soft:
            fit = F.cross_entropy(scores, labels.to(x.dtype) if soft else labels)
        else:
            fit = F.binary_cross_entropy_with_logits(scores, labels.to(x.dtype)) * num_classes
        loss = fit + l2 / (2 * len(x)) * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return LinearClassifier(mean, scale, weight.detach(), bias.detach())


PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""What :func:`choose_l2` chooses from."""
FOLDS, FEW, MANY = 5, 200, 10_000
"""Parts of a set (up to FEW images, each is held out in turn), and the most that is looked at."""


def settled_l2(
    l2: float | Literal["auto"],
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    generator: torch.Generator,
    groups: Tensor | None = None,
) -> float:
    """A penalty as it is given, or what :func:`choose_l2` chooses by at most ``MANY`` images.

    Args:
        l2: the penalty, or auto.
        x: [N, F].
        labels: [N] classes, or [N, C] binary attributes.
        num_classes: C.
        generator: of the images' order.
        groups: see :func:`choose_l2`.
    """
    if l2 != "auto":
        return l2
    order = torch.randperm(len(x), generator=generator)[:MANY].to(x.device)
    chosen = None if groups is None else groups[order]
    return choose_l2(x[order], labels[order], num_classes, chosen)


def choose_l2(x: Tensor, labels: Tensor, num_classes: int, groups: Tensor | None = None) -> float:
    """The penalty by which a part of the labelled images predicts the others best (log-likelihood).

    As the cross-entropy is summed, what is best for a part is near to what is best for all.

    Args:
        x: [N, F], in random order.
        labels: [N] classes, or [N, C] binary attributes.
        num_classes: C.
        groups: [N], whose rows stay together, as parts of one image know of each other.

    Returns:
        One of ``PENALTIES``; 1, the default, where no class has two images, or there is one group.
    """
    fold = torch.arange(len(x), device=labels.device) % FOLDS
    if groups is not None:
        numbers, fold = groups.unique(return_inverse=True)
        fold = fold % FOLDS
        if len(numbers) < 2:
            return 1.0
    elif labels.ndim == 1:
        place = torch.zeros_like(labels)  # of an image among those of its class
        for label in labels.unique():
            own = labels == label
            count = int(own.sum())
            # Of a class with one image there would be none left to learn from.
            place[own] = torch.arange(count, device=labels.device) % FOLDS if count > 1 else -1
        fold = place
        if not bool((fold >= 0).any()):
            return 1.0
    left_out = range(FOLDS if len(x) <= FEW else 1)
    losses = []
    for l2 in PENALTIES:
        total = 0.0
        for number in left_out:
            held = fold == number
            if not bool(held.any()):  # fewer images of each class than folds
                continue
            classifier = fit_logistic(x[~held], labels[~held], num_classes, l2)
            scores, truth = classifier.scores(x[held]), labels[held]
            if labels.ndim == 1:
                total += float(F.cross_entropy(scores, truth, reduction="sum"))
            else:
                kind = truth.to(scores.dtype)
                total += float(F.binary_cross_entropy_with_logits(scores, kind, reduction="sum"))
        losses.append(total)
    return PENALTIES[min(range(len(losses)), key=losses.__getitem__)]


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Percent correct; of binary attributes, the mean over attributes."""
    if labels.ndim == 1:
        return 100 * float((scores.argmax(-1) == labels).float().mean())
    return 100 * float(((scores > 0) == (labels > 0)).float().mean())
