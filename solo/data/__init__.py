"""Images to batches of views."""

from solo.data.batches import Batch
from solo.data.module import ImageData
from solo.data.views import Normalize

__all__ = ["Batch", "ImageData", "Normalize"]
