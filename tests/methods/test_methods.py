"""Every method: it trains, resumes bit for bit, and does what its file says."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import cut_short, last, rows, slow, state, tiny
from torch import nn

from benchmarks.recipes import compose
from solo.config import ConfigError
from solo.data import ImageData
from solo.methods import METHODS, SSLMethod, build_method, resolve_config
from solo.methods.dino import DINO, Prototypes
from solo.methods.momentum import MomentumMethod
from solo.pretrain import run
from solo.runs.networks import load_encoder

ROOT = Path(__file__).resolve().parents[2]


def options(folder: Path, method: str, **over: Any) -> dict[str, Any]:
    content = tiny(folder, method=method, knn_eval={"enabled": False}, **over)
    content["mlp_probe"] = {"enabled": False}
    own = content["method_kwargs"]
    if "num_projections" not in METHODS[method].Options.model_fields:
        own.pop("num_projections")
    if method == "ijepa":
        vit = {"patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 2}
        vit |= {"class_token": False, "global_pool": "avg"}
        content["backbone"] = {"name": "vit_tiny", "kwargs": vit}
        own |= {"pred_dim": 16, "pred_depth": 1, "pred_heads": 2, "projector_type": "identity"}
        own["add_projector_classifier"] = False
    if "num_prototypes" in METHODS[method].Options.model_fields:
        own["num_prototypes"] = 32
    return content


@pytest.mark.parametrize("method", [slow(x) if x in ("dino", "byol") else x for x in METHODS])
def test_it_trains(method: str, tmp_path: Path) -> None:
    """The loss of the last steps is below that of the first, and is logged by its name."""
    content = options(tmp_path, method, max_epochs=4, limit_train_batches=None)
    content["method_kwargs"]["logging_interval"] = 1
    if method == "dino":
        content["max_epochs"] = 8  # its loss rises before it falls
        content["method_kwargs"]["freeze_prototypes_epochs"] = 0
    result = run(content)
    table = rows(result.folder)
    names = {name for row in table for name in row if name.startswith("train_")}
    wanted = {"simclr": "train_nce_loss", "ncl": "train_nce_loss"}
    wanted["rectified_lpjepa"] = "train_rectified_lp_jepa_loss"
    name = wanted.get(method, f"train_{method}_loss")
    assert name in names
    values = [float(row[name]) for row in table if name in row]
    assert np.mean(values[-10:]) < np.mean(values[:3]), values
    assert result.metrics["val_acc1"] > 15


@pytest.mark.parametrize("method", ["byol", slow("dino"), slow("ijepa")])
def test_a_teacher_survives_a_resume(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(options(tmp_path / "whole", method))
    over = {"auto_resume": {"enabled": True}}
    cut_short(monkeypatch, options(tmp_path / "cut", method, **over), 7)
    resumed = run(options(tmp_path / "cut", method, **over))
    first, second = state(whole), state(resumed)
    assert any(name.startswith("teacher.") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_how_a_teacher_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tau rises from base to 1 along a cosine; the teacher is the running mean."""
    name = "0.conv1.weight"
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = MomentumMethod.optimizer_step

    def watch(self: MomentumMethod, *args: Any, **kwargs: Any) -> None:
        before = self.teacher.state_dict()[name].clone()
        plain(self, *args, **kwargs)
        student = self.backbone.state_dict()[name[2:]].clone()
        seen.append((before, student))
        seen[-1] = (*seen[-1], self.teacher.state_dict()[name].clone())  # type: ignore[assignment]

    monkeypatch.setattr(MomentumMethod, "optimizer_step", watch)
    content = options(tmp_path, "byol", max_epochs=1)
    content["method_kwargs"]["base_tau_momentum"] = 0.9
    run(content)
    assert len(seen) == 6
    for step, (before, student, after) in enumerate(seen, start=1):  # type: ignore[misc]
        tau = 1 - 0.1 * (math.cos(math.pi * step / 6) + 1) / 2
        torch.testing.assert_close(after, tau * before + (1 - tau) * student)
    assert not torch.equal(seen[0][0], seen[-1][0])


