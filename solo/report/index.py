"""index.html: all runs below a folder on one page, which needs nothing but a browser."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

from solo.config import ConfigError
from solo.runs.metrics import METRICS, PERCENT, SHARE, describe
from solo.runs.overview import SHOWN, Overview, runs_below
from solo.runs.saved import SavedRun

PAGE = Path(__file__).parent / "page"
POINTS, OF_ALL = 120, 40_000
"""Of a curve, and of the curves of one metric of all runs; longer ones are thinned out."""


def write_index(root: Path, every: float | None = None) -> Path:
    """Write ``index.html`` of all runs below a folder.

    Args:
        root: the folder, such as ``checkpoint.dir``.
        every: seconds after which the page loads itself anew; None: never.

    Raises:
        ConfigError: where there is no run.
    """
    found = list(runs_below(root))
    if not found:
        raise ConfigError(f"there is no run below {root}")
    content = json.dumps(_content(root, found, every), separators=(",", ":"), allow_nan=False)
    parts = {
        "styles": _asset("uPlot.min.css") + _asset("page.css"),
        "data": content.replace("<", "\\u003c"),  # no name or value ends the element
        "library": _asset("uPlot.iife.min.js"),
        "script": _asset("page.js"),
    }
    page = re.sub(r"/\*(\w+)\*/", lambda hole: parts[hole[1]], _asset("page.html"))
    target, partial_file = root / "index.html", root / "index.html.partial"
    partial_file.write_text(page, encoding="utf-8")
    partial_file.replace(target)
    return target


def serve(root: Path, every: float, port: int, say: Callable[[str], None] = print) -> None:
    """Keep the page current, and show it on the loopback address, until a signal comes.

    Args:
        root: the folder.
        every: seconds from one writing to the next.
        port: where; 0: any that is free.
        say: told the address.
    """
    write_index(root, every)
    handler = partial(_Quiet, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        say(f"http://127.0.0.1:{server.server_port}/index.html, anew every {every:g} s")
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            while True:
                time.sleep(every)
                write_index(root, every)
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        """Pages alone: whoever is on this machine can ask, and checkpoints lie beside them.

        And by the loopback's own names: a page of elsewhere cannot lead a browser here by its own.
        """
        host = (self.headers.get("Host") or "").partition(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            self.send_error(403)
            return None
        if self.path in ("/", "/index.html") or self.path.endswith("/report.html"):
            return super().send_head()
        self.send_error(404)
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _asset(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _content(root: Path, found: Sequence[Overview], every: float | None) -> dict[str, Any]:
    """What the page shows."""
    evaluations = _evaluations(found)
    points = max(2, min(POINTS, OF_ALL // len(found)))
    runs = [_run(root, item, evaluations, points) for item in found]
    said = [[word for word in (item.recipe, *item.changes.split(" ")) if word] for item in found]
    everywhere = set.intersection(*map(set, said)) if len(said) > 1 else set()
    for run, words in zip(runs, said):
        run["changes"] = " ".join(word for word in words if word not in everywhere)
    base = _commonest([item.config for item in found])
    for run, item in zip(runs, found):
        run["config"] = {k: v for k, v in item.config.items() if k not in base or base[k] != v}
        run["config"] |= {key: None for key in base if key not in item.config}
    there = {name: None for run in runs for name in (*run["values"], *run["curves"]["of"])}
    names = [*(name for name in METRICS if name in there), *sorted(there.keys() - METRICS.keys())]
    forms = {PERCENT: "percent", SHARE: "share"}
    return {
        "root": str(root.resolve()),
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        "every": every,
        "shown": [name for name in SHOWN if name in there],
        "metrics": {
            name: {"label": describe(name).label, "form": forms.get(describe(name).form, "")}
            for name in names
        },
        "base": base,
        "runs": runs,
    }


def _run(
    root: Path, item: Overview, evaluations: Mapping[Path, list[str]], points: int
) -> dict[str, Any]:
    path = item.folder.relative_to(root).as_posix()
    report = item.folder / "report.html"
    values = {name: value for name, value in item.values.items() if name != "step"}
    return {
        "name": item.folder.name,
        "path": path,
        "report": f"{quote(path)}/report.html" if report.is_file() else None,
        "kind": item.kind,
        "data": item.dataset,
        "backbone": item.backbone,
        "status": item.status,
        "error": item.error,
        "epoch": item.epoch,
        "epochs": item.epochs,
        "left": item.left,
        "speed": item.speed,
        "evaluations": "; ".join(evaluations.get(item.folder.resolve(), ())),
        "values": {name: _short(value) for name, value in values.items()},
        "curves": _curves(SavedRun(item.folder), points),
    }


def _curves(saved: SavedRun, points: int) -> dict[str, Any]:
    """``grids``: steps and epochs at which there are values; ``of``: of each metric, which grid,
    and the values."""
    grids: dict[tuple[int, ...], int] = {}
    known: list[Any] = []
    of: dict[str, Any] = {}
    for name, picked in saved.columns(points).items():
        if len(picked) < 2:
            continue
        steps = tuple(step for step, _, _ in picked)
        if steps not in grids:
            grids[steps] = len(known)
            known.append([steps, [_short(epoch) for _, epoch, _ in picked]])
        of[name] = [grids[steps], [_short(float(text)) for _, _, text in picked]]
    return {"grids": known, "of": of}


def _short(value: float) -> float | None:
    """Five digits; what is no number is none."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _commonest(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each key's most frequent value."""
    columns: dict[str, list[Any]] = {}
    for config in configs:
        for key, value in config.items():
            columns.setdefault(key, []).append(value)
    return {key: _most_frequent(values) for key, values in columns.items()}


def _most_frequent(values: Sequence[Any]) -> Any:
    if all(value == values[0] for value in values):
        return values[0]
    texts = [json.dumps(value, default=str) for value in values]
    return values[texts.index(Counter(texts).most_common(1)[0][0])]


def _evaluations(found: Iterable[Overview]) -> dict[Path, list[str]]:
    """By the run's folder: what its evaluations found; a checkpoint is the run's that has it."""
    told: dict[Path, list[str]] = {}
    for item in found:
        source = item.config.get("pretrained")
        if not source or not item.found:
            continue
        where = Path(source).resolve()
        found_run = SavedRun.around(where)
        run = found_run.folder if found_run else where
        told.setdefault(run, []).append(f"{item.config.get('mode')}: {item.found}")
    return told
