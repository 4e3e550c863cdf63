"""``report.html``: a run on one page. ``python -m solo.report <run folder>`` writes it anew."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from matplotlib.figure import Figure

from solo.backbones import without_weights
from solo.data import ImageData
from solo.evaluation.features import device
from solo.methods import SSLMethod, build_method, resolve_config
from solo.report.pictures import loss_curves, probe_curves, sparsity_curves, spread_curves
from solo.report.sections import Section, network_sections
from solo.runs.metrics import VALIDATION
from solo.runs.saved import Metrics, SavedRun

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; color: #222;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
img { max-width: 100%; } td { padding: .1rem 1.2rem .1rem 0; } p { color: #555; margin: .2rem 0; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .8rem; }
"""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from the config, metrics and last checkpoint of a run.

    Raises:
        ConfigError: for a folder that is not a run's.
    """
    saved = SavedRun(folder)
    metrics = saved.metrics
    method, data = load_run(saved)
    sections: list[Section] = [
        ("Losses", "Values of single steps.", loss_curves(metrics)),
        ("Probes", "Accuracy on the validation set, in percent.", probe_curves(metrics)),
        (
            "Sparsity",
            "Non-zero fraction of the embedding: measured on training batches and on the "
            "validation set, and expected from the target distribution.",
            sparsity_curves(metrics),
        ),
        (
            "Spread",
            "Effective rank (RankMe) of features and embeddings on the validation set, and of "
            "embeddings on training batches: how many directions they use. It falls towards 1 "
            "where they collapse.",
            spread_curves(metrics),
        ),
    ]
    sections += network_sections(method, data)
    body = "".join(
        f"<h2>{title}</h2><p>{text}</p><img alt='{title}' src='{_encode(figure)}'>"
        for title, text, figure in sections
        if figure is not None
    )
    config = html.escape((folder / "config.yaml").read_text())
    name = html.escape(folder.name)
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{name}</title>"
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>{_numbers(metrics)}{body}"
        f"<h2>Config</h2><pre>{config}</pre></body></html>\n"
    )
    target_file = folder / "report.html"
    partial = folder / "report.html.partial"
    partial.write_text(page, encoding="utf-8")
    partial.replace(target_file)
    return target_file


def load_run(run: SavedRun) -> tuple[SSLMethod, ImageData]:
    """The trained method (in evaluation mode) and its data.

    Raises:
        ConfigError: for a folder without a config or checkpoint.
    """
    saved, state = run.config, run.checkpoint()
    saved["data"]["preload"] = False
    saved["backbone"]["kwargs"] = without_weights(saved["backbone"]["kwargs"])
    config = resolve_config(saved)
    data = ImageData(config)
    method = build_method(config, data)
    method.load_state_dict(state["state_dict"])
    return method.eval().to(device()), data


def _numbers(metrics: Metrics) -> str:
    """The last validation values as a table."""
    cells = (
        f"<tr><td>{metric.label}</td><td>{metric.text(metrics[name][-1, 1])}</td>"
        f"<td><code>{name}</code></td></tr>"
        for name, metric in VALIDATION.items()
        if name in metrics
    )
    return f"<table>{''.join(cells)}</table>"


def _encode(figure: Figure) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
