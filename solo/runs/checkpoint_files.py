"""Checkpoint files that survive crashes: written aside, flushed, checksummed, renamed.

``last.ckpt`` is the newest, ``previous.ckpt`` the one before; each has its SHA-256 beside it. A
save copies the state to host memory and returns; a thread writes it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO
from torch import Tensor

from solo.config import ConfigError

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class SafeCheckpointIO(CheckpointIO):
    """Lightning's way to files, made safe.

    Args:
        warn: told, from the writing thread, that a file could not be written.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self._writer: threading.Thread | None = None
        self._written = False
        self._staged: tuple[dict[str, Any], Path] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Copy to host memory; :meth:`publish` writes it."""
        self._staged = _to_host(checkpoint), Path(path)

    def publish(self) -> None:
        """Write what was saved last, in the background.

        A failure to write (a full disk, say) is a warning: training goes on, and the file that was
        there before stays.
        """
        if self._staged is not None:
            self.wait()
            self._writer = threading.Thread(target=self._write, args=self._staged)
            self._staged = None
            self._writer.start()

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file that holds tensors and plain values only.

        Raises:
            ConfigError: for a damaged file, or one that carries code.
        """
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a file and its checksum."""
        Path(path).unlink(missing_ok=True)
        checksum_of(Path(path)).unlink(missing_ok=True)

    def wait(self) -> bool:
        """Until what was saved last is on disk; whether it is."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        return self._written

    def keep(self, path: Path, name: str) -> None:
        """A second name for what was saved last, which the next save does not replace.

        Where it could not be written there is none; nor, with a warning, where the disk is full
        and the file system has no hard links.
        """
        if not self.wait():
            return
        kept = path.with_name(name)
        partial = path.with_name(f"{name}.partial")
        try:
            partial.unlink(missing_ok=True)
            try:
                os.link(path, partial)
            except OSError:  # no hard links here
                shutil.copyfile(path, partial)
            kept.unlink(missing_ok=True)
            checksum_of(kept).write_text(f"{checksum_of(path).read_text().split()[0]}  {name}\n")
            partial.replace(kept)
        except OSError as error:
            partial.unlink(missing_ok=True)
            self.warn(f"{kept} could not be written ({error}); training goes on.")

    def teardown(self) -> None:
        """Called by Lightning at the end."""
        self.wait()

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        self._written = False
        try:
            write_checkpoint(checkpoint, path)
            self._written = True
        except OSError as error:
            self.warn(
                f"The checkpoint {path} could not be written ({error}); training goes on, and the "
                "file before it is kept."
            )


def checksum_of(path: Path) -> Path:
    """Where the checksum of a checkpoint lies."""
    return path.with_name(path.name + ".sha256")


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write ``path`` and its checksum; what was ``last.ckpt`` becomes ``previous.ckpt``.

    Raises:
        OSError: where it cannot be written; the files that were there are untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, partial_sum = (path.with_name(f"{path.name}.{part}") for part in ("partial", "sum"))
    try:
        with partial.open("wb") as file:
            hashing = _HashingFile(file)
            torch.save(checkpoint, hashing)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial_sum.write_text(f"{hashing.digest.hexdigest()}  {path.name}\n")
    except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError
        for leftover in (partial, partial_sum):
            leftover.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(str(error)) from error
    if path.name == LAST and path.exists():
        previous = path.with_name(PREVIOUS)
        if checksum_of(path).exists():
            os.replace(checksum_of(path), checksum_of(previous))
        else:
            checksum_of(previous).unlink(missing_ok=True)
        os.replace(path, previous)
    os.replace(partial_sum, checksum_of(path))
    os.replace(partial, path)


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint file, None for nothing."""
    if not path.is_file():
        return "it is not there"
    if not path.stat().st_size:
        return "it is empty"
    beside = checksum_of(path)
    if beside.is_file():
        with path.open("rb") as file:
            digest = (
                hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
            )
            if digest is None:  # Python 3.10
                digest = hashlib.sha256()
                while block := file.read(2**20):
                    digest.update(block)
        if beside.read_text().split()[:1] != [digest.hexdigest()]:
            return "its checksum is another one: the file was cut or changed"
    return None


def newest_sound(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """``last.ckpt``, or where that is damaged ``previous.ckpt``, with a warning."""
    for name in (LAST, PREVIOUS):
        path = folder / name
        fault = fault_of(path)
        if fault is None:
            try:
                _content_of(path)
            except ConfigError as error:
                fault = str(error)
            else:
                return path
        if path.exists() or (name == LAST and (folder / PREVIOUS).exists()):
            warn(f"{path} is passed over: {fault}.")
    return None


def read_fact(path: Path, name: str) -> Any:
    """One entry of a sound checkpoint, such as "processes"; None for files that lack it."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True).get(name)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        ConfigError: for a damaged file, or one that carries code (which is not run).
    """
    fault = fault_of(path)
    if fault is not None:
        raise ConfigError(f"The checkpoint {path} cannot be used: {fault}")
    return _content_of(path)


def _content_of(path: Path) -> dict[str, Any]:
    """What :func:`read_checkpoint` does once the file's checksum is known to fit."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"The checkpoint {path} is refused: it holds more than tensors and plain values, and "
            "loading it could run code. Use a checkpoint that this program wrote"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"The checkpoint {path} is damaged: {error}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ConfigError(f"{path} is no checkpoint of a run: it has no state_dict")
    return content


class _HashingFile:
    """A file for writing that computes a checksum on the way."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return int(self.file.write(data))

    def flush(self) -> None:
        self.file.flush()


def _to_host(state: Any) -> Any:
    """A copy whose tensors nobody else changes."""
    return with_tensors(state, lambda x: x.detach().to("cpu", copy=True))


def with_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Nested dicts and lists again, each tensor changed, in the order in which they lie there."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, with_tensors(item, change)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        items = [with_tensors(item, change) for item in value]
        return type(value)(items) if type(value) in (list, tuple) else tuple(items)
    return value
