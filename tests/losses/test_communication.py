"""What losses send: counted, and as docs/cluster.md says."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest
import torch
from helpers import ROOT

from benchmarks import communication
from benchmarks.communication import CASES, Sent, differences, seconds


def sent(rank: int, world: int) -> dict[str, torch.Tensor]:
    found = differences(world)
    assert not found, found
    return {"losses": torch.tensor(len(CASES))}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_losses_send_what_the_formulas_say(
    world: int, processes: Callable[..., list[dict[str, torch.Tensor]]]
) -> None:
    assert [int(found["losses"]) for found in processes(sent, world)] == [12] * world


def test_a_formula_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["Barlow Twins"]
    monkeypatch.setitem(CASES, "Barlow Twins", case._replace(sent=lambda s: case.sent(s)[1:]))
    monkeypatch.setattr(communication, "count", lambda case: [("all-reduce", 1024)])
    (seen, said) = differences(2)["Barlow Twins"]
    assert seen == [("all-reduce", 1024)] and said == [("all-reduce", 128)] * 4


def test_time_on_links() -> None:
    """A ring of 16 at 50 GB/s, four hops of 10 microseconds; an all-reduce goes around twice."""
    million = 4e6 / 50e9
    assert seconds([Sent("all-gather", 10**6)], 16) == pytest.approx(15 * million + 4e-5)
    assert seconds([Sent("reduce-scatter", 10**6)], 16) == pytest.approx(15 / 16 * million + 4e-5)
    assert seconds([Sent("all-reduce", 10**6)], 16) == pytest.approx(30 / 16 * million + 8e-5)


def test_the_page_has_the_tables() -> None:
    page = (ROOT / "docs/cluster.md").read_text()
    assert communication.sent_table() in page and communication.time_table() in page


@pytest.mark.slow
def test_the_command(command: Callable[..., CompletedProcess[str]]) -> None:
    done = command("-m", "benchmarks.communication")
    assert "12 losses send what the formulas say with 2, 4, 8 processes" in done.stdout
    done = command("-m", "benchmarks.communication", "--processes", "1", check=False)
    assert done.returncode == 2 and "--processes is 1" in done.stderr
