"""What every block of the schema is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class RunError(Exception):
    """Something a user can mend; the message says what, and is all that the user is shown."""

    def for_user(self) -> str:
        """The message, without the traceback that an error of a loader process carries along."""
        text = str(self).strip()
        return text.splitlines()[-1].split("Error: ", 1)[-1] if "Traceback" in text else text


class ConfigError(RunError, ValueError):
    """What a user wrote cannot be run; the message says what to change."""


def first_line(error: BaseException) -> str:
    """What it says, in a line; its type's name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def fault(message: str) -> PydanticCustomError:
    """An error for a validator to raise, where pydantic would otherwise wrap the wording."""
    return PydanticCustomError("impossible", "{message}", {"message": message})


class Section(BaseModel):
    """A block of keys. Undeclared keys are refused; a docstring under a field is its meaning."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_booleans_for_numbers(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name, field in cls.model_fields.items():
                if isinstance(data.get(name), bool) and field.annotation in (int, float):
                    raise fault(f"{name} is {data[name]}, but a number is expected")
        return data
