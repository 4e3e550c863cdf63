"""Weights & Biases in its real offline mode."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
import yaml
from helpers import cut_short, rows, tiny, words_of
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from solo.linear import run as evaluate
from solo.methods import resolve_config
from solo.pretrain import run
from solo.runs.dashboard import STEP, logged_steps, records
from solo.runs.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., CompletedProcess[str]]


def words(folder: Path) -> list[str]:
    options: dict[str, Any] = {
        "wandb": {"enabled": True},
        "auto_resume": {"enabled": True},
        "checkpoint": {"dir": str(folder), "every_n_steps": 10},
        "data": {"num_workers": 0},
        "method_kwargs": {"num_projections": 40, "logging_interval": 1},
        "optimizer": {"batch_size": 32},
        "accelerator": "cpu",
        "max_epochs": 2,
    }
    return ["main_pretrain.py", *words_of(options)]


@pytest.mark.slow
def test_a_killed_run_stays_one_run(tmp_path: Path, command: Command) -> None:
    """Every step is in the offline files once; and no secret is in any file."""
    secrets = {
        "WANDB_API_KEY": "f00d" * 10,
        "HF_TOKEN": "hf_a1b2c3d4e5f6",
        "MY_PASSWORD": "sesame!",
    }
    process = subprocess.Popen(
        [sys.executable, *words(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "offline", **secrets},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 100
    while not any(len(rows(file.parent)) > 75 for file in tmp_path.glob("*/*/metrics.csv")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = tmp_path.glob("*/*")
    command(*words(tmp_path), WANDB_MODE="offline", **secrets)
    assert [folder] == list(tmp_path.glob("*/*"))
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and all(file.name == f"run-{folder.name}.wandb" for file in files)
    steps = [step for file in files for step in logged_steps(file)]
    assert sorted(steps) == sorted({int(row["step"]) for row in rows(folder)})
    assert len(steps) == len(set(steps)) == 88
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 10
    for file in written:
        content = file.read_bytes()
        for secret in secrets.values():
            assert secret.encode() not in content, file
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["status"] == "finished" and len(environment["continued"]) == 1


@pytest.mark.slow
def test_nobody_answers(tmp_path: Path, command: Command) -> None:
    """The run is kept offline and says so; a wrong key needs no network to be refused."""
    some = [*words(tmp_path), "max_epochs=1", "limit_train_batches=2", "scheduler.warmup_epochs=0"]
    done = command(*some, WANDB_API_KEY="f00d" * 10, WANDB_BASE_URL="http://127.0.0.1:9")
    assert "wandb cannot be reached at http://127.0.0.1:9" in done.stdout
    assert "kept offline" in done.stdout
    (file,) = tmp_path.glob("*/*/wandb/offline-run-*/*.wandb")
    assert list(logged_steps(file)) == [0, 1]


def told(folder: Path) -> list[Any]:
    """Everything that the offline runs of a folder were told."""
    return [
        record
        for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        for record in records(file)
    ]


def items(content: Any) -> dict[str, Any]:
    """Of a history row, or a summary."""
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for item in getattr(content, "item", None) or content.update
    }


def ended(folder: Path, good: Callable[[list[Any]], bool]) -> list[Any]:
    """The records, once wandb's own process has written them."""
    end = time.monotonic() + 60
    while not good(found := told(folder)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def closed(found: list[Any]) -> bool:
    kinds = [record.WhichOneof("record_type") for record in found]
    return kinds.count("exit") == kinds.count("header") > 0


@pytest.mark.slow
def test_pictures_summary_groups_and_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that is cut short in its second epoch and goes on; and of its evaluation."""
    wandb: dict[str, Any] = {"enabled": True, "offline": True, "tags": ["a"], "log_model": True}
    content = tiny(
        tmp_path,
        wandb={**wandb, "watch": "gradients"},
        loggers=["tensorboard"],
        auto_resume={"enabled": True},
        pictures_every_n_epochs=1,
    )
    content["checkpoint"]["every_n_steps"] = 3
    content["method_kwargs"]["logging_interval"] = 1
    before = (torch.get_rng_state(), cut_short(monkeypatch, content, step=8))
    folder = run(content).folder
    assert folder == before[1]
    found = ended(folder, closed)
    history = [r.history for r in found if r.WhichOneof("record_type") == "history"]
    ours = [row for row in history if STEP in items(row)]
    shown = {row.step.num: items(row) for row in ours}
    steps = sorted(row.step.num for row in ours)
    assert steps == list(range(12))
    with_pictures = [step for step, row in shown.items() if "pictures/Views/path" in row]
    assert len(with_pictures) == 2, with_pictures
    for step in with_pictures:
        row = shown[step]
        assert row["pictures/Activations/_type"] == "image-file" and "val_acc1" in row
        assert row["histograms/l0 of each dimension/_type"] == "histogram"
        (file,) = folder.glob(f"wandb/offline-run-*/files/{row['pictures/Map/path']}")
        assert file.stat().st_size > 1000
    assert any("gradients/" in key for row in history for key in items(row))
    summary = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary)
    accuracies = [float(row["val_acc1"]) for row in rows(folder) if row.get("val_acc1")]
    assert summary["best/val_acc1"] == pytest.approx(max(accuracies), rel=1e-6)
    begun = [r.run for r in found if r.WhichOneof("record_type") == "run"]
    assert {(r.run_id, r.run_group, *r.tags) for r in begun} == {(folder.name, folder.name, "a")}
    artifacts = [r for r in found if "artifact" in str(r)[:4000] and "-checkpoint" in str(r)]
    assert artifacts
    board = EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"images": 0, "histograms": 0}
    )
    board.Reload()
    assert len(board.Images("Views")) == 2 and len(board.Histograms("embedding")) == 2

    evaluated = evaluate(
        {
            "mode": "knn",
            "pretrained": str(folder),
            "checkpoint": {"dir": str(tmp_path)},
            "wandb": {**wandb, "log_model": False, "job_type": "knn"},
            "accelerator": "cpu",
        }
    ).folder
    found = ended(evaluated, closed)
    begun = [r.run for r in found if r.WhichOneof("record_type") == "run"]
    assert {(r.run_group, r.job_type) for r in begun} == {(folder.name, "knn")}
    rows_shown = [items(r.history) for r in found if r.WhichOneof("record_type") == "history"]
    assert rows_shown and rows_shown[0]["table/_type"] == "table-file"


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    """Steps up to the cut, whatever is left of the file."""
    import wandb

    with wandb.init(mode="offline", dir=tmp_path, settings={"silent": True}) as run:
        for step in range(400):
            values = {f"value{i}": float(i) for i in range(20)}
            run.log({**values, STEP: step}, step=step)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 2 * 2**15
    wanted, end = list(range(400)), time.monotonic() + 60
    while list(logged_steps(file)) != wanted and time.monotonic() < end:
        time.sleep(0.2)  # wandb's own process may still be writing
    assert list(logged_steps(file)) == wanted
    content = file.read_bytes()
    for size in (0, 5, 7, 9, 2**15, 2**15 + 3, len(content) // 2):
        file.write_bytes(content[:size])
        found = list(logged_steps(file))
        assert found == list(range(len(found)))
        assert size < 2**15 or 0 < len(found) < 400


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "scripts/sweeps").glob("*.yaml")), ids=lambda f: f.stem
)
def test_a_sweep_names_keys_that_there_are(file: Path) -> None:
    """Its command line, as an agent makes it for each bound of every parameter."""
    sweep = yaml.safe_load(file.read_text())
    assert sweep["metric"]["name"] in METRICS and sweep["program"] == "main_pretrain.py"
    for end in (0, -1):
        config = resolve_config(composed(sweep, end))
        assert config.wandb.enabled and config.wandb.group == file.stem


def composed(sweep: dict[str, Any], end: int) -> DictConfig:
    """The config of one child."""
    words = [word for word in sweep["command"] if not word.startswith("${")]
    assert sweep["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    assert sweep["command"][-1] == "${args_no_hyphens}"
    given = dict(zip(words[::2], words[1::2]))
    folder, name = given["--config-path"], given["--config-name"]
    chosen = {
        key: options["values"][end] if "values" in options else options[("min", "max")[end]]
        for key, options in sweep["parameters"].items()
    }
    overrides = [*words[4:], *(f"{key}={value}" for key, value in chosen.items())]
    with initialize_config_dir(str(ROOT / folder), version_base=None):
        return compose(name, [f"++{word}" for word in overrides])


@pytest.mark.slow
def test_a_child_of_a_sweep(tmp_path: Path, command: Command) -> None:
    sweep = yaml.safe_load((ROOT / "scripts/sweeps/sparsity.yaml").read_text())
    words = [word for word in sweep["command"] if not word.startswith("${")]
    chosen = {key: options["values"][0] for key, options in sweep["parameters"].items()}
    short = words_of({"max_epochs": 1, "limit_train_batches": 2, "accelerator": "cpu"})
    short += ["scheduler.warmup_epochs=0", f"checkpoint.dir={tmp_path}", "data.num_workers=0"]
    ours = (f"{key}={value}" for key, value in chosen.items())
    command("main_pretrain.py", *words, *ours, *short, WANDB_MODE="offline")
    (folder,) = tmp_path.glob("*/*")
    begun = [r.run for r in told(folder) if r.WhichOneof("record_type") == "run"]
    assert begun[0].run_group == "sparsity"
