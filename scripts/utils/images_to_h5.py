"""Pack an image folder into one HDF5 file, for file systems that dislike many small files.

    python scripts/utils/images_to_h5.py /data/imagenet100/train train.h5

Files are stored as they are (encoded): one group a class, one uint8 array an image. Train with
``++data.format=h5 ++data.train_path=train.h5``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import h5py
import numpy as np
from rich.progress import track

from solo.config import ConfigError
from solo.data.folders import class_folders


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with <class>/<images>")
    parser.add_argument("target", type=Path, help="HDF5 file to write")
    options = parser.parse_args()
    try:
        convert(options.source, options.target)
    except ConfigError as error:
        sys.exit(str(error))


def convert(source: str, target: Path) -> None:
    """Write ``target``; under another name until it is whole.

    Raises:
        ConfigError: for a folder without class folders, or one that is not there.
    """
    images = class_folders(source, "source")
    partial = target.with_name(f"{target.name}.partial")
    with h5py.File(partial, "w") as file:
        for name in images.classes:
            file.create_group(name)
        for index in track(range(len(images)), "Packing images"):
            label, _, rest = images.names[index].partition("/")
            # A slash in an HDF5 key would nest groups.
            key = rest.replace("/", "|")
            data = np.frombuffer(images.read(index), dtype=np.uint8)
            file[label].create_dataset(key, data=data)
    partial.replace(target)
    print(f"{len(images)} images of {len(images.classes)} classes in {target}")


if __name__ == "__main__":
    main()
