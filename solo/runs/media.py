"""What loggers may show beside numbers."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from matplotlib.figure import Figure
from torch import Tensor


class Media(NamedTuple):
    """Pictures, and values to make histograms of, by their titles."""

    pictures: dict[str, Figure]
    histograms: dict[str, Tensor]


@runtime_checkable
class TakesMedia(Protocol):
    """A logger that shows them."""

    def log_media(self, media: Media, step: int) -> None:
        """Show them, at that step."""
