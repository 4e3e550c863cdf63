"""Processes that stay: each waits for work, does it and answers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch

from solo.conformance import work
from solo.conformance.subject import Loss, Subject


class FailedError(Exception):
    """Work that raised, or did not end.

    Args:
        message: the error's, with its type.
        refused: whether every process that was waited for raised by itself: nothing hung or died.
    """

    def __init__(self, message: str, refused: bool = True) -> None:
        super().__init__(message)
        self.refused = refused


class Pool:
    """Up to four processes, started when they are needed, killed when one of them fails.

    Args:
        timeout: seconds that a piece of work may take.
    """

    def __init__(self, timeout: float = 60) -> None:
        self.timeout = timeout
        self.members: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for process, connection in self.members:
            connection.close()
            process.kill()
            process.join()
        self.members = []

    def _start(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        while len(self.members) < count:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()
            self.members.append((process, here))

    def run(self, subject: Subject, function: str, *arguments: tuple[Any, ...]) -> list[Any]:
        """Call a function of ``work`` on a process for each of the arguments; their answers.

        Raises:
            FailedError: where one of them raises, dies or takes too long.
        """
        world = len(arguments)
        self._start(world)
        members = self.members[:world]
        for (_, connection), own in zip(members, arguments):
            connection.send_bytes(pickle.dumps((subject, function, own)))
        waiting = {connection: rank for rank, (_, connection) in enumerate(members)}
        answers: dict[int, Any] = {}
        faults: dict[int, str] = {}
        limit = time.monotonic() + self.timeout
        died = False
        while waiting and time.monotonic() < limit:
            for ready in wait(list(waiting), timeout=0.5):
                connection = cast(Connection, ready)
                rank = waiting.pop(connection)
                try:
                    good, answer = pickle.loads(connection.recv_bytes())
                except (EOFError, OSError):
                    good, answer, died = False, "the process died", True
                (answers if good else faults)[rank] = answer
            if faults:  # the others may wait for it for ever
                limit = min(limit, time.monotonic() + 1)
        if not faults and not waiting:
            return [answers[rank] for rank in range(world)]
        self.close()
        if faults:
            raise FailedError(
                "a process died" if died else faults[min(faults)], not died and not waiting
            )
        raise FailedError(f"did not end within {self.timeout:g} s", refused=False)


def _serve(connection: Connection) -> None:
    """A member's life."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - a loss's own words are not the report's
    losses: dict[Subject, Loss] = {}
    while True:
        try:
            subject, name, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            os._exit(0)
        try:
            if subject not in losses:
                losses[subject] = Loss(subject)
            function: Callable[..., Any] = getattr(work, name)
            answer = (True, function(losses[subject], *arguments))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {str(error).strip()}")
        connection.send_bytes(pickle.dumps(answer))
