"""Every group of benchmarks, at a size of seconds: that it measures, not what."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny

from benchmarks import files, gpu, losses, matching, runs_page, saving, steps
from benchmarks.measure import Row, table
from benchmarks.recipes import compose
from solo.data.batches import TrainingViews
from solo.pretrain import run


def digits() -> dict[str, Any]:
    config = compose("digits/rectified_lpjepa.yaml")
    config["optimizer"]["batch_size"] = 16
    config["method_kwargs"]["num_projections"] = 64
    return config


def test_steps() -> None:
    row = steps._step("digits recipe", digits(), repeats=1)
    assert row.ours > 0 and "network" in row.bound
    run = steps.Run(digits(), TrainingViews)
    before = run.method.probes.heads["linear"].weight.clone()  # type: ignore[union-attr]
    run.step()
    assert not before.equal(run.method.probes.heads["linear"].weight)  # type: ignore[union-attr]


@pytest.mark.slow
def test_gpu_steps() -> None:
    """On a CPU, which has no launches to count."""
    for recipe in ("digits/rectified_lpjepa.yaml", "digits/lejepa_multicrop.yaml"):
        run = gpu.GpuStep(recipe, {"batch_size": 8})
        views, step = gpu._rows(recipe, run, repeats=1)
        assert views.ours > 0 and step.ours > 0 and "of the step" in step.bound
        before = next(run.method.backbone.parameters()).clone()
        run.plain_step()
        assert not before.equal(next(run.method.backbone.parameters()))


def test_gpu_benchmark_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"needs an NVIDIA GPU.+benchmarks\.rehearse"):
        runpy.run_module("benchmarks", run_name="__main__")


@pytest.mark.slow
def test_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "BLOCK", 1)
    monkeypatch.setattr(saving, "ROUNDS", 1)
    (row,) = saving.rows()
    assert isinstance(row, Row) and "one save" in table([row])


@pytest.mark.slow
def test_matching() -> None:
    found = list(matching.rows(repeats=1))
    assert len(found) == 10 and all(row.ours > 0 for row in found)
    assert found[1].case == "step of the digits recipe, SIGReg, unsliced"


def test_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so few that they are not remembered."""
    monkeypatch.setattr(files, "SETTLED", -1)
    first, second, memory = files.rows(60, 5)
    assert first.ours > 0 and second.plain > 0 and "60 names" in memory.case
    shared = bytearray(2**24)

    def write() -> None:
        shared[::4096] = bytes(2**12)

    assert 15 < files.in_a_process(write) < 20
    with pytest.raises(RuntimeError, match="failed"):
        files.in_a_process(lambda: 1 / 0)


@pytest.mark.slow
def test_losses_and_views() -> None:
    """As they stand, but once each."""
    found = [next(losses.rows()), *steps.views_rows()]
    assert all(row.ours > 0 for row in found)


@pytest.mark.slow
def test_profile_of_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["profile_step"])
    runpy.run_module("benchmarks.profile_step", run_name="__main__")
    assert "convolution" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tiny(tmp_path)).folder
    monkeypatch.setattr(sys, "argv", ["runs_page", str(folder), "--runs", "3"])
    runs_page.main()
    said = capsys.readouterr().out
    assert "3 runs: " in said and ("loaded in" in said or "no Chromium" in said)
    monkeypatch.setattr(sys, "argv", ["runs_page", str(tmp_path)])
    with pytest.raises(SystemExit):
        runs_page.main()
    assert "it has no config.yaml" in capsys.readouterr().err
