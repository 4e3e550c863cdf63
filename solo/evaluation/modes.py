"""The modes of main_linear.py on features that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from solo import rng
from solo.config import ConfigError, in_pixels
from solo.config.evaluation import LinearConfig
from solo.config.schema import Data
from solo.data.datasets import dataset_spec, label_facts, load_splits
from solo.data.parts import labelled_part
from solo.data.sources import Splits
from solo.evaluation.encoders import Encoder, untrained
from solo.evaluation.features import FeatureSet, Pixels, device, extract, pixel_size
from solo.evaluation.few_shot import Score, check_shots, few_shot
from solo.evaluation.knn import knn_grid
from solo.evaluation.logistic import PENALTIES, accuracy, fit_logistic, settled_l2
from solo.evaluation.retrieval import compare_retrieval
from solo.evaluation.segmentation import segmentation_rows
from solo.evaluation.sparsity import marginal_gap, sparsity_summary, variance_ratio
from solo.evaluation.table import Found
from solo.methods.probes import mean_average_precision

Row = dict[str, Any]


def few_shot_rows(config: LinearConfig, encoder: Encoder, console: Console) -> Found:
    """One row for each network and number of shots, a column for each data set."""
    options = config.few_shot
    sets = list(dict.fromkeys([config.data.dataset, *options.datasets]))
    rows: dict[tuple[str, Any], dict[str, Any]] = {}
    splits = {name: _splits(config, name) for name in sets}
    for name, split in splits.items():
        try:
            check_shots(split.train.labels, split.train.classes, options.shots)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    for name, split in splits.items():
        networks: list[tuple[str, Encoder | Pixels]] = [(encoder.name, encoder)]
        networks += [(other.name, other) for other in encoder.beside]
        if options.baselines:
            if encoder.config is not None:
                networks.insert(0, ("untrained network", untrained(encoder, config.seed)))
            else:
                console.print(
                    f"no row for the untrained network: {encoder.name} is no run or checkpoint of "
                    "this program",
                    soft_wrap=True,
                )
            networks[:0] = _raw_pixels(encoder, split, console, name)
        for network_name, network in networks:
            both = _both(config, network, split, console, name)
            train, val = (part.to(device()) for part in both)
            for shots in options.shots:
                score = few_shot(
                    train,
                    val,
                    len(split.train.classes),
                    shots,
                    draws=options.draws,
                    seed=config.seed,
                    l2=config.l2,
                )
                row = rows.setdefault((network_name, shots), {})
                row |= {"shots": shots, "model": network_name, name: score}
    order = {shots: place for place, shots in enumerate(options.shots)}
    table = sorted(rows.values(), key=lambda row: order[row["shots"]])
    if len(sets) > 1:
        for row in table:
            row["avg."] = Score(sum(row[name].mean for name in sets) / len(sets), None)
    return Found(table)


def fast_rows(config: LinearConfig, encoder: Encoder, console: Console) -> Found:
    """Logistic regression on all features."""
    split = _splits(config, config.data.dataset)
    outputs, _ = label_facts(split.train.labels, split.train.classes)
    train, val = _both(config, encoder, split, console, config.data.dataset)
    where = device()
    x, labels = train.x.to(where), train.labels.to(where)
    l2 = settled_l2(config.l2, x, labels, outputs, rng.generator(config.seed, "l2"))
    if config.l2 == "auto":
        edge = ", the last that is tried" if l2 in (PENALTIES[0], PENALTIES[-1]) else ""
        console.print(f"l2 {l2:g}{edge}, chosen by a fifth of the training images")
    classifier = fit_logistic(x, labels, outputs, l2)
    scores = classifier.scores(val.x.to(where)).cpu()
    found: dict[str, Any] = {"model": encoder.name, "acc1": accuracy(scores, val.labels)}
    if val.labels.ndim > 1:
        found["map"] = mean_average_precision(scores, val.labels)
    elif outputs >= 5:
        best = scores.topk(5).indices == val.labels[:, None]
        found["acc5"] = 100 * float(best.any(1).float().mean())
    return Found([found])


def knn_rows(config: LinearConfig, encoder: Encoder, console: Console) -> Found:
    """A row for each setting, the best first; then retrieval, of sparse features as CSR."""
    split = _splits(config, config.data.dataset)
    if split.train.labels.ndim > 1:
        raise ConfigError("knn needs one class an image; these have attributes (mode=fast)")
    train, val = _both(config, encoder, split, console, config.data.dataset)
    where = device()
    found = knn_grid(
        train.x.to(where),
        train.labels.to(where),
        val.x.to(where),
        val.labels.to(where),
        num_classes=len(split.train.classes),
        ks=config.knn.k,
        temperatures=config.knn.temperature,
        distances=config.knn.distance,
    )
    rows: list[Row] = [
        {**setting._asdict(), "acc1": value}
        for setting, value in sorted(found.items(), key=lambda item: -item[1])
    ]
    if bool((train.x >= 0).all()) and float((train.x == 0).float().mean()) > 0:
        retrieval = compare_retrieval(train.x, train.labels, val.x, val.labels)
        console.print(
            f"retrieval on CSR: {retrieval.csr_bytes / 2**20:.2f} MiB for "
            f"{retrieval.dense_bytes / 2**20:.2f} dense; {100 * retrieval.recall:.2f} % of the "
            f"dense search's 10 nearest, {100 * retrieval.precision:.2f} % of the query's class",
            soft_wrap=True,
        )
        rows.append({"distance": "csr retrieval", **retrieval._asdict()})
    return Found(rows)


def sparsity_rows(config: LinearConfig, encoder: Encoder, console: Console) -> Found:
    """How sparse the validation set's features are."""
    split = _splits(config, config.data.dataset)
    assert split.val is not None
    encoder.whole = dataset_spec(config.data.dataset).whole
    z = extract(encoder, split.val, **_options(config, console, config.data.dataset)).x
    summary = sparsity_summary(z)
    row: dict[str, Any] = {"model": encoder.name, **summary._asdict()}
    del row["activity"]
    kwargs = encoder.config.method_kwargs if encoder.config else None
    if config.features == "projector" and kwargs is not None and hasattr(kwargs, "target"):
        target = kwargs.target()
        row |= {
            "expected_l0": target.expected_l0,
            "marginal_gap": marginal_gap(z, target),
            "variance_ratio": variance_ratio(z, target),
        }
    return Found([row])


