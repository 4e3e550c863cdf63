"""Online probes and projectors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from solo.config import Config
from solo.methods.probes import Encoded, OnlineProbes, means
from solo.methods.projectors import build_projector

MLP = Config.model_validate({"mlp_probe": {"enabled": True, "num_layers": 2}})


def test_losses_and_accuracies() -> None:
    probes = OnlineProbes(MLP, 8, 6, 4, num_classes=7).eval()
    h, z, labels = torch.randn(20, 8), torch.randn(20, 4), torch.randint(0, 7, (20,))
    tokens = torch.randn(20, 6)
    labels[3:6] = -1
    total, scores = probes(Encoded(h, z, tokens), labels)
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
    torch.testing.assert_close(total, torch.as_tensor(expected))
    assert scores["count"] == 17


def test_no_labels_at_all_cost_nothing() -> None:
    probes = OnlineProbes(Config(), 8, 8, 0, num_classes=3)
    h = torch.randn(4, 8)
    total, scores = probes(Encoded(h, torch.zeros(4, 0), h), torch.full((4,), -1))
    assert total == 0 and set(scores) == {"count", "loss", "acc1"}
    assert means(scores)["acc1"] == 0


def test_attributes() -> None:
    probes = OnlineProbes(Config(), 8, 8, 0, num_classes=3)
    h, labels = torch.randn(10, 8), torch.randint(0, 2, (10, 3))
    labels[4] = -1
    total, scores = probes(Encoded(h, torch.zeros(10, 0), h), labels)
    keep = torch.arange(10) != 4
    logits = probes.heads["linear"](h)[keep]
    expected = F.binary_cross_entropy_with_logits(logits, labels[keep].float())
    torch.testing.assert_close(total, expected)
    right = ((logits > 0).long() == labels[keep]).float().mean() * 100
    torch.testing.assert_close(means(scores)["acc1"], right)


@pytest.mark.parametrize("kind", ["mlp", "rectified_mlp"])
def test_projector(kind: str) -> None:
    projector = build_projector(kind, 6, 16, 5)
    z = projector(torch.randn(64, 6))
    assert z.shape == (64, 5)
    assert bool((z >= 0).all()) == (kind == "rectified_mlp")
    layers = [type(layer).__name__ for layer in projector]
    assert layers[:7] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
