"""Timing, memory and device facts that all benchmarks share."""

from __future__ import annotations

import multiprocessing
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

Found = TypeVar("Found")


@dataclass
class Row:
    """One line of the table: seconds unless the case says otherwise."""

    case: str
    ours: float
    plain: float
    unit: str = "ms"
    ours_memory: float | None = None
    """Peak memory above the inputs, MiB."""
    plain_memory: float | None = None
    floor: float | None = None
    """Time that the counted operations or bytes take at the device's measured rate."""
    bound: str = ""
    """What bounds ours."""

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        higher_is_better = self.unit.endswith("/s")
        return self.ours / self.plain if higher_is_better else self.plain / self.ours

    def as_dict(self) -> dict[str, object]:
        """For the JSON file."""
        return {**asdict(self), "ratio": self.ratio}


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """What the numbers were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            names = {line.split(":")[1].strip() for line in file if line.startswith("model name")}
        model = ", ".join(sorted(names)) or model
    return f"{model}, {torch.get_num_threads()} threads"


def synchronise() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def side_by_side(
    ours: Callable[[], object], plain: Callable[[], object], repeats: int = 5
) -> tuple[float, float]:
    """Median seconds of each, measured in turns so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, taken in zip((ours, plain), times):
            seconds, _ = timed(function)
            if repeat:  # the first is a warm-up
                taken.append(seconds)
    return median(times[0]), median(times[1])


def matmul_rate(size: int = 2048, dtype: torch.dtype = torch.float32) -> float:
    """Measured multiply-add operations a second (two each) of a matrix product."""
    a = torch.randn(size, size, device=device(), dtype=dtype)
    best = min(timed(lambda: a @ a)[0] for _ in range(5))
    return 2 * size**3 / best


def timed(function: Callable[[], Found]) -> tuple[float, Found]:
    """Seconds, and what it returns."""
    synchronise()
    start = time.perf_counter()
    result = function()
    synchronise()
    return time.perf_counter() - start, result


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """MiB by which calling ``prepare(*arguments)()`` raises the peak memory.

    What ``prepare`` itself takes does not count: there it makes the inputs, and calls the same
    once at a trifling size, which loads libraries. On a CPU this happens in a process of its
    own, so ``prepare`` is a function of a module.
    """
    if torch.cuda.is_available():
        work = prepare(*arguments)
        synchronise()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        synchronise()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_raised, prepare, *arguments).result()


def _raised(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """MiB by which the work raises this process's peak."""

    def peak() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    torch.set_num_threads(2)
    work = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is what is taken now
    before = peak()
    work()
    return peak() - before


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| case | ours | plain | ratio | floor | peak MiB, ours | plain | bound by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [f"{x:.4g} {row.unit}" for x in (row.ours, row.plain)]
        floor = "" if row.floor is None else f"{row.floor:.4g} {row.unit}"
        memory = ["" if x is None else f"{x:.0f}" for x in (row.ours_memory, row.plain_memory)]
        cells = [row.case, *numbers, f"{row.ratio:.1f}×", floor, *memory, row.bound]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
