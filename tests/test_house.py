"""The house: rooms import from floors below their own, in no circle; files stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from helpers import ROOT

# CONTRIBUTING.md says what lives where.
FLOORS = {
    **dict.fromkeys(("main_pretrain", "main_linear", "benchmarks", "scripts"), 9),
    **dict.fromkeys(("solo.pretrain", "solo.linear"), 8),
    **dict.fromkeys(("solo.callbacks", "solo.report"), 7),
    "solo.runs": 6,
    **dict.fromkeys(("solo.evaluation", "solo.conformance"), 5),
    "solo.methods": 4,
    "solo.losses": 3,
    **dict.fromkeys(("solo.univariate", "solo.multivariate", "solo.data", "solo.kernels"), 2),
    **dict.fromkeys(("solo.distributions", "solo.backbones", "solo.optim"), 1),
    **dict.fromkeys(("solo.config", "solo.distributed", "solo.rng"), 0),
}


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("main_*.py")]
    for folder in ("solo", "benchmarks", "scripts"):
        files += (ROOT / folder).rglob("*.py")
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return dict(zip((name.removesuffix(".__init__") for name in names), files))


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in known else node.module for name in whole}
    return found & set(known)


def floor(module: str) -> int:
    parts = module.split(".")
    room = next(".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in FLOORS)
    return FLOORS[room]


def test_nothing_imports_upwards_or_in_a_circle() -> None:
    known = modules()
    arrows = {name: imports(file, known) - {name} for name, file in known.items()}
    assert len(arrows) > 100 and sum(map(len, arrows.values())) > 300
    del arrows["solo"]  # holds nothing
    assert not {(a, b) for a, others in arrows.items() for b in others if floor(b) > floor(a)}
    order = list(TopologicalSorter(arrows).static_order())  # raises CycleError
    assert len(order) == len(arrows)


def test_no_file_is_long() -> None:
    assert not [file for file in modules().values() if file.read_text().count("\n") > 400]


def test_what_only_reads_runs_starts_without_torch() -> None:
    """Whose import takes seconds, and more on a login node."""
    names = ("solo.runs.__main__", "solo.report.index", "solo.report.tables")
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
