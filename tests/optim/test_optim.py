"""LARS and the schedule against golden numbers and closed forms."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from solo.methods import resolve_config
from solo.optim import LARS, LinearWarmupCosineAnnealingLR, build_optimizer, parameter_groups

VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {},
    "clip": {"clip_lr": True},
    "exclude": {"clip_lr": True, "exclude_bias_n_norm": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_lars(golden: dict[str, np.ndarray], variant: str) -> None:
    w, b = (torch.nn.Parameter(torch.tensor(golden[f"lars_{variant}_{n}0"])) for n in "wb")
    optimizer = LARS([w, b], lr=0.3, momentum=0.9, weight_decay=1e-4, eta=0.02, **VARIANTS[variant])
    for step in range(6):
        w.grad = torch.tensor(golden[f"lars_{variant}_gw"][step])
        b.grad = torch.tensor(golden[f"lars_{variant}_gb"][step])
        optimizer.step()
    np.testing.assert_allclose(w.detach(), golden[f"lars_{variant}_w6"], atol=1e-10)
    np.testing.assert_allclose(b.detach(), golden[f"lars_{variant}_b6"], atol=1e-10)


def test_lars_leaves_dead_layers_alone() -> None:
    zero, idle, missing = (torch.nn.Parameter(torch.full((2, 2), v)) for v in (0.0, 1.0, 1.0))
    optimizer = LARS([zero, idle, missing], lr=0.1, weight_decay=0.5)
    zero.grad, idle.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(zero, torch.full((2, 2), -0.1))  # plain SGD: no ratio from a zero weight
    assert torch.equal(idle, torch.ones(2, 2))
    assert torch.equal(missing, torch.ones(2, 2))


def test_lars_state_round_trip() -> None:
    def make() -> tuple[torch.nn.Parameter, LARS]:
        p = torch.nn.Parameter(torch.ones(3, 2))
        return p, LARS([p], lr=0.1, momentum=0.9)

    p, optimizer = make()
    for _ in range(2):
        p.grad = torch.full((3, 2), 0.3)
        optimizer.step()
    q, other = make()
    with torch.no_grad():
        q.copy_(p)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter, opt in ((p, optimizer), (q, other)):
        parameter.grad = torch.full((3, 2), 0.7)
        opt.step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_scaled_gradients_of_half_precision(name: str, clips: bool) -> None:
    """A gradient scaler changes no step of 16-mixed, and one that overflowed is left out."""

    def steps(scaled: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.randn(6, 5, generator=generator))
        options = {"method": "vicreg", "optimizer": {"name": name, "lr": 0.1}}
        config = resolve_config({**options, "precision": "16-mixed"})
        optimizer = build_optimizer(config, [{"params": [weight], "lr": 0.1}], clips)
        assert getattr(optimizer, "_step_supports_amp_scaling", False) != clips
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
        seen = []
        for step in range(4):
            optimizer.zero_grad()
            x = torch.randn(5, generator=generator)
            scaler.scale((weight @ x).square().sum()).backward()
            if scaled and step == 2:
                assert weight.grad is not None
                weight.grad[0, 0] = torch.inf
            if scaled or step != 2:
                scaler.step(optimizer)
                scaler.update()
            seen.append(weight.detach().clone())
        return seen

    for plain, scaled in zip(steps(False), steps(True)):
        torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-7)
    assert steps(True)[2].equal(steps(True)[1])


def test_lars_refuses_negative_values() -> None:
    with pytest.raises(ValueError, match="eta is -1"):
        LARS([torch.nn.Parameter(torch.ones(1))], lr=0.1, eta=-1)


def test_golden_schedule(golden: dict[str, np.ndarray]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0825)
    schedule = LinearWarmupCosineAnnealingLR(optimizer, 10, 60, warmup_start_lr=3e-5)
    rates = []
    for _ in range(60):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, golden["warmup_cosine_lr"], atol=1e-10)


def test_schedule_moves_every_group_and_ends_at_its_minimum() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.4, 0.1)]
    optimizer = torch.optim.SGD(groups)
    schedule = LinearWarmupCosineAnnealingLR(optimizer, 0, 8, eta_min=0.01)
    for step in range(9):
        for group, base in zip(optimizer.param_groups, (0.4, 0.1)):
            expected = 0.01 + (base - 0.01) * (1 + math.cos(math.pi * step / 8)) / 2
            assert group["lr"] == pytest.approx(expected)
        optimizer.step()
        schedule.step()
    with pytest.raises(ValueError, match="warm-up of 9"):
        LinearWarmupCosineAnnealingLR(optimizer, 9, 8)


def test_parameter_groups() -> None:
    layer = torch.nn.Linear(3, 2)
    (one,) = parameter_groups(list(layer.parameters()), 0.1, 0.5, exclude_bias_n_norm=False)
    assert len(one["params"]) == 2
    weights, biases = parameter_groups(list(layer.parameters()), 0.1, 0.5, True)
    assert weights["weight_decay"] == 0.5 and weights["params"][0] is layer.weight
    assert biases["weight_decay"] == 0.0 and biases["params"][0] is layer.bias
