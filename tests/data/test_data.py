"""Data sets in their real layouts, samplers, views and batches."""

from __future__ import annotations

import functools
import pickle
import tarfile
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_celeba, write_cifar, write_images, write_stl10
from helpers import slow
from PIL import Image
from torchvision import datasets as tv
from torchvision.io import encode_png

from benchmarks.measure import peak_memory
from solo.config import Config, ConfigError
from solo.config.schema import Augmentation, Data
from solo.data import ImageData, Normalize
from solo.data.batches import SampleKey, TrainingSampler, TrainingViews, ValidationSampler
from solo.data.datasets import DATASETS, load_splits
from solo.data.folders import imagenet100_classes
from solo.data.parts import labelled_part, take_fraction
from solo.data.sources import ArraySource, BadImageError, fetched
from solo.data.views import validation_transform


def data(**keys: Any) -> Data:
    return Data.model_validate(keys)


def test_digits_are_all_there_and_split_by_class() -> None:
    train, val = load_splits(data(), seed=0)
    assert (len(train), len(val)) == (1437, 360)
    assert train.image(0).shape == (3, 32, 32) and train.image(0).dtype == torch.uint8
    counts = torch.bincount(val.labels, minlength=10)
    assert counts.min() >= 34 and counts.max() <= 38
    pixels = train.images.double() / 255
    assert DATASETS["digits"].mean[0] == pytest.approx(pixels.mean().item(), abs=1e-3)
    assert DATASETS["digits"].std[0] == pytest.approx(pixels.std().item(), abs=1e-3)


@pytest.mark.parametrize(("name", "cls"), [("cifar10", tv.CIFAR10), ("cifar100", tv.CIFAR100)])
def test_cifar(name: str, cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch, cls, coarse=name == "cifar100")
    train, val = load_splits(data(dataset=name, train_path=str(tmp_path)), seed=0)
    assert len(train) == (50 if name == "cifar10" else 10) and len(val) == 10
    expected = cls(tmp_path, train=True)[3][0]
    np.testing.assert_array_equal(train.image(3).permute(1, 2, 0), np.asarray(expected))
    assert len(train.classes) == (10 if name == "cifar10" else 100)


def test_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stl10(tmp_path, monkeypatch)
    train, val = load_splits(data(dataset="stl10", train_path=str(tmp_path)), seed=0)
    assert train.labels.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert val.labels.tolist() == [0, 1, 2, 3]
    assert train.image(5).shape == (3, 96, 96)


def test_celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_celeba(tmp_path, 4, monkeypatch)
    train, val = load_splits(data(dataset="celeba", train_path=str(tmp_path)), seed=0)
    assert (len(train), len(val)) == (2, 2)
    assert train.labels.shape == (2, 40) and train.labels[0].tolist() == [1, 0] * 20
    assert train.classes == [f"a{i}" for i in range(40)]
    assert train.image(1).dtype == torch.uint8


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "celeba"])
def test_missing_sets_say_how_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.download=true"):
        load_splits(data(dataset=name, train_path=str(tmp_path)), seed=0)


