"""Weights & Biases, beside metrics.csv: one run, however often it was cut short."""

from __future__ import annotations

import os
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from solo.config import RunConfig
from solo.runs.folder import RunFolder
from solo.runs.saved import SavedRun


class Dashboard(WandbLogger):
    """Log each step once, at its own number.

    What was logged shortly before a crash may not have reached the dashboard, and a resumed run
    repeats the steps after its checkpoint. So a continued run first fills in what metrics.csv has
    and the dashboard lacks, then passes over what the dashboard has already.

    Args:
        config: ``wandb`` says where to.
        folder: the run's.
        mode: "online" or "offline".
    """

    def __init__(self, config: RunConfig, folder: RunFolder, mode: str) -> None:
        continued = folder.resume_from is not None
        super().__init__(
            name=folder.path.name,
            id=folder.path.name,  # a continued run stays one run
            resume="allow" if continued and mode == "online" else None,
            save_dir=folder.path,
            project=config.wandb.project,
            entity=config.wandb.entity,
            mode=mode,
            group=config.wandb.group,
            tags=config.wandb.tags or None,
            notes=config.wandb.notes,
            job_type=config.wandb.job_type,
            settings={"silent": True, "init_timeout": 60},
            config=config.to_dict(),
        )
        self._wandb_init.pop("anonymous", None)  # wandb warns of it, even of None
        self._saved = SavedRun(folder.path)
        offline = (file for file in folder.path.glob("wandb/offline-run-*/*.wandb"))
        self._next = max((step + 1 for file in offline for step in logged_steps(file)), default=0)
        self._is_first = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row, unless it is there."""
        assert step is not None
        if self._is_first:
            self._is_first = False
            self._next = max(self._next, self.experiment.starting_step)
            self._fill_in(step)
        self._log(metrics, step)

    def _fill_in(self, end: int) -> None:
        """Rows of metrics.csv before ``end``."""
        for row in self._saved.rows():
            step = int(row["step"])
            if step < end:
                known = {name: value for name, value in row.items() if value and name != "step"}
                self._log({name: float(value) for name, value in known.items()}, step)

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        if step >= self._next:
            self.experiment.log({**metrics, "trainer/global_step": step}, step=step)


def open_dashboard(
    config: RunConfig, folder: RunFolder, is_first: bool, say: Callable[[str], None]
) -> Dashboard:
    """Start the dashboard's run, offline where it must be.

    Args:
        config: of the run.
        folder: of the run.
        is_first: whether this is the process that logs.
        say: told why a run is kept offline.
    """
    import wandb  # slow, and rarely needed

    offline = config.wandb.offline or os.environ.get("WANDB_MODE") in ("offline", "dryrun")
    trouble = None if offline or not is_first else _trouble()
    logger = Dashboard(config, folder, "offline" if offline or trouble else "online")
    if not is_first:
        return logger
    try:
        _ = logger.experiment
    except wandb.errors.Error as error:
        trouble = f"wandb answered: {str(error).strip()}"
        logger = Dashboard(config, folder, "offline")
    if trouble:
        say(
            f"{trouble.rstrip('.')}. This run is kept offline, in {folder.path / 'wandb'}; upload "
            "it with wandb sync."
        )
    return logger


def close_dashboard() -> None:
    """End the dashboard's run, so that a next one in this process gets its own."""
    import wandb

    wandb.finish()


def logged_steps(file: Path) -> Iterator[int]:
    """Steps in a file of an offline run, up to where it was cut.

    The format is LevelDB's log after a header of 7 bytes: blocks of 32 KiB, each of pieces (4
    bytes of checksum, 2 of length, 1 of kind: whole, first, middle, last) of protobuf records.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content = file.read_bytes()
    position, block, whole, last = 7, 2**15, 1, 4
    piece = b""
    while position + 7 <= len(content):
        if block - position % block < 7:
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        start, position = position + 7, position + 7 + length
        if not kind or position > len(content):
            return
        piece = content[start:position] if kind in (whole, 2) else piece + content[start:position]
        if kind in (whole, last):
            try:
                record = Record.FromString(piece)
            except DecodeError:
                return
            if record.WhichOneof("record_type") == "history":
                yield record.history.step.num


def _trouble() -> str | None:
    """Why nothing can be sent, None if it can; asks nobody."""
    import wandb

    url = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # there is somebody
    except (OSError, ValueError) as error:
        reason: Any = getattr(error, "reason", error)
        return f"wandb cannot be reached at {url} ({reason})"
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        return f"wandb refused to log in ({error})"
    return None if known else "wandb is not logged in (wandb login)"
