"""Kernels in Triton's interpreter, and where there are none."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT

from solo import kernels
from solo.config import Augmentation
from solo.data.operations import NUMBERS
from solo.data.operations.base import Turn
from solo.data.operations.tones import solarize
from solo.data.packing import pack
from solo.data.plans import ViewPlan, plan_views
from solo.kernels import loading

INTERPRETED = [
    "tests/kernels/in_interpreter.py",
    "tests/data/test_augment.py::test_views_on_the_device_are_those_of_the_loader",
    "tests/losses/test_rectified_lpjepa.py::test_module_is_the_plain_formula_with_its_own_draws",
]


@pytest.mark.slow
@pytest.mark.parametrize("files", [INTERPRETED[:1], INTERPRETED[1:]])
def test_in_the_interpreter(files: list[str]) -> None:
    pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *files],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "failed" not in done.stdout


def test_without_a_gpu_there_are_none() -> None:
    assert not kernels.usable(torch.zeros(1))
    kernels.settle(torch.device("cpu"))


def test_a_kernel_that_cannot_be_loaded_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loading._works.cache_clear()
    device = torch.device("cuda:7")
    with pytest.warns(UserWarning, match=r"kernels cannot be loaded \(.+\); slower tensor code"):
        assert not loading._works(device)
    assert not loading._works(device)  # and no second warning
    loading._works.cache_clear()
    monkeypatch.setenv("SOLO_KERNELS", "off")
    assert not loading._works(device)
    loading._works.cache_clear()


def test_unknown_operations_are_left_to_the_tensor_code() -> None:
    everything = {name: {"prob": 1.0} for name in ("grayscale", "gaussian_blur", "solarization")}
    recipe = Augmentation.model_validate({"crop_size": 8, **everything})
    u = np.random.default_rng(0).random((5, NUMBERS))
    plan = plan_views(recipe, u, np.full(5, 30), np.full(5, 20))
    packed = pack([plan])
    assert packed is not None and packed.blurs == [True] and packed.equalizes == [False]
    own = Turn(lambda x, _: x.flip(-2), np.arange(3), np.zeros(3, np.float32))
    early = Turn(solarize, np.arange(3), np.zeros(3, np.float32))
    for turns in ([*plan.turns, own], [early, *plan.turns]):
        assert pack([ViewPlan(plan.size, plan.boxes, plan.flip, turns)]) is None
