"""Write docs/keys.md: every key of a run, with its type, default and meaning.

    python scripts/utils/keys_page.py

Read from the schema; a test holds the page against it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from solo.config import Config, Section
from solo.config.evaluation import LinearConfig
from solo.methods import METHODS, MethodOptions
from solo.optim import OPTIMIZER_OPTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs/keys.md"

HEAD = """# Every key

Written by `python scripts/utils/keys_page.py` from the schema, which is what checks a run. Any key
can be given on the command line, `key=value`; a nested one with dots (`optimizer.lr=0.1`), an entry
of a list by its number (`augmentations.0.crop_size=32`; each entry is set apart). Lists are written
`[1,2]`, nothing is `null`. Defaults are the schema's: what a key is where the recipe says nothing.
`python main_pretrain.py` alone runs a recipe, that of the digits, which says more.
"""


def type_name(annotation: Any) -> str:
    """A type as a user would say it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(str(value) for value in inner)
    parts = [type_name(part) for part in (inner[:1] if origin is Annotated else inner)]
    names: dict[Any, str] = {
        **{NoneType: "null", str: "text", int: "integer", float: "number", bool: "true, false"},
        **{dict: "mapping", Any: "anything"},
    }
    composed = {
        Annotated: lambda: parts[0],
        Union: lambda: " or ".join(parts),
        UnionType: lambda: " or ".join(parts),
        list: lambda: f"list of {parts[0]}",
        tuple: lambda: f"[{', '.join(parts)}]",
    }
    return composed[origin]() if origin in composed else names[origin or annotation]


def default_of(field: FieldInfo) -> str:
    """As YAML would have it."""
    value = field.get_default(call_default_factory=True)  # type: ignore[call-arg]
    if value is PydanticUndefined:
        return ""
    special = {None: "null", True: "true", False: "false"}
    plain = isinstance(value, (str, int, float, list, tuple, dict, type(None)))
    if not plain:
        return ""
    if isinstance(value, (bool, NoneType)):
        return special[value]
    if isinstance(value, tuple):
        value = list(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def inner_section(annotation: Any) -> type[Section] | None:
    """The section that a key holds, by itself or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (inner_section(part) for part in get_args(annotation))
    return next((section for section in found if section is not None), None)


def rows(section: type[Section], prefix: str = "") -> Iterator[str]:
    """A row a key; sections in place of the key that holds them."""
    for name, field in section.model_fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        inner = inner_section(field.annotation)
        is_list = get_origin(field.annotation) is list
        key = f"{prefix}{name}"
        if inner is None:
            kind = type_name(field.annotation).replace("|", "\\|")
            yield f"| `{key}` | {kind} | `{default_of(field)}` | {meaning} |"
        else:
            yield f"| **`{key}`** | {'list' if is_list else ''} | | {meaning} |"
            yield from rows(inner, f"{key}.0." if is_list else f"{key}.")


def table(section: type[Section], base: type[Section] | None = None, prefix: str = "") -> str:
    """All rows, but for those that ``base`` has alike."""
    known = set(rows(base, prefix)) if base is not None else set()
    own = [row for row in rows(section, prefix) if row not in known]
    if not own:
        return "No further keys.\n"
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *own]) + "\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## A pretraining run (main_pretrain.py)\n", table(Config)]
    parts += ["## Options of every method\n", table(MethodOptions, prefix="method_kwargs.")]
    for name, method in METHODS.items():
        parts.append(f"### `method={name}`\n")
        parts.append(table(method.Options, MethodOptions, "method_kwargs."))
    for name, section in OPTIMIZER_OPTIONS.items():
        parts += [f"### `optimizer.name={name}`\n", table(section, prefix="optimizer.kwargs.")]
    parts.append("## An evaluation (main_linear.py)\n")
    parts.append("Beside these, or with another default, those of a run: data, devices, wandb …\n")
    parts.append(table(LinearConfig, Config))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"written: {PAGE}")
