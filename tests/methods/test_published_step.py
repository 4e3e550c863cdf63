"""One whole training step of the published code, from weights and inputs given by a formula."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from helpers import ROOT, slow
from torch.utils.data import DataLoader

from solo import distributed
from solo.backbones import has_batchnorm
from solo.callbacks.sparsity import SparsityMonitor
from solo.data import Batch, Normalize
from solo.losses.rectified_lpjepa import RDMReg
from solo.methods import METHODS, SSLMethod, resolve_config
from solo.methods.probes import global_means, probe_loss, score
from solo.multivariate.slices import given_slices
from solo.rng import Step

SEED = 3
FILE = ROOT / "tests/golden/published_step.npz"
OPTIONS: dict[str, dict[str, Any]] = {
    "rectified_lpjepa": {"rdm_reg_loss_weight": 250.0},
    "vicreg": {},
    "simclr": {"projector_type": "standard"},
    "ncl": {"non_neg": "rep_relu"},
}
RATES = {"rectified_lpjepa": (0.03, 0.01), "vicreg": (0.3, 0.1)}


class Recorder(pl.Callback):
    """Gradients before the optimizer's step, and what was logged."""

    def __init__(self) -> None:
        self.grads: dict[str, torch.Tensor] = {}
        self.logged: dict[str, float] = {}
        self.loss = 0.0

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            self.grads[name] = parameter.grad.clone()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = float(outputs["loss"])
        self.logged = {k: float(v) for k, v in trainer.callback_metrics.items()}


def published(name: str) -> str:
    """A parameter's published name."""
    return name.replace("probes.heads.linear", "classifier")


def inputs() -> dict[str, np.ndarray]:
    g = np.random.default_rng([SEED, 1])
    found = {
        "images": g.integers(0, 256, (2, 16, 3, 32, 32), np.uint8),
        "labels": g.integers(0, 10, 16),
        "slices": g.standard_normal((128, 64)),
        "targets": np.maximum(g.laplace(0, 2**-0.5, (2, 16, 64)), 0),
    }
    found["slices"] /= np.linalg.norm(found["slices"], axis=1, keepdims=True)
    return found


def set_weights(method: SSLMethod) -> None:
    """The formula of the golden file, for parameters of any module."""
    for name, parameter in method.named_parameters():
        shape = tuple(parameter.shape)
        draws = np.random.default_rng([SEED, zlib.crc32(published(name).encode())])
        x = torch.from_numpy(draws.standard_normal(shape))
        if len(shape) > 1:
            x *= (2 / parameter[0].numel()) ** 0.5
        elif name.endswith("weight"):
            x = 1 + 0.1 * x
        else:
            x *= 0.1
        with torch.no_grad():
            parameter.copy_(x)


def build(name: str, precision: str, **over: Any) -> SSLMethod:
    lr, classifier_lr = RATES.get(name, (0.4, 0.1))
    config = resolve_config(
        {
            "method": name,
            "backbone": {"name": "resnet18"},
            "method_kwargs": {"proj_hidden_dim": 96, "proj_output_dim": 64, "logging_interval": 1}
            | OPTIONS[name]
            | over,
            "augmentations": [{"crop_size": 32, "num_crops": 2}],
            "optimizer": {
                "name": "lars",
                "batch_size": 16,
                "lr": lr,
                "classifier_lr": classifier_lr,
                "weight_decay": 1e-4,
                "kwargs": {"clip_lr": True, "eta": 0.02, "exclude_bias_n_norm": True},
            },
            "scheduler": {"name": "none"},
            "channels_last": False,
            "precision": precision,
        }
    )
    method = METHODS[name](config, Normalize((0.5,) * 3, (0.5,) * 3), 10)
    set_weights(method.double())
    given = inputs()
    if name == "rectified_lpjepa":
        reg = method.rdm_reg
        assert isinstance(reg, RDMReg)
        slices, targets = torch.from_numpy(given["slices"]), torch.from_numpy(given["targets"])
        reg.slices.count = len(slices)
        own = slice(*distributed.shard_range(len(slices)))
        reg.slices.share = lambda samples, step: given_slices(slices[own].to(samples), 32)  # type: ignore[method-assign]
        reg.target_samples = lambda step, like: targets.to(like)  # type: ignore[method-assign]
    return method


