"""The smallest kernel: it shows that driver and compiler work."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _one(out):
    tl.store(out, 1.0)


def probe(device: torch.device) -> bool:
    """Compile it, run it, and look at what it wrote."""
    out = torch.zeros(1, device=device)
    with torch.cuda.device(device):
        _one[(1,)](out)
    return out.item() == 1
