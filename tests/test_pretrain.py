"""Whole runs: in this process on digits, and by command line on image folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
import yaml
from conftest import write_images
from helpers import cut_short, last, merged, rows, slow, state, tiny, words_of
from hydra.core.override_parser.overrides_parser import OverridesParser

from solo.config import ConfigError
from solo.config.cli import arguments
from solo.methods import resolve_config
from solo.methods.rectified_lpjepa import RectifiedLpJEPA
from solo.pretrain import run
from solo.runs.checkpoint_files import read_checkpoint, write_checkpoint
from solo.runs.folder import RunFolder
from solo.runs.overview import runs_below

Command = Callable[..., CompletedProcess[str]]

REFERENCE_NAMES = {
    "train_rectified_lp_jepa_loss",
    "train_invariance_loss",
    "train_rdm_reg_loss",
    "train_variance_loss",
    "train_covariance_loss",
    "train_l1_sparsity_metric",
    "train_l0_sparsity_metric",
    "train_class_loss",
    "train_acc1",
    "train_acc5",
    "train_proj_loss",
    "train_proj_acc1",
    "val_loss",
    "val_acc1",
    "val_acc5",
    "val_proj_loss",
    "val_proj_acc1",
    "val_mlp_acc1",
    "val_proj_mlp_acc1",
    "val_knn_acc1",
    "val_knn_acc5",
}


@pytest.mark.usefixtures("reports")
def test_a_runs_folder(tmp_path: Path) -> None:
    result = run(tiny(tmp_path, checkpoint={"keep_prev": True}))
    assert result.folder.parent == tmp_path / "rectified_lpjepa"
    names = {str(f.relative_to(result.folder)) for f in result.folder.rglob("*") if f.is_file()}
    assert names == {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "report.html",
        "checkpoints/last.ckpt",
        "checkpoints/last.ckpt.sha256",
        "checkpoints/previous.ckpt",
        "checkpoints/previous.ckpt.sha256",
        "checkpoints/epoch_0000.ckpt",
        "checkpoints/epoch_0000.ckpt.sha256",
        "checkpoints/epoch_0001.ckpt",
        "checkpoints/epoch_0001.ckpt.sha256",
    }
    assert list(tmp_path.iterdir()) == [result.folder.parent]
    facts = json.loads((result.folder / "environment.json").read_text())
    assert facts["status"] == "finished" and facts["torch"] == torch.__version__
    written = rows(result.folder)
    assert {name for row in written for name in row} >= REFERENCE_NAMES
    steps = [row["step"] for row in written if "train_invariance_loss" in row]
    assert steps == ["1", "3", "5", "7", "9", "11"]
    assert {row["expected_l0"] for row in written if "expected_l0" in row} == {"0.5"}
    assert len([row for row in written if "val_acc1" in row]) == 2
    checkpoint = last(result)
    assert checkpoint["global_step"] == 12
    assert checkpoint["config"] == yaml.safe_load((result.folder / "config.yaml").read_text())
    assert result.metrics["val_acc1"] == pytest.approx(float(written[-1]["val_acc1"]))


def test_the_saved_config_reproduces_the_run_bit_for_bit(tmp_path: Path) -> None:
    first = run(tiny(tmp_path, data={"num_workers": 0}))
    saved = yaml.safe_load((first.folder / "config.yaml").read_text())
    torch.manual_seed(123)  # whatever happened before in the process does not matter
    second = run({**saved, "data": {**saved["data"], "num_workers": 2}})
    assert first.folder != second.folder
    one, two = state(first), state(second)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = run({**saved, "seed": 6})
    assert any(not torch.equal(one[n], value) for n, value in state(other).items())


@pytest.mark.parametrize("precision", ["32", slow("64")])
def test_resuming_after_an_epoch_ends_like_the_uninterrupted_run(
    precision: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"checkpoint": {"keep_prev": True}, "precision": precision}
    whole = run(tiny(tmp_path, **options, backbone={"kwargs": {"drop_path_rate": 0.2}}))
    first_epoch = whole.folder / "checkpoints/epoch_0000.ckpt"
    saved = yaml.safe_load((whole.folder / "config.yaml").read_text())
    explicit = run({**saved, "resume_from_checkpoint": str(first_epoch)})
    words = arguments([f"resume_from_checkpoint={first_epoch}"])
    (override,) = OverridesParser.create().parse_overrides(words)
    assert override.value() == str(first_epoch)  # Hydra takes the name as it is
    # The same folder, as if the process had died after the first epoch:
    (whole.folder / "checkpoints/last.ckpt").write_bytes(first_epoch.read_bytes())
    RunFolder(whole.folder).note(status="running", pid=2**22 + 1)
    before = state(explicit)
    again = run({**saved, "auto_resume": {"enabled": True}})
    assert again.folder == whole.folder
    for result in (explicit, again):
        assert last(result)["global_step"] == 12
    assert all(torch.equal(before[name], value) for name, value in state(again).items())
    reference = torch.load(whole.folder / "checkpoints/epoch_0001.ckpt", weights_only=True)
    assert all(torch.equal(before[n], v) for n, v in reference["state_dict"].items())
    steps = [row["step"] for row in rows(again.folder) if "train_invariance_loss" in row]
    assert steps == ["1", "3", "5", "7", "9", "11"]
    # A finished run is not continued.
    assert run({**saved, "auto_resume": {"enabled": True}}).folder != whole.folder


@pytest.mark.parametrize(
    "over",
    [
        {"optimizer": {"name": "lars", "kwargs": {"clip_lr": True, "exclude_bias_n_norm": True}}},
        {"optimizer": {"name": "sgd", "kwargs": {"nesterov": True}}},
        {"optimizer": {"name": "adam", "exclude_bias_n_norm_wd": True}},
        {"scheduler": {"name": "step", "lr_decay_steps": [1]}},
        {"scheduler": {"name": "exponential", "interval": "epoch"}},
        {"scheduler": {"name": "none"}},
        {"precision": "bf16-mixed"},
        {"accumulate_grad_batches": 2},
        {"channels_last": False, "gradient_clip_val": 1.0},
        {"method_kwargs": {"projection_vectors_type": "torch_svd_and_random"}},
        {"method_kwargs": {"target_distribution": "lp_distribution", "projector_type": "mlp"}},
        {"method_kwargs": {"mode_of_sigma": "sigma_RGN", "mean_shift_value": -1.0}},
        {"method_kwargs": {"target_l0": 0.1, "mode_of_sigma": "sigma_RGN"}},
        {"augmentations": [{"crop_size": 8, "num_crops": 2}, {"crop_size": 6, "num_crops": 3}]},
        {"data": {"fraction": 0.3}},
        {"backbone": {"name": "vit_tiny", "kwargs": {"patch_size": 4, "depth": 1}}},
    ],
    ids=lambda over: json.dumps(over).replace('"', "")[:60],
)
def test_options_train(over: dict[str, Any], tmp_path: Path) -> None:
    options = tiny(tmp_path, max_epochs=1, limit_train_batches=2)
    options["method_kwargs"]["logging_interval"] = 1
    if "backbone" in over:
        options["backbone"] = {}
    result = run(merged(options, over))
    written = rows(result.folder)
    assert float(written[-1]["val_loss"]) > 0
    losses = [row["train_rectified_lp_jepa_loss"] for row in written if "lr" in row]
    assert losses and all(0 < float(value) < 1e4 for value in losses)


def test_rates_follow_the_rule(tmp_path: Path) -> None:
    result = run(
        tiny(
            tmp_path,
            max_epochs=1,
            accumulate_grad_batches=2,
            scheduler={"name": "none"},
            optimizer={"lr": 1e-3, "classifier_lr": 0.02},
        )
    )
    groups = last(result)["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [1e-3 * 64 / 256 * 2, 0.02 * 64 / 256 * 2]
    assert groups[-1]["weight_decay"] == 0.0
    assert last(result)["global_step"] == 3


@pytest.mark.usefixtures("reports")
def test_unlabelled_images_train_without_probes(image_tree: Path, tmp_path: Path) -> None:
    result = run(
        tiny(
            tmp_path,
            data={"dataset": "custom", "train_path": str(image_tree), "no_labels": True},
            optimizer={"batch_size": 8},
        )
    )
    assert "val_loss" not in result.metrics and (result.folder / "report.html").exists()
    assert not any("acc" in name for name in result.metrics)
    assert not any(name.startswith("probes") for name in state(result))


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"accelerator": "gpu"}, "++accelerator=cpu"),
        ({"precision": "16-mixed"}, "++precision=32"),
        ({"backbone": {"name": "resnet_18"}}, "resnet18"),
        ({"data": {"dataset": "cifar"}}, "cifar10"),
        ({"strategy": "ddpp"}, "did you mean ddp"),
        ({"strategy": "deepspeed"}, "There is no strategy 'deepspeed'"),
        ({"strategy": "fsdp", "precision": "64"}, "does not go with precision 64"),
        ({"num_nodes": 2}, "neither srun nor torchrun"),
        ({"data": {"train_path": "/my/images"}}, "add data.dataset=custom"),
        ({"data": {"dataset": "custom", "train_path": "/no/where"}}, "/no/where"),
        ({"optimizer": {"batch_size": 2000}}, "1437"),
        ({"resume_from_checkpoint": "/no/such.ckpt"}, "/no/such.ckpt"),
    ],
)
def test_what_cannot_run_leaves_nothing_behind(
    over: dict[str, Any], words: str, tmp_path: Path
) -> None:
    if "accelerator" in over and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=words.replace("+", r"\+")):
        run(tiny(tmp_path, **over))
    assert list(tmp_path.iterdir()) == []


def reference_line(image_tree: Path, tmp_path: Path) -> list[str]:
    """The part of the documented command lines that is the same in all, at a small size."""
    return [
        "main_pretrain.py",
        "--config-path",
        "scripts/pretrain/imagenet-100/",
        "--config-name=rectified_lpjepa_imagenet.yaml",
        *words_of(
            {
                "accelerator": "cpu",
                "devices": 1,
                "precision": 32,
                "data": {
                    "train_path": str(image_tree / "train"),
                    "val_path": str(image_tree / "val"),
                    "num_workers": 1,
                },
                "max_epochs": 1,
                "optimizer": {"batch_size": 6},
                "augmentations": [{"crop_size": 48, "num_crops": 2}],
                "method_kwargs": {"proj_hidden_dim": 32, "proj_output_dim": 32},
                "checkpoint": {"dir": str(tmp_path / "runs")},
            }
        ),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "rest",
    [
        ["++wandb.entity=someone", "++wandb.project=something", "++wandb.enabled=true"],
        [
            "++method_kwargs.lp_norm_parameter=2.0",
            "++method_kwargs.mean_shift_value=-1.0",
            "++wandb.enabled=false",
        ],
        [
            "++method_kwargs.invariance_loss_weight=25.0",
            "++method_kwargs.rdm_reg_loss_weight=125.0",
            "++optimizer.lr=0.165",
            "++optimizer.classifier_lr=0.055",
        ],
    ],
    ids=["wandb", "sparser", "weights"],
)
def test_documented_command_lines(
    rest: list[str], image_tree: Path, tmp_path: Path, command: Command
) -> None:
    line = reference_line(image_tree, tmp_path)
    done = command(*line, *rest)
    (folder,) = (tmp_path / "runs/rectified_lpjepa").iterdir()
    assert done.stdout.strip().splitlines()[-1] == f"folder: {folder}"
    assert "measured l0" in done.stdout
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if rest[-1].startswith("++wandb.enabled=true"):
        (kept,) = (folder / "wandb").glob("offline-run-*")
        assert list(kept.glob("*.wandb"))
    elif "sparser" in rest[0] or "lp_norm" in rest[0]:
        assert config["method_kwargs"]["mean_shift_value"] == -1.0
        assert not (folder / "wandb").exists()
    assert config["optimizer"]["lr"] == 0.165
    assert "Warning" not in done.stderr, done.stderr


def test_the_misspelt_command_line_stops(
    image_tree: Path, tmp_path: Path, command: Command
) -> None:
    line = [*reference_line(image_tree, tmp_path), "++method_kwarsg.rdm_reg_loss_weight=125.0"]
    done = command(*line, check=False)
    assert done.returncode != 0
    assert "did you mean method_kwargs?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_by_command_line(tmp_path: Path, command: Command) -> None:
    options = tiny(tmp_path, devices=2, max_epochs=1, optimizer={"batch_size": 32})
    done = command("main_pretrain.py", *words_of(options))
    (folder,) = (tmp_path / "rectified_lpjepa").iterdir()
    assert done.stdout.count("folder:") == 2  # one process speaks, at the start and at the end
    steps = [row["step"] for row in rows(folder) if "train_invariance_loss" in row]
    assert steps == ["1", "3", "5"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ijepa", "dino", "byol"])
def test_two_processes_of_methods_with_teachers(
    method: str, tmp_path: Path, command: Command
) -> None:
    """Every parameter that asks for a gradient gets one, or DDP stops at the second step."""
    options = tiny(tmp_path, method=method, devices=2, max_epochs=1, limit_train_batches=3)
    options |= {"mlp_probe": {"enabled": False}, "optimizer": {"batch_size": 16}}
    options["method_kwargs"].pop("num_projections")
    if method == "ijepa":
        vit = {"patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 2}
        vit |= {"class_token": False, "global_pool": "avg"}
        options["backbone"] = {"name": "vit_tiny", "kwargs": vit}
        options["method_kwargs"] = {"pred_dim": 16, "pred_depth": 1, "pred_heads": 2}
    command("main_pretrain.py", "--config-name", method, *words_of(options))
    (folder,) = (tmp_path / method).iterdir()
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == 3


@pytest.mark.slow
def test_a_sweep_makes_a_run_each(tmp_path: Path, command: Command) -> None:
    options = tiny(tmp_path, max_epochs=1, limit_train_batches=1, devices=2)
    command("main_pretrain.py", "-m", *words_of(options), "method_kwargs.target_l0=0.1,0.6")
    folders = list((tmp_path / "rectified_lpjepa").iterdir())
    configs = [yaml.safe_load((f / "config.yaml").read_text()) for f in folders]
    assert sorted(c["method_kwargs"]["target_l0"] for c in configs) == [0.1, 0.6]
    assert all(json.loads((f / "environment.json").read_text())["finished"] for f in folders)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_what_fails_in_a_sweep_stops_no_other(
    launcher: list[str], tmp_path: Path, command: Command
) -> None:
    options = tiny(tmp_path, max_epochs=1, limit_train_batches=1)
    words = [*words_of(options), *launcher, "method_kwargs.target_l0=0.1,7,0.6"]
    done = command("main_pretrain.py", "-m", *words, check=False)
    assert done.returncode == 1
    assert "target_l0: 7 was given" in done.stderr, done.stderr
    assert "resolve_config" not in done.stderr  # no traceback of what the user can mend
    found = {run.config["method_kwargs.target_l0"]: run.status for run in runs_below(tmp_path)}
    assert found == {0.1: "finished", 0.6: "finished"}


@pytest.mark.slow
def test_a_sweeper_is_told_what_it_searches_for(tmp_path: Path, command: Command) -> None:
    options = tiny(tmp_path, max_epochs=1, limit_train_batches=1)
    options["checkpoint"]["monitor"] = "val_effective_rank"
    search = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.direction=minimize",
    ]
    command(
        "main_pretrain.py", "-m", *words_of(options), *search, "optimizer.lr=interval(0.001,0.01)"
    )
    values = [run.values["val_effective_rank"] for run in runs_below(tmp_path)]
    (file,) = tmp_path.glob("sweeps/*/optimization_results.yaml")
    assert len(values) == 3
    best = yaml.safe_load(file.read_text())["best_value"]
    assert best == pytest.approx(min(values), rel=1e-5)


@pytest.mark.slow
def test_compiled_networks_train_alike(tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        options = tiny(tmp_path, max_steps=4, compile=compiled)
        options["method_kwargs"]["logging_interval"] = 1
        result = run(options)
        assert not any("_orig_mod" in name for name in state(result))
        name = "train_rectified_lp_jepa_loss"
        losses.append([float(row[name]) for row in rows(result.folder) if name in row])
    assert len(losses[0]) == 4
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-4)
    # Adam's first steps turn rounding into small differences.
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize("algorithm", ["norm", slow("value")])
def test_labels_do_not_change_how_gradients_are_clipped(algorithm: str, tmp_path: Path) -> None:
    """The backbone is the same to the bit with and without probes."""
    states = []
    for no_labels in (False, True):
        content = tiny(tmp_path, gradient_clip_val=0.01, gradient_clip_algorithm=algorithm)
        content |= {"max_epochs": 1, "knn_eval": {"enabled": False}, "limit_val_batches": 0}
        content["data"]["no_labels"] = no_labels
        states.append(state(run(content)))
    kept = [name for name in states[1] if name.startswith(("backbone.", "projector."))]
    assert kept and all(torch.equal(states[0][name], states[1][name]) for name in kept)


def test_double_precision_is_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = set()
    plain = RectifiedLpJEPA.compute_loss

    def watch(self: Any, *args: Any) -> Any:
        found = plain(self, *args)
        kinds.update({args[0].h.dtype, args[0].z.dtype, found.total.dtype})
        return found

    monkeypatch.setattr(RectifiedLpJEPA, "compute_loss", watch)
    run(tiny(tmp_path, precision="64", max_epochs=1, limit_train_batches=2))
    assert kinds == {torch.float64}


def test_what_deserves_a_warning(
    image_tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = {"dataset": "custom", "train_path": str(image_tree / "one"), "num_workers": 0}
    write_images(image_tree / "one", ["dog"], 8)
    content = tiny(tmp_path, data=one, optimizer={"batch_size": 4}, max_epochs=1)
    content["knn_eval"] = {"enabled": False}
    run(merged(content, {"method_kwargs": {"mean_shift_value": -40.0}}))
    said = capfd.readouterr().out
    assert "of one class (dog)" in said and "data.no_labels=true" in said
    assert "zero almost everywhere" in said and "target_l0" in said
    run(tiny(tmp_path, max_epochs=1, limit_train_batches=1))
    assert "warning:" not in capfd.readouterr().out


def test_the_global_batch_stays(tmp_path: Path) -> None:
    """A state of two processes is not gone on from by one with batches of that size."""
    content = tiny(tmp_path, max_epochs=1, limit_train_batches=2)
    whole = run(content)
    path = whole.folder / "checkpoints/last.ckpt"
    assert last(whole)["processes"] == 1
    write_checkpoint({**last(whole), "processes": 2}, path)
    said = (
        r"saved by 2 processes of 64 images each, 128 a step, but now there is 1 of 64, 64 a step"
    )
    with pytest.raises(ConfigError, match=f"{said}.*Set optimizer.batch_size=128"):
        run({**content, "resume_from_checkpoint": str(path)})
    RunFolder(whole.folder).note(status="running", pid=2**22 + 1)
    again = {**content, "auto_resume": {"enabled": True}}
    with pytest.raises(ConfigError, match=rf"{said}.*\+\+name"):
        run(again)
    write_checkpoint(last(whole) | {"processes": 1}, path)
    assert run(again).folder == whole.folder  # nobody holds the folder


def test_the_global_batch_is_shared(tmp_path: Path) -> None:
    """By as many processes as there are; the same run with its product said otherwise goes on."""
    content = tiny(tmp_path, max_epochs=2, limit_train_batches=2, checkpoint={"keep_prev": True})
    whole = run(content)
    optimizer = {**content["optimizer"], "global_batch_size": 64}
    del optimizer["batch_size"]
    first = str(whole.folder / "checkpoints/epoch_0000.ckpt")
    again = run({**content, "optimizer": optimizer, "resume_from_checkpoint": first})
    assert all(torch.equal(value, state(whole)[name]) for name, value in state(again).items())
    for processes, share in ((1, 64), (4, 16), (32, 2)):
        config = resolve_config({**content, "optimizer": optimizer})
        config.optimizer.share(processes)
        assert config.optimizer.batch_size == share
    for processes in (3, 64):
        with pytest.raises(ConfigError, match=f"is 64, which {processes} processes cannot share"):
            resolve_config({**content, "optimizer": optimizer}).optimizer.share(processes)


def test_another_batch_of_as_many_processes_is_another_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Passed over by name, as any other config is; asked for by its file, refused."""
    content = tiny(tmp_path, max_epochs=2, limit_train_batches=2, checkpoint={"keep_prev": True})
    whole = run(content)
    RunFolder(whole.folder).note(status="interrupted")
    other = merged(content, {"optimizer": {"batch_size": 32}, "auto_resume": {"enabled": True}})
    assert run(other).folder != whole.folder
    assert "another optimizer.batch_size (64, now 32)" in capfd.readouterr().out
    first = str(whole.folder / "checkpoints/epoch_0000.ckpt")
    with pytest.raises(ConfigError, match=r"another config: optimizer\.batch_size \(64, now 32\)"):
        run({**other, "resume_from_checkpoint": first})


