"""Fused kernels for GPUs (Triton), each beside the tensor code that it must equal.

Callers ask :func:`usable` and otherwise run their own tensor code; nothing above them knows which
of the two ran. Each launch is one operator of ``torch.ops.solo`` with a shape rule, so that
``torch.compile`` and fake tensors see it.
"""

from solo.kernels.loading import settle, usable

__all__ = ["settle", "usable"]
