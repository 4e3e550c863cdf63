"""Processes forked from one that has imported the package: seconds faster than new interpreters.

    python tests/forks.py <file descriptor of a socket>

A request is what ``python <script> <words>`` would be told: its words, environment and folder. Its
process is forked from a server with one thread, in which nothing but imports has run.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 1 << 17
"""Bytes of a request."""
WIDTH = 10
"""Bytes of a number: a process, and how it ended."""


class Forked:
    """A running process, as far as subprocess.Popen has it: its end and what it wrote."""

    def __init__(self, words: Sequence[str], env: dict[str, str]) -> None:
        self.args = words
        self.pid = 0
        self.returncode: int | None = None
        self._outputs = [os.memfd_create(name) for name in ("out", "err")]
        self._status, theirs = os.pipe()
        request = json.dumps({"words": list(words), "env": env, "folder": str(ROOT)}).encode()
        assert len(request) < LONGEST, f"{len(request)} bytes"
        given = [*self._outputs, theirs]
        socket.send_fds(server(), [request], given)
        os.close(theirs)
        self.pid = self._told(120)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end: standard output and errors.

        Raises:
            TimeoutExpired: after so many seconds; it is killed then.
        """
        self.returncode = self._told(timeout)
        os.close(self._status)
        found = []
        for output in self._outputs:
            with os.fdopen(output, "rb") as file:
                file.seek(0)
                found.append(file.read().decode())
        return found[0], found[1]

    def _told(self, timeout: float) -> int:
        """The next number that the server tells of it."""
        ready, _, _ = select.select([self._status], [], [], timeout)
        if not ready:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(self.args), timeout)
        return int(os.read(self._status, WIDTH))


def forked(words: Sequence[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command line that has ended."""
    child = Forked(words, env)
    out, errors = child.communicate(timeout=600)
    return subprocess.CompletedProcess(words, child.returncode or 0, out, errors)


@cache
def server() -> socket.socket:
    """This process's own, started when first asked for."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request; returns in the new process, with what it was asked."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of the processes that wait for ours
    while True:
        message, given, _, _ = socket.recv_fds(requests, LONGEST, 3)
        if not message:
            sys.exit()
        if os.fork() == 0:
            break
        for each in given:
            os.close(each)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for of_server in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        of_server.detach()  # folders that imports made are not for its forks to remove
    requests.close()
    *outputs, status = given
    if child := os.fork():
        os.write(status, f"{child:{WIDTH}}".encode())
        _, code = os.waitpid(child, 0)
        os.write(status, f"{os.waitstatus_to_exitcode(code):{WIDTH}}".encode())
        os._exit(0)
    os.close(status)
    for ours, theirs in enumerate(outputs, start=1):
        os.dup2(theirs, ours)
        os.close(theirs)
    return json.loads(message)


def become(words: Sequence[str], env: dict[str, str], folder: str) -> None:
    """What a new interpreter would do: read the environment, and run the script."""
    import numpy as np
    import torch
    from wandb.sdk.data_types import _private as wandbs

    wandbs.MEDIA_TMP.name = tempfile.mkdtemp("wandb-media")  # each process removes its own
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    paths = env.get("PYTHONPATH", "")
    sys.path[:2] = [str(Path(words[0]).resolve().parent), *filter(None, paths.split(os.pathsep))]
    sys.argv = list(words)
    if "OMP_NUM_THREADS" in env:
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    random.seed()
    np.random.seed()
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    import solo.linear
    import solo.pretrain  # noqa: F401

    become(**serve(socket.socket(fileno=int(sys.argv[1]))))
