"""Functions of test files in processes of their own.

    python tests/children.py <test file> <function> '<arguments as JSON>'

A function's arguments are what JSON can hold; what it prints is its answer.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forks import Forked, forked

ROOT = Path(__file__).resolve().parents[1]

# Tensors of one process of several: ``worker(rank, world, *arguments)``, the process group up.
Worker = Callable[..., dict[str, torch.Tensor]]


def words_of(function: Callable[..., Any], arguments: Sequence[Any]) -> list[str]:
    """This file, and what it is to call."""
    file = inspect.getsourcefile(function)
    assert file is not None
    return [__file__, file, function.__name__, json.dumps(arguments)]


def environment() -> dict[str, str]:
    """Of this process, and where modules are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}


def fork(function: Callable[..., Any], *arguments: Any) -> Forked:
    """A process that calls ``function``, seconds faster than that of ``start``."""
    return Forked(words_of(function, arguments), environment())


def start(function: Callable[..., Any], *arguments: Any) -> subprocess.Popen[str]:
    """A process that calls ``function``, its input and outputs open."""
    return subprocess.Popen(
        [sys.executable, *words_of(function, arguments)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_ports(count: int) -> list[int]:
    """So many ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


def call(function: Callable[..., Any], *arguments: Any) -> str:
    """What ``function`` prints in a process of its own."""
    done = forked(words_of(function, arguments), environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def member(file: str, name: str, rank: int, world: int, port: int, out: str, *rest: Any) -> None:
    """Call a worker as one of a group, and leave its tensors in ``out``."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    torch.save(find(file, name)(rank, world, *rest), out)
    dist.barrier()
    dist.destroy_process_group()
    # gloo's threads now and then abort a process that ends in the usual way
    sys.stderr.flush()
    os._exit(0)


def find(file: str, name: str) -> Callable[..., Any]:
    """A function of a file."""
    if Path(file) == Path(__file__):
        return globals()[name]
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


if __name__ == "__main__":
    find(sys.argv[1], sys.argv[2])(*json.loads(sys.argv[3]))
