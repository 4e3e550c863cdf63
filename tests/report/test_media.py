"""Pictures for dashboards never change, or end, a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny

from solo.pretrain import run
from solo.report import media
from solo.runs.saved import SavedRun


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = SavedRun(folder).checkpoint()["state_dict"]
    return state


def test_a_run_is_the_same_with_pictures_or_with_broken_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws from torch's own generator in training: it is put back."""

    def with_dropout(name: str, **options: Any) -> dict[str, Any]:
        content = tiny(tmp_path / name, **options)
        content["backbone"]["kwargs"] |= {"drop_block_rate": 0.0, "drop_rate": 0.3}
        return content

    plain = weights(run(with_dropout("plain")).folder)
    options: dict[str, Any] = {"loggers": ["tensorboard"], "pictures_every_n_epochs": 1}
    seen = weights(run(with_dropout("seen", **options)).folder)
    assert plain.keys() == seen.keys()
    assert all(value.equal(seen[name]) for name, value in plain.items())

    def broken(*_: Any) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr(media, "network_sections", broken)
    with pytest.warns(UserWarning, match="left out: ValueError: no such colour"):
        other = weights(run(with_dropout("broken", **options)).folder)
    assert all(value.equal(other[name]) for name, value in plain.items())
