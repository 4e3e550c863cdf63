"""``run(cfg)``: an evaluation from its config to its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from solo import distributed, rng
from solo.callbacks import Checkpoints, HealthMonitor, RunFolder, RunProgress, choose_folder
from solo.config import ConfigError, check, plain_tree
from solo.config.evaluation import LinearConfig
from solo.config.schema import Data
from solo.data import ImageData
from solo.data.datasets import Splits, dataset_spec, label_facts, load_splits
from solo.evaluation.encoders import Encoder, load_encoder, newest_run, untrained
from solo.evaluation.features import FeatureSet, device, extract, pixels
from solo.evaluation.few_shot import Score, check_shots, few_shot
from solo.evaluation.knn import knn_grid
from solo.evaluation.logistic import accuracy, fit_logistic
from solo.evaluation.retrieval import compare_retrieval
from solo.evaluation.sparsity import marginal_distance, sparsity_summary
from solo.evaluation.training import TrainedProbe
from solo.methods.probes import mean_average_precision
from solo.optim import OPTIMIZER_KWARGS
from solo.pretrain.training import build_trainer, fit, loggers, prepare, run_folder


class Result(NamedTuple):
    """Where an evaluation's files are, and its rows as in results.json."""

    folder: Path
    rows: list[dict[str, Any]]


def run(cfg: DictConfig | Mapping[str, Any]) -> Result:
    """Evaluate the configured network and say where the results are.

    Raises:
        ConfigError: for anything in the config that cannot be run, before any long work.
        BadImageError: for an image that does not decode, with its path.
    """
    config, encoder = resolve_linear(cfg)
    console, options = prepare(config)
    console.print(f"evaluating {encoder.name} ({encoder.features} features)", soft_wrap=True)
    if config.mode in ("linear", "mlp", "finetune"):
        return _train(config, encoder, console, options)
    if distributed.launched_by_cluster():
        raise ConfigError(
            f"mode {config.mode} runs in one process, but several were started; start one "
            "(srun --ntasks=1), or choose linear, mlp or finetune"
        )
    rng.seed_global(config.seed, "evaluation")
    rows = {"few_shot": _few_shot, "fast": _fast, "knn": _knn, "sparsity": _sparsity}[config.mode](
        config, encoder, console
    )
    folder = choose_folder(config, console.print)
    try:
        folder.create(config)
        _write(folder, config, rows, console)
        folder.finish()
    finally:
        folder.release()
    return Result(folder.path, rows)


def resolve_linear(cfg: DictConfig | Mapping[str, Any]) -> tuple[LinearConfig, Encoder]:
    """The checked config, and the network it names.

    What the config leaves open follows the network's own run: the data, and the size of images.

    Raises:
        ConfigError: listing every fault found.
    """
    tree = plain_tree(cfg)
    config = _check(tree)
    source = config.pretrained or str(newest_run(Path(config.checkpoint.dir)))
    encoder = load_encoder(
        source, features=config.features, backbone=config.backbone, image_size=config.image_size
    )
    tree |= {"pretrained": source, "image_size": encoder.image_size}
    if encoder.config is not None:
        own = encoder.config.data.model_dump(mode="json")
        given = tree.get("data") or {}
        same_set = given.get("dataset", own["dataset"]) == own["dataset"]
        tree["data"] = {**own, **given} if same_set else given
    if "augmentations" not in tree:
        tree["augmentations"] = [_crop_and_flip(config, encoder)]
    return _check(tree), encoder


def _crop_and_flip(config: LinearConfig, encoder: Encoder) -> dict[str, Any]:
    """Training images: as the network's own run crops and flips them, without change of colour."""
    recipe = config.augmentations[0].model_dump(mode="json")
    if encoder.config is not None:
        entries = encoder.config.augmentations
        own = next((entry for entry in entries if entry.rrc.enabled), entries[0])
        for key in ("rrc", "horizontal_flip"):
            recipe[key] = getattr(own, key).model_dump(mode="json")
    return {**recipe, "crop_size": encoder.image_size}


def _check(tree: dict[str, Any]) -> LinearConfig:
    optimizer = tree.get("optimizer") or {}
    name = optimizer.get("name", "sgd") if isinstance(optimizer, Mapping) else "sgd"
    sections = {"optimizer.kwargs": OPTIMIZER_KWARGS[name]} if name in OPTIMIZER_KWARGS else {}
    return check(tree, LinearConfig, sections)


def _few_shot(config: LinearConfig, encoder: Encoder, console: Console) -> list[dict[str, Any]]:
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
        networks: list[tuple[str, Encoder | None]] = [(encoder.name, encoder)]
        if options.baselines:
            if encoder.config is not None:
                networks.insert(0, ("untrained network", untrained(encoder, config.seed)))
            networks.insert(0, ("raw pixels", None))
        for network_name, network in networks:
            train, val = _both(config, network, encoder, split, console, name)
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
    return table