def test_download_is_torchvisions_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``download`` fetches and unpacks: here a real-layout archive from a local server."""
    cls = tv.CIFAR10
    write_cifar(tmp_path / "made", monkeypatch, cls, coarse=False)
    archive = tmp_path / cls.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / cls.base_folder, cls.base_folder)
    monkeypatch.setattr(cls, "tgz_md5", None)
    root = tmp_path / "fetched"
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        monkeypatch.setattr(cls, "url", url)
        train, _ = load_splits(data(dataset="cifar10", train_path=str(root), download=True), seed=0)
        server.shutdown()
    assert len(train) == 50


def test_image_folder_and_h5_hold_the_same_images(
    image_tree: Path, command: Any, script: Any
) -> None:
    for split, start in (("train", command), ("val", script)):
        h5 = image_tree / f"{split}.h5"
        start("scripts/utils/images_to_h5.py", image_tree / split, h5)
    folders, packed = (
        load_splits(
            data(dataset="custom", format=form, train_path=str(a), val_path=str(b)), seed=0
        ).train
        for form, a, b in (
            ("image_folder", image_tree / "train", image_tree / "val"),
            ("h5", image_tree / "train.h5", image_tree / "val.h5"),
        )
    )
    assert len(folders) == len(packed) == 24
    assert folders.labels.tolist() == packed.labels.tolist() == sorted([0, 1, 2] * 8)
    assert folders.classes == packed.classes
    for i in range(24):
        assert torch.equal(folders.image(i), packed.image(i))
    copy = pickle.loads(pickle.dumps(packed))  # as a spawned loader process gets it
    assert torch.equal(copy.image(3), packed.image(3))


def test_preload_gives_the_same_images_without_the_files(image_tree: Path) -> None:
    keys = {"dataset": "custom", "train_path": str(image_tree / "train")}
    plain = load_splits(data(**keys), seed=0).train
    images = [plain.image(i) for i in range(len(plain))]
    preloaded = load_splits(data(**keys, preload=True), seed=0).train
    (image_tree / "train").rename(image_tree / "gone")
    for i, image in enumerate(images):
        assert torch.equal(preloaded.image(i), image)


def test_a_part_of_what_is_preloaded(image_tree: Path) -> None:
    """Images without a label are left out after preloading: the others stay themselves."""
    keys = {"dataset": "custom", "train_path": str(image_tree / "train")}
    plain, loaded = (load_splits(data(**keys, preload=p), seed=0).train for p in (False, True))
    plain.labels[::3] = loaded.labels[::3] = -1
    ours, theirs = labelled_part(loaded), labelled_part(plain)
    assert len(ours) == len(theirs) < len(plain)
    for index in range(len(ours)):
        assert torch.equal(ours.image(index), theirs.image(index))
        assert ours.where(index) == theirs.where(index)


def test_unlabelled_images_and_odd_formats(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).convert("L").save(tmp_path / "deep/b.bmp")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "deep/er/c.webp")
    (tmp_path / "notes.txt").write_text("not an image")
    train, val = load_splits(
        data(dataset="custom", train_path=str(tmp_path), no_labels=True), seed=0
    )
    assert val is None and len(train) == 3 and train.labels.tolist() == [-1] * 3
    assert [train.image(i).shape for i in range(3)] == [(3, 4, 4)] * 3
    np.testing.assert_array_equal(train.image(0).permute(1, 2, 0), pixels)


def test_imagenet100_takes_its_classes_from_a_full_tree(
    tmp_path: Path, command: Any, script: Any
) -> None:
    wanted = imagenet100_classes()
    assert len(set(wanted)) == 100
    others = [f"n{i:08d}" for i in range(3)]
    for split in ("train", "val"):
        write_images(tmp_path / split, [*wanted, *others], 1, size=8)
    paths = {"train_path": str(tmp_path / "train"), "val_path": str(tmp_path / "val")}
    train, _ = load_splits(data(dataset="imagenet100", **paths), seed=0)
    assert train.classes == sorted(wanted) and len(train) == 100
    target = tmp_path / "subset"
    command("scripts/utils/make_imagenet_subset.py", tmp_path, target)
    script("scripts/utils/make_imagenet_subset.py", tmp_path, target, "--copy")  # nothing to do
    assert (target / "train" / wanted[0]).is_symlink()
    assert len(list((target / "val").iterdir())) == 100
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(others))
    copies = tmp_path / "copies"
    script("scripts/utils/make_imagenet_subset.py", tmp_path, copies, "--copy", "--classes", listed)
    assert not (copies / "train" / others[0]).is_symlink()
    listed.write_text("n99999999")
    done = script(
        "scripts/utils/make_imagenet_subset.py", tmp_path, copies, "--classes", listed, check=False
    )
    assert done.returncode and "n99999999" in done.stderr


def test_bad_paths_and_layouts(image_tree: Path, tmp_path: Path) -> None:
    def complaint(**keys: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            load_splits(data(**{"dataset": "custom", **keys}), seed=0)
        return str(caught.value)

    train = str(image_tree / "train")
    assert "data.train_path is not set" in complaint()
    gone = str(image_tree / "trian")
    assert gone in complaint(train_path=gone) and str(image_tree) in complaint(train_path=gone)
    (tmp_path / "empty").mkdir()
    assert "no class folders" in complaint(train_path=str(tmp_path / "empty"))
    assert "no images" in complaint(train_path=str(tmp_path / "empty"), no_labels=True)
    (image_tree / "val/n99999999").mkdir()
    assert "n99999999 holds no images" in complaint(
        train_path=train, val_path=str(image_tree / "val")
    )
    write_images(image_tree / "val", ["n99999999"], 1)
    message = complaint(train_path=train, val_path=str(image_tree / "val"))
    assert "different classes (3 and 4)" in message and "n99999999" in message
    (tmp_path / "x.h5").write_text("no")
    assert "images_to_h5" in complaint(train_path=str(tmp_path / "x.h5"), format="h5")
    assert "did you mean cifar10" in complaint(dataset="cifar1O")


def test_a_damaged_image_is_named(image_tree: Path) -> None:
    victim = max((image_tree / "train/n01558993").iterdir())
    victim.write_bytes(victim.read_bytes()[:200])
    train = load_splits(data(dataset="custom", train_path=str(image_tree / "train")), seed=0).train
    with pytest.raises(BadImageError, match=victim.name):
        for i in range(8):
            train.image(i)


def test_fraction_takes_the_same_part_of_every_class() -> None:
    labels = torch.tensor([0] * 40 + [1] * 20 + [2])
    source = ArraySource(torch.zeros(61, 1, 2, 2, dtype=torch.uint8), labels, ["a", "b", "c"])
    some = take_fraction(source, 0.1, torch.Generator().manual_seed(0))
    assert torch.bincount(some.labels).tolist() == [4, 2, 1]
    assert take_fraction(source, -1, torch.Generator()) is source


def test_global_batches_do_not_depend_on_the_number_of_processes() -> None:
    def epoch(processes: int, batch: int) -> list[list[int]]:
        samplers = [TrainingSampler(50, batch, 3, rank, processes) for rank in range(processes)]
        for sampler in samplers:
            sampler.set_epoch(2)
        return [[k.image for part in parts for k in part] for parts in zip(*samplers)]

    one = epoch(1, 12)
    assert one == epoch(2, 6) == epoch(4, 3)
    assert len(one) == 4 and len({i for batch in one for i in batch}) == 48
    again = TrainingSampler(50, 12, 3, 0, 1)
    assert [[k.image for k in keys] for keys in again] != one  # epoch 0


@pytest.mark.parametrize(("length", "processes"), [(10, 1), (10, 3), (9, 4), (1, 2)])
def test_validation_sees_every_image_once(length: int, processes: int) -> None:
    samplers = [ValidationSampler(length, 2, rank, processes) for rank in range(processes)]
    batches = [list(sampler) for sampler in samplers]
    assert len({len(b) for b in batches}) == 1
    seen = [k.image for b in batches for keys in b for k in keys if not k.padding]
    assert sorted(seen) == list(range(length))


def recipe(**keys: Any) -> Augmentation:
    return Augmentation.model_validate(keys)


def test_views_of_a_batch() -> None:
    train, _ = load_splits(data(), seed=0)
    recipes = [
        recipe(crop_size=8, num_crops=2),
        recipe(crop_size=6, num_crops=3),
        recipe(crop_size=8, num_crops=1, rrc={"enabled": False}),
    ]
    views = TrainingViews(train, recipes, seed=1)
    keys = [SampleKey(0, i) for i in (5, 9, 2, 7)]
    batch = views[keys]
    assert [v.shape for v in batch.views] == [(3, 4, 3, 8, 8), (3, 4, 3, 6, 6)]
    assert batch.views[0].dtype == torch.uint8
    assert batch.indices.tolist() == [5, 9, 2, 7]
    assert batch.labels.tolist() == train.labels[[5, 9, 2, 7]].tolist()
    whole = validation_transform(8, whole=True)(train.image(9))
    difference = batch.views[0][2, 1].int() - whole.int()
    assert difference.abs().max() <= 2  # not cropped; torchvision rounds between the axes
    # A view depends on seed, epoch and image alone.
    assert torch.equal(views[keys[::-1]].views[0][:, 3], batch.views[0][:, 0])
    assert not torch.equal(views[[SampleKey(1, 5)]].views[0][:2, 0], batch.views[0][:2, 0])
    assert not torch.equal(batch.views[0][0], batch.views[0][1])


def test_making_views_leaves_the_global_generator_alone() -> None:
    views = TrainingViews(load_splits(data(), seed=0).train, [recipe(crop_size=8)], seed=1)
    before = torch.get_rng_state()
    views[[SampleKey(0, 1)]]
    assert torch.equal(before, torch.get_rng_state())


def test_validation_views() -> None:
    image = torch.arange(300 * 256, dtype=torch.int64).remainder(256).to(torch.uint8)
    image = image.view(1, 300, 256).expand(3, -1, -1)
    assert torch.equal(validation_transform(224, whole=False)(image), image[:, 38:262, 16:240])
    assert validation_transform(32, whole=True)(image).shape == (3, 32, 32)


def test_normalize() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    got = Normalize(mean, std)(images)
    expected = (images.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_cifar_recipes_normalise_each_set_with_its_own_numbers() -> None:
    assert DATASETS["cifar100"].mean == (0.5071, 0.4865, 0.4409)
    assert DATASETS["cifar10"].std == (0.2470, 0.2435, 0.2616)


def test_batch_larger_than_the_data() -> None:
    config = Config.model_validate({"optimizer": {"batch_size": 4096}})
    with pytest.raises(ConfigError, match="1437"):
        ImageData(config)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders(workers: int) -> None:
    config = Config.model_validate(
        {
            "data": {"num_workers": workers},
            "optimizer": {"batch_size": 64},
            "augmentations": [{"crop_size": 8}],
        }
    )
    module = ImageData(config)
    batches = list(module.train_dataloader())
    assert len(batches) == 1437 // 64
    assert batches[0].views[0].shape == (2, 64, 3, 8, 8)
    assert sum(len(batch.labels) for batch in module.val_dataloader()) == 360


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [(np.uint16, "png"), (np.uint16, "tif"), (np.float32, "tif"), (np.uint16, "pgm")],
)
def test_more_than_eight_bits_among_eight_are_refused(
    dtype: Any, suffix: str, image_tree: Path
) -> None:
    """Converted to 8 bits as usual, all but 0.4 % of a 16-bit ramp would become 255."""
    ramp = np.arange(0, 65536, 64, dtype=dtype).reshape(32, 32)
    path = image_tree / f"train/n01558993/zdeep.{suffix}"
    Image.fromarray(ramp).save(path)
    train = load_splits(data(dataset="custom", train_path=str(image_tree / "train")), seed=0).train
    index = [train.where(i) for i in range(len(train))].index(str(path))
    with pytest.raises(BadImageError) as caught:
        train.image(index)
    assert str(path) in str(caught.value)
    kind = "float" if dtype is np.float32 else "uint16"
    assert f"its values are {kind}, where the first image's are uint8" in str(caught.value)


def test_alpha_is_dropped(image_tree: Path) -> None:
    """The colours are the file's own, also where it is transparent."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    path = image_tree / "train/n01558993/a.png"
    Image.fromarray(pixels).save(path)
    train = load_splits(data(dataset="custom", train_path=str(image_tree / "train")), seed=0).train
    index = [train.where(i) for i in range(len(train))].index(str(path))
    np.testing.assert_array_equal(train.image(index).permute(1, 2, 0), pixels[..., :3])


