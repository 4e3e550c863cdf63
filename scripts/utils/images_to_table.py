"""An image folder as a table of Hugging Face's datasets: one Parquet file, or a folder on disk.

    python scripts/utils/images_to_table.py <folder> train.parquet     # data.format=parquet
    python scripts/utils/images_to_table.py <folder> table             # data.format=huggingface

Files are stored as they are (encoded), in the folder's order, in the columns image and label. Needs
``pip install datasets``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.config import ConfigError
from solo.data.folders import class_folders
from solo.data.tables import library


def convert(source: str, target: Path) -> int:
    """Write the table; how many images it has.

    Raises:
        ConfigError: for a folder without class folders, or where ``datasets`` is not installed.
    """
    datasets = library("a table")
    images = class_folders(source, "source")

    def rows() -> Iterator[dict[str, Any]]:
        for index in range(len(images)):
            cell = {"bytes": images.read(index), "path": images.names[index]}
            yield {"image": cell, "label": int(images.labels[index])}

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=images.classes)}
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as room:
        table = datasets.Dataset.from_generator(rows, features=features, cache_dir=room)
        if target.suffix == ".parquet":
            table.to_parquet(str(target))
        else:
            table.save_to_disk(str(target))
    return len(images)


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", help="folder with <class>/<images>")
    parser.add_argument("target", type=Path, help="a .parquet file, or a folder")
    options = parser.parse_args()
    try:
        count = convert(options.source, options.target)
    except ConfigError as error:
        sys.exit(str(error))
    print(f"{count} images in {options.target}")


if __name__ == "__main__":
    main()
