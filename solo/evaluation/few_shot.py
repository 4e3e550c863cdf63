"""Accuracy from a few labelled images of each class."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, pstdev
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from solo import rng
from solo.config import ConfigError
from solo.evaluation.features import FeatureSet
from solo.evaluation.logistic import accuracy, fit_logistic, settled_l2

Shots = int | Literal["all"]


class Score(NamedTuple):
    """Mean and standard deviation over draws, in percent; one draw has no deviation."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


def check_shots(labels: Tensor, classes: Sequence[str], shots: Sequence[Shots]) -> None:
    """Whether every class has enough images.

    Raises:
        ConfigError: naming the class that has not, or where there are not two classes.
    """
    if labels.ndim > 1:
        raise ConfigError("few_shot needs one class an image; these have attributes (mode=fast)")
    if len(classes) < 2:
        raise ConfigError(
            f"There is one class only ({', '.join(classes) or 'none'}); a probe needs two or more"
        )
    wanted = max((k for k in shots if isinstance(k, int)), default=1)
    for number, name in enumerate(classes):
        count = int((labels == number).sum())
        if count < wanted:
            raise ConfigError(
                f"few_shot.shots asks for {wanted} images of each class, but {name} has {count}; "
                f"set ++few_shot.shots=[{max(1, count)},all] or add images"
            )


def draw_shots(labels: Tensor, shots: Shots, seed: int, draw: int) -> Tensor:
    """Indices of ``shots`` images of each class, [C * shots]; all indices for "all"."""
    if shots == "all":
        return torch.arange(len(labels))
    order = torch.randperm(len(labels), generator=rng.generator(seed, "shots", draw))
    mixed = labels[order]
    return torch.cat([order[mixed == label][:shots] for label in labels.unique()])


def few_shot(
    train: FeatureSet,
    val: FeatureSet,
    num_classes: int,
    shots: Shots,
    *,
    draws: int,
    seed: int,
    l2: float | Literal["auto"] = 1.0,
) -> Score:
    """Logistic regression on ``shots`` images of each class, scored on the validation set.

    The draws of more shots contain those of fewer, and are the same for every network. With
    ``l2="auto"`` each draw chooses its own by its labelled images (:func:`settled_l2`).
    """
    found = []
    for draw in range(1 if shots == "all" else draws):
        x, labels = train  # all of them: no copy
        if shots != "all":
            picked = draw_shots(labels.cpu(), shots, seed, draw)
            x, labels = x[picked], labels[picked]
        penalty = settled_l2(l2, x, labels, num_classes, rng.generator(seed, "l2", draw))
        classifier = fit_logistic(x, labels, num_classes, penalty)
        found.append(accuracy(classifier.scores(val.x), val.labels))
    return Score(mean(found), pstdev(found) if len(found) > 1 else None)
