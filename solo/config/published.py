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
    ("data.format", "dali"): "data.format dali: the same images, decoded by this package's loaders "
    "and augmented where data.augment_on says",
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


def _ncl(value: Any) -> Unused:
    why = "only the published variant of NCL is known here; leave it out"
    return Unused((value,), why, "ncl")


UNUSED: dict[str, Unused] = {
    "data.extra_data": Unused((None, "None"), "give all images under data.train_path"),
    "data.dup": Unused((1,), "raise max_epochs instead"),
    "debug_augmentations": Unused((False,), "report.html shows the views"),
    "momentum.classifier": Unused((False,), "there is no probe on the teacher; leave it out"),
    "method_kwargs.normalize": _ncl("dim"),
    "method_kwargs.drop": _ncl(0),
    "method_kwargs.loss_type": _ncl("xent"),
    "method_kwargs.tau": _ncl(1),
    "method_kwargs.learnable_temp": _ncl(0),
    "method_kwargs.power_iter": _ncl(1),
    "method_kwargs.gsize": Unused(method="ncl"),
    "auto_umap": Unused(),  # the report has the map
    "dali": Unused(),
}
"""Their keys without a counterpart."""


DEFAULTS: dict[str, dict[str, Any]] = {"dino": {"method_kwargs.teacher_temperature": 0.07}}
"""Their defaults that are not ours, for a method's config that has one of their keys."""


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config with our keys in place of theirs, and what to tell the user.

    Args:
        given: as plain values, nested.

    Raises:
        ConfigError: for a key without a counterpart that has a value we cannot honour, and for
            one that is given under both names.
    """
    tree: dict[str, Any] = copy.deepcopy(dict(given))
    notes: list[str] = []
    faults: list[str] = []
    theirs = _drop_unused(tree, faults)
    for key in {**RENAMED, **READ_AS}:
        found, value = _take(tree, key)
        if not found:
            continue
        theirs = theirs or key in RENAMED
        read_as = READ_AS.get(key, {})
        if isinstance(value, str | int | None):
            if note := NOTES.get((key, value)):
                notes.append(note)
            if True in read_as and not isinstance(value, bool):
                faults.append(f"  {key}: {value!r} was given, but it is true or false")
            value = read_as.get(value, value)
        ours = RENAMED.get(key, key)
        if ours != key and _take(tree, ours)[0]:
            faults.append(f"  {key} is {ours} here, and both are given: leave one out")
        _put(tree, ours, value)
    for key, value in DEFAULTS.get(str(tree.get("method")), {}).items() if theirs else ():
        found, own = _take(tree, key)
        _put(tree, key, own if found else value)
    for block in ("momentum", "performance"):
        if tree.get(block) == {}:
            del tree[block]
    if faults:
        raise ConfigError("\n".join(["The config cannot be run:", *faults]))
    return tree, notes


def _drop_unused(tree: dict[str, Any], faults: list[str]) -> bool:
    """Remove the keys without a counterpart; whether there were any."""
    theirs = False
    for key, unused in UNUSED.items():
        if unused.method not in (None, tree.get("method")):
            continue
        found, value = _take(tree, key)
        theirs = theirs or found
        if found and unused.values and value not in unused.values:
            faults.append(f"  {key}: {value!r} was given, but {unused.why}")
    return theirs


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
        inner = tree.setdefault(parent, {})
        if not isinstance(inner, dict):  # the schema says so
            return
        tree = inner
    tree[last] = value