def step(method: SSLMethod, precision: str) -> Recorder:
    given, recorder = inputs(), Recorder()
    images, labels = torch.from_numpy(given["images"]), torch.from_numpy(given["labels"])
    batch = Batch([images], labels, torch.arange(16))
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,  # type: ignore[arg-type]
        max_steps=1,
        callbacks=[SparsityMonitor(), recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(method, DataLoader([batch], batch_size=None))
    return recorder


def close(found: float, expected: float, rel: float, scale: float = 0.0) -> bool:
    return abs(found - expected) <= rel * max(abs(expected), scale)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("rectified_lpjepa", "64-true"),
        *(slow(name, "64-true") for name in ("vicreg", "simclr", "ncl")),
        *(slow(name, "32-true") for name in OPTIONS),
    ],
)
def test_the_published_step(name: str, precision: str) -> None:
    with np.load(FILE) as content:
        golden = {k.removeprefix(f"{name}_"): v for k, v in content.items() if k.startswith(name)}
    method = build(name, precision)
    recorder = step(method, precision)
    exact = precision == "64-true"
    tight, loose = (1e-12, 1e-11) if exact else (2e-6, 5e-3)
    assert close(recorder.loss, float(golden["loss"]), tight)
    for key, value in golden.items():
        if key.startswith("log_train") and "acc" not in key:
            assert close(recorder.logged[key.removeprefix("log_")], float(value), 10 * tight), key
    names = [str(n) for n in golden["names"]]
    ours = {published(n): p for n, p in method.named_parameters()}
    grads = {published(n): g for n, g in recorder.grads.items()}
    assert set(names) == set(ours)
    largest = golden["grad_norm"].max()
    for i, n in enumerate(names):
        assert close(float(grads[n].norm()), golden["grad_norm"][i], loose, 1e-6 * largest), n
        size = ours[n].numel() ** 0.5 * float(ours[n].double().norm())
        assert close(float(ours[n].double().sum()), golden["after_sum"][i], loose, size), n
    buffers = {published(n): b for n, b in method.named_buffers()}
    for n, value in zip(golden["buffer_names"], golden["buffer_sum"]):
        scale = float(buffers[str(n)].double().abs().sum())
        assert close(float(buffers[str(n)].double().sum()), float(value), loose, scale), n


class SynchronisedByHand(torch.nn.Module):
    """BatchNorm over all processes (torch's own is for GPUs), with the affine part of another."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        others = [0, *range(2, x.ndim)]
        mean = distributed.all_mean(x.mean(others, keepdim=True))
        var = distributed.all_mean((x - mean).square().mean(others, keepdim=True))
        shape = (1, -1, *[1] * (x.ndim - 2))
        unit = (x - mean) / (var + self.eps).sqrt()
        return unit * self.weight.view(shape) + self.bias.view(shape)


def synchronise(module: torch.nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, torch.nn.modules.batchnorm._BatchNorm):
            setattr(module, name, SynchronisedByHand(child))
        else:
            synchronise(child)


def worker(rank: int, world: int, name: str) -> dict[str, torch.Tensor]:
    method = build(name, "64-true").double()
    # What decides about passes is BatchNorm, which is about to be replaced.
    passes = {id(m): has_batchnorm(m) for m in (method.backbone, method.projector)}
    method.passes = lambda m, v: v.split(1) if passes[id(m)] else (v,)  # type: ignore[method-assign,assignment]
    synchronise(method)
    given = inputs()
    images = torch.from_numpy(given["images"]).chunk(world, 1)[rank]
    labels = torch.from_numpy(given["labels"]).chunk(world)[rank]
    batch = Batch([images], labels, torch.arange(len(labels)))
    encoded = method.encode(batch.views)
    total, _ = method.compute_loss(encoded, batch, Step(0, 0))
    assert method.probes is not None
    logits = method.probes(encoded.detached())
    total = total + probe_loss(global_means(score(logits, labels.repeat(2))))
    total.backward()
    results = {"loss": total.detach()}
    for n, parameter in method.named_parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        results[published(n)] = parameter.grad.norm() / world
    return results


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_the_published_step_on_two_processes(name: str, processes: Callable[..., Any]) -> None:
    """Half the batch each, BatchNorm synchronised."""
    with np.load(FILE) as content:
        golden = {k.removeprefix(f"{name}_"): v for k, v in content.items() if k.startswith(name)}
    for found in processes(worker, 2, name):
        assert close(float(found["loss"]), float(golden["loss"]), 1e-11)
        for n, norm in zip(golden["names"], golden["grad_norm"]):
            assert close(float(found[str(n)]), norm, 1e-9, golden["grad_norm"].max() * 1e-3), n
