"""Online probes and projectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import slow

from solo.config import Config
from solo.methods.probes import (
    Encoded,
    OnlineProbes,
    Tally,
    global_means,
    mean_average_precision,
    means,
    probe_loss,
    score,
)
from solo.methods.projectors import build_projector

MLP = Config.model_validate({"mlp_probe": {"enabled": True, "num_layers": 2}})


def test_losses_and_accuracies() -> None:
    probes = OnlineProbes(MLP, 8, 6, 4, num_classes=7).eval()
    h, z, labels = torch.randn(20, 8), torch.randn(20, 4), torch.randint(0, 7, (20,))
    tokens = torch.randn(20, 6)
    labels[3:6] = -1
    scores = score(probes(Encoded(h, z, tokens)), labels)
    found = means(scores)
    keep = labels >= 0
    expected = 0.0
    for name, head in probes.heads.items():
        logits = head(z if "proj" in name else tokens if name == "linear" else h)[keep]
        prefix = {"linear": "", "proj": "proj_", "mlp": "mlp_", "proj_mlp": "proj_mlp_"}[name]
        loss = F.cross_entropy(logits, labels[keep])
        expected += loss
        torch.testing.assert_close(found[f"{prefix}loss"], loss)
        right = (logits.argmax(1) == labels[keep]).float().mean() * 100
        torch.testing.assert_close(found[f"{prefix}acc1"], right)
        ranks = (logits > logits.gather(1, labels[keep, None])).sum(1)
        torch.testing.assert_close(found[f"{prefix}acc5"], (ranks < 5).float().mean() * 100)
    torch.testing.assert_close(probe_loss(found), torch.as_tensor(expected))
    assert scores["count"] == 17


def test_no_labels_at_all_cost_nothing() -> None:
    probes = OnlineProbes(Config(), 8, 8, 0, num_classes=3)
    h = torch.randn(4, 8)
    scores = score(probes(Encoded(h, torch.zeros(4, 0), h)), torch.full((4,), -1))
    assert probe_loss(means(scores)) == 0 and set(scores) == {"count", "loss", "acc1"}
    assert means(scores)["acc1"] == 0


def test_attributes() -> None:
    probes = OnlineProbes(Config(), 8, 8, 0, num_classes=3)
    h, labels = torch.randn(10, 8), torch.randint(0, 2, (10, 3))
    labels[4] = -1
    scores = score(probes(Encoded(h, torch.zeros(10, 0), h)), labels)
    keep = torch.arange(10) != 4
    logits = probes.heads["linear"](h)[keep]
    expected = F.binary_cross_entropy_with_logits(logits, labels[keep].float())
    torch.testing.assert_close(probe_loss(means(scores)), expected)
    right = ((logits > 0).long() == labels[keep]).float().mean() * 100
    torch.testing.assert_close(means(scores)["acc1"], right)


def test_mean_average_precision() -> None:
    """Precision at each hit, averaged over hits, then over attributes that somebody has."""
    scores, labels = torch.randn(30, 4), torch.randint(0, 2, (30, 4))
    labels[:, 2] = 0
    labels[7] = -1
    found = []
    for a in (0, 1, 3):
        order = sorted((i for i in range(30) if i != 7), key=lambda i: -scores[i, a])
        hits = [int(labels[i, a]) for i in order]
        at = [sum(hits[: n + 1]) / (n + 1) for n, hit in enumerate(hits) if hit]
        found.append(sum(at) / len(at))
    expected = 100 * sum(found) / 3
    assert mean_average_precision(scores, labels) == pytest.approx(expected, rel=1e-9)
    assert np.isnan(mean_average_precision(scores, labels * 0))


def tally_worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 2, 5).double(), torch.randint(0, 2, (20, 5))
    tally = Tally()
    for start, stop in [(0, 9), (9, 20)] if world == 1 else [[(0, 4), (4, 7)], [(7, 20)]][rank]:
        rows = slice(start, stop)
        tally.add({"": logits[rows, 0], "proj_": logits[rows, 1]}, labels[rows])
    found = tally.finish()
    assert set(found) == {"loss", "acc1", "map", "proj_loss", "proj_acc1", "proj_map"}
    return found


def test_a_tally_on_one_process_and_two(agree: Callable[..., None]) -> None:
    """Batches of different sizes on the processes."""
    agree(tally_worker, rtol=1e-6, atol=0)


def sparse_worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Five of 24 rows have a label; of four processes the last has none."""
    torch.manual_seed(0)
    config = Config.model_validate({"mlp_probe": {"enabled": False}})
    probes = OnlineProbes(config, 6, 6, 4, 5).double()
    h, z, labels = torch.randn(24, 6).double(), torch.randn(24, 4).double(), torch.full((24,), -1)
    labels[[0, 1, 2, 9, 13]] = torch.tensor([0, 1, 2, 3, 4])
    own = slice(24 * rank // world, 24 * (rank + 1) // world)
    logits = probes(Encoded(h[own], z[own], h[own]))
    found = global_means(score(logits, labels[own]))
    probe_loss(found).backward()
    results = {name: value.detach() for name, value in found.items()}
    for name, parameter in probes.named_parameters():
        assert parameter.grad is not None
        results[name] = parameter.grad / world
        dist.all_reduce(results[name])  # as DistributedDataParallel does
    return results


@pytest.mark.parametrize("world", [2, slow(4)])
def test_probes_where_few_rows_have_labels(
    world: int, processes: Callable[..., list[dict[str, torch.Tensor]]]
) -> None:
    """Loss, metrics and gradients are those of one process, whoever holds the labels."""
    (one,) = processes(sparse_worker, 1)
    assert one["acc1"].item() in (0, 20, 40, 60, 80, 100)
    for other in processes(sparse_worker, world):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "rectified_mlp"])
def test_projector(kind: str) -> None:
    projector = build_projector(kind, 6, 16, 5)
    z = projector(torch.randn(64, 6))
    assert z.shape == (64, 5)
    assert bool((z >= 0).all()) == (kind == "rectified_mlp")
    layers = [type(layer).__name__ for layer in projector]
    assert layers[:7] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