TRAINED = ("linear", "mlp", "finetune")
"""The modes that train on augmented images, with main_linear.py's optimizer."""

MODES: dict[str, Callable[[LinearConfig, Encoder, Console], Found]] = {
    "few_shot": few_shot_rows,
    "fast": fast_rows,
    "knn": knn_rows,
    "sparsity": sparsity_rows,
    "segmentation": segmentation_rows,
}


def _splits(config: LinearConfig, name: str) -> Splits:
    """A data set with both splits; of the training images those that have a label.

    Raises:
        ConfigError: where one is missing, or it has no labels.
    """
    own = config.data.model_dump() | {"dataset": name, "no_labels": False}
    if name != config.data.dataset:
        own["val_path"] = None
    splits = load_splits(Data.model_validate(own), config.seed)
    if splits.val is None:
        raise ConfigError(
            f"{name} has no validation images; name them with ++data.val_path=<folder>"
        )
    return Splits(labelled_part(splits.train), splits.val)


def _both(
    config: LinearConfig, network: Encoder | Pixels, split: Splits, console: Console, name: str
) -> list[FeatureSet]:
    """Features of both splits."""
    assert split.val is not None
    network.whole = dataset_spec(name).whole
    return [
        extract(network, source, **_options(config, console, f"{network.name}: {name}, {part}"))
        for source, part in ((split.train, "train"), (split.val, "validation"))
    ]


def _raw_pixels(
    encoder: Encoder, split: Splits, console: Console, name: str
) -> list[tuple[str, Encoder | Pixels]]:
    """The row of raw pixels: at the network's size, or as large as memory allows, and said so."""
    size, images = encoder.image_size, split.train.images
    channels = split.train.layout.channels if images is None else images.shape[1]
    shown = pixel_size(len(split.train), size, channels)
    if shown != size:
        how = f"shrunk from {in_pixels(size)} to {in_pixels(shown)}" if shown else "left out"
        console.print(f"{name}: raw pixels of {len(split.train)} images are {how}: memory")
    return (
        [("raw pixels", Pixels(size, dataset_spec(name).whole, shown, channels))] if shown else []
    )


def _options(config: LinearConfig, console: Console, label: str) -> dict[str, Any]:
    return {
        "batch_size": config.optimizer.batch_size,
        "num_workers": config.data.num_workers,
        "skip_bad": config.data.skips_bad,
        "console": console,
        "label": label,
    }
