"""kNN against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from solo.evaluation.knn import knn_predict


def votes(distance: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    bank, queries = torch.randn(300, 8), torch.randn(70, 8)
    labels = (bank[:, 0] > 0).long() + 2 * (bank[:, 1] > 0).long()
    if distance == "cosine":
        scale, weights = "cosine", lambda d: np.exp((1 - d) / 0.07)
    else:
        scale, weights = "euclidean", lambda d: 1 / (d + 1e-6)
    peer = KNeighborsClassifier(20, weights=weights, metric=scale, algorithm="brute")
    return bank, labels, queries, peer.fit(bank, labels).predict(queries)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [7, 1000])
def test_agrees_with_scikit_learn(distance: str, block: int) -> None:
    bank, labels, queries, expected = votes(distance)
    got = knn_predict(bank, labels, queries, k=20, num_classes=4, distance=distance, block=block)
    assert got.shape == (70, 4)
    assert got[:, 0].tolist() == expected.tolist()


def test_small_banks() -> None:
    bank = torch.eye(3)
    got = knn_predict(bank, torch.tensor([4, 0, 2]), bank, k=20, num_classes=9)
    assert got[:, 0].tolist() == [4, 0, 2]
    assert got.shape == (3, 5)
