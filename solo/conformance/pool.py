"""Processes that stay, a set for each number of them: each imports the loss once, and forks a
child for every piece of work, so that nothing of one is left for the next."""

from __future__ import annotations

import dis
import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from solo.conformance import work
from solo.conformance.subject import Loss, Subject, UnfitError

START = 180.0
"""Seconds that a process may take to start and to import the loss."""
GRACE = 3.0
"""Seconds, beside twice those that the first took, that others have to raise too."""
HEAVY = ("torchvision", "pytorch_lightning", "lightning", "timm", "transformers")
"""Imported once for all processes, where the loss imports them."""
ON_PURPOSE = (ValueError, RuntimeError, AssertionError, NotImplementedError, TypeError)
"""What refuses an input; other errors are accidents, whoever raises them."""


class FailedError(Exception):
    """Work that raised, or did not end.

    Args:
        message: the error's, with its type.
        ended: whether every process ended by an error of its own: nothing hung or died.
        refused: whether those were raised on purpose, by a ``raise`` or an ``assert`` in Python.
    """

    def __init__(self, message: str, ended: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.ended, self.refused = ended, ended and refused


class _Fault(NamedTuple):
    message: str
    on_purpose: bool = False
    died: bool = False


_DIED = _Fault("the process died", died=True)


class _Member(NamedTuple):
    process: BaseProcess
    connection: Connection


class Pool:
    """Up to 11 processes: one without a group, and 1, 2, 3 and 4 that meet in one.

    They start when they are needed, with the environment that a launcher gives (RANK, WORLD_SIZE
    and the like), and end with the pool, or with the process that has it.

    Args:
        timeout: seconds that a piece of work may take.
    """

    def __init__(self, timeout: float = 60) -> None:
        self.timeout = timeout
        self._sets: dict[int, list[_Member]] = {}
        self._loaded: dict[int, set[Subject]] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for world in list(self._sets):
            self._close(world)

    def _close(self, world: int) -> None:
        for process, connection in self._sets.pop(world, []):
            connection.close()
            with suppress(OSError, TypeError):  # gone already, or no group of its own
                os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.kill()
            process.join()
        self._loaded.pop(world, None)

    def _ready(self, world: int, subject: Subject) -> None:
        """Have the set of that many processes, with the loss imported."""
        if not all(process.is_alive() for process, _ in self._sets.get(world, [])):
            self._close(world)
        if world not in self._sets:
            context = _context(subject)
            self._sets[world], self._loaded[world] = [], set()
            for rank in range(max(1, world)):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, rank, world), daemon=True)
                process.start()
                there.close()
                self._sets[world].append(_Member(process, here))
        if subject not in self._loaded[world]:
            nothing: list[tuple[Any, ...]] = [()] * max(1, world)
            self._asked(world, (subject, None), nothing, max(START, self.timeout))
            self._loaded[world].add(subject)

    def run(
        self, subject: Subject, function: str, each: Sequence[tuple[Any, ...]], world: int = 0
    ) -> list[Any]:
        """Call a function of ``work`` with the arguments of each process; their answers.

        Args:
            subject: the loss.
            function: its name.
            each: arguments, a tuple for each process.
            world: how many meet in a group; 0: one process without a group.

        Raises:
            FailedError: where one of them raises, dies or takes too long.
        """
        self._ready(world, subject)
        return self._asked(world, (subject, function), each, self.timeout)

    def _asked(
        self, world: int, what: tuple[Any, ...], each: Sequence[tuple[Any, ...]], seconds: float
    ) -> list[Any]:
        answers: dict[int, Any] = {}
        faults: dict[int, _Fault] = {}
        waiting: dict[Connection, int] = {}
        for rank, ((_, connection), own) in enumerate(zip(self._sets[world], each)):
            try:
                connection.send_bytes(pickle.dumps((*what, own)))
                waiting[connection] = rank
            except OSError:
                faults[rank] = _DIED
        began = time.monotonic()
        limit = began + seconds
        while waiting and time.monotonic() < limit:
            for ready in wait(list(waiting), timeout=0.5):
                connection = cast(Connection, ready)
                rank = waiting.pop(connection)
                try:
                    good, answer = pickle.loads(connection.recv_bytes())
                except (EOFError, OSError):
                    good, answer = False, _DIED
                (answers if good else faults)[rank] = answer
                if not good and len(faults) == 1:  # the others may wait for it for ever
                    now = time.monotonic()
                    limit = min(limit, now + GRACE + 2 * (now - began))
        if not faults and not waiting:
            return [answers[rank] for rank in range(len(each))]
        died = any(fault.died for fault in faults.values())
        if waiting or died:
            self._close(world)
        if not faults:
            who = ", ".join(str(rank) for rank in sorted(waiting.values()))
            which = f"; of {world} processes, {who} did not" if world > 1 else ""
            raise FailedError(f"did not end within {seconds:g} s{which}")
        first = _DIED if died else faults[min(faults)]
        on_purpose = all(fault.on_purpose for fault in faults.values())
        raise FailedError(first.message, not died and not waiting, on_purpose)


