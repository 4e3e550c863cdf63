"""Mean and standard deviation of a folder's images, as the two keys of a run.

    python scripts/utils/image_statistics.py <folder or .h5 file> [--sample 5000]

Every image counts the same, whatever its size, as each gives the same number of views. Prints
``data.mean=[…] data.std=[…]`` for the command line; values are those of images in [0, 1].
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo import rng
from solo.config import RunError
from solo.data.folders import h5_file, unlabelled_tree
from solo.data.sources import BadImageError, EncodedSource

KEYS = {
    "++data.value_range=[low,high]": "--value-range LOW HIGH",
    "++data.clip=true": "--clip",
    "++data.on_bad_image=skip": "--skip-bad",
}
"""What a run's messages advise, and what it is called here."""


def statistics(
    source: EncodedSource, sample: int | None, workers: int, skip_bad: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] over images in [0, 1], each image with the same weight.

    Raises:
        BadImageError: for an image that does not decode, unless those are skipped.
    """
    chosen = torch.randperm(len(source), generator=rng.generator(0, "statistics"))[:sample]

    def moments(index: int) -> Tensor:
        try:
            pixels = source.image(index).flatten(1).double() / 255
        except BadImageError:
            if not skip_bad:
                raise
            return torch.zeros(3, source.layout.channels, dtype=torch.float64)
        mean, square = pixels.mean(1), pixels.square().mean(1)
        return torch.stack((mean, square, torch.ones_like(mean)))

    total = torch.zeros(3, source.layout.channels, dtype=torch.float64)
    with ThreadPoolExecutor(workers) as pool:
        for start in track(
            range(0, len(chosen), 256), "Reading images", console=Console(stderr=True)
        ):
            total += sum(pool.map(moments, chosen[start : start + 256].sort().values.tolist()))
    mean, square = total[:2] / total[2]
    if skipped := len(chosen) - int(total[2, 0]):
        print(f"{skipped} of {len(chosen)} images cannot be read", file=sys.stderr)
    return mean, (square - mean.square()).clamp(min=0).sqrt()


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("images", help="a folder (every image below it is taken) or an HDF5 file")
    parser.add_argument("--sample", type=int, help="how many images to look at; all without it")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads")
    parser.add_argument("--channels", type=int, help="as data.channels")
    parser.add_argument("--value-range", type=float, nargs=2, help="as data.value_range")
    parser.add_argument("--clip", action="store_true", help="as data.clip")
    parser.add_argument("--skip-bad", action="store_true", help="as data.on_bad_image=skip")
    options = parser.parse_args()
    for name in ("sample", "workers"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} is {value}; give 1 or more")
    try:
        source = (
            h5_file(options.images, "images", no_labels=True)
            if options.images.endswith((".h5", ".hdf5"))
            else unlabelled_tree(options.images, "images")
        )
        skip_bad = options.skip_bad
        source.settle(options.channels, options.value_range, options.clip, skip_bad)
        mean, std = statistics(source, options.sample, options.workers, skip_bad)
    except RunError as error:
        said = error.for_user()
        for key, option in KEYS.items():
            said = said.replace(key, option)
        sys.exit(said)
    if constant := [channel for channel, value in enumerate(std.tolist()) if value < 1e-9]:
        print(
            f"channels {constant} (counted from 0) are constant: give a std above 0",
            file=sys.stderr,
        )
    if not constant and float(std.max()) < 0.01:
        print("values lie close together; --value-range LOW HIGH spreads them", file=sys.stderr)
    shown = (",".join(f"{value:.4g}" for value in values.tolist()) for values in (mean, std))
    print("data.mean=[{}] data.std=[{}]".format(*shown))


if __name__ == "__main__":
    main()
