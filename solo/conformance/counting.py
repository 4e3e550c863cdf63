"""What a piece of work does: collectives, random draws, bytes of tensors alive at a time."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SENT = {"allgather_": 1, "_allgather_base_": 1, "reduce_scatter_": 1, "_reduce_scatter_base_": 1}
_SENT |= {"alltoall_": 1, "alltoall_base_": 1, "gather_": 1, "allgather_into_tensor_coalesced_": 1}
"""Which argument of a collective holds what this process hands over; the first, if not here."""


_PAIRS = ("send", "recv")
"""Each process has its own part in them."""


class Watch(TorchDispatchMode):
    """Sees every operator inside the block, of forward and backward passes."""

    def look(self, operator: Any, args: Sequence[Any], made: Any) -> None:
        """Called after each, with what it was given and what it made."""
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call it, and look."""
        made = func(*args, **(kwargs or {}))
        self.look(func, args, made)
        return made


class Collectives(Watch):
    """Collectives inside the block, of forward and backward passes: (name, bytes handed over)."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def look(self, operator: Any, args: Sequence[Any], made: Any) -> None:
        """Count it, if it is one."""
        space, _, name = operator.name().partition("::")
        name = name.split(".")[0]
        if space in ("c10d", "_c10d_functional") and not name.startswith(("wait", *_PAIRS)):
            handed = [] if name == "barrier" else tree_leaves(args[_SENT.get(name, 0)])
            size = sum(x.numel() * x.element_size() for x in handed if isinstance(x, Tensor))
            self.made.append((name, size))


class Draws(Watch):
    """What torch's generators gave inside the block: a checksum of each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[int] = []

    def look(self, operator: Any, args: Sequence[Any], made: Any) -> None:
        """Take note of it, if it is a draw."""
        if torch.Tag.nondeterministic_seeded in operator.tags:
            for x in tree_leaves(made):
                if isinstance(x, Tensor) and x.numel():
                    self.sums.append(zlib.crc32(as_bytes(x).numpy().tobytes()))


def as_bytes(x: Tensor) -> Tensor:
    """Its bits, uint8 [n]."""
    return x.detach().contiguous().reshape(-1).view(torch.uint8)


class Alive(Watch):
    """The most bytes of tensors, made inside the block, that are alive at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def look(self, operator: Any, args: Sequence[Any], made: Any) -> None:
        """Take note of storage that is new."""
        taken = {x.untyped_storage()._cdata for x in tree_leaves(args) if isinstance(x, Tensor)}
        for x in tree_leaves(made):
            if not isinstance(x, Tensor):
                continue
            storage = x.untyped_storage()
            key = storage._cdata
            if key in self._known or key in taken:
                continue
            self._known.add(key)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
