"""How Hydra behaves here: no files of its own, and every override is checked by the schema."""

from __future__ import annotations

import re

from hydra.conf import HydraConf, RunDir, SweepDir
from hydra.core.config_store import ConfigStore


def prepare_hydra() -> None:
    """Keep Hydra from writing outside the run's folder; call before ``hydra.main`` runs.

    A multirun keeps its ``multirun.yaml`` under ``<checkpoint.dir>/sweeps/``.
    """
    sweeps = "${oc.select:checkpoint.dir,trained_models}/sweeps/${now:%Y-%m-%d_%H-%M-%S}"
    node = HydraConf(
        output_subdir=None,
        run=RunDir(dir="."),
        sweep=SweepDir(dir=sweeps, subdir="${hydra.job.num}"),
    )
    node.job.chdir = False
    node.defaults = [
        {"job_logging": "stdout"} if isinstance(entry, dict) and "job_logging" in entry else entry
        for entry in node.defaults
    ]
    ConfigStore.instance().store(group="hydra", name="config", node=node, provider="solo")


def force_overrides(argv: list[str]) -> list[str]:
    """Write ``key=value`` as ``++key=value``.

    Hydra refuses to override a key that the recipe leaves at its default. With ``++`` every key
    can be given, and the schema refuses the ones that do not exist, naming the nearest.
    """
    plain = re.compile(r"^(?!hydra[./])[A-Za-z_][\w.]*=")
    return [f"++{word}" if plain.match(word) else word for word in argv]
