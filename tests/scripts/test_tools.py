"""scripts/utils: the trade-off figure, export, and features of a folder."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnxruntime
import pytest
import scipy.sparse as sp
import timm
import torch
import torchvision
import yaml
from helpers import ROOT, features_without_solo, tiny
from PIL import Image
from scipy.stats import spearmanr

from benchmarks.recipes import compose
from solo.config import ConfigError
from solo.config.cli import arguments
from solo.data import ImageData
from solo.data.views import validation_transform
from solo.linear import run as evaluate
from solo.methods import build_method, resolve_config
from solo.pretrain import run
from solo.runs.networks import load_encoder

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of four settings, and one of another method."""
    folder = tmp_path_factory.mktemp("runs")
    common = {"max_epochs": 1, "knn_eval": {"enabled": False}, "mlp_probe": {"enabled": False}}
    for p, mu in ((1.0, -1.0), (1.0, 0.0), (2.0, 0.0)):
        options = tiny(folder, **common)
        options["method_kwargs"] |= {"lp_norm_parameter": p, "mean_shift_value": mu}
        run(options)
    for lr in (1e-3, 4e-3, 8e-3):
        options = tiny(folder, **common, method="lejepa")
        options["optimizer"]["lr"] = lr
        options["method_kwargs"].pop("num_projections")
        run(options)
    return folder


