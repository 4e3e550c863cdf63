"""``checkpoint.monitor`` and ``early_stop.monitor``, looked at before a run begins."""

from __future__ import annotations

from typing import Any

from solo.config import ConfigError, RunConfig, unknown_name
from solo.data import ImageData
from solo.runs.metrics import METRICS

NEEDS = {
    "val_knn_": "knn_eval.enabled=true",
    "val_mlp_": "mlp_probe.enabled=true",
    "val_proj_mlp_": "mlp_probe.enabled=true",
    "val_proj_acc": "method_kwargs.add_projector_classifier=true",
}
"""What has to be said for metrics of such names to be there."""
WITHOUT_LABELS = (
    "val_l0_sparsity_metric",
    "val_l1_sparsity_metric",
    "val_effective_rank",
    "val_proj_effective_rank",
)
OF_PROBES = ("val_loss", "val_acc1", "val_acc5", "val_map", "val_held_out")
"""What main_linear.py logs."""


def check_monitors(config: RunConfig, data: ImageData) -> None:
    """Whether what a run is to be judged by will be there.

    Raises:
        ConfigError: for a name that no run logs, or one that this run does not.
    """
    for key in ("checkpoint", "early_stop"):
        metric = getattr(config, key).monitor
        if metric is None:
            continue
        if metric not in METRICS and not metric.startswith("train_"):
            raise unknown_name(f"metric for {key}.monitor", metric, METRICS)
        reason = _never_looked_at(config, data) or _why_not(config, data, metric)
        if reason:
            raise ConfigError(f"{key}.monitor is {metric}, {reason}")


def _never_looked_at(config: RunConfig, data: ImageData) -> str | None:
    """Why there is no validation, after which monitors look."""
    if data.val is None or config.limit_val_batches == 0:
        return "which is looked at after validation, and there are no validation images"
    if config.check_val_every_n_epoch > config.max_epochs:
        return (
            f"which is looked at after validation, and check_val_every_n_epoch "
            f"{config.check_val_every_n_epoch} is more than the {config.max_epochs} epochs"
        )
    return None


def _why_not(config: RunConfig, data: ImageData, metric: str) -> str | None:
    """Why a run does not log a metric."""
    for start, word in NEEDS.items():
        there: Any = config
        for part in word.split("=")[0].split("."):
            there = getattr(there, part, None)
        if metric.startswith(start) and not there:
            return f"which needs {word}"
    if metric.startswith("train_"):
        return None
    pretrains = hasattr(config, "method")
    attributes = "which needs one class an image; these have attributes"
    one_class = metric.startswith("val_knn") or metric.endswith("acc5")
    reasons = {
        f"which evaluations do not log; they log {', '.join(OF_PROBES)}": not pretrains
        and metric not in OF_PROBES,
        "which only a grid of probes logs": pretrains and metric == "val_held_out",
        f"which needs labels; without any there are {', '.join(WITHOUT_LABELS)}": pretrains
        and not data.num_classes
        and metric not in WITHOUT_LABELS,
        attributes: data.multilabel and one_class,
        "which is for attributes; these images have one class each": not data.multilabel
        and metric.endswith("map"),
        f"which needs five classes; there are {data.num_classes}": metric.endswith("acc5")
        and data.num_classes < 5,
    }
    return next((why for why, applies in reasons.items() if applies), None)