def _context(subject: Subject) -> Any:
    """How processes start: as forks of a server that has imported torch, where there are such."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    more = [name for name in HEAVY if name in sys.modules]
    more += ["solo.conformance.method"] if subject.is_method else []
    context.set_forkserver_preload(["solo.conformance.work", *more])
    return context


LAUNCHER = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)


def _launched(rank: int, world: int) -> dict[str, str]:
    """What torchrun tells a process about its group; of none, nothing."""
    values = (rank, rank, 0, world, world, "127.0.0.1", 29500)
    return dict(zip(LAUNCHER, map(str, values))) if world else {}


def _serve(connection: Connection, rank: int, world: int) -> None:
    """A member's life: it ends with the pool, or with the process that has the pool."""
    if hasattr(os, "setsid"):
        os.setsid()  # its children can be ended with it
    for name in LAUNCHER:
        os.environ.pop(name, None)
    os.environ.update(_launched(rank, world))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # a loss's own words are not the report's
    os.dup2(nowhere, 2)
    losses: dict[Subject, Loss] = {}
    parent = multiprocessing.parent_process()
    assert parent is not None
    while True:
        if parent.sentinel in wait([connection, parent.sentinel]):
            _end()
        try:
            subject, name, arguments = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            _end()
        if subject not in losses:
            good, answer = _tried(partial(Loss, subject))
            if good:
                losses[subject] = answer
                answer = None
        if subject in losses:
            function = getattr(work, name) if name else _nothing
            good, answer = _in_a_child(function, (losses[subject], *arguments), parent.sentinel)
        connection.send_bytes(pickle.dumps((good, answer)))


def _end() -> None:
    """With all children."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _in_a_child(
    function: Callable[..., Any], arguments: tuple[Any, ...], sentinel: int
) -> tuple[bool, Any]:
    """A function's answer, or its fault; what it changes of modules and of torch is gone after."""
    if not hasattr(os, "fork"):
        return _tried(lambda: function(*arguments))
    here, there = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if not child:
        here.close()
        there.send_bytes(pickle.dumps(_tried(lambda: function(*arguments))))
        os._exit(0)
    there.close()
    if sentinel in wait([here, sentinel]):
        _end()
    try:
        good, answer = pickle.loads(here.recv_bytes())
    except (EOFError, OSError):
        good, answer = False, _DIED
    here.close()
    os.waitpid(child, 0)
    return good, answer


def _tried(call: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, call()
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {str(error).strip()}"
        return False, _Fault(message, _on_purpose(error))


def _nothing(loss: Loss) -> None:
    """The loss is imported, no more."""


def _on_purpose(error: BaseException) -> bool:
    """Whether it refuses: the innermost frame stands at a ``raise`` or ``assert``, not at a call
    that broke."""
    if not isinstance(error, ON_PURPOSE) or isinstance(error, UnfitError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_code is nn.Module.__getattr__.__code__:
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
