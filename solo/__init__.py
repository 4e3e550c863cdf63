"""Self-supervised image representations with Rectified LpJEPA and LeJEPA.

Letters of dimensions mean the same everywhere:

==  ==================================================================================
W   processes
B   images of a batch on one process
N   samples together: W B of the global batch, or the rows of any sample
V   views of an image
C   channels of an image, H its height in pixels (W its width, in ``[C, H, W]``)
F   features of the backbone
D   features of the embedding, or coordinates of any sample
K   slices (or prototypes: what is projected on)
T   frequencies of a characteristic function
A   binary attributes of an image
==  ==================================================================================
"""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Import a room where it is first asked for: ``solo.univariate``, ``solo.multivariate`` …"""
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return importlib.import_module(f"solo.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module 'solo' has no attribute {name!r}") from error
