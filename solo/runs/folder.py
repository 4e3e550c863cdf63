"""A run's folder: where it is, what is in it from the start, and which one a resumed run takes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from solo.config import ConfigError, RunConfig, RunError
from solo.config.evaluation import LinearConfig
from solo.config.published import translate
from solo.methods import resolve_config
from solo.runs.checkpoint_files import LAST, newest_sound, read_checkpoint, read_fact
from solo.runs.environment import asked_for, describe_environment
from solo.runs.lease import Lease, claim, slurm_job
from solo.runs.saved import SavedRun, flat

HANDED_DOWN = "SOLO_RUN_FOLDER"  # how a launching process tells its children where their run is

# What may differ between a run and its continuation.
PLACEMENT = (
    "auto_resume",
    "resume_from_checkpoint",
    "wandb",
    "loggers",
    "checkpoint",
    "early_stop",
)
MACHINES = ("devices", "num_nodes", "strategy")  # the global batch says what matters of them


class RunFolder:
    """``<checkpoint.dir>/<method>/<name>-<id>/``.

    Args:
        path: the folder.
        resume_from: a checkpoint to continue from, None for a fresh start.
        lease: this process's claim on the folder; only the process that chose it has one.
        done: "trained" where training is over and the results are left, "finished" where those
            are there too, empty otherwise.
    """

    def __init__(
        self,
        path: Path,
        resume_from: Path | None = None,
        lease: Lease | None = None,
        done: str = "",
    ) -> None:
        self.path, self.done = path, done
        self.resume_from = resume_from
        self.lease = lease

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @classmethod
    def deserialize(cls, words: list[str | None]) -> RunFolder:
        """A folder from what :meth:`serialize` gave."""
        path, resume_from, done = words
        assert path is not None
        return cls(Path(path), Path(resume_from) if resume_from else None, done=done or "")

    def serialize(self) -> list[str | None]:
        """What another process of the same run needs to know."""
        start = str(self.resume_from) if self.resume_from else None
        return [str(self.path.absolute()), start, self.done]

    @classmethod
    def handed_down(cls) -> RunFolder | None:
        """The folder that the launching process chose, None where there was no such process."""
        words = os.environ.get(HANDED_DOWN)
        return cls.deserialize(json.loads(words)) if words else None

    @contextlib.contextmanager
    def hand_down(self) -> Iterator[None]:
        """Let processes launched inside the block find this folder."""
        os.environ[HANDED_DOWN] = json.dumps(self.serialize())
        try:
            yield
        finally:
            del os.environ[HANDED_DOWN]

    def create(self, config: RunConfig) -> None:
        """Fill the folder with config.yaml and environment.json.

        Raises:
            ConfigError: where it cannot be written to.
        """
        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        known = self.facts()
        with _writable(self.path):
            self.checkpoints.mkdir(exist_ok=True)
            _replace(self.path / "config.yaml", text)
            self.note(
                **describe_environment(),
                **asked_for(),
                status=self.done or "running",
                started=known.get("started", _now()),
                continued=[*known["continued"], _now()] if "continued" in known else [],
                finished=None,
                error=None,
            )

    def facts(self) -> dict[str, Any]:
        """What environment.json says; nothing where there is none."""
        return SavedRun(self.path).facts

    def note(self, **facts: Any) -> None:
        """Add facts to environment.json."""
        text = json.dumps({**self.facts(), **facts}, indent=2) + "\n"
        _replace(self.path / "environment.json", text)

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Note what ends the block, for those who look at many runs."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())
            if not isinstance(error, RunError):  # those say what happened, and what to do
                text = f"{type(error).__name__}: {text}"
            with contextlib.suppress(OSError):  # a full disk may be what ended it
                self.note(error=text[:1000])
            raise

    def finish(self) -> None:
        """Mark the run as complete."""
        self.note(status="finished", finished=_now())

    def release(self) -> None:
        """Give up the claim on the folder."""
        if self.lease is not None:
            self.lease.release()


def check_writable(config: RunConfig) -> None:
    """Try to write where the run's folder will be, before any work.

    Raises:
        ConfigError: where that fails.
    """
    wanted = (Path(config.checkpoint.dir) / config.kind).absolute()
    with _writable(wanted):
        there = next(path for path in (wanted, *wanted.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"x")


def choose_folder(config: RunConfig, warn: Callable[[str], None], processes: int = 1) -> RunFolder:
    """A new folder, or that of the newest unfinished run of this config (``auto_resume``).

    Either exists afterwards, and no other process has it.

    Args:
        config: of the run.
        warn: told of runs that were not continued, and of damaged checkpoints.
        processes: how many will train.

    Raises:
        ConfigError: where the checkpoint to resume from is not there, damaged, complete, or of
            another config or global batch.
    """
    if config.resume_from_checkpoint:
        checkpoint = Path(config.resume_from_checkpoint).expanduser()
        if not checkpoint.is_file():
            raise ConfigError(f"resume_from_checkpoint: there is no file {checkpoint}")
        _check_continuation(checkpoint, config, processes)
        return _new_folder(config, checkpoint)
    if config.auto_resume.enabled:
        for folder, saved_at in saved_runs(config).items():
            found = _continue(folder, saved_at, config, warn, processes)
            if found is not None:
                return found
    return _new_folder(config)


def saved_runs(config: RunConfig) -> dict[Path, float]:
    """Folders of this kind and name that have a checkpoint, and its time, the newest first."""
    times = {
        folder: max(c.stat().st_mtime for c in checkpoints)
        for folder in _parent(config).glob(f"{config.name}-*")
        if (checkpoints := list(folder.glob("checkpoints/*.ckpt")))
    }
    return dict(sorted(times.items(), key=lambda item: item[1], reverse=True))


def _parent(config: RunConfig) -> Path:
    return Path(config.checkpoint.dir) / config.kind


def _new_folder(config: RunConfig, resume_from: Path | None = None) -> RunFolder:
    """A folder that was not there before, whatever starts at the same moment."""
    parent, name = _parent(config), config.name
    with _writable(parent):
        while True:
            path = parent / f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            lease = claim(path)
            assert isinstance(lease, Lease)
            return RunFolder(path, resume_from, lease)


def _check_continuation(checkpoint: Path, config: RunConfig, processes: int) -> None:
    """Whether a run can go on from this file, before anything is built.

    Raises:
        ConfigError: where it cannot; see :func:`choose_folder`.
    """
    content = read_checkpoint(checkpoint)
    saved = content.get("config", config.to_dict())
    saved_by = content.get("processes")
    other = _other_batch(saved, saved_by, config, processes)
    faults = [other] if other else []
    differences = _differences(config.to_dict(), saved, saved_by in (None, processes))
    if differences:
        faults.append(f"is of another config: {', '.join(differences)}. Give the run's own config")
    fit = content.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {})
    if fit.get("current", {}).get("processed", 0) >= config.max_epochs:
        faults.append(f"is complete: all of its {config.max_epochs} epochs are done")
    if faults:
        raise ConfigError(f"resume_from_checkpoint: {checkpoint} {'; and it '.join(faults)}")


def _other_batch(
    saved: dict[str, Any], saved_by: int | None, config: RunConfig, processes: int
) -> str | None:
    """Why other processes cannot go on from a checkpoint, None where they can.

    As many as saved it have the batch of each compared with the rest of the config.

    Args:
        saved: its config.
        saved_by: how many processes saved it; None where it does not say.
        config: the run's, with the batch of each of these processes.
        processes: how many there are.
    """
    before = (saved.get("optimizer") or {}).get("batch_size")
    now = config.optimizer.batch_size
    if saved_by in (None, processes) or before is None or before * saved_by == now * processes:
        return None
    total = before * saved_by
    share = f"optimizer.batch_size={total // processes}" if total % processes == 0 else None
    return (
        f"was saved by {saved_by} process{'es' if saved_by != 1 else ''} of {before} images each, "
        f"{total} a step, but now there {'are' if processes != 1 else 'is'} {processes} of {now}, "
        f"{now * processes} a step: batches, rates and schedule would be others. "
        + (f"Set {share}" if share else f"Start {saved_by} (devices, num_nodes)")
    )


def _continue(
    path: Path, saved_at: float, config: RunConfig, warn: Callable[[str], None], processes: int
) -> RunFolder | None:
    """An unfinished run, claimed, if it can be continued with this config."""
    obstacle = _obstacle(path, saved_at, config, processes)
    if obstacle is None:
        with _writable(path):
            lease = claim(path)
        if isinstance(lease, Lease):
            return _claimed(path, lease, config, warn, processes)
        obstacle = f"{lease} is running it"
    if obstacle:
        warn(f"{path} is not continued: {obstacle}.")
    return None


def _obstacle(path: Path, saved_at: float, config: RunConfig, processes: int) -> str | None:
    """Why a run is not continued; empty where that is not worth saying, None where it can be."""
    facts = RunFolder(path).facts()
    finished = facts.get("status", "finished") == "finished"
    if finished and not _is_own_job(facts):  # given again, the command wishes for a new run
        return ""
    try:
        as_many = _saved_by(path) in (None, processes)
        differences = _differences(config.to_dict(), SavedRun(path).config, as_many)
    except ConfigError:
        differences = ["config.yaml, which cannot be read"]
    if differences:
        return "" if finished else f"another {', '.join(differences)}"
    hours = (time.time() - saved_at) / 3600
    if hours > config.auto_resume.max_hours and not _is_own_job(facts):  # a queue may be long
        return (
            f"it was saved {hours:.0f} hours ago; it would be with "
            f"++auto_resume.max_hours={hours + 1:.0f}"
        )
    return None


def _saved_by(path: Path) -> int | None:
    """How many processes saved a run last; None where that cannot be read (now)."""
    try:
        count: int | None = read_fact(path / "checkpoints" / LAST, "processes")
    except Exception:  # damaged, or none: found out where it is to be used
        return None
    return count


def _claimed(
    path: Path, lease: Lease, config: RunConfig, warn: Callable[[str], None], processes: int
) -> RunFolder | None:
    """What is left of a run that is ours; None (and nobody's) where there is nothing to go on from.

    Raises:
        ConfigError: where it was saved with another global batch.
    """
    facts = RunFolder(path).facts()  # somebody may have ended it meanwhile
    status = facts.get("status", "")
    if status == "trained" or (status == "finished" and _is_own_job(facts)):
        return RunFolder(path, None, lease, status)
    sound = None if status == "finished" else newest_sound(path / "checkpoints", warn)
    other = None
    if sound:
        saved_by, saved = (read_fact(sound, name) for name in ("processes", "config"))
        other = _other_batch(saved or {}, saved_by, config, processes)
    if sound and not other:
        return RunFolder(path, sound, lease)
    lease.release()
    if other:
        raise ConfigError(f"auto_resume: {path} {other}; with another ++name a new run begins")
    return None


def _is_own_job(facts: dict[str, Any]) -> bool:
    """Whether a run belongs to the Slurm job that this process is in."""
    return slurm_job() is not None and facts.get("slurm_job") == slurm_job()


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Say what to change where a folder cannot be written to."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"checkpoint.dir: {path} cannot be written to ({error.strerror or error}); choose "
            "another folder with ++checkpoint.dir=<folder>"
        ) from error


def _replace(path: Path, text: str) -> None:
    """Write a file at once: whoever reads it sees the old or the new text."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def _differences(config: dict[str, Any], saved: dict[str, Any], as_many: bool) -> list[str]:
    """Keys of another value in a saved config that change what comes out.

    Args:
        config: the run's.
        saved: the other.
        as_many: whether as many processes are to go on; if not, :func:`_other_batch` compares the
            batches.
    """
    ours, theirs = flat(config), flat(_in_full(saved))
    elsewhere = {"optimizer.global_batch_size"} | (set() if as_many else {"optimizer.batch_size"})
    return sorted(
        f"{key} ({theirs.get(key)}, now {ours.get(key)})"
        for key in {*ours, *theirs}
        if key.split(".")[0] not in (*PLACEMENT, *MACHINES)
        and key not in elsewhere
        and ours.get(key) != theirs.get(key)
    )


def _in_full(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the keys that were declared since, at their defaults."""
    try:
        if "method" in saved:
            full = resolve_config(saved).to_dict()
        else:
            full = LinearConfig.model_validate(translate(saved)[0]).to_dict()
    except ValueError:  # it has keys that are no more: another run's, whatever they were
        return saved
    share = (saved.get("optimizer") or {}).get("batch_size")  # of a global batch, of each process
    if share is not None:
        full["optimizer"]["batch_size"] = share
    return full


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
