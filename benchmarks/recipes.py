"""Recipes as Hydra puts them together, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "scripts/pretrain"


def compose(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe with its defaults, not yet resolved.

    Args:
        path: of the YAML file, from anywhere, or from ``scripts/pretrain``.
        overrides: as on a command line, such as ``++max_epochs=3``.
    """
    path = RECIPES / path
    with hydra.initialize_config_dir(str(path.parent), version_base="1.3"):
        tree = OmegaConf.to_container(hydra.compose(path.stem, list(overrides)))
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}
