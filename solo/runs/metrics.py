"""What logged values are called where people read them, and in which picture they are.

A value that is not in the table is a term of a method's loss, and has a panel of its own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One column of metrics.csv.

    ``label``: in tables and pictures; ``form``: how a value is written, with its unit;
    ``panel``: where it is drawn, None for nowhere; ``short``: its name in the progress line, none
    where it is not there; ``summary``: whether the closing table has it; ``sparse``: whether it
    says something of sparse embeddings only.
    """

    label: str
    form: str = "{:.4g}"
    panel: Literal["loss", "probes", "sparsity", "spread"] | None = None
    short: str = ""
    summary: bool = False
    sparse: bool = False

    def text(self, value: float) -> str:
        """A value with its unit."""
        return self.form.format(value)


PERCENT, SHARE, RANK = "{:.2f} %", "{:.3f}", "{:.1f}"

VALIDATION: dict[str, Metric] = {
    "val_acc1": Metric("linear probe, backbone", PERCENT, "probes", "val acc", summary=True),
    "val_acc5": Metric("linear probe, backbone, top 5", PERCENT),
    "val_map": Metric("mean average precision", PERCENT, "probes", "mAP", summary=True),
    "val_proj_acc1": Metric("linear probe, projector", PERCENT, "probes", summary=True),
    "val_proj_acc5": Metric("linear probe, projector, top 5", PERCENT),
    "val_proj_map": Metric("mean average precision, projector", PERCENT, "probes"),
    "val_mlp_acc1": Metric("MLP probe, backbone", PERCENT, "probes"),
    "val_mlp_acc5": Metric("MLP probe, backbone, top 5", PERCENT),
    "val_mlp_map": Metric("mean average precision, MLP probe", PERCENT, "probes"),
    "val_proj_mlp_acc1": Metric("MLP probe, projector", PERCENT, "probes"),
    "val_proj_mlp_acc5": Metric("MLP probe, projector, top 5", PERCENT),
    "val_proj_mlp_map": Metric("mean average precision, MLP probe, projector", PERCENT, "probes"),
    "val_knn_acc1": Metric("kNN, backbone", PERCENT, "probes", "knn", summary=True),
    "val_knn_acc5": Metric("kNN, backbone, top 5", PERCENT),
    "val_held_out": Metric("best probe of a grid, held-out images", PERCENT),
    "val_loss": Metric("loss of the linear probe"),
    "val_proj_loss": Metric("loss of the projector's linear probe"),
    "val_mlp_loss": Metric("loss of the MLP probe"),
    "val_proj_mlp_loss": Metric("loss of the projector's MLP probe"),
    "expected_l0": Metric("l0 of the target", SHARE, "sparsity", summary=True, sparse=True),
    "val_l0_sparsity_metric": Metric("measured l0", SHARE, "sparsity", summary=True, sparse=True),
    "val_l1_sparsity_metric": Metric("l1 measure of sparsity", SHARE),
    "val_effective_rank": Metric("effective rank, backbone", RANK, "spread", summary=True),
    "val_proj_effective_rank": Metric("effective rank, embedding", RANK, "spread", summary=True),
}
"""Of the whole validation set, and what the method knew beforehand."""

TRAINING: dict[str, Metric] = {
    "train_l0_sparsity_metric": Metric(
        "measured l0, training batch", SHARE, "sparsity", "l0", sparse=True
    ),
    "train_l1_sparsity_metric": Metric("l1 measure of sparsity, training batch", SHARE),
    "train_effective_rank": Metric("effective rank, backbone, training batch", RANK),
    "train_proj_effective_rank": Metric(
        "effective rank, embedding, training batch", RANK, "spread"
    ),
    "train_proj_std": Metric("mean deviation of the embedding's dimensions"),
    "train_proj_least_std": Metric("least deviation of the embedding's dimensions"),
    "train_proj_dead": Metric("share of dimensions that are alike for all images", SHARE),
    "train_alignment": Metric("alignment: distance between two views of an image"),
    "train_uniformity": Metric("uniformity of embeddings on the sphere"),
    "train_class_loss": Metric("loss of the linear probe, training batch"),
    "train_proj_loss": Metric("loss of the projector's linear probe, training batch"),
    "train_mlp_loss": Metric("loss of the MLP probe, training batch"),
    "train_proj_mlp_loss": Metric("loss of the projector's MLP probe, training batch"),
    **{
        f"train_{head}{score}": Metric(f"{head}{score} on the training batch", PERCENT)
        for head in ("", "proj_", "mlp_", "proj_mlp_")
        for score in ("acc1", "acc5", "map")
    },
    "lr": Metric("learning rate"),
    "skipped_images": Metric("images that could not be read", "{:.0f}"),
}
"""Of single steps."""

METRICS = VALIDATION | TRAINING


def describe(name: str) -> Metric:
    """A metric by its name in metrics.csv."""
    return METRICS.get(name, Metric(name, panel="loss"))
