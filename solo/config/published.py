"""Keys of published configs (solo-learn's, Rectified LpJEPA's) that are called otherwise here.

Applied before the schema, so that their files run unchanged. What is not in these tables and not
in the schema is refused, with its name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from solo.config.section import ConfigError

RENAMED: dict[str, str] = {
    "momentum.base_tau": "method_kwargs.base_tau_momentum",
    "momentum.final_tau": "method_kwargs.final_tau_momentum",
    "method_kwargs.freeze_last_layer": "method_kwargs.freeze_prototypes_epochs",
    "performance.disable_channel_last": "channels_last",
}
"""Their key, and ours."""

READ_AS: dict[str, dict[Any, Any]] = {
    "data.format": {"dali": "image_folder"},
    "performance.disable_channel_last": {True: False, False: True},
    "strategy": {None: "auto"},
    "wandb.entity": {"None": None},
}
"""Their values of a key, and ours."""

NOTES: dict[tuple[str, Any], str] = {
    ("data.format", "dali"): "data.format dali: the same images, decoded by torchvision's loaders "
    "and augmented on the device",
}
"""What is said where such a value is given."""


class Unused(NamedTuple):
    """A key that changes nothing here.

    ``values``: those that it may have, none for any; ``why``: what to do about another;
    ``method``: the one that has it, None for all.
    """

    values: tuple[Any, ...] = ()
    why: str = ""
    method: str | None = None


_WHY = "only the published variant of NCL is known here; leave it out"
_NCL = Unused((0, 1, "xent", "dim"), _WHY, "ncl")

UNUSED: dict[str, Unused] = {
    "data.extra_data": Unused((None, "None"), "give all images under data.train_path"),
    "data.dup": Unused((1,), "raise max_epochs instead"),
    "debug_augmentations": Unused((False,), "report.html shows the views"),
    "momentum.classifier": Unused((False,), "there is no probe on the teacher; leave it out"),
    "method_kwargs.normalize": _NCL,
    "method_kwargs.drop": _NCL,
    "method_kwargs.loss_type": _NCL,
    "method_kwargs.tau": _NCL,
    "method_kwargs.learnable_temp": _NCL,
    "method_kwargs.power_iter": _NCL,
    "method_kwargs.gsize": Unused(method="ncl"),
    "auto_umap": Unused(),  # the report has the map
    "dali": Unused(),
}
"""Their keys without a counterpart."""


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config with our keys in place of theirs, and what to tell the user.

    Args:
        given: as plain values, nested.

    Raises:
        ConfigError: for a key without a counterpart that has a value we cannot honour, and for
            one that is given under both names.
    """
    tree: dict[str, Any] = copy.deepcopy(dict(given))
    notes, faults = [], []
    for key, unused in UNUSED.items():
        if unused.method not in (None, tree.get("method")):
            continue
        found, value = _take(tree, key)
        if found and unused.values and value not in unused.values:
            faults.append(f"  {key}: {value!r} was given, but {unused.why}")
    for key in {**RENAMED, **READ_AS}:
        found, value = _take(tree, key)
        if not found:
            continue
        if isinstance(value, str | int | bool | None):
            if note := NOTES.get((key, value)):
                notes.append(note)
            value = READ_AS.get(key, {}).get(value, value)
        ours = RENAMED.get(key, key)
        if ours != key and _take(tree, ours)[0]:
            faults.append(f"  {key} is {ours} here, and both are given: leave one out")
        _put(tree, ours, value)
    for block in ("momentum", "performance"):
        if tree.get(block) == {}:
            del tree[block]
    if faults:
        raise ConfigError("\n".join(["The config cannot be run:", *faults]))
    return tree, notes


def _take(tree: dict[str, Any], key: str) -> tuple[bool, Any]:
    """Remove a dotted key: whether it was there, and its value."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = tree.get(parent)
        if not isinstance(inner, dict):
            return False, None
        tree = inner
    return (True, tree.pop(last)) if last in tree else (False, None)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    tree[last] = value
