"""What tests share: golden numbers, tiny data in real layouts, and real worker processes."""

from __future__ import annotations

import contextlib
import gzip
import inspect
import io
import os
import pickle
import runpy
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torchvision
from children import Worker, fork, free_ports, member
from forks import forked
from PIL import Image

import solo.pretrain
from benchmarks.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # share the cores, here and in started processes
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


RECIPE_FILES = sorted(RECIPES.glob("*/*.yaml"))


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """tests/golden/reference.npz."""
    with np.load(ROOT / "tests/golden/reference.npz") as content:
        return dict(content)


REPORT = solo.pretrain.report


def pytest_configure() -> None:
    """Runs in the tests' own process write no report.html, which takes seconds; see ``reports``."""
    pytest.MonkeyPatch().setattr("solo.pretrain.report", lambda console, folder: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slurm's come first: they wait more than they compute, which is best done beside others."""
    items.sort(key=lambda item: "slurm" not in item.path.parts)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do in this test, as they do for users."""
    monkeypatch.setattr("solo.pretrain.report", REPORT)


@pytest.fixture(autouse=True)
def _steady() -> None:
    torch.manual_seed(0)


def write_images(folder: Path, classes: list[str], count: int, size: int = 40) -> Path:
    """JPEG files of random blobs under ``folder/<class>/``."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            coarse = random.integers(0, 255, (5, 5, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((size + i % 7, size))
            image.save(folder / name / f"{name}_{i}.JPEG")
    return folder


def write_idx(path: Path, values: np.ndarray) -> None:
    """A file of MNIST's format, as its authors describe it."""
    head = struct.pack(f">HBB{values.ndim}i", 0, 8, values.ndim, *values.shape)
    content = head + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(root: Path) -> None:
    """Twenty grey images of ten classes in each split, as bare files."""
    labels = np.arange(20) % 10
    images = 12 * labels[:, None, None] * np.ones((28, 28))
    for begin in ("train", "t10k"):
        write_idx(root / f"{begin}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{begin}-labels-idx1-ubyte.gz", labels)


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, cls: Any, coarse: bool) -> None:
    """CIFAR's pickled batches with ten images each, and their checksums."""
    random = np.random.default_rng(0)
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    key = "fine_labels" if coarse else "labels"
    names = [name for name, _ in [*cls.train_list, *cls.test_list]]
    for name in names:
        pixels = random.integers(0, 256, (10, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: list(range(10))}))
    classes = {"fine_label_names": [f"c{i}" for i in range(100)]}
    meta = classes if coarse else {"label_names": [f"c{i}" for i in range(10)]}
    (folder / cls.meta["filename"]).write_bytes(pickle.dumps(meta))
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(cls, attribute, [[name, None] for name, _ in getattr(cls, attribute)])
    monkeypatch.setitem(cls.meta, "md5", None)


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 4) -> None:
    """STL-10's binary files with ``count`` images in each split, of classes in turn."""
    folder = root / torchvision.datasets.STL10.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in ("train", "test", "unlabeled"):
        pixels = random.integers(0, 256, count * 3 * 96 * 96, dtype=np.uint8)
        pixels.tofile(folder / f"{split}_X.bin")
        (np.arange(count, dtype=np.uint8) % 10 + 1).tofile(folder / f"{split}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(f"c{i}" for i in range(10)))
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)


def write_celeba(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``folder/celeba`` as torchvision lays it out: every second image is for validation.

    Attribute a of image i is there where i // 2 + a is even.
    """
    root = write_images(folder / "celeba", ["img_align_celeba"], count)
    files = [f"img_align_celeba_{i}.JPEG" for i in range(count)]
    attributes = [
        " ".join("1" if (i // 2 + a) % 2 == 0 else "-1" for a in range(40)) for i in range(count)
    ]
    tables = {
        "identity_CelebA": ["1"] * count,
        "list_eval_partition": [str(i % 2) for i in range(count)],
        "list_bbox_celeba": ["1 1 1 1"] * count,
        "list_landmarks_align_celeba": [" ".join("1" * 10)] * count,
        "list_attr_celeba": attributes,
    }
    for name, rows in tables.items():
        lines = [f"{file} {row}" for file, row in zip(files, rows)]
        width = len(rows[0].split())
        if width > 1:  # these have a header
            lines = [str(count), " ".join(f"a{i}" for i in range(width)), *lines]
        (root / f"{name}.txt").write_text("\n".join(lines))
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)


@pytest.fixture
def image_tree(tmp_path: Path) -> Path:
    """An image-folder data set of three ImageNet classes: train/ and val/."""
    classes = ["n01558993", "n01692333", "n01729322"]
    write_images(tmp_path / "images/train", classes, 8)
    write_images(tmp_path / "images/val", classes, 3)
    return tmp_path / "images"


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a Python command line from the project's root, as a user would."""

    def run(*words: str | Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        given, environment = [*map(str, words)], {**os.environ, "COLUMNS": "200", **env}
        if given[0].endswith(".py"):
            done = forked(given, environment)
        else:  # -m, -c
            done = subprocess.run(
                [sys.executable, *given],
                cwd=ROOT,
                check=False,
                capture_output=True,
                text=True,
                env=environment,
            )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script with arguments like ``command``, but in this process: seconds faster.

    The Python scripts that it runs itself are forked.
    """
    plain = subprocess.run

    def started(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if words[0] != sys.executable or not words[1].endswith(".py"):
            return plain(words, **options)
        done = forked(words[1:], options.get("env") or dict(os.environ))
        if options.get("check"):
            done.check_returncode()
        return done

    def run(path: str, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [path, *map(str, words)])
            patch.setattr(subprocess, "run", started)
            patch.setattr(sys, "path", list(sys.path))
            patch.setenv("COLUMNS", "200")
            patch.chdir(ROOT)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    runpy.run_path(str(ROOT / path), run_name="__main__")
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else int(end.code is not None)
                    err.write(str(end.code))
        done = subprocess.CompletedProcess(path, code, out.getvalue(), err.getvalue())
        assert not (check and code), done
        return done

    return run


def alone(worker: Worker, *arguments: Any) -> dict[str, torch.Tensor]:
    """A group of one, in this process."""
    threads = torch.get_num_threads()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.set_num_threads(1)
        return worker(0, 1, *arguments)
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


@pytest.fixture
def processes(tmp_path: Path) -> Callable[..., list[dict[str, torch.Tensor]]]:
    """Call a worker in as many real gloo processes; each one's tensors."""

    def run(worker: Worker, world: int, *arguments: Any) -> list[dict[str, torch.Tensor]]:
        if world == 1:
            return [alone(worker, *arguments)]
        (port,) = free_ports(1)
        where = inspect.getsourcefile(worker), worker.__name__
        files = [str(tmp_path / f"{world}-{rank}.pt") for rank in range(world)]
        members = [
            fork(member, *where, rank, world, port, file, *arguments)
            for rank, file in enumerate(files)
        ]
        for child in members:
            _, errors = child.communicate(timeout=120)
            assert child.returncode == 0, errors
        return [torch.load(file) for file in files]

    return run


@pytest.fixture
def agree(processes: Callable[..., list[dict[str, torch.Tensor]]]) -> Callable[..., None]:
    """Call a worker in one process and in two (or more): all tensors are the same."""

    def run(
        worker: Worker, *arguments: Any, world: int = 2, rtol: float = 1e-9, atol: float = 1e-9
    ) -> None:
        (one,) = processes(worker, 1, *arguments)
        for other in processes(worker, world, *arguments):
            for name, value in one.items():
                torch.testing.assert_close(other[name], value, atol=atol, rtol=rtol)

    return run
