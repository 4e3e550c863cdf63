"""The typed schema of a run.

Methods and optimizers declare their own ``method_kwargs`` and ``optimizer.kwargs`` beside
themselves, as further :class:`Section` classes; :func:`resolve` joins them to the schema. A key
nobody declared, a wrong type or an impossible value raises :class:`ConfigError`, which names the
key, the value that was given and what to write in its place.
"""

from solo.config.resolve import check, declared_keys, plain_tree, resolve, unknown_name
from solo.config.schema import Config, RunConfig
from solo.config.section import ConfigError, RunError, Section, fault, first_line
from solo.config.views import Augmentation, Size, in_pixels, sides, square

__all__ = [
    "Augmentation",
    "Config",
    "ConfigError",
    "RunConfig",
    "RunError",
    "Section",
    "Size",
    "check",
    "declared_keys",
    "fault",
    "first_line",
    "in_pixels",
    "plain_tree",
    "resolve",
    "sides",
    "square",
    "unknown_name",
]
