"""Who is running a run, so that two processes never write to the same folder."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

BEAT, STALE = 20.0, 180.0  # seconds between signs of life, and after which a silent run is dead


class Lease:
    """A claim on a folder: a file ``.lease-<n>``, of which the highest number holds.

    The file is created exclusively: of several claimants one wins, on network file systems too. A
    thread renews its time stamp. Get one by :func:`claim`.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Let others have the folder."""
        self._over.set()
        self._beating.join()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):  # a network file system may be away for a while
                os.utime(self.path)


def claim(folder: Path) -> Lease | str:
    """Become the one who runs what is in ``folder``; otherwise, who does.

    A holder that is dead is followed: a process that is gone from this machine, one of another
    machine that has not renewed its claim for three minutes, or an earlier start of this very
    Slurm job.

    Raises:
        OSError: where the folder cannot be written to.
    """
    newest = max(_leases(folder), default=(0, None))
    number, path = newest
    if path is not None:
        alive = _sign_of_life(path)
        if alive is not None:
            return alive
    mine = folder / f".lease-{number + 1}"
    facts = {"host": platform.node(), "pid": os.getpid(), "slurm_job": slurm_job()}
    try:
        with mine.open("x") as file:
            json.dump(facts, file)
    except FileExistsError:
        return "another process that started just now"
    if any(other > number + 1 for other, _ in _leases(folder)):  # this process was very slow
        mine.unlink()
        return "another process that started just now"
    if path is not None:
        path.unlink(missing_ok=True)
    return Lease(mine)


def holder(folder: Path) -> str | None:
    """Who runs what is in a folder, None where nobody does."""
    _, path = max(_leases(folder), default=(0, None))
    return None if path is None else _sign_of_life(path, own=True)


def slurm_job() -> str | None:
    """The number of the Slurm job that this process is in; it stays when the job is requeued."""
    return os.environ.get("SLURM_JOB_ID")


def _leases(folder: Path) -> list[tuple[int, Path]]:
    return [(int(path.name.rpartition("-")[2]), path) for path in folder.glob(".lease-*")]


def _sign_of_life(path: Path, own: bool = False) -> str | None:
    """Who holds a lease, None if nobody does any more.

    Args:
        path: of the lease.
        own: whether this process and this Slurm job count too.
    """
    try:
        age = time.time() - path.stat().st_mtime
        facts: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # just being written, or cut by a crash
        return "another process" if age < STALE else None
    ours = facts["slurm_job"] is not None and facts["slurm_job"] == slurm_job()
    if age > STALE or (ours and not own):
        return None
    if facts["host"] == platform.node():
        if facts["pid"] == os.getpid() and not own:
            return None
        if not _exists(facts["pid"]):
            return None
    return f"process {facts['pid']} on {facts['host']}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
