"""What losses send: collectives of one step, counted in real processes, and worked out for more.

python -m benchmarks.communication [--processes 2 4 8]

Counts every collective of each loss, forward and backward, on so many gloo processes of this
machine, holds the bytes to a formula for each, and prints the two tables of docs/cluster.md: what
is sent, and how long links would take for it with 8, 64 and 1,024 GPUs, which is a calculation.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from rich.progress import track
from torch.multiprocessing.spawn import start_processes

from solo.conformance.counting import Collectives
from solo.conformance.method import MethodLoss

FLOAT = 4
"""Bytes: losses are of float32."""


class Sizes(NamedTuple):
    """Views, images of a process, features, slices (prototypes), frequencies, processes."""

    V: int
    B: int
    D: int
    K: int
    T: int
    W: int


class Sent(NamedTuple):
    """A collective, and the numbers that each process hands over."""

    kind: str
    numbers: int

    @property
    def bytes(self) -> int:
        """Of those numbers."""
        return FLOAT * self.numbers


class Case(NamedTuple):
    """A loss: the method, overrides of its config, and what a step sends."""

    method: str
    overrides: tuple[str, ...]
    sent: Callable[[Sizes], list[Sent]]
    formula: str
    """The same in words: numbers handed over, of each collective."""


def _gathered(s: Sizes, means: int = 2) -> list[Sent]:
    """Embeddings of all to all, means, and gradients of all embeddings back to their owners."""
    return [
        Sent("all-gather", s.V * s.B * s.D),
        *_means(means),
        Sent("reduce-scatter", s.V * s.B * s.D * s.W),
    ]


def _rows(s: Sizes) -> list[Sent]:
    """Embeddings of all to all; each process has the whole gradient of its own."""
    return [Sent("all-gather", s.V * s.B * s.D), Sent("all-reduce", s.V), *_means(1)]


def _means(count: int) -> list[Sent]:
    return [Sent("all-reduce", 1)] * count


K = "method_kwargs.num_projections=32"
GATHER = "V B D gathered, V B D W scattered back, two means"
CASES = {
    "Rectified LpJEPA, sorted": Case("rectified_lpjepa", (K,), _gathered, GATHER),
    "Rectified LpJEPA, characteristic function": Case(
        "rectified_lpjepa",
        (K, "method_kwargs.rdm_test=characteristic_function"),
        lambda s: [
            Sent("all-reduce", 2 * s.V * s.K * s.T),
            Sent("all-reduce", 2 * s.K * s.T),
            *_means(1),
        ],
        "2 V K T and 2 K T summed, a mean",
    ),
    "Rectified LpJEPA, unsliced": Case(
        "rectified_lpjepa",
        ("method_kwargs.rdm_test=unsliced",),
        _rows,
        "V B D gathered, V summed, a mean",
    ),
    "LeJEPA, sliced": Case(
        "lejepa",
        ("method_kwargs.num_slices=32", "method_kwargs.test=epps_pulley"),
        lambda s: [Sent("all-reduce", 2 * s.V * s.K * s.T), *_means(1)],
        "2 V K T summed, a mean",
    ),
    "LeJEPA, unsliced": Case(
        "lejepa",
        ("method_kwargs.test=unsliced_epps_pulley",),
        _rows,
        "V B D gathered, V summed, a mean",
    ),
    "VICReg": Case("vicreg", (), _gathered, GATHER),
    "VISReg": Case("visreg", (), _gathered, GATHER),
    "SimCLR, NCL": Case(
        "simclr",
        (),
        lambda s: _gathered(s, means=1),
        "V B D gathered, V B D W scattered back, a mean",
    ),
    "Barlow Twins": Case(
        "barlow_twins",
        (),
        lambda s: [Sent("all-reduce", s.D**2), *[Sent("all-reduce", 2 * s.D)] * 4],
        "D^2 summed, 2 D summed four times",
    ),
    "DINO": Case(
        "dino",
        ("method_kwargs.num_prototypes=32",),
        lambda s: [Sent("all-reduce", s.K), *_means(1)],
        "K summed, a mean",
    ),
    "BYOL, I-JEPA": Case("byol", (), lambda s: _means(1), "a mean"),
    "supervised": Case("supervised", (), lambda s: _means(2), "two means"),
}
SMALL = Sizes(V=2, B=8, D=16, K=32, T=17, W=1)
"""What is counted."""
NAMES = {
    "allgather_": "all-gather",
    "_allgather_base_": "all-gather",
    "allreduce_": "all-reduce",
    "_reduce_scatter_base_": "reduce-scatter",
}


def count(case: Case, sizes: Sizes = SMALL) -> list[tuple[str, int]]:
    """Collectives of one step on this process: (kind, bytes handed over).

    gloo scatters by an all-reduce, of which each process takes its own part: it counts as the
    reduce-scatter that it stands for.
    """
    loss = MethodLoss(case.method, case.overrides, sizes.V, sizes.D, {})
    world, rank = dist.get_world_size(), dist.get_rank()
    z = torch.randn(sizes.V, sizes.B, sizes.D, requires_grad=True)
    with Collectives() as collectives:
        loss(z, torch.arange(sizes.B) + sizes.B * rank, 1).backward()
    back = FLOAT * sizes.V * sizes.B * sizes.D * world
    gathers = any("gather" in name for name, _ in collectives.made)
    return [
        ("reduce-scatter" if gathers and size == back else NAMES[name], size)
        for name, size in collectives.made
    ]


def differences(processes: int) -> dict[str, tuple[list[tuple[str, int]], list[tuple[str, int]]]]:
    """Counted and worked out, of each loss where they are not the same: on this process."""
    sizes = SMALL._replace(W=processes)
    found = {name: (count(case), worked_out(case, sizes)) for name, case in CASES.items()}
    return {n: (seen, said) for n, (seen, said) in found.items() if sorted(seen) != sorted(said)}


def worked_out(case: Case, sizes: Sizes) -> list[tuple[str, int]]:
    """(kind, bytes handed over) by the formula."""
    return [(one.kind, one.bytes) for one in case.sent(sizes)]


WITHIN, BETWEEN, HOP = 450e9, 50e9, 10e-6
"""Bytes a second of a GPU to others of its machine and of others (data sheets: NVLink 4, 400 Gbit/s
a GPU), and seconds from one to the next."""
IMAGES = 2048
"""Of the global batch, whatever the number of processes."""


def seconds(sent: Sequence[Sent], processes: int) -> float:
    """Of collectives one after another: bytes of a ring at the slowest link, hops of a tree."""
    rate = WITHIN if processes <= 8 else BETWEEN
    total = 0.0
    for one in sent:
        whole = one.bytes * (processes if one.kind == "all-gather" else 1)
        rounds = 2 if one.kind == "all-reduce" else 1
        share = (processes - 1) / processes
        total += rounds * (whole * share / rate + HOP * math.log2(processes))
    return total


PUBLISHED = {
    "Rectified LpJEPA": Sizes(V=2, B=0, D=2048, K=8192, T=17, W=0),
    "LeJEPA": Sizes(V=8, B=0, D=512, K=1024, T=17, W=0),
}
"""Of all losses of the method."""
GRADIENTS = {"ResNet-50": 23_508_032, "ViT-L/14": 303_178_752}
"""Parameters, whose float32 gradients DDP averages."""
WORLDS = (8, 64, 1024)


def sent_table() -> str:
    """Each loss, and what a process hands over in a step."""
    lines = ["| loss | numbers that a process hands over in a step |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {case.formula} |" for name, case in CASES.items())])


def time_table() -> str:
    """Milliseconds a step, of published sizes at a global batch of :data:`IMAGES`."""
    rows = {
        name: [
            case.sent(sizes._replace(B=IMAGES // processes, W=processes)) for processes in WORLDS
        ]
        for name, case in CASES.items()
        if (sizes := PUBLISHED.get(name.partition(",")[0]))
    }
    rows |= {f"gradients of {n}": [[Sent("all-reduce", c)]] * 3 for n, c in GRADIENTS.items()}
    titles = [f"{processes:,} GPUs" for processes in WORLDS]
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---|" * len(WORLDS)]
    for name, sent in rows.items():
        cells = [f"{1e3 * seconds(one, world):.2f} ms" for one, world in zip(sent, WORLDS)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _work(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=processes)
    try:
        for name, (seen, said) in differences(processes).items():
            raise SystemExit(f"{name}: {seen} is sent, the formula says {said}")
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Count, compare and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8])
    options = parser.parse_args()
    if (least := min(options.processes)) < 2:
        parser.error(f"--processes is {least}; one process sends nothing")
    for processes in track(options.processes, description="counting", transient=True):
        with tempfile.TemporaryDirectory() as folder:
            # Forked, they need not import everything again.
            method = "fork" if sys.platform == "linux" else "spawn"
            start_processes(_work, (processes, folder), processes, start_method=method)
    counted = ", ".join(map(str, options.processes))
    print(f"{len(CASES)} losses send what the formulas say with {counted} processes\n")
    print(f"{sent_table()}\n\n{time_table()}")


if __name__ == "__main__":
    main()
