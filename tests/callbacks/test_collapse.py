"""Effective rank and its kin, and the warning where embeddings collapse."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import rows
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from scipy import linalg, stats

from solo.callbacks import CollapseMonitor
from solo.config.cli import arguments
from solo.evaluation.sparsity import effective_rank
from solo.evaluation.spread import alignment, moments_rank, rank_of_moments, spread, uniformity
from solo.pretrain import run


@pytest.mark.parametrize("shape", [(40, 7), (9, 30), (16, 16)])
def test_rank_is_rankme(shape: tuple[int, int]) -> None:
    z = torch.randn(shape) * torch.logspace(0, -2, shape[1])
    values = linalg.svdvals(z.numpy().astype(float))
    expected = math.exp(stats.entropy(values / values.sum()))
    assert float(moments_rank(z)) == pytest.approx(expected, rel=1e-6)
    assert float(effective_rank(z)) == pytest.approx(expected, rel=1e-6)


def test_rank_where_there_is_little() -> None:
    alike = torch.randn(1, 12).expand(50, -1)
    assert float(moments_rank(alike)) == pytest.approx(1, abs=1e-6)
    assert float(moments_rank(torch.zeros(8, 3))) == 0
    basis = torch.eye(6)[:3].repeat(10, 1)  # three directions, equally
    assert float(moments_rank(basis)) == pytest.approx(3, abs=1e-6)
    assert math.isnan(float(rank_of_moments(torch.full((2, 2), float("nan")))))
    parts = torch.randn(3, 20, 5).double()
    together = sum(part.T @ part for part in parts)
    assert float(rank_of_moments(together)) == pytest.approx(
        float(effective_rank(parts.flatten(0, 1)))
    )


def test_spread_is_numpys() -> None:
    z = torch.randn(30, 5) * torch.tensor([3.0, 1.0, 0.1, 0.0, 0.0]) + torch.tensor(
        [0, 0, 0, 7.0, 0]
    )
    found = spread(z)
    deviations = z.numpy().std(0)
    assert float(found.mean_std) == pytest.approx(deviations.mean(), rel=1e-5)
    assert float(found.least_std) == 0
    assert float(found.dead) == pytest.approx(0.4)


def test_alignment_and_uniformity_by_their_formulas() -> None:
    views = torch.randn(2, 12, 4)
    unit = views.numpy().astype(float)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    expected = ((unit[0] - unit[1]) ** 2).sum(-1).mean()
    assert float(alignment(views)) == pytest.approx(expected, rel=1e-5)
    pairs = [((unit[0][i] - unit[0][j]) ** 2).sum() for i in range(12) for j in range(i)]
    assert float(uniformity(views[0])) == pytest.approx(
        math.log(np.exp(-2 * np.array(pairs)).mean()), rel=1e-5
    )


def test_a_point_with_noise_around_it_has_collapsed() -> None:
    """Whose effective rank is not that of one direction."""
    console = Console(file=io.StringIO(), width=500)
    monitor, method = CollapseMonitor(console), Method()
    centre, noise = torch.randn(1, 1, 2048), torch.randn(2, 256, 2048)
    for _ in range(10):
        outputs = {"logged": True, "h": noise, "z": centre + 0.01 * noise}
        monitor.on_train_batch_end(None, method, outputs, None, 0)
    assert method.logged[0]["train_proj_effective_rank"] > 2
    assert "have collapsed" in console.file.getvalue()


class Method:
    """What the monitor sees of a method."""

    global_views = 2
    against_collapse = "Raise this"

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def log_dict(self, values: dict[str, torch.Tensor]) -> None:
        self.logged.append({name: float(value) for name, value in values.items()})


def test_it_warns_once_after_ten_collapsed_values_in_a_row() -> None:
    console = Console(file=io.StringIO(), width=500)
    monitor, method = CollapseMonitor(console), Method()
    spread_out = torch.randn(2, 20, 6)
    alike = torch.randn(2, 1, 6) * (1 + torch.rand(2, 20, 1))  # one direction, other lengths
    for z in [alike] * 9 + [spread_out] + [alike] * 12 + [torch.zeros(2, 20, 6)] * 12:
        outputs = {"logged": True, "h": spread_out, "z": z}
        monitor.on_train_batch_end(None, method, outputs, None, 0)
        monitor.on_train_batch_end(None, method, {"logged": False}, None, 0)
        said = console.file.getvalue()
        assert ("have collapsed" in said) == (len(method.logged) >= 20)
    assert said.count("warning") == 1 and said.endswith("row). Raise this\n")
    assert "effective rank is 1.00 of 6, their uniformity 0.0000, and 0 % of" in said
    values = method.logged[9]
    assert values["train_proj_effective_rank"] == pytest.approx(
        float(effective_rank(spread_out[0]))
    )
    assert values["train_alignment"] == pytest.approx(float(alignment(spread_out)))
    one_view = {"logged": True, "h": spread_out[:1], "z": spread_out[:1]}
    monitor.on_train_batch_end(None, method, one_view, None, 0)
    assert "train_alignment" not in method.logged[-1]


def test_what_is_the_same_for_all_images_needs_no_ten_values() -> None:
    """Three, or the three last of a run."""
    same, shorter = torch.ones(1, 1, 6).expand(2, 20, 6), torch.rand(2, 20, 1) * torch.ones(2, 1, 6)
    for z, counts in ((same, 3), (shorter, 4)):
        console = Console(file=io.StringIO(), width=500)
        monitor, method = CollapseMonitor(console), Method()
        for number in range(counts):
            assert "warning" not in console.file.getvalue(), number
            outputs = {"logged": True, "h": torch.randn(2, 20, 6), "z": z}
            monitor.on_train_batch_end(None, method, outputs, None, 0)
        assert ("warning" in console.file.getvalue()) == (z is same)
        monitor.on_train_end(None, method)
        said = console.file.getvalue()
        assert said.count("warning") == 1 and f"({counts} logged values in a row)" in said


def digits(folder: Path, *words: str) -> dict[str, Any]:
    recipes = Path(__file__).parents[2] / "scripts/pretrain/digits"
    with initialize_config_dir(str(recipes), version_base="1.3"):
        given = arguments([*words, "max_epochs=10", f"checkpoint.dir={folder}"])
        made = compose("rectified_lpjepa", given)
    return dict(OmegaConf.to_container(made, resolve=True))


@pytest.mark.slow
def test_the_digits_recipe(tmp_path: Path, capsys: Any) -> None:
    """Without what keeps embeddings apart it warns within 100 logged values.

    That it never does with it is in check_digits_run.py.
    """
    words = ["method_kwargs.logging_interval=1", "method_kwargs.rdm_reg_loss_weight=0"]
    result = run(digits(tmp_path, *words))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("warning: embeddings have collapsed") == 1
    assert "Raise method_kwargs.rdm_reg_loss_weight" in said
    logged = [row for row in rows(result.folder) if "train_proj_effective_rank" in row]
    ranks = [float(row["train_proj_effective_rank"]) for row in logged]
    assert max(ranks[90:100]) < 1.5 and result.metrics["val_proj_effective_rank"] < 1.5
