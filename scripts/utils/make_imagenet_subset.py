"""Make ImageNet-100 (or any subset of classes) from an ImageNet tree.

    python scripts/utils/make_imagenet_subset.py /data/imagenet /data/imagenet100

The source holds ``train/<class>/`` and ``val/<class>/``; so does the result. By default each class
folder is a symbolic link; ``--copy`` makes copies.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.progress import track

from solo.data.folders import imagenet100_classes


def main() -> None:
    """Parse the command line and make the subset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with train/ and val/")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--classes", type=Path, help="text file of class folder names")
    parser.add_argument("--copy", action="store_true", help="copy files instead of linking folders")
    options = parser.parse_args()
    classes = options.classes.read_text().split() if options.classes else imagenet100_classes()
    try:
        make_subset(options.source, options.target, classes, options.copy)
    except ValueError as error:
        sys.exit(str(error))


def make_subset(source: Path, target: Path, classes: list[str], copy: bool = False) -> None:
    """Link or copy the class folders of both splits. Folders already there are left alone.

    Raises:
        ValueError: where a split or a class is missing; nothing has been written then.
    """
    pairs = []
    for split in ("train", "val"):
        if not (source / split).is_dir():
            raise ValueError(f"{source} has no folder {split}/; expected {split}/<class>/<images>")
        missing = [name for name in classes if not (source / split / name).is_dir()]
        if missing:
            raise ValueError(
                f"{source / split} lacks {len(missing)} of {len(classes)} classes: "
                f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}"
            )
        pairs += [(source / split / name, target / split / name) for name in classes]
    for origin, place in track(pairs, "Copying" if copy else "Linking"):
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            continue
        if copy:
            partial = place.with_name(f".{place.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(origin, partial)
            partial.rename(place)
        else:
            place.symlink_to(origin.resolve(), target_is_directory=True)
    print(f"{len(classes)} classes in {target}/train and {target}/val")


if __name__ == "__main__":
    main()
