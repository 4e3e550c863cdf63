"""Sorting rows: torch's sort is the measure."""

from __future__ import annotations

import torch

from solo.univariate.sorting import ascending, sort_rows, sort_rows_with_order


def test_sorting_rows() -> None:
    x = torch.randn(40, 33) * 10
    x[0], x[1, ::2], x[2, 3], x[3, 4] = 0.0, -0.0, -torch.inf, torch.inf
    x[4] = x[4].round()  # ties
    expected = x.sort(dim=-1, stable=True)
    values, order = sort_rows_with_order(x)
    assert torch.equal(values, expected.values)
    assert torch.equal(x.gather(1, order), values)
    assert torch.equal(order[4], expected.indices[4])
    assert torch.equal(sort_rows(x.clone()), expected.values)
    double = sort_rows_with_order(x.double())
    assert torch.equal(double[0], expected.values.double())


def test_ascending_is_differentiable() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(3, 5, 17, dtype=dtype)
        x[0, 0, 3:6] = 0.5  # ties: in the order of their places
        own, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
        weights = torch.randn_like(x)
        (ascending(own) * weights).sum().backward()
        (expected.sort(dim=-1, stable=True).values * weights).sum().backward()
        assert torch.equal(ascending(own), expected.sort(dim=-1).values)
        assert torch.equal(own.grad, expected.grad)
