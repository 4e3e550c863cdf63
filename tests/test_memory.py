"""benchmarks.memory: what a step holds, from shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import ROOT
from torch import nn

from benchmarks.memory import kept_by_graph, largest_gathered, main


class Block(nn.Module):
    """8 -> 16 -> 8: 280 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(self.up(x).relu())
        return y


class Step(nn.Module):
    """As much of a method as is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 40)

    def networks(self) -> list[nn.Module]:
        return [self.backbone, self.head]

    def training_step(self, batch: torch.Tensor, index: int) -> Any:
        return self.head(self.backbone(batch)).sum()


def test_what_a_graph_keeps_and_what_is_gathered() -> None:
    step: Any = Step()
    # Inputs of all five layers, [32, 8] or [32, 16]; what ReLU keeps is an input of the next.
    assert kept_by_graph(step, torch.randn(32, 8)) == 4 * 32 * (8 + 16 + 8 + 16 + 8)
    assert largest_gathered(step) == 40 * 9


@pytest.mark.slow
def test_the_table_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["imagenet/lejepa_resnet"])
    printed = capsys.readouterr().out.strip().splitlines()
    page = (ROOT / "docs/cluster.md").read_text().splitlines()
    assert len(printed) == 3 and set(printed) <= set(page)
