"""Rows of length 1."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from solo.losses import byol_loss, ncl_loss, simclr_loss
from solo.losses.unit import unit_rows


def test_it_is_torchs_where_rows_are_not_zero() -> None:
    z = torch.randn(20, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20, 7, dtype=torch.float64)
    ours, theirs = unit_rows(z), F.normalize(z, dim=-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-15, atol=0)
    (first,) = torch.autograd.grad((ours * weight).sum(), z)
    (second,) = torch.autograd.grad((theirs * weight).sum(), z)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(unit_rows, z)


@pytest.mark.parametrize(
    "loss",
    [
        simclr_loss,
        partial(ncl_loss, non_neg="rep_relu"),
        lambda a, b: byol_loss(torch.stack((a, b)), torch.stack((b, a))),
    ],
)
def test_rows_of_zeros(loss: object) -> None:
    """No value or gradient but the others'; with the usual division it is 1e9 and more."""
    a, b = torch.randn(2, 8, 6).abs().unbind()
    a[3] = 0
    a, b = a.requires_grad_(), b.requires_grad_()
    value = loss(a, b)  # type: ignore[operator]
    value.backward()
    assert value.isfinite() and a.grad is not None and b.grad is not None
    assert a.grad[3].abs().max() == 0
    assert 0 < a.grad.abs().max() < 100 and b.grad.abs().max() < 100


def test_negative_rows_of_ncl() -> None:
    """rep_relu has a gradient where ReLU is zero, and so reaches the division by zero."""
    z = torch.randn(2, 6, 5)
    z[0, 2] = -z[0, 2].abs()
    z.requires_grad_()
    ncl_loss(z[0], z[1], non_neg="rep_relu").backward()
    assert z.grad is not None and z.grad[0, 2].abs().max() == 0 and z.grad.abs().max() < 100
