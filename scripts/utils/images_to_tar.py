"""Pack an image folder into tar shards of WebDataset's layout.

    python scripts/utils/images_to_tar.py /data/imagenet100/train shards/train [--megabytes 1000]

Files are stored as they are (encoded), ``<class>/<name>.<suffix>``, each before a
``<class>/<name>.cls`` with the class's name, in the folder's order. Train with
``data.format=webdataset data.train_path=shards/train-*.tar``.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tarfile
from pathlib import Path

from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.config import ConfigError
from solo.data.folders import class_folders
from solo.data.shards import sample_key


def convert(source: str, target: Path, megabytes: float) -> list[Path]:
    """Write ``<target>-<number>.tar``, each under another name until it is whole; their paths.

    Raises:
        ConfigError: for a folder without class folders, or images whose names are one but for what
            follows the first dot.
    """
    images = class_folders(source, "source")
    keys = [sample_key(images.names[i]) for i in range(len(images))]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"{source}: two images are called {twice} up to the name's first dot")
    shards: list[list[int]] = []
    filled = 0.0
    for index in range(len(images)):
        size = images.size(index)
        if not shards or filled + size > megabytes * 1e6:
            shards.append([])
            filled = 0.0
        shards[-1].append(index)
        filled += size
    target.parent.mkdir(parents=True, exist_ok=True)
    written = [target.with_name(f"{target.name}-{number:06}.tar") for number in range(len(shards))]
    for path, indices in zip(track(written, "Packing images"), shards):
        partial = path.with_name(f"{path.name}.partial")
        with tarfile.open(partial, "w") as tar:
            for index in indices:
                label = images.classes[int(images.labels[index])]
                _add(tar, images.names[index], images.read(index))
                _add(tar, f"{keys[index]}.cls", os.fsencode(label))
        partial.replace(path)
    return written


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", help="folder with <class>/<images>")
    parser.add_argument("target", type=Path, help="path of the shards, without -<number>.tar")
    parser.add_argument("--megabytes", type=float, default=1000, help="of a shard, at most")
    options = parser.parse_args()
    if options.megabytes <= 0:
        parser.error(f"--megabytes is {options.megabytes}; give more than 0")
    try:
        written = convert(options.source, options.target, options.megabytes)
    except ConfigError as error:
        sys.exit(str(error))
    print(f"{len(written)} shards: {written[0]} to {written[-1]}")


if __name__ == "__main__":
    main()
