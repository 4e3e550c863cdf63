"""Tensors out of checkpoints that others pickled, without running what is in them.

Lightning checkpoints of other packages hold configs and callbacks besides tensors. Their classes
are never imported: what they stand for becomes an empty placeholder, and what is neither a tensor,
a plain container nor one of them is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from solo.config import ConfigError

# Whose classes are known to lie in checkpoints beside the tensors.
PLACEHELD = (
    "antlr4",
    "argparse",
    "enum",
    "fsspec",
    "hydra",
    "lightning",
    "lightning_fabric",
    "numpy",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "solo",
    "torchmetrics",
    "typing",
)

PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,  # type: ignore[attr-defined]
    **{("builtins", kind.__name__): kind for kind in (dict, list, set, tuple, int, float, bool)},
    **{("builtins", kind.__name__): kind for kind in (str, bytes, complex, slice)},
    **{("builtins", "long"): int, ("builtins", "unicode"): str},  # Python 2's, as torch writes them
}


BYTES = ("_codecs", "encode")
"""By which bytes are written, of NumPy's arrays and numbers among others."""


class Placeholder:
    """Stands for an object of another package: takes whatever it is given, and holds nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """What a pickled list is filled by."""

    extend = append


class Unpickler(pickle.Unpickler):
    """Of tensors and plain containers; all else is a placeholder, or refused."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of a name, from the tables above alone: nothing is imported."""
        module = "builtins" if module == "__builtin__" else module
        if (module, name) in PLAIN:
            return PLAIN[module, name]
        if module == "torch" and isinstance(value := getattr(torch, name, None), torch.dtype):
            return value
        if module.split(".", maxsplit=1)[0] in PLACEHELD or (module, name) == BYTES:
            return Placeholder
        raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a plain value")


def read_foreign(path: Path) -> dict[str, Any]:
    """The tensors and plain values of a checkpoint that holds more.

    Raises:
        ConfigError: for a file that holds what could run code (it is not run), or is no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise pickle.UnpicklingError("it is a TorchScript program")
        module = SimpleNamespace(
            __name__="solo.runs.foreign",
            Unpickler=Unpickler,
            load=lambda file, **kwargs: Unpickler(file, **kwargs).load(),
        )
        content = torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} cannot be read as weights: {error}, and loading it could run code. Save the "
            "weights alone: torch.save(checkpoint['state_dict'], …)"
        ) from error
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{path} is no checkpoint that torch.save wrote since 2020") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, but a state dict is expected")
    return content