def test_only_the_same_config_is_gone_on_with(tmp_path: Path) -> None:
    """Another rate or length would be silently ignored: the checkpoint brings its schedule."""
    content = tiny(tmp_path, max_epochs=2, limit_train_batches=2, checkpoint={"keep_prev": True})
    whole = run(content)
    for name, over, words in (
        ("epoch_0000", {"optimizer": {"lr": 1e-5}}, r"another config: optimizer\.lr \(0\.004, now"),
        ("epoch_0000", {"max_epochs": 4}, r"max_epochs \(2, now 4\)"),
        ("last", {}, "is complete: all of its 2 epochs are done"),
    ):
        path = str(whole.folder / f"checkpoints/{name}.ckpt")
        with pytest.raises(ConfigError, match=words):
            run(merged(content, {**over, "resume_from_checkpoint": path}))
    assert len(list(tmp_path.glob("*/*"))) == 1


@pytest.mark.usefixtures("reports")
def test_what_is_left_after_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed while the report was made, the same command makes the report and does not train."""
    content = tiny(tmp_path, max_epochs=1, limit_train_batches=2, auto_resume={"enabled": True})
    with monkeypatch.context() as patch:

        def dies(_: Path) -> None:
            raise KeyboardInterrupt

        patch.setattr("solo.pretrain.write_report", dies)
        with pytest.raises(KeyboardInterrupt):
            run(content)
    (folder,) = tmp_path.glob("*/*")
    assert RunFolder(folder).facts()["status"] == "trained"
    before = (folder / "checkpoints/last.ckpt").read_bytes()
    capfd.readouterr()
    again = run(content)
    said = capfd.readouterr().out
    assert "Training was done before; the results are left" in said and "kNN, backbone" in said
    assert again.folder == folder and (folder / "report.html").is_file()
    assert again.metrics["val_acc1"] == float(rows(folder)[-1]["val_acc1"])
    assert (folder / "checkpoints/last.ckpt").read_bytes() == before
    assert RunFolder(folder).facts()["status"] == "finished"
    # Finished, the command given again wishes for a new run; but not within the same Slurm job.
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr("solo.distributed.launched_by_cluster", lambda: False)
    RunFolder(folder).note(slurm_job="17")
    same = run(content)
    assert same.folder == folder and "nothing is left" in capfd.readouterr().out
    monkeypatch.delenv("SLURM_JOB_ID")
    assert run(content).folder != folder


def test_training_time_counts_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tiny(tmp_path, max_epochs=2, auto_resume={"enabled": True})
    folder = cut_short(monkeypatch, content, 7)
    first = read_checkpoint(folder / "checkpoints/last.ckpt")["seconds"]
    whole = last(run(content))["seconds"]
    assert 0 < first < whole < first + 60