def test_what_is_no_image(image_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, and an image beyond Pillow's limit: named, or skipped where that is asked for."""
    text = image_tree / "train/n01558993/a.png"
    text.write_text("no image")
    paths = {"dataset": "custom", "train_path": str(image_tree / "train")}
    with pytest.raises(BadImageError, match="no known image format") as caught:
        load_splits(data(**paths), seed=0)  # the first is looked at before anything else
    train = load_splits(data(**paths, on_bad_image="skip"), seed=0).train
    with pytest.raises(BadImageError, match="no known image format"):
        train.image(0)
    assert str(text) in str(caught.value) and "BytesIO" not in str(caught.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(BadImageError, match="decompression bomb"):
        train.image(1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**9)
    Image.new("RGB", (200, 200)).save(image_tree / "train/n01558993/b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    train = load_splits(data(**paths, on_bad_image="skip"), seed=0).train
    views = TrainingViews(train, [Augmentation(crop_size=8)], seed=0, skip_bad=True)
    batch = views[[SampleKey(0, 0), SampleKey(0, 1), SampleKey(0, 4)]]
    assert batch.skipped == 2 and batch.indices.tolist() == [2, 2, 4]


def test_linked_folders_are_entered(image_tree: Path, tmp_path: Path, script: Any) -> None:
    """As make_imagenet_subset.py writes them; each folder once, whatever the links."""
    classes = tmp_path / "classes.txt"
    classes.write_text("n01558993\nn01692333\n")
    subset = tmp_path / "subset"
    words = (image_tree, subset, "--classes", classes)
    script("scripts/utils/make_imagenet_subset.py", *words)
    assert (subset / "train/n01558993").is_symlink()
    plain = load_splits(data(dataset="custom", train_path=str(subset / "train")), seed=0).train
    for folder, count in ((subset / "train", 16), (subset, 22)):
        free = data(dataset="custom", train_path=str(folder), no_labels=True)
        assert len(load_splits(free, seed=0).train) == count
    (image_tree / "train/n01558993/round").symlink_to(subset, target_is_directory=True)
    again = load_splits(data(dataset="custom", train_path=str(subset), no_labels=True), seed=0)
    assert len(again.train) == 22 and len(plain) == 16
    for name in ("one", "two"):  # siblings that are one folder
        (tmp_path / "links").mkdir(exist_ok=True)
        (tmp_path / "links" / name).symlink_to(image_tree / "val", target_is_directory=True)
    twice = data(dataset="custom", train_path=str(tmp_path / "links"), no_labels=True)
    assert len(load_splits(twice, seed=0).train) == 9
    assert len({Path(again.train.where(i)).resolve() for i in range(22)}) == 22


def preload(path: str, form: str) -> Callable[[], None]:
    train = load_splits(data(dataset="custom", train_path=path, format=form), 0).train
    return lambda: train.preload("images")


@pytest.mark.parametrize("form", ["image_folder", slow("h5")])
def test_preloading_takes_the_data_once(form: str, tmp_path: Path, script: Any) -> None:
    size = 0
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(60):
            content = np.random.default_rng(i).bytes(2**20 + 1000 * i)
            if not i and name == "a":  # the first is looked at
                content = encode_png(torch.zeros(3, 8, 8, dtype=torch.uint8)).numpy().tobytes()
            (tmp_path / "train" / name / f"{i}.png").write_bytes(content)
            size += len(content)
    place = tmp_path / "train"
    if form == "h5":
        place = tmp_path / "train.h5"
        script("scripts/utils/images_to_h5.py", tmp_path / "train", place)
    assert 0.9 * size < 2**20 * peak_memory(preload, str(place), form) < 1.2 * size
    train = load_splits(data(dataset="custom", train_path=str(place), format=form), 0).train
    plain = train.read(3)
    train.preload("images")
    assert train._encoded(3) == plain and len(plain) > 0


def test_one_process_downloads_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait, and find the data there; where it is, nobody waits."""
    inside, most, started = [], [], []
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "new/root"

    def make(download: bool) -> str:
        if download:
            inside.append(1)
            most.append(len(inside))
            if not (root / "data").exists():
                time.sleep(0.2)
                (root / "data").write_text("x")
                started.append(1)
            inside.pop()
        elif not (root / "data").exists():
            raise RuntimeError("not found")
        return (root / "data").read_text()

    with pytest.raises(RuntimeError):
        fetched("~/new/root", make, False)
    threads = [threading.Thread(target=fetched, args=("~/new/root", make, True)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and started == [1]
    most.clear()
    assert fetched("~/new/root", make, True) == "x" and not most


def test_a_part_of_a_data_set_is_preloaded(image_tree: Path) -> None:
    place = str(image_tree / "train")
    parts = [
        load_splits(data(dataset="custom", train_path=place, fraction=0.5, preload=p), 0).train
        for p in (False, True)
    ]
    assert len(parts[0]) == len(parts[1]) == 12
    assert parts[0].labels.tolist() == parts[1].labels.tolist() == sorted([0, 1, 2] * 4)
    assert parts[1]._bytes is not None and parts[0]._bytes is None
    assert all(torch.equal(parts[0].image(i), parts[1].image(i)) for i in range(12))


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.rand(4, 3, 8, 8), 4, "torch.float32"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), 4, r"\[4, 8, 8, 3\]"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 3, "4 images, but 3 labels"),
    ],
)
def test_arrays_of_another_kind_are_refused(images: torch.Tensor, labels: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ArraySource(images, torch.zeros(labels), ["a"])
