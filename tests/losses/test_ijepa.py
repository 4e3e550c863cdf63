"""I-JEPA's masks and loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from solo.losses.ijepa import draw_masks, ijepa_loss


def items(count: int) -> np.ndarray:
    return np.column_stack((np.zeros(count, np.int64), np.arange(count)))


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (4, 6), (2, 2)])
def test_masks(grid: tuple[int, int]) -> None:
    """Rectangles of the wanted area, and context that none of them touches."""
    rows, columns = grid
    areas = []
    for step in range(20):
        masks = draw_masks(5, (0, step), items(7), grid)
        blocks, wanted = masks.targets.shape[1:]
        assert blocks == 4 and masks.context.shape[0] == 7
        areas.append(wanted / (rows * columns))
        for context, targets in zip(masks.context.tolist(), masks.targets.tolist()):
            assert context == sorted(set(context)) and max(context) < rows * columns
            if grid != (2, 2):  # there, the rectangles may cover everything
                assert not set(context) & {place for block in targets for place in block}
            for block in targets:
                ys, xs = {p // columns for p in block}, {p % columns for p in block}
                assert len(block) == len(set(block)) == len(ys) * len(xs)
                assert max(ys) - min(ys) + 1 == len(ys) and max(xs) - min(xs) + 1 == len(xs)
    if grid == (14, 14):
        assert 0.13 < min(areas) < 0.16 and 0.18 < max(areas) < 0.22


def test_masks_are_each_images_own() -> None:
    """The same for an image wherever it is computed; another for another image or step."""
    whole, part = (
        draw_masks(5, (0, 3), items(8)[rows], (8, 8)) for rows in (slice(8), slice(4, 8))
    )
    assert torch.equal(whole.targets[4:], part.targets)
    assert torch.equal(whole.context[4:], part.context)
    assert not torch.equal(whole.targets[0], whole.targets[1])


def test_loss() -> None:
    prediction, target = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    t = target.numpy()
    t = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)
    d = np.abs(prediction.numpy() - t)
    expected = np.where(d < 1, d**2 / 2, d - 0.5).mean()
    assert ijepa_loss(prediction, target).item() == pytest.approx(expected, rel=1e-10)


def worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    x, target = torch.randn(2, 8, 2, 3, 6, dtype=torch.float64).chunk(world, 1)[rank]
    torch.manual_seed(1)
    network = DistributedDataParallel(torch.nn.Linear(6, 6).double())
    value = ijepa_loss(network(x), target)
    value.backward()
    return {"value": value.detach(), "gradient": network.module.weight.grad}


def test_one_process_and_two_agree(agree: Callable[..., None]) -> None:
    agree(worker)
