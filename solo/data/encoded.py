"""Batches whose JPEG files the training device decodes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from solo.config import ConfigError
from solo.data.decode import Jpeg, decode_jpegs, reason_of


@dataclass(frozen=True)  # so that loaders leave it in pageable memory, where decoders read it
class Files:
    """The images of a batch on their way to the device.

    ``content``: uint8, one after the other: files as they are, or the pixels of what the device
    does not decode; ``ends``: [B], of each; ``encoded``: bool [B]; ``places``: int64 [B, 3], where
    each image's pixels begin once all are decoded, its height and its width.
    """

    content: Tensor
    ends: np.ndarray
    encoded: np.ndarray
    places: np.ndarray


class Ragged(NamedTuple):
    """RGB images of different sizes on the device: ``pixels``: uint8, [3, H, W] after [3, H, W];
    ``places``: as of :class:`Files`, there; ``shapes``: the same on the host."""

    pixels: Tensor
    places: Tensor
    shapes: np.ndarray

    def image(self, index: int) -> Tensor:
        """uint8 [3, H, W]."""
        start, height, width = self.shapes[index].tolist()
        return self.pixels[start : start + 3 * height * width].view(3, height, width)


def join_files(images: Sequence[Jpeg | Tensor]) -> Files:
    """Files, and images [3, H, W] that the loader decoded, as one buffer."""
    parts = [
        torch.frombuffer(bytearray(image.content), dtype=torch.uint8)
        if isinstance(image, Jpeg)
        else image.flatten()
        for image in images
    ]
    heights, widths = np.array([image.shape[-2:] for image in images]).T
    starts = np.cumsum(3 * heights * widths) - 3 * heights * widths
    return Files(
        torch.cat(parts),
        np.cumsum([len(part) for part in parts]),
        np.array([isinstance(image, Jpeg) for image in images]),
        np.stack((starts, heights, widths), axis=1),
    )


def decode_files(files: Files, places: Tensor) -> Ragged:
    """The images of a batch, where ``places`` is.

    Raises:
        RuntimeError: for a file that the device's decoder refuses.
    """
    parts = list(files.content.tensor_split(torch.from_numpy(files.ends[:-1])))
    chosen = np.flatnonzero(files.encoded).tolist()
    device = places.device
    if device.type != "cuda":
        return Ragged(_decoded(parts, chosen, device), places, files.places)
    # The decoder writes into memory of this stream without waiting for what still reads it there
    # (pytorch/vision 9606). So the stream has nothing else to do, and is waited for.
    stream = _stream(device)
    with torch.cuda.stream(stream):
        pixels = _decoded(parts, chosen, device)
    stream.synchronize()
    pixels.record_stream(torch.cuda.current_stream(device))
    return Ragged(pixels, places, files.places)


def _decoded(parts: list[Tensor], encoded: list[int], device: torch.device) -> Tensor:
    """One buffer of pixels; ``encoded`` says which parts are files."""
    made = dict(zip(encoded, decode_jpegs([parts[i] for i in encoded], device)))
    return torch.cat(
        [made[i].flatten() if i in made else part.to(device) for i, part in enumerate(parts)]
    )


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one that decodes."""
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]


def check_decoder(device: torch.device) -> None:
    """Decode a small file there.

    Raises:
        ConfigError: where that cannot be done.
    """
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "jpeg")
    try:
        files = join_files([Jpeg(file.getvalue(), 16, 16)])
        decode_files(files, torch.from_numpy(files.places).to(device))
    except (RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"this torchvision decodes no JPEG files on {device}: {reason_of(error)}; set "
            "data.decode_on=loader"
        ) from error
