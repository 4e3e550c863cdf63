"""Kernels compiled for GPUs that are not here: nothing spills, shared memory is small."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from solo.kernels import characteristic, draws, pairs, products, views


def case(kernel: Any, types: str, warps: int = 4, **constants: Any) -> Any:
    """Types of the arguments in order, as Triton writes them."""
    return pytest.param(kernel, types.split(), warps, constants, id=kernel.fn.__name__)


VIEW = {"TALL": 224, "WIDE": 224, "PIXELS": 1024}
KERNELS = [
    case(characteristic.means_of_powers, "*fp32 *fp32 i32 i32 fp32", 8, T=17, BN=8, BK=32),
    case(
        characteristic.gradient_of_means,
        "*fp32 *fp32 *fp32 i32 i32 fp32 i32",
        8,
        T=17,
        BN=8,
        BK=32,
    ),
    case(draws.unit_rows, "*fp32 i64 i32 i32 i32", LANES=512),
    case(
        draws.generalized_gaussians,
        "*fp32 i64 i32 fp32 fp32 fp32",
        NORMAL=False,
        LAPLACE=False,
        RECTIFIED=True,
        LANES=512,
    ),
    case(draws.random_signs, "*fp32 i64 i32 i32", BLOCK=512),
    case(
        pairs.values_and_slopes,
        "*fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32",
        TERMS=12,
        COLUMNS=512,
    ),
    case(products.chebyshev_sums, "*fp32 *fp32 i32 i32 fp32", M=48, LANES=128),
    case(
        views.crop_and_color,
        "*u8 *i64 *fp32 *u8 *fp32 i32 i32 i32 i32",
        TALL=32,
        WIDE=32,
        CROP=True,
        RAGGED=False,
        WHOLE=True,
        LAST=True,
        PIXELS=1024,
    ),
    case(
        views.crop_and_color,
        "*u8 *u8 *fp32 *fp32 *fp32 i32 i32 i32 i32",
        CROP=False,
        RAGGED=False,
        WHOLE=False,
        LAST=False,
        **VIEW,
    ),
    case(
        views.crop_and_color,
        "*u8 *i64 *fp32 *fp32 *fp32 i32 i32 i32 i32",
        CROP=True,
        RAGGED=True,
        WHOLE=False,
        LAST=False,
        **VIEW,
    ),
    case(
        views.crop_and_color,
        "*u8 *i64 *fp32 *u8 *fp32 i32 i32 i32 i32",
        16,
        TALL=64,
        WIDE=64,
        CROP=True,
        RAGGED=True,
        WHOLE=True,
        LAST=True,
        PIXELS=4096,
    ),
    # Integers of 1 become constants: grey images, a batch of one.
    case(
        views.crop_and_color,
        "*u8 *i64 *fp32 *fp32 *fp32 i32 i32",
        8,
        batch=1,
        channels=1,
        TALL=33,
        WIDE=33,
        CROP=True,
        RAGGED=False,
        WHOLE=True,
        LAST=False,
        PIXELS=2048,
    ),
    case(
        views.crop_and_color,
        "*u8 *i64 *fp32 *u8 *fp32 i32 i32 i32 i32",
        16,
        TALL=64,
        WIDE=32,
        CROP=True,
        RAGGED=False,
        WHOLE=True,
        LAST=True,
        PIXELS=4096,
    ),
    case(views.color_on, "*fp32 *fp32 *fp32 *u8", PARTS=64, LAST=True, **VIEW),
    case(views.blur_an_axis, "*fp32 *fp32 *u8", STRIDE=224, LENGTH=224, REACH=6, LAST=True, **VIEW),
    case(views.equalize_planes, "*u8 *fp32 *u8", **VIEW),
]


@pytest.mark.parametrize(("kernel", "types", "warps", "constants"), KERNELS)
@pytest.mark.parametrize("capability", [80, 90])
def test_it_compiles(
    kernel: Any,
    types: list[str],
    warps: int,
    constants: dict[str, Any],
    capability: int,
    tmp_path: Path,
) -> None:
    names = [name for name in kernel.arg_names if name not in constants]
    assert len(names) == len(types)
    signature = dict(zip(names, types)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options={"num_warps": warps})
    assert made.metadata.shared < 100_000
    (tmp_path / "cubin").write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    words = [tool, "--dump-resource-usage", tmp_path / "cubin"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    assert int(usage["STACK"]) == int(usage["LOCAL"]) == 0 and int(usage["REG"]) < 255, usage