def _fast(config: LinearConfig, encoder: Encoder, console: Console) -> list[dict[str, Any]]:
    """Logistic regression on all features."""
    split = _splits(config, config.data.dataset)
    outputs, _ = label_facts(split.train.labels, split.train.classes)
    train, val = _both(config, encoder, encoder, split, console, config.data.dataset)
    where = device()
    classifier = fit_logistic(train.x.to(where), train.labels.to(where), outputs, config.l2)
    scores = classifier.scores(val.x.to(where)).cpu()
    found: dict[str, Any] = {"model": encoder.name, "acc1": accuracy(scores, val.labels)}
    if val.labels.ndim > 1:
        found["map"] = mean_average_precision(scores, val.labels)
    elif outputs >= 5:
        best = scores.topk(5).indices == val.labels[:, None]
        found["acc5"] = 100 * float(best.any(1).float().mean())
    return [found]


def _knn(config: LinearConfig, encoder: Encoder, console: Console) -> list[dict[str, Any]]:
    """A row for each setting, the best first; then retrieval, of sparse features as CSR."""
    split = _splits(config, config.data.dataset)
    if split.train.labels.ndim > 1:
        raise ConfigError("knn needs one class an image; these have attributes (mode=fast)")
    train, val = _both(config, encoder, encoder, split, console, config.data.dataset)
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
    rows: list[dict[str, Any]] = [
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
    return rows


def _sparsity(config: LinearConfig, encoder: Encoder, console: Console) -> list[dict[str, Any]]:
    """Of the validation set."""
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
        points = torch.linspace(0, float(z.max()), 200)
        gaps = marginal_distance(z, target.cdf(points.double()).float(), points)
        row |= {"expected_l0": target.expected_l0, "marginal_gap": float(gaps.mean())}
    return [row]


def _train(
    config: LinearConfig, encoder: Encoder, console: Console, options: dict[str, Any]
) -> Result:
    """Modes linear, mlp and finetune: resumable and logged like pretraining."""
    data = ImageData(config)
    if data.val is None:
        raise ConfigError("data.val_path is not set; there is nothing to score the probe on")
    if data.num_classes < 2:
        raise ConfigError(f"{config.data.dataset} has {data.num_classes} class; two are needed")
    probe = TrainedProbe(config, encoder, data.num_classes, data.multilabel)
    trainer, io = build_trainer(config, data, options, console)
    trainer.log_every_n_steps = data.logging_interval(  # type: ignore[attr-defined]
        config.logging_interval, trainer.world_size
    )
    with run_folder(config, trainer, console) as folder:
        console.print(f"folder: {folder.path}", soft_wrap=True)
        saving = Checkpoints(config, folder.checkpoints, io, console)
        trainer.callbacks += [HealthMonitor(), saving, RunProgress(console, sparse=False)]  # type: ignore[attr-defined]
        trainer.loggers = loggers(config, folder, trainer.is_global_zero, console)
        fit(trainer, probe, data, folder, console, "main_linear.py")
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row: dict[str, Any] = {"model": encoder.name, "mode": config.mode}
        names = ("val_acc1", "val_acc5", "val_map")
        row |= {name: metrics[name] for name in names if name in metrics}
        rows = [row]
        if trainer.is_global_zero:
            _write(folder, config, rows, console)
            folder.finish()
    return Result(folder.path, rows)


def _splits(config: LinearConfig, name: str) -> Splits:
    """A data set with both splits.

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
    return splits


def _both(
    config: LinearConfig,
    network: Encoder | None,
    encoder: Encoder,
    split: Splits,
    console: Console,
    name: str,
) -> list[FeatureSet]:
    """Features of both splits; raw pixels where there is no network."""
    assert split.val is not None
    whole = dataset_spec(name).whole
    if network is None:
        return [pixels(s, encoder.image_size, whole) for s in (split.train, split.val)]
    network.whole = whole
    return [
        extract(network, source, **_options(config, console, f"{network.name}: {name}, {part}"))
        for source, part in ((split.train, "train"), (split.val, "validation"))
    ]


def _options(config: LinearConfig, console: Console, label: str) -> dict[str, Any]:
    return {
        "batch_size": config.optimizer.batch_size,
        "num_workers": config.data.num_workers,
        "skip_bad": config.data.on_bad_image == "skip",
        "console": console,
        "label": label,
    }


def _write(
    folder: RunFolder, config: LinearConfig, rows: list[dict[str, Any]], console: Console
) -> None:
    """results.json, table.md, and the table on the screen."""
    plain = [
        {k: v._asdict() if isinstance(v, Score) else v for k, v in row.items()} for row in rows
    ]
    (folder.path / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    single = len(rows) == 1
    table = Table(*([] if single else names), box=None, show_header=not single)
    for row in rows:
        cells = [_cell(row.get(name)) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
        if single:
            for pair in zip(names, cells):
                table.add_row(*pair)
        elif len(lines) < 25:
            table.add_row(*cells)
    (folder.path / "table.md").write_text("\n".join(lines) + "\n")
    console.print(table)
    console.print(f"folder: {folder.path}", soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
