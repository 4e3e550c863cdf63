"""kNN against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from solo.evaluation.knn import Distance, knn_grid, knn_predict, nearest


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


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_grid_is_scikit_learns(distance: Distance) -> None:
    """Every setting of one pass, and small blocks give the same."""
    centres = torch.randn(4, 6)
    bank_labels, labels = (torch.arange(n) % 4 for n in (203, 57))
    bank, queries = (centres[y] + torch.randn(len(y), 6) for y in (bank_labels, labels))
    heats = (0.05, 0.2) if distance == "cosine" else (0.1,)
    found = knn_grid(
        bank,
        bank_labels,
        queries,
        labels,
        4,
        ks=[1, 5, 20, 1000],
        temperatures=heats,
        distances=[distance],
    )
    assert len(found) == 3 * len(heats)  # 1000 is more than there are
    for setting, value in found.items():
        heat = setting.temperature

        def weights(d: np.ndarray, heat: float | None = heat) -> np.ndarray:
            return np.exp((1 - d) / heat) if heat else 1 / (d + 1e-6)

        theirs = KNeighborsClassifier(setting.k, metric=distance, weights=weights)
        theirs.fit(bank.double().numpy(), bank_labels.numpy())
        expected = 100 * theirs.score(queries.double().numpy(), labels.numpy())
        assert value == pytest.approx(expected, abs=1e-4), setting
    whole = next(nearest(bank, queries, 9, distance))
    pieces = [torch.cat(x) for x in zip(*nearest(bank, queries, 9, distance, 10, 5))]
    torch.testing.assert_close(pieces[0], whole[0])
    assert torch.equal(pieces[1], whole[1])
