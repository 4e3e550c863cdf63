"""Weights & Biases, beside metrics.csv: one run, however often it was cut short."""

from __future__ import annotations

import math
import os
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from solo.config import RunConfig
from solo.runs.folder import RunFolder
from solo.runs.media import Media
from solo.runs.metrics import PERCENT, VALIDATION
from solo.runs.saved import SavedRun

STEP = "trainer/global_step"


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
            group=config.wandb.group or _group(config, folder),
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
        self._is_first, self._last = True, 0
        self._best: dict[str, float] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row, unless it is there."""
        assert step is not None
        if self._is_first:
            self._is_first = False
            self._next = max(self._next, self.experiment.starting_step)
            for name in VALIDATION:  # people compare them by epochs
                self.experiment.define_metric(name, step_metric="epoch")
            self._fill_in(step)
        self._log(metrics, step)

    def look_at(self, module: nn.Module, what: str, interval: int) -> None:
        """Histograms of gradients or parameters, every so many steps."""
        # They go into the row that is open: in a continued run that is not the first.
        self._next = max(self._next, self.experiment.starting_step)
        self.experiment.log({}, step=self._next, commit=False)
        self.watch(module, what, interval, log_graph=False)

    @rank_zero_only
    def log_media(self, media: Media, step: int) -> None:
        """Beside the newest values."""
        import wandb

        pictures = {f"pictures/{name}": wandb.Image(x) for name, x in media.pictures.items()}
        histograms = {
            f"histograms/{name}": wandb.Histogram(x.cpu().tolist())
            for name, x in media.histograms.items()
        }
        self._log({**pictures, **histograms}, self._last)

    @rank_zero_only
    def log_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The table of an evaluation, and its numbers where runs are compared."""
        import wandb

        plain = [{name: getattr(v, "mean", v) for name, v in row.items()} for row in rows]
        names: list[Any] = list(dict.fromkeys(name for row in plain for name in row))
        cells: list[list[Any]] = [[row.get(name) for name in names] for row in plain]
        self.experiment.log({"table": wandb.Table(names, cells, allow_mixed_types=True)})
        for row in plain:
            which = f"{names[0]} {row[names[0]]}/" if len(plain) > 1 else ""
            for name in names[len(plain) > 1 :]:
                if isinstance(row.get(name), float):
                    self.experiment.summary[f"{which}{name}"] = row[name]

    @rank_zero_only
    def log_model(self, checkpoint: Path) -> None:
        """The last checkpoint as an artifact of the run."""
        kept = self.experiment.log_artifact(
            str(checkpoint), name=f"{self.experiment.id}-checkpoint", type="model"
        )
        if not self.experiment.offline:
            kept.wait()

    def _fill_in(self, end: int) -> None:
        """Rows of metrics.csv before ``end``."""
        for row in self._saved.rows():
            step = int(row["step"])
            if step < end:
                known = {name: value for name, value in row.items() if value and name != "step"}
                self._log({name: float(value) for name, value in known.items()}, step)

    def _log(self, metrics: Mapping[str, Any], step: int) -> None:
        self._last = step
        for name, value in metrics.items():  # beside the last: sweeps look at that
            is_accuracy = name in VALIDATION and VALIDATION[name].form == PERCENT
            if is_accuracy and value > self._best.get(name, -math.inf):
                self._best[name] = value
                self.experiment.summary[f"best/{name}"] = value
        if step >= self._next:
            self.experiment.log({**metrics, STEP: step}, step=step)


def _group(config: RunConfig, folder: RunFolder) -> str:
    """A run and the evaluations of it are together."""
    evaluated = getattr(config, "pretrained", None)
    if evaluated is None:
        return folder.path.name
    run = SavedRun.around(Path(evaluated))
    if run is None:
        return Path(evaluated).name
    wandb = run.config.get("wandb") or {}
    return wandb.get("group") or run.folder.resolve().name


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


def show_rows(
    config: RunConfig, folder: RunFolder, rows: Sequence[Mapping[str, Any]], say: Callable[..., Any]
) -> None:
    """The table of an evaluation that logs nothing else, where the config asks for wandb."""
    if config.uses_wandb:
        try:
            open_dashboard(config, folder, True, say).log_rows(rows)
        finally:
            close_dashboard()


def close_dashboard() -> None:
    """End the dashboard's run, so that a next one in this process gets its own."""
    import wandb

    wandb.finish()


def logged_steps(file: Path) -> Iterator[int]:
    """Steps that a file of an offline run has the values of, up to where it was cut.

    (wandb itself makes rows too, of what it watches.)
    """
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            keys = {item.key or "/".join(item.nested_key) for item in record.history.item}
            if STEP in keys:
                yield record.history.step.num


def records(file: Path) -> Iterator[Any]:
    """What an offline run was told, wandb's own messages, up to where the file was cut.

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
            yield record


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
