"""A model card: what a trained network is, for somebody who has only its folder."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import yaml

from solo.config import Config, ConfigError, in_pixels
from solo.evaluation.encoders import Encoder
from solo.methods import METHODS
from solo.runs.checkpoint_files import BEST, LAST, newest_sound, read_fact
from solo.runs.metrics import VALIDATION
from solo.runs.monitors import WITHOUT_LABELS
from solo.runs.saved import SavedRun

HEAD = """---
library_name: timm
pipeline_tag: image-feature-extraction
tags:
- image-feature-extraction
- self-supervised-learning
---
"""

PLAIN = """network = timm.create_model("local-dir:<this folder>", pretrained=True).eval()"""
OWN_STEM = """from load_backbone import load  # in this folder; needs timm alone

network = load("<this folder>").eval()"""


def model_card(source: Path, encoder: Encoder, own_stem: bool) -> str:
    """README.md of an exported network.

    Args:
        source: the run's folder or checkpoint.
        encoder: its network.
        own_stem: whether load_backbone.py builds it.
    """
    config = encoder.config
    assert config is not None
    folder = next((path for path in (source, *source.parents) if _is_run(path)), None)
    facts = _facts(source, config, encoder, SavedRun(folder) if folder else None)
    lines = [
        HEAD,
        f"# {encoder.name}",
        "",
        f"`{config.backbone.name}`, {encoder.num_features()} features an image, trained on "
        f"{config.data.dataset} by {config.method}: {_method(config.method)}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        "",
        *_numbers(folder if _is_last(source) else None, encoder),
        "## Use",
        "",
        "```python",
        "import timm, torch",
        "",
        OWN_STEM if own_stem else PLAIN,
        "facts = network.pretrained_cfg",
        'mean, std = (torch.tensor(facts[key])[:, None, None] for key in ("mean", "std"))',
        "features = network((images / 255 - mean) / std)  # [N, C, H, W] in 0 to 255",
        "```",
        "",
        "The licence is for whoever publishes the weights to choose; mind that of the images.",
        "",
        "## The whole recipe",
        "",
        "```yaml",
        yaml.safe_dump(_recipe(config), sort_keys=False).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _recipe(config: Config) -> dict[str, Any]:
    """The config without the places of whoever trained it."""
    saved = config.to_dict()
    own = ("checkpoint", "auto_resume", "resume_from_checkpoint", "init_from", "wandb")
    recipe = {key: value for key, value in saved.items() if key not in own}
    data = {key: value for key, value in saved["data"].items() if not key.endswith("_path")}
    return {**recipe, "data": data}


def _method(name: str) -> str:
    """The first line of its module: what it is, and the paper."""
    return (inspect.getdoc(sys.modules[METHODS[name].__module__]) or name).splitlines()[0]


def _is_last(source: Path) -> bool:
    """Whether these are the weights at the end of the run, of which its numbers are."""
    return source.is_dir() or source.name == LAST


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _facts(source: Path, config: Config, encoder: Encoder, run: SavedRun | None) -> dict[str, str]:
    """What one asks first."""
    means, deviations = (
        ", ".join(f"{value:.4g}" for value in values)
        for values in (encoder.normalize.mean, encoder.normalize.std)
    )
    views = sum(entry.num_crops for entry in config.augmentations)
    known = {
        "images": f"{in_pixels(encoder.image_size)}, {encoder.channels} channels",
        "mean; deviation of values in 0 to 1": f"{means}; {deviations}",
        "features are of": "the teacher" if encoder.features == "teacher" else "the backbone",
        "epochs": f"{_epochs(config, source)}, {views} views of each image",
        "batch of each process": str(config.optimizer.batch_size),
        "began with": _beginning(config.init_from),
        "labels": _labels(config, source),
        "seed": str(config.seed),
    }
    if run is not None:
        facts = run.facts
        names = {"git": "commit", "torch": "torch", "timm": "timm", "device": "device"}
        known |= {label: str(facts[name]) for name, label in names.items() if facts.get(name)}
        if images := facts.get("images_an_epoch"):
            known["epochs"] += f"; {images:,} images an epoch"
        if facts.get("status") != "finished":
            known["epochs"] += "; the run has not finished"
    return known


def _beginning(source: str | None) -> str:
    """Random weights, or whose: a name of timm's, or the name of a file or folder."""
    return "random weights" if source is None else f"the weights of {Path(source).name}"


def _labels(config: Config, source: Path) -> str:
    """What they were used for."""
    if config.method == "supervised":
        return "used"
    asked = config.checkpoint.monitor if source.name == BEST else None
    asked = asked or config.early_stop.monitor
    label_free = asked is None or asked in WITHOUT_LABELS or asked.startswith("train_")
    return "not used" if label_free else f"not trained with; {asked} chose when to stop"


def _epochs(config: Config, source: Path) -> str:
    """Those that its weights have seen, of how many."""
    file = newest_sound(source / "checkpoints", lambda _: None) if source.is_dir() else source
    epoch = read_fact(file, "epoch") if file is not None else None
    return f"{config.max_epochs}" if epoch is None else f"{epoch + 1} of {config.max_epochs}"


def _protocol(evaluated: dict[str, Any]) -> str:
    """How and on what an evaluation was made."""
    mode = evaluated.get("mode")
    keys = {"linear": "max_epochs", "mlp": "max_epochs", "knn": "", "sparsity": ""}
    key = keys.get(str(mode), "l2")
    words = f"{key}={evaluated[key]}" if evaluated.get(key) is not None else ""
    images = str((evaluated.get("data") or {}).get("dataset"))
    if mode == "segmentation":
        given = evaluated.get("segmentation") or {}
        images = f"masks of {Path(str(given.get('train_path'))).name} ({given.get('kind')})"
    return f"`mode={mode}{' ' * bool(words)}{words}` on {images}"


def _numbers(folder: Path | None, encoder: Encoder) -> list[str]:
    """The run's last validation, and evaluations of this network that lie beside it."""
    if folder is None:
        return []
    lines = ["## Numbers"]
    if encoder.features == "backbone":  # what a run validates
        last = SavedRun(folder).metrics.last()
        shown = {name: m for name, m in VALIDATION.items() if m.summary and name in last}
        lines += ["", "| at the end of the run | |", "|---|---|"]
        lines += [f"| {one.label} | {one.text(last[name])} |" for name, one in shown.items()]
    for path in sorted(folder.parents[1].glob("linear/*/table.md")):
        try:
            evaluated = SavedRun(path.parent).config
        except ConfigError:
            continue
        source = Path(str(evaluated.get("pretrained"))).expanduser().resolve()
        alike = evaluated.get("features", "backbone") == encoder.features
        # Finetuning changes the network, and these are not its weights.
        if source == folder and alike and evaluated.get("mode") != "finetune":
            size = in_pixels(evaluated.get("image_size") or encoder.image_size)
            lines += ["", f"Evaluated by {_protocol(evaluated)}, {size}:", ""]
            lines += path.read_text().splitlines()
    return [*lines, ""] if len(lines) > 1 else []
