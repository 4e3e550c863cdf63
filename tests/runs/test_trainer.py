"""The trainer, and what it makes of networks."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
import torchvision
from helpers import tiny
from pytorch_lightning.loops import training_epoch_loop
from rich.console import Console
from torch.nn.modules.batchnorm import _BatchNorm

from solo import distributed
from solo.backbones.synchronised import GlobalBatchNorm
from solo.data import ImageData
from solo.methods import resolve_config
from solo.runs import trainer as trainer_module
from solo.runs.trainer import SyncBatchNorm, build_trainer, hardware_options

NETWORKS: dict[str, Any] = {
    name: lambda name=name: timm.create_model(name, num_classes=0)
    for name in (
        "efficientnet_b0",
        "mobilenetv3_large_100",
        "regnety_008",
        "resnetv2_50d_evos",
        "resnet10t",
        "convnext_atto",
        "repvgg_a0",
        "ghostnet_100",
    )
}
NETWORKS["torchvision resnet18"] = torchvision.models.resnet18


@pytest.mark.parametrize("name", NETWORKS)
def test_synchronised_batchnorm_keeps_the_network(name: str) -> None:
    """In evaluation mode nothing changes: activations inside timm's BatchNorm stay."""
    network = NETWORKS[name]().eval()
    for module in network.modules():  # statistics as after training
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        weights = [id(p) for p in network.parameters()]
        converted = SyncBatchNorm().apply(network).eval()
        after = converted(images)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert [id(p) for p in converted.parameters()] == weights
    kinds = [m for m in converted.modules() if isinstance(m, _BatchNorm)]
    assert all(isinstance(m, GlobalBatchNorm) for m in kinds)


def test_more_processes_than_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve_config(tiny(tmp_path, devices=2))
    for cores in (1, 2):
        monkeypatch.setattr("os.cpu_count", lambda n=cores: n)
        out = io.StringIO()
        hardware_options(config, Console(file=out, width=200))
        said = "warning: devices is 2, and there are 1 cores to share"
        assert (said in out.getvalue()) == (cores == 1)


def test_the_trainer_uses_it(tmp_path: Path) -> None:
    config = resolve_config(tiny(tmp_path, devices=2))
    options = hardware_options(config, Console(quiet=True))
    for wanted in (True, False):
        options["sync_batchnorm"] = wanted
        trainer, _ = build_trainer(config, ImageData(config), options, Console(quiet=True))
        assert isinstance(trainer, pl.Trainer)
        assert isinstance(trainer.strategy._layer_sync, SyncBatchNorm) == wanted


@pytest.mark.parametrize(
    ("asked", "instructions", "chosen", "said"),
    [
        ("auto", {"avx2": True, "avx512_bf16": False}, "32", "precision is auto: 32"),
        ("auto", {"avx512_bf16": True}, "bf16-mixed", "precision is auto: bf16-mixed"),
        ("auto", {"neon": True, "bf16": True}, "bf16-mixed", "precision is auto: bf16-mixed"),
        ("bf16-mixed", {"avx2": True}, "bf16-mixed", "++precision=32 is several times as fast"),
        ("bf16-mixed", {"amx_bf16": True}, "bf16-mixed", ""),
        ("32", {"avx512_bf16": True}, "32", ""),
    ],
)
def test_bfloat16_only_where_it_is_fast(
    asked: str,
    instructions: dict[str, bool],
    chosen: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    config, out = resolve_config(tiny(tmp_path, precision=asked)), io.StringIO()
    options = hardware_options(config, Console(file=out, width=200))
    assert options["precision"] == chosen
    assert said in out.getvalue() and bool(said) == bool(out.getvalue())
    trainer, _ = build_trainer(config, ImageData(config), options, Console(quiet=True))
    assert trainer.precision == {"32": "32-true"}.get(chosen, chosen)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, False),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, False),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, False),
        ({"TORCHELASTIC_RUN_ID": "x"}, True),
    ],
)
def test_who_started_this_process(
    variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell inside an allocation is not one of several: there Lightning launches the others."""
    for name in ("SLURM_NTASKS", "SLURM_JOB_NAME", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched_by_cluster() == expected
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("RANK", raising=False)
    slurm = expected and "SLURM_NTASKS" in variables
    assert distributed.is_first_launched() == slurm or "TORCHELASTIC_RUN_ID" in variables


def test_no_step_asks_for_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning calls what is replaced, in every step of several processes; other versions warn."""
    source = inspect.getsource(training_epoch_loop._TrainingEpochLoop.advance)
    assert f"self.{trainer_module.SIGTERM_BROADCAST}()" in source
    config = resolve_config(tiny(tmp_path))
    data, options = ImageData(config), hardware_options(config, Console(quiet=True))
    trainer, _ = build_trainer(config, data, options, Console())
    theirs = training_epoch_loop._TrainingEpochLoop._broadcast_sigterm_tensor
    assert "device" in inspect.getsource(theirs)
    ours = trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor
    assert "device" not in inspect.getsource(ours)
    ours()
    monkeypatch.setattr(trainer_module, "SIGTERM_BROADCAST", "_renamed")
    with pytest.warns(UserWarning, match="has no _renamed to leave out"):
        build_trainer(config, data, options, Console())
