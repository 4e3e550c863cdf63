"""Run all benchmarks: a table on the screen, a JSON file beside this one.

python -m benchmarks [losses|steps|matching|saving|files] …, and on a GPU python -m benchmarks gpu
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
from rich.progress import Progress

from benchmarks import files, gpu, losses, matching, saving, steps
from benchmarks.measure import Row, device_name, table

GROUPS = {
    "losses": losses.rows,
    "steps": steps.rows,
    "matching": matching.rows,
    "saving": saving.rows,
    "files": files.rows,
}
WITH_GPU = {"gpu": gpu.rows}


def main() -> None:
    """Measure the named groups, or all."""
    names = sys.argv[1:] or list(GROUPS)
    groups = GROUPS | WITH_GPU
    if unknown := set(names) - set(groups):
        sys.exit(f"no group {', '.join(sorted(unknown))}; choose from {', '.join(groups)}")
    if set(names) & set(WITH_GPU) and not torch.cuda.is_available():
        sys.exit(
            "benchmarks gpu needs an NVIDIA GPU, and torch finds none; without one, "
            "python -m benchmarks.rehearse counts what a step would launch"
        )
    measured: list[Row] = []
    with Progress() as progress:
        for name in names:
            task = progress.add_task(name, total=None)
            for row in groups[name]():
                measured.append(row)
                progress.update(task, description=f"{name}: {row.case}", advance=1)
    print(device_name())
    print(table(measured))
    slug = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
    content = {
        "device": device_name(),
        "torch": torch.__version__,
        "rows": [row.as_dict() for row in measured],
    }
    path = Path(__file__).with_name(f"{slug}-{'-'.join(names)}.json")
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
