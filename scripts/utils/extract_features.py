"""Features of every image in a folder, by whatever network.

    python scripts/utils/extract_features.py <network> <folder> <output> [--features projector]

The network is a run's folder, a checkpoint, an exported folder or a timm model name. Writes
<output>.npy ([N, F], float32), or <output>.npz (SciPy's CSR) where fewer than half of the values
are non-zero, and <output>.txt, the images' paths in the same order. One batch is in memory at a
time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.config import RunError
from solo.data.folders import unlabelled_tree
from solo.evaluation.features import feature_batches
from solo.runs.networks import load_encoder


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("network")
    parser.add_argument("images", help="a folder; every image below it is taken")
    parser.add_argument("output", type=Path, help="without a suffix")
    parser.add_argument(
        "--features", default="backbone", choices=["backbone", "projector", "last_two_cls"]
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    options = parser.parse_args()
    try:
        print(extract(options))
    except RunError as error:
        parser.error(error.for_user())


def extract(options: argparse.Namespace) -> str:
    """Write the files; what was written."""
    encoder = load_encoder(options.network, features=options.features)
    source = unlabelled_tree(options.images, "images")
    source.settle(encoder.channels, encoder.value_range, encoder.clip, skip_bad=False)
    sparse: list[sp.csr_matrix] = []
    dense: np.memmap | None = None
    done = 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    array = options.output.with_name(options.output.name + ".npy")
    for x, _ in feature_batches(
        encoder,
        source,
        batch_size=options.batch_size,
        num_workers=options.workers,
        console=Console(stderr=True),
        label=f"{len(source)} images",
    ):
        rows = x.numpy()
        if (not done and np.count_nonzero(rows) < rows.size / 2) or sparse:
            sparse.append(sp.csr_matrix(rows))
        else:
            if dense is None:
                shape = (len(source), rows.shape[1])
                dense = np.lib.format.open_memmap(array, "w+", np.float32, shape)
            dense[done : done + len(rows)] = rows
        done += len(rows)
    names = options.output.with_name(options.output.name + ".txt")
    names.write_text("\n".join(source.where(i) for i in range(len(source))) + "\n")
    if dense is not None:
        dense.flush()
        return f"{array}: {dense.shape[0]} x {dense.shape[1]}"
    stored = sp.vstack(sparse, format="csr")
    path = options.output.with_name(options.output.name + ".npz")
    sp.save_npz(path, stored)
    share = stored.nnz / (stored.shape[0] * stored.shape[1])
    return f"{path}: {stored.shape[0]} x {stored.shape[1]}, {100 * share:.1f} % non-zero"


if __name__ == "__main__":
    main()
