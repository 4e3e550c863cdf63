"""Batches whose JPEG files the training device decodes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from solo.config import ConfigError, RunError
from solo.data.decode import Jpeg, decode_jpegs, reason_of


class Files(NamedTuple):
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

    def images(self) -> list[Tensor]:
        """B of them, uint8 [3, H, W]."""
        return [
            self.pixels[start : start + 3 * height * width].view(3, height, width)
            for start, height, width in self.shapes.tolist()
        ]


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


def decode_files(files: Files, places: Tensor, again: Callable[[int], Tensor]) -> Ragged:
    """The images of a batch.

    Args:
        files: on the host.
        places: theirs, on the device that decodes.
        again: gives the image of a position in the batch, decoded on the host: for files that the
            device refuses.

    Raises:
        RunError: for a file whose picture is of another size than its head says.
    """
    device = places.device
    if device.type != "cuda":
        return Ragged(_decoded(files, device, again), places, files.places)
    # The decoder writes into memory of this stream without waiting for what still reads it there
    # (pytorch/vision 9606). So the stream has nothing else to do, and is waited for.
    stream = _stream(device)
    with torch.cuda.stream(stream):
        pixels = _decoded(files, device, again)
    stream.synchronize()
    pixels.record_stream(torch.cuda.current_stream(device))
    return Ragged(pixels, places, files.places)


def _decoded(files: Files, device: torch.device, again: Callable[[int], Tensor]) -> Tensor:
    """uint8, the pixels of all images."""
    parts = list(files.content.tensor_split(torch.from_numpy(files.ends[:-1])))
    encoded = np.flatnonzero(files.encoded).tolist()
    made = _by_device(parts, encoded, device)
    for i in encoded:
        shape = (3, *files.places[i, 1:].tolist())
        parts[i] = made[i] if i in made and made[i].shape == shape else again(i)
        if parts[i].shape != shape:
            raise RunError(
                f"image {i} of a batch is {list(parts[i].shape)}, where its file's head says "
                f"{list(shape)}; set data.decode_on=loader"
            )
    return torch.cat([part.flatten().to(device) for part in parts])


def _by_device(parts: list[Tensor], encoded: list[int], device: torch.device) -> dict[int, Tensor]:
    """What the device makes of the files, by their position; without those that it refuses."""
    try:
        return dict(zip(encoded, decode_jpegs([parts[i] for i in encoded], device)))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of all of them, and it does not say which
        if device.type == "cuda":  # it may still be writing; and its memory is not torch's
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
    made = {}
    for i in encoded:
        try:
            (made[i],) = decode_jpegs([parts[i]], device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            continue
    return made


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one that decodes."""
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]


def check_decoder(device: torch.device) -> None:
    """Decode two small files there, and look at them.

    Raises:
        ConfigError: where that cannot be done, or other pixels come out.
    """
    ramp = np.arange(39 * 57 * 3, dtype=np.float64).reshape(39, 57, 3) % 251
    picture = Image.fromarray(ramp.astype(np.uint8)).resize((91, 45), Image.Resampling.BILINEAR)
    for progressive in (False, True):
        file = io.BytesIO()
        picture.save(file, "jpeg", progressive=progressive)
        content = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
        try:
            (made,) = decode_jpegs([content], device)
        except RuntimeError as error:
            raise ConfigError(
                f"this torchvision decodes no JPEG files on {device}: {reason_of(error)}; set "
                "data.decode_on=loader"
            ) from error
        with Image.open(file) as image:
            wanted = TF.pil_to_tensor(image)
        there = made.device.type == device.type and made.shape == wanted.shape
        if not there or (made.cpu().float() - wanted).abs().mean() > 4:
            raise ConfigError(
                f"torchvision's decoder on {device} makes other pixels than the loader's; set "
                "data.decode_on=loader"
            )
