"""From what a user wrote to a checked :class:`Config`, or to an error that says what to change."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from solo.config.published import translate
from solo.config.schema import Config, RunConfig
from solo.config.section import ConfigError, Section

AnyConfig = TypeVar("AnyConfig", bound=RunConfig)
Sections = Mapping[str, type[Section]]


def resolve(
    given: DictConfig | Mapping[str, Any],
    methods: Mapping[str, type[Section]],
    optimizers: Mapping[str, type[Section]],
) -> Config:
    """Check what the user gave against the schema and fill in the defaults.

    Args:
        given: the composed Hydra config, or any mapping of the same layout.
        methods: each method's ``method_kwargs`` class.
        optimizers: each optimizer's ``optimizer.kwargs`` class.

    Raises:
        ConfigError: listing every fault found, each with its key, value and remedy.
    """
    tree, notes = translate(plain_tree(given))
    method = tree.get("method", Config.model_fields["method"].default)
    if method not in methods:
        raise unknown_name("method", method, methods)
    optimizer = tree.get("optimizer")
    chosen = optimizer.get("name", "lars") if isinstance(optimizer, Mapping) else "lars"
    sections = {"method_kwargs": methods[method]}
    if chosen in optimizers:
        sections["optimizer.kwargs"] = optimizers[chosen]
    config = check(tree, Config, sections)
    config.notes.extend(notes)
    return config


def plain_tree(given: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A composed Hydra config, or any mapping, as plain values.

    Raises:
        ConfigError: for an interpolation that fails, or a value that is missing.
    """
    if isinstance(given, DictConfig):
        try:
            given = OmegaConf.to_container(given, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        except OmegaConfBaseException as error:
            raise ConfigError(f"The config cannot be resolved: {error}") from None
    return {str(key): value for key, value in given.items()}


def check(tree: dict[str, Any], schema: type[AnyConfig], sections: Sections) -> AnyConfig:
    """Check values against a schema.

    Args:
        tree: what the user gave.
        schema: of the whole.
        sections: further schemas by the dotted path of the part they describe.

    Raises:
        ConfigError: listing every fault found.
    """
    declared = list(declared_keys(schema))
    for path, section in sections.items():
        declared += [f"{path}.{key}" for key in declared_keys(section)]
    faults: list[str] = []
    own: dict[str, Section] = {}
    for path, section in sections.items():
        node: Any = tree
        for part in path.split("."):
            node = (node.get(part) if isinstance(node, Mapping) else None) or {}
        try:
            own[path] = section.model_validate(node)
        except ValidationError as error:
            faults += [_describe(item, path, declared) for item in error.errors()]
    try:
        config = schema.model_validate(tree)
    except ValidationError as error:
        faults += [_describe(item, "", declared) for item in error.errors()]
    if faults:
        raise ConfigError("\n".join(["The config cannot be run:", *dict.fromkeys(faults)]))
    for path, values in own.items():
        *parents, last = path.split(".")
        holder: Any = config
        for parent in parents:
            holder = getattr(holder, parent)
        setattr(holder, last, values)
    return config


def _describe(item: ErrorDetails, prefix: str, declared: Iterable[str]) -> str:
    """One line for one fault."""
    parts = ([prefix] if prefix else []) + [str(part) for part in item["loc"]]
    # A union's member shows up in the location ("devices.list[…]"): not a key, so leave it out.
    key = ".".join(part for part in parts if re.fullmatch(r"[\w.\-]+", part))
    if item["type"] == "extra_forbidden":
        return f"  {key}: there is no such key{_nearest(key, declared)}"
    if item["type"] == "impossible":
        return f"  {key + ': ' if key else ''}{item['msg']}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"  {key}: {item['input']!r} was given, but {message}"


def _nearest(key: str, declared: Iterable[str]) -> str:
    """', did you mean …' with the closest declared key, where one is close."""
    flat = re.sub(r"\.\d+(?=\.|$)", "", key)  # augmentations.0.rrc -> augmentations.rrc
    close = difflib.get_close_matches(flat, list(declared), n=1, cutoff=0.5)
    if not close:
        return ""
    numbered = re.match(r"(\w+)\.(\d+)\.", key)
    if numbered and close[0].startswith(f"{numbered[1]}."):  # and back again
        close[0] = numbered[0] + close[0].removeprefix(f"{numbered[1]}.")
    return f"; did you mean {close[0]}?"


def unknown_name(kind: str, given: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that no registry holds, with the nearest ones."""
    names = sorted(set(known))
    close = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(names)}"
    return ConfigError(f"There is no {kind} {given!r}; {hint}")


def declared_keys(section: type[Section]) -> Iterator[str]:
    """Every key of a section and the sections in it, dotted; list entries without their index."""
    for name, field in section.model_fields.items():
        yield name
        for inner in _sections_in(field.annotation):
            yield from (f"{name}.{key}" for key in declared_keys(inner))


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) in (list, Union, UnionType):
        for argument in get_args(annotation):
            yield from _sections_in(argument)