@pytest.mark.slow
def test_tradeoff(runs: Path, tmp_path: Path, command: Command, script: Command) -> None:
    done = command("scripts/utils/tradeoff.py", runs, "--out", tmp_path)
    assert "6 runs" in done.stdout
    with (tmp_path / "tradeoff.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == ["lejepa"] * 3 + ["rectified_lpjepa"] * 3
    sparse = [(row["p"], row["mu"], round(float(row["expected_l0"]), 3)) for row in table[3:]]
    # P(X > 0): a half at mu = 0; exp(-sqrt 2) / 2 for the Laplace of unit variance at mu = -1.
    assert sorted(sparse) == [("1.0", "-1.0", 0.122), ("1.0", "0.0", 0.5), ("2.0", "0.0", 0.5)]
    assert all(0 < float(row["score"]) <= 100 and float(row["loss"]) > 0 for row in table)
    with Image.open(tmp_path / "tradeoff.png") as picture:
        assert picture.size[0] > 600
    chosen = script("scripts/utils/tradeoff.py", runs, "--select").stdout
    assert chosen.count("lowest training loss first") == 4  # three targets, and LeJEPA's
    dense = table[:3]
    for label, values in (
        ("-loss", [-float(row["loss"]) for row in dense]),
        ("effective rank of features", [float(row["rank"]) for row in dense]),
    ):
        expected = spearmanr(values, [float(row["score"]) for row in dense]).statistic
        shown = "undefined, all are alike" if np.isnan(expected) else f"{expected:.2f}"
        assert chosen.count(f"rank correlation of {label} with val_acc1: {shown}\n") == 1
    nothing = script("scripts/utils/tradeoff.py", tmp_path, check=False)
    assert nothing.returncode and "no finished pretraining run" in nothing.stderr
    wrong = script("scripts/utils/tradeoff.py", runs, "--metric", "val_ac1", check=False)
    assert wrong.returncode and "val_acc1" in wrong.stderr


def check_card(out: Path, folder: Path, name: str, size: int) -> str:
    """The model card of an export, held to its run; its text."""
    card = (out / "README.md").read_text()
    facts = json.loads((folder / "environment.json").read_text())
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "timm"
    for said in (f"`{name}`", "arXiv 2602.01456", f"{size} px, 3 channels", facts["torch"]):
        assert said in card
    said = f"Evaluated by `mode=fast l2=1.0` on digits, {size} px"
    assert card.count(said) == 1 and "| model | acc1 |" in card
    assert (
        "| epochs | 1 of 1, 2 views of each image; 128 images an epoch |" in card
        and "| labels | not used |" in card
    )
    assert "| began with | random weights |" in card
    return card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet10t", 40),
        ("resnet10t deep", 8),
        ("resnet18", 8),
        ("vit_tiny", 8),
        ("deit_tiny_patch16_224", 64),
        ("convnext_atto", 64),
    ],
)
def test_export(name: str, size: int, tmp_path: Path, script: Command) -> None:
    """The exported network is the same without this package, to float64's rounding."""
    name, _, deep = name.partition(" ")
    kwargs = {"channels": [8] * 4} if name == "resnet10t" else {}
    if kwargs and size == 8:
        kwargs["stem_type"] = deep
    options = tiny(tmp_path / "runs", max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    options["backbone"] = {"name": name, "kwargs": kwargs}
    options["augmentations"][0]["crop_size"] = size
    folder = run(options).folder
    words = {"pretrained": str(folder), "mode": "fast", "checkpoint": options["checkpoint"]}
    evaluate(words)
    if size == 40:  # of another network: not the card's
        evaluate({**words, "features": "projector"})
        assert len(list(tmp_path.glob("runs/linear/*/table.md"))) == 2
    done = script("scripts/utils/export_backbone.py", folder, tmp_path / "out", "--onnx", "--pt2")
    assert "model.onnx: within" in done.stdout and "model.pt2: within" in done.stdout
    assert (tmp_path / "out/load_backbone.py").exists() == (size == 8 and "resnet" in name)
    card = check_card(tmp_path / "out", folder, name, size)
    recipe = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert "checkpoint" not in recipe and "train_path" not in recipe["data"]
    recipe |= {"checkpoint": options["checkpoint"]}
    assert resolve_config(recipe).to_dict() == resolve_config(options).to_dict()
    if (tmp_path / "out/load_backbone.py").exists():  # by timm alone it would be another network
        with pytest.raises(RuntimeError, match="Unknown model"):
            timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    images = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
    alone = features_without_solo(tmp_path / "out", images, tmp_path)
    with torch.no_grad():
        expected = load_encoder(str(folder)).eval()(images)
        again = load_encoder(str(tmp_path / "out")).eval()(images)
        # As anybody's folder of that layout.
        facts = json.loads((tmp_path / "out/config.json").read_text())
        (tmp_path / "out/config.json").write_text(json.dumps({**facts, "solo": None}))
        if not (tmp_path / "out/load_backbone.py").exists():
            theirs = load_encoder(str(tmp_path / "out"), image_size=size).eval()
            assert theirs.image_size == size
            torch.testing.assert_close(theirs(images), expected)
    normal = load_encoder(str(folder)).normalize(images).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    onnx = torch.from_numpy(session.run(None, {"images": normal})[0])
    torch.testing.assert_close(onnx, expected, rtol=1e-4, atol=1e-5)
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    found = program(torch.from_numpy(normal)).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(again, expected)
    with torch.no_grad():
        exact = load_encoder(str(folder)).eval().double()(images)
    torch.testing.assert_close(alone, exact, rtol=1e-9, atol=1e-9)
    (tmp_path / "out/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"the network in .* could not be loaded"):
        load_encoder(str(tmp_path / "out"))


@pytest.mark.slow
def test_export_of_layers_that_are_used_twice(tmp_path: Path, script: Command) -> None:
    """They have a value for each of their names, as whoever loads them wants it."""
    options = tiny(tmp_path / "runs", max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    options["backbone"] = {"name": "coat_lite_tiny", "kwargs": {"serial_depths": [2, 2, 1, 1]}}
    options["augmentations"][0]["crop_size"] = 32
    folder = run(options).folder
    ours = load_encoder(str(folder)).backbone.eval()
    assert len({p.data_ptr() for p in ours.state_dict().values()}) < len(ours.state_dict())
    script("scripts/utils/export_backbone.py", folder, tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs(images), ours(images), rtol=0, atol=0)


@pytest.mark.slow
def test_export_of_torchvisions_arguments(
    tmp_path: Path, script: Command, command: Command
) -> None:
    """timm calls them otherwise, or does not have them."""
    for kwargs, said in (
        ({"zero_init_residual": True, "width_per_group": 32}, ""),
        ({"replace_stride_with_dilation": [False, False, True]}, "which timm's has not"),
    ):
        options = tiny(tmp_path / "runs", max_epochs=1, limit_train_batches=2, limit_val_batches=1)
        options["backbone"] = {"name": "resnet50", "kwargs": kwargs}
        options["augmentations"][0]["crop_size"] = 40
        folder = run(options).folder
        out = tmp_path / "out"
        done = script("scripts/utils/export_backbone.py", folder, out, check=False)
        assert bool(done.returncode) == bool(said) and said in done.stderr
    network = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert network.layer1[0].conv1.out_channels == 32


def test_export_needs_a_run_of_ours(tmp_path: Path, script: Command) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w.pth")
    done = script("scripts/utils/export_backbone.py", tmp_path / "w.pth", tmp_path, check=False)
    assert done.returncode and "backbone.name" in done.stderr


def read(path: Path) -> np.ndarray:
    """Features as written, dense or sparse."""
    dense, sparse = (path.with_name(path.name + suffix) for suffix in (".npy", ".npz"))
    assert dense.exists() != sparse.exists()
    return np.load(dense) if dense.exists() else sp.load_npz(sparse).toarray()


@pytest.mark.slow
def test_features_of_a_folder(
    runs: Path, image_tree: Path, tmp_path: Path, command: Command, script: Command
) -> None:
    """Sparse ones (ReLU) as CSR, dense ones (LeJEPA's embedding) as an array; in order."""
    path = "scripts/utils/extract_features.py"
    few = ("--batch-size", "7", "--workers", "0")
    sparse, dense = (next(runs.glob(f"{method}/*")) for method in ("rectified_lpjepa", "lejepa"))
    command(path, sparse, image_tree, tmp_path / "h", *few)
    said = script(path, dense, image_tree, tmp_path / "z", *few, "--features", "projector")
    assert "z.npy: 33 x 16" in said.stdout
    names = (tmp_path / "h.txt").read_text().split("\n")[:-1]
    with Image.open(names[20]) as image:
        pixels = torchvision.transforms.v2.functional.pil_to_tensor(image.convert("RGB"))
    view = validation_transform(8, True)(pixels)[None]
    for name, folder, features in (("h", sparse, "backbone"), ("z", dense, "projector")):
        found = read(tmp_path / name)
        assert len(found) == len(names) == 33
        with torch.no_grad():
            expected = load_encoder(str(folder), features=features).eval()(view)[0]
        np.testing.assert_allclose(found[20], expected.numpy(), rtol=1e-4, atol=1e-5)
    victim = Path(names[3])
    victim.write_bytes(b"no image")
    failed = script(path, sparse, image_tree, tmp_path / "x", *few, check=False)
    assert failed.returncode and str(victim) in failed.stderr


def test_a_table_of_what_was_measured(tmp_path: Path, script: Command) -> None:
    """Runs that are there are not repeated; the table has their means and deviations."""
    measured = {("vicreg", 5): 96.0, ("vicreg", 1): 93.0, ("ncl", 5): 80.0, ("ncl", 1): 80.5}
    for (row, seed), value in measured.items():
        folder = tmp_path / "work" / f"{row}-{seed}"
        folder.mkdir(parents=True)
        found = {"shots/10": value, "shots/1": 50.0, "shots/all": 99.0, "val_knn_acc1": 98.0}
        found |= {"val_l0_sparsity_metric": 1.0, "minutes": 2}
        (folder / "measured.json").write_text(json.dumps(found))
    words = ("--seeds", "5", "1", "--rows", "vicreg", "ncl")
    places = ("--work", tmp_path / "work", "--out", tmp_path / "out/table")
    done = script("scripts/utils/reproduce.py", "digits", *words, *places)
    text = (tmp_path / "out/table.md").read_text()
    assert text in done.stdout
    assert "| vicreg | 50.0 ± 0.0 | 94.5 ± 2.1 |" in text  # 3 / sqrt(2)
    assert "| ncl | 50.0 ± 0.0 | 80.2 ± 0.4 |" in text
    with (tmp_path / "out/table.csv").open() as file:
        cells = {(row["row"], int(row["seed"])): row for row in csv.DictReader(file)}
    assert {key: float(row["10 shots"]) for key, row in cells.items()} == measured
    assert (tmp_path / "out/table.png").stat().st_size > 1000
    # Elsewhere, and later: what the table has is kept, what is new joins it in the table's order.
    folder = tmp_path / "later/byol-1"
    folder.mkdir(parents=True)
    found |= {"shots/10": 70.0, "teacher/shots/10": 75.0}
    (folder / "measured.json").write_text(json.dumps(found))
    places = ("--work", tmp_path / "later", "--out", tmp_path / "out/table", "--keep")
    rows = ("--seeds", "1", "--rows", "vicreg", "ncl", "byol")
    for _ in range(2):  # from the folder, then from the table alone
        text = script("scripts/utils/reproduce.py", "digits", *rows, *places).stdout
        lines = [line.split(" |")[:3] for line in text.splitlines() if line.startswith("| ")]
        assert [line[0][2:] for line in lines[1:]] == ["byol", "byol, teacher", "ncl", "vicreg"]
        assert lines[2] == ["| byol, teacher", " ", " 75.0"]
        assert "| vicreg | 50.0 ± 0.0 | 94.5 ± 2.1 |" in text
        (folder / "measured.json").unlink(missing_ok=True)


def test_a_table_that_asks_for_what_there_is_not(script: Command) -> None:
    """Unknown tables and rows, and words that are none, are named with what there is."""
    for words, said in (
        (("digit",), "no table digit; scripts/tables has cifar-100, digits, "),
        (("digits", "--rows", "vicregs"), "no row vicregs, but barlow_twins, "),
        (("digits", "devices"), "unrecognized arguments: devices"),
        (("digits", "--seeds", "1", "max_epochs=1", "--jobs", "0"), "--jobs is 0; give 1 or more"),
    ):
        done = script("scripts/utils/reproduce.py", *words, check=False)
        assert done.returncode and said in done.stderr.replace("\n", " "), done.stderr


@pytest.mark.parametrize("table", sorted(path.stem for path in (ROOT / "scripts/tables").glob("*")))
def test_rows_of_tables_are_runs(table: str) -> None:
    """Each row's recipe and overrides make a valid config, and its columns are there to be had."""
    content = yaml.safe_load((ROOT / f"scripts/tables/{table}.yaml").read_text())
    for name, row in content["rows"].items():
        words = [*content.get("overrides", []), *row.get("overrides", [])]
        recipe = ROOT / content["recipes"] / f"{row.get('recipe', name)}.yaml"
        config = resolve_config(compose(recipe, arguments(words)))
        assert config.max_epochs > 0
        assert not set(row.get("published", {})) - set(content["columns"])


@pytest.mark.slow
def test_a_table_is_trained(tmp_path: Path, script: Command) -> None:
    """Two rows of another kind than each other are trained, evaluated, and not trained again."""
    words = ("digits", "--rows", "vicreg", "ijepa", "--seeds", "3")
    places = ("--work", tmp_path / "work", "--out", tmp_path / "table")
    short = ("max_epochs=1", "scheduler.warmup_epochs=0")
    first = script("scripts/utils/reproduce.py", *words, *places, *short, "--jobs", "2")
    names = [line.split("|")[1].strip() for line in first.stdout.splitlines() if "|" in line]
    assert names[2:] == ["untrained ViT", "ijepa", "ijepa, teacher", "vicreg"]
    again = script("scripts/utils/reproduce.py", *words, *places, *short)  # trains nothing
    assert first.stdout.splitlines()[-5:] == again.stdout.splitlines()[-5:]


@pytest.mark.parametrize("images", ["digits", "fashion-mnist"])
def test_settings_of_architectures(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts/utils"))
    made = runpy.run_path(str(ROOT / "scripts/utils/architectures.py"))["table_of"]
    table = made(["test_vit"], images)
    assert list(table.rows) == ["lejepa test_vit", "rectified_lpjepa test_vit"]
    for row in table.rows.values():
        words = [*table.overrides, *row.overrides]
        recipe = ROOT / table.recipes / f"{row.recipe}.yaml"
        config = resolve_config(compose(recipe, arguments(words)))
        assert config.backbone.name == "test_vit" and config.view_sizes[0] == 32


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_architectures(tmp_path: Path, script: Command) -> None:
    """Networks of two kinds are trained with both methods; one that stops is in the table."""
    words = ("--names", "lcnet_035", "no_such_network", "--jobs", "2")
    places = ("--work", tmp_path / "work", "--out", tmp_path / "table")
    short = ("max_epochs=1", "scheduler.warmup_epochs=0")
    first = script("scripts/utils/architectures.py", *words, *places, *short)
    rows = [line for line in first.stdout.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == [*words[1:3]]
    assert rows[2].split("|")[3].strip() == "stopped"
    assert "1 architectures ended" in first.stdout and "stopped: no_such_network" in first.stdout
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 and all(0 < float(line["l0"]) <= 1 for line in lines[:2])
    assert "no_such_network" in lines[2]["stopped"]
    assert (tmp_path / "table.png").stat().st_size > 5_000
    again = script("scripts/utils/architectures.py", *words, *places, *short)  # trains nothing
    assert first.stdout.splitlines()[-3:] == again.stdout.splitlines()[-3:]
    picture = (tmp_path / "table.png").read_bytes()
    shutil.rmtree(tmp_path / "work")  # on another machine
    words = ("--names", "lcnet_035", "test_vit", "no_such_network")
    more = script("scripts/utils/architectures.py", *words, *places, *short)
    assert "2 architectures ended" in more.stdout
    assert len(list((tmp_path / "work").iterdir())) == 2  # of one architecture
    assert (tmp_path / "table.png").read_bytes() != picture
    page = (tmp_path / "table-table.md").read_text()
    assert page.count("\n| ") == 3
    kept = json.loads((tmp_path / "table.json").read_text())
    commits = {one["commit"][:10] for by in kept.values() for one in by.values() if one["commit"]}
    assert ("Measured by" in page) == bool(commits)  # no commit in a copy without its history
    assert all(commit in page for commit in commits)


def test_what_an_evaluation_of_a_table_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few-shot rows by their shots and model; of a trained probe, its metrics."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts/utils"))
    evaluated = runpy.run_path(str(ROOT / "scripts/utils/reproduce.py"))["_evaluated"]
    folder = tmp_path / "linear/one"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,step,val_acc1\n0,1,50.0\n")
    rows: list[dict[str, object]] = [{"model": "run", "mode": "linear", "val_acc1": 50.0}]
    (folder / "results.json").write_text(json.dumps(rows))
    assert evaluated(tmp_path, "run") == {"linear/val_acc1": 50.0}
    rows = [
        {
            "shots": 10,
            "model": name,
            "a": {"mean": of, "std": None},
            "b": {"mean": 90.0, "std": 1.0},
        }
        for name, of in (("raw pixels", 40.0), ("run", 60.0))
    ]
    (folder / "results.json").write_text(json.dumps(rows))
    (folder / "metrics.csv").unlink()
    assert evaluated(tmp_path, "run") == {"raw pixels/shots/10": 65.0, "shots/10": 75.0}


def test_image_statistics(image_tree: Path, tmp_path: Path, script: Command) -> None:
    """Against NumPy, image by image; what is printed is taken by a run, and by its evaluation."""
    folder = image_tree / "train"
    moments = []
    for path in sorted(folder.rglob("*.*")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), np.float64).reshape(-1, 3) / 255
        moments.append((pixels.mean(0), (pixels**2).mean(0)))
    mean, square = np.mean(moments, axis=0)
    said = script("scripts/utils/image_statistics.py", folder).stdout.split()
    found = [json.loads(word.split("=")[1]) for word in said]
    np.testing.assert_allclose(found[0], mean, atol=6e-5)
    np.testing.assert_allclose(found[1], np.sqrt(square - mean**2), atol=6e-5)
    part = script("scripts/utils/image_statistics.py", folder, "--sample", "3").stdout
    assert part != " ".join(said) and part.startswith("data.mean=[")
    words = [*said, "data.dataset=custom", f"data.train_path={folder}", "optimizer.batch_size=8"]
    config = resolve_config(compose("digits/vicreg.yaml", arguments(words)))
    method = build_method(config, ImageData(config))
    image = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in found)
    torch.testing.assert_close(method.normalize(image), (image / 255 - mean) / std)
    for word, wrong in (("--sample", "0"), ("--workers", "-1")):
        done = script("scripts/utils/image_statistics.py", folder, word, wrong, check=False)
        assert done.returncode and f"{word} is {wrong}; give 1 or more" in done.stderr
    done = script("scripts/utils/image_statistics.py", tmp_path / "none", check=False)
    assert done.returncode and "none" in done.stderr
    (tmp_path / "dark").mkdir()
    for number in range(3):
        counts = np.random.default_rng(number).poisson(100, (2, 16, 16)).astype(np.uint16)
        np.save(tmp_path / f"dark/{number}.npy", counts)
    words = ("scripts/utils/image_statistics.py", tmp_path / "dark")
    dim = script(*words)
    assert "--value-range LOW HIGH spreads them" in dim.stderr and "[0.000" in dim.stdout
    assert min(json.loads(dim.stdout.split("std=")[1])) > 1e-4  # 10 counts of 65,535
    (tmp_path / "dark/3.npy").write_bytes(b"no image")
    done = script(*words, check=False)
    assert done.returncode == 1 and "3.npy" in done.stderr and "set --skip-bad" in done.stderr
    skipped = script(*words, "--skip-bad")
    assert skipped.stdout == dim.stdout and "1 of 4 images cannot be read" in skipped.stderr
    np.save(tmp_path / "dark/3.npy", np.zeros((2, 16, 16), np.uint16))
    said = script(*words, "--value-range", "5", "300", check=False).stderr
    assert "--clip" in said and "++" not in said


def test_slice_noise(tmp_path: Path, script: Command) -> None:
    """More slices are less off, and the figure is drawn."""
    words = ("--out", tmp_path, "--dims", "16", "24", "--counts", "16", "1024")
    done = script("scripts/utils/slice_noise.py", *words)
    lines = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line[1].strip() for line in lines[1:]] == ["random", "structured"] * 2
    for _, _, few, many in lines[1:]:
        assert float(many.strip(" %")) < 0.5 * float(few.strip(" %"))
    assert (tmp_path / "slices.png").stat().st_size > 10_000


@pytest.mark.slow
def test_power(script: Command) -> None:
    """With few features directions see what each feature by itself does; a share each."""
    done = script("scripts/utils/power.py", "--dims", "2")
    lines = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line[1].strip() for line in lines[1:4]] == [
        "256 slices",
        "all directions",
        "each feature by itself",
    ]
    assert all(80 < float(line[2].strip(" %")) <= 100 for line in lines[1:])