@pytest.mark.parametrize("method", ["byol", "ijepa"])
def test_a_teacher_has_the_networks_precision(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    plain = MomentumMethod.__init__

    def watch(self: MomentumMethod, *args: Any) -> None:
        plain(self, *args)
        first = next(m for m in self.teacher.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_hook(lambda _, __, made: seen.add(made.dtype))

    monkeypatch.setattr(MomentumMethod, "__init__", watch)
    run(options(tmp_path, method, max_epochs=1, precision="bf16-mixed"))
    assert seen == {torch.bfloat16}


def test_dinos_prototypes_are_float32_in_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    plain = Prototypes.forward

    def watch(self: Prototypes, z: torch.Tensor) -> torch.Tensor:
        made = plain(self, z)
        seen.append((z.dtype, made.dtype))
        return made

    monkeypatch.setattr(Prototypes, "forward", watch)
    options_ = options(tmp_path, "dino", max_epochs=1, limit_train_batches=2)
    run({**options_, "precision": "bf16-mixed"})
    assert len(seen) == 6 and set(seen) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("method", METHODS)
def test_double_precision(method: str, tmp_path: Path) -> None:
    content = options(tmp_path, method, precision="64", max_epochs=1, limit_train_batches=2)
    content |= {"knn_eval": {"enabled": True}, "mlp_probe": {"enabled": True}}
    result = run(content)
    assert all(v.dtype == torch.float64 for v in state(result).values() if v.is_floating_point())


@pytest.mark.parametrize(
    ("method", "calls"),
    [("lejepa", 2), ("dino", 4), ("byol", 4), ("ijepa", 4), ("lejepa last_two_cls", 3)],
)
def test_compiled_networks(
    method: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks run compiled by whatever method they are called, teachers too; without breaks."""
    method, _, probe = method.partition(" ")
    content = options(tmp_path, method, max_epochs=1, limit_train_batches=2, compile=True)
    content["limit_val_batches"] = 0
    if probe:
        vit = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
        content["backbone"] = {"name": "vit_tiny", "kwargs": vit}
        content["linear_probe"] = {"features": probe}
    plain = METHODS[method].compile_networks
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(
        METHODS[method], "compile_networks", lambda self: plain(self, backend=backend)
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run(content)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert len(compiled) >= calls


def test_dino_warms_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's temperature rises, epoch by epoch; prototypes wait for the second epoch."""
    temperatures: list[float] = []
    prototypes: list[torch.Tensor] = []

    def watch(self: DINO, *args: Any) -> Any:
        temperatures.append(self.teacher_temperature())
        prototypes.append(self.prototypes.weight.detach().clone())
        return plain(self, *args)

    plain = DINO.compute_loss
    monkeypatch.setattr(DINO, "compute_loss", watch)
    content = options(tmp_path, "dino", max_epochs=4, limit_train_batches=2)
    content["method_kwargs"] |= {
        "teacher_temperature": 0.07,
        "warmup_teacher_temperature": 0.05,
        "warmup_teacher_temperature_epochs": 2,
    }
    run(content)
    assert temperatures == pytest.approx([0.05] * 2 + [0.06] * 2 + [0.07] * 4)
    moved = [not torch.equal(prototypes[0], later) for later in prototypes]
    assert moved == [False] * 3 + [True] * 5  # seen before each step


def test_ijepa_needs_patches(tmp_path: Path) -> None:
    content = options(tmp_path, "ijepa")
    content["backbone"] = tiny(tmp_path)["backbone"]
    with pytest.raises(ConfigError, match="resnet10t is no ViT"):
        run(content)
    content["backbone"] = {"name": "vit_tiny", "kwargs": {"embed_dim": 24, "num_heads": 2}}
    with pytest.raises(ConfigError, match=r"not its CLS token; set .*global_pool=avg"):
        run(content)
    views = [{"crop_size": 8}, {"crop_size": 6}]
    with pytest.raises(ConfigError, match="views of one size"):
        run(options(tmp_path, "ijepa", augmentations=views))


def test_ijepa_on_a_convolutional_stem(tmp_path: Path) -> None:
    """Patches are of the stem's output: 32 pixels of the image each."""
    content = options(tmp_path, "ijepa", max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    kwargs = {"depth": 1, "class_token": False, "global_pool": "avg"}
    content["backbone"] = {"name": "vit_tiny_r_s16_p8_224", "kwargs": kwargs}
    content["augmentations"][0]["crop_size"] = [64, 128]
    content["optimizer"]["batch_size"] = 4
    config = resolve_config(content)
    assert build_method(config, ImageData(config)).grid == (2, 4)
    assert run(content).metrics["val_loss"] > 0


def test_weights_of_five_dimensions(tmp_path: Path) -> None:
    """channels_last, the default, is of those that have four."""
    content = options(tmp_path, "lejepa")
    content["backbone"] = {"name": "lambda_resnet26t", "kwargs": {}}
    content["augmentations"][0]["crop_size"] = 64
    config = resolve_config(content)
    weights = list(build_method(config, ImageData(config)).backbone.parameters())
    last = [w.is_contiguous(memory_format=torch.channels_last) for w in weights if w.ndim == 4]
    assert all(last) and any(w.ndim == 5 for w in weights)


@pytest.mark.parametrize("pool", ["avg", "map"])
def test_ijepa_trains_what_its_loss_sees(pool: str, tmp_path: Path) -> None:
    """What pools the patches has no gradient, and asks for none: DDP would wait for it."""
    content = options(tmp_path, "ijepa")
    content["backbone"]["kwargs"]["global_pool"] = pool
    config = resolve_config(content)
    method = build_method(config, ImageData(config))
    free = [n for n, p in method.backbone.named_parameters() if not p.requires_grad]
    assert free and all(name.startswith(("fc_norm", "attn_pool")) for name in free)
    assert all(p.requires_grad for p in method.predictor.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize(("method", "option"), [("ncl", "rep_relu"), ("vicreg", True)])
def test_rectified_baselines(method: str, option: Any, tmp_path: Path) -> None:
    """The run's own metric, and who loads the projector later, see the sparse embedding."""
    content = options(tmp_path, method, max_epochs=1)
    content["method_kwargs"] |= {"non_neg": option, "projector_type": "mlp"}
    result = run(content)
    assert 0.1 < result.metrics["val_l0_sparsity_metric"] < 0.9
    encoder = load_encoder(str(result.folder), features="projector").eval()
    with torch.no_grad():
        z = encoder(torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8))
    assert float(z.min()) == 0 and 0.1 < float((z > 0).float().mean()) < 0.9


def test_supervised_needs_labels(image_tree: Path, tmp_path: Path) -> None:
    data = {"dataset": "custom", "train_path": str(image_tree), "no_labels": True}
    with pytest.raises(ConfigError, match="supervised needs labels"):
        run(options(tmp_path, "supervised", data=data, optimizer={"batch_size": 8}))


@pytest.mark.parametrize("method", ["simclr", "vicreg", "byol"])
def test_the_projectors_relu_is_for_everyone(method: str, tmp_path: Path) -> None:
    content = options(tmp_path, method, max_epochs=1)
    content["method_kwargs"]["projector_type"] = "rectified_mlp"
    assert 0 < run(content).metrics["val_l0_sparsity_metric"] < 1


@pytest.mark.parametrize("method", ["vicreg", "byol", "dino", "supervised", "barlow_twins"])
def test_local_views(method: str, tmp_path: Path) -> None:
    """Two global and two smaller views go through the same code."""
    views = [{"crop_size": 8, "num_crops": 2}, {"crop_size": 6, "num_crops": 2}]
    result = run(options(tmp_path, method, max_epochs=1, augmentations=views))
    assert last(result)["global_step"] == 6


def test_digits_has_a_recipe_for_every_method() -> None:
    folder = ROOT / "scripts/pretrain/digits"
    found = {compose(path)["method"] for path in folder.glob("*.yaml")}
    assert found == set(METHODS)
    assert all(issubclass(method, SSLMethod) for method in METHODS.values())


# What docs/add_a_method.md asks for: a loss, a method file, a recipe; and a line in METHODS.
def test_the_method_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/add_a_method.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope: dict[str, Any] = {"__name__": "uniform"}
    exec(code, scope)
    monkeypatch.setitem(METHODS, "uniform", scope["Uniform"])
    recipe = options(tmp_path, "uniform", max_epochs=4, limit_train_batches=None)
    recipe["method_kwargs"]["uniform_weight"] = 0.5
    result = run(recipe)
    values = [
        float(r["train_uniform_loss"]) for r in rows(result.folder) if "train_class_loss" in r
    ]
    assert np.mean(values[-5:]) < values[0]
    recipe["method_kwargs"]["uniform_wieght"] = 0.5
    with pytest.raises(ConfigError, match=r"did you mean method_kwargs\.uniform_weight"):
        run(recipe)
