"""Bytes of an image file to numbers: how many channels, of which type, in which range.

Files of 8 bits are uint8 all the way to the network's input. Deeper ones become float32 in
[0, 255], the scale on which views are changed: nothing is rounded, and a value outside the range is
refused or, where that was asked for, cut.
"""

from __future__ import annotations

import io
import re
from functools import cache
from typing import NamedTuple

import numpy as np
import tifffile
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from solo.config import ConfigError, first_line

try:
    from torchvision.io import ImageReadMode, decode_image, decode_jpeg
except ImportError:  # said to leave torchvision some day: then Pillow reads what it can
    decode_jpeg = None

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    RuntimeError,
    Image.DecompressionBombError,
)
"""What the libraries raise for files that are no images, or damaged ones."""

RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float": (0.0, 1.0)}
PNG = b"\x89PNG\r\n\x1a\n"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Layout(NamedTuple):
    """What every image of a data set becomes.

    ``channels``: how many; ``deep``: float32 in [0, 255], else uint8; ``low`` and ``high``: what
    becomes 0 and 255; ``clip``: whether values outside are cut; ``kind``: the type that all files
    have, where the range is that of the type.
    """

    channels: int = 3
    deep: bool = False
    low: float = 0.0
    high: float = 255.0
    clip: bool = False
    kind: str | None = "uint8"


class Jpeg(NamedTuple):
    """A file that a GPU's decoder may have: whole, and three colours or grey."""

    content: bytes
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Once it is decoded."""
        return 3, self.height, self.width


def jpeg_of(content: bytes, layout: Layout) -> Jpeg | None:
    """The file, where all that is wanted of it is its 8-bit RGB; None for any other.

    Raises:
        Exception: one of :data:`UNREADABLE`, where its head cannot be read.
    """
    if layout.channels != 3 or layout.deep or not content.startswith(b"\xff\xd8"):
        return None
    if not content.rstrip(b"\0").endswith(b"\xff\xd9"):  # cut off: an error of the loader's
        return None
    with Image.open(io.BytesIO(content)) as image:
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return None
        # Colours stored as they are, which not all decoders see: Adobe's 0, or names of components.
        layers = image.layer  # type: ignore[attr-defined]
        named = [layer[0] for layer in layers] == list(b"RGB")
        if named or image.info.get("adobe_transform") == 0:
            return None
        return Jpeg(content, image.height, image.width)


def decode_jpegs(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """Files, uint8 [bytes] on the host -> uint8 [3, H, W] on the device.

    Raises:
        RuntimeError: for files that its decoder refuses, and where there is no decoder.
    """
    if decode_jpeg is None:
        raise RuntimeError("it has no decoder")
    if not files:
        return []
    made: list[Tensor] = decode_jpeg(files, ImageReadMode.RGB, device=device)
    return made


def layout_of(
    content: bytes, channels: int | None, value_range: list[float] | None, clip: bool
) -> Layout:
    """The layout of a data set, from its first image and what the config says.

    Args:
        content: the first image's file.
        channels: None: as in the file, but 3 for 8-bit images that are grey, or that Pillow reads.
        value_range: None: that of the type.
        clip: whether values outside are cut.

    Raises:
        ConfigError: for a type that has no range of its own.
        Exception: one of :data:`UNREADABLE`, for a file that cannot be read.
    """
    array = _array(content)
    if array is None:
        with Image.open(io.BytesIO(content)) as image:
            array = _deep(image)
    found, kind = (3, "uint8") if array is None else (len(array), _kind(array))
    if kind == "uint8" and value_range is None:
        return Layout(channels or (3 if found == 1 else found))
    if value_range is None and kind not in RANGES and array is not None:
        raise ConfigError(
            f"its values are {kind}, from {array.min()} to {array.max()}; say which are black and "
            "white, of all images: ++data.value_range=[low,high]"
        )
    low, high = value_range or RANGES[kind]
    return Layout(channels or found, True, low, high, clip, None if value_range else kind)


def _kind(array: np.ndarray) -> str:
    """Its type, all floats being one."""
    return "float" if array.dtype.kind == "f" else array.dtype.name


def decode(content: bytes, layout: Layout) -> Tensor:
    """[C, H, W], uint8 or float32 in [0, 255], as the layout says.

    Raises:
        ValueError: for another number of channels, another depth, or values outside the range.
        Exception: one of :data:`UNREADABLE`, for what is no image or damaged.
    """
    array = _array(content)
    if array is None:
        with Image.open(io.BytesIO(content)) as image:
            array = _deep(image)
            if array is None:
                _same("uint8", layout)
                return _deepened(_bytes(image, layout.channels, content), layout)
    _same(_kind(array), layout)
    tensor = torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.name))
    alpha = content.startswith(PNG)  # other arrays' fourth is a channel like the others
    return _deepened(_fitted(tensor, layout.channels, alpha), layout)


def _same(kind: str, layout: Layout) -> None:
    """Raises: ValueError, where one range does not fit both types."""
    if layout.kind not in (None, kind):
        raise ValueError(
            f"its values are {kind}, where the first image's are {layout.kind}; put them in a "
            "folder of their own, or say what is black and white in all: "
            "++data.value_range=[low,high]"
        )


def _array(content: bytes) -> np.ndarray | None:
    """[C, H, W] of the file's own type; None for what is left to Pillow."""
    if content[:6] == b"\x93NUMPY":
        return _channels_first(np.load(io.BytesIO(content), allow_pickle=False))
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(content)
    if content.startswith(PNG) and content[24:25] == b"\x10":  # 16 bits a value
        if decode_jpeg is not None:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return decode_image(data, ImageReadMode.UNCHANGED).numpy()
        if content[25:26] != b"\0":  # which Pillow would cut to 8 bits
            raise ValueError("this torchvision reads no 16-bit PNG in colour; convert it to TIFF")
    return None


def _deep(image: Image.Image) -> np.ndarray | None:
    """[1, H, W], where Pillow has more than 8 bits a value."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    array = np.array(image)[None]
    return array.astype(np.uint16) if image.format == "PPM" and image.mode == "I" else array


def _channels_first(array: np.ndarray) -> np.ndarray:
    """[H, W], [H, W, C] or [C, H, W]: of three axes the shortest is the channels', the first of two
    that are alike.

    Raises:
        ValueError: for another number of axes, or none of its numbers.
    """
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.dtype.kind not in "buif" or not array.size:
        raise ValueError(
            f"it holds {array.dtype} {list(array.shape)}, where numbers [H, W], [H, W, C] or "
            "[C, H, W] are wanted"
        )
    if array.shape[2] < min(array.shape[:2]):
        array = array.transpose(2, 0, 1)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    return np.ascontiguousarray(array)


def _tiff(content: bytes) -> np.ndarray | None:
    """Bands and pages are channels (of series of pages those that are like the first); None for a
    page of 8 bits of colours, grey, or a palette."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page, series = file.pages[0], file.series[0]
        bands = int(getattr(page, "samplesperpixel", 1))
        shallow = page.dtype == np.uint8 or int(getattr(page, "bitspersample", 8)) < 8
        # Those are of all kinds, inks and compressions. Shades without a declared alpha are none.
        alpha = any(extra != 0 for extra in getattr(page, "extrasamples", ()))
        shades = int(getattr(page, "photometric", 1)) <= 1 and bands > 1 and not alpha
        if shallow and bands <= 4 and len(file.pages) == 1 and not shades:
            return None
        alike = [s for s in file.series if (s.shape, s.dtype) == (series.shape, series.dtype)]
        try:
            arrays = [each.asarray() for each in alike]
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise ValueError(f"{error}: pip install imagecodecs") from error
            raise
        axes = series.axes
    places = [axes.index("Y"), axes.index("X")]
    others = [i for i in range(arrays[0].ndim) if i not in places]
    planes = [array.transpose(*others, *places) for array in arrays]
    return np.concatenate([array.reshape(-1, *array.shape[-2:]) for array in planes])


def _bytes(image: Image.Image, channels: int, content: bytes) -> Tensor:
    """uint8 [C, H, W]; alpha is dropped unless there shall be four channels."""
    if channels not in MODES:
        raise ValueError(f"it has {len(image.getbands())} channels, where {channels} are wanted")
    # Torchvision's decoder takes half of Pillow's time; inks and previews are left to the latter.
    plain = image.format == "JPEG" and image.mode in ("RGB", "L")
    if plain and channels == 3 and _decoders_agree():
        return _jpeg(content)
    return TF.pil_to_tensor(image.convert(MODES[channels]))


def _jpeg(content: bytes) -> Tensor:
    """uint8 [3, H, W], colours as stored, the camera's orientation left alone."""
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode_jpeg(data, ImageReadMode.RGB)


@cache
def _decoders_agree() -> bool:
    """Whether torchvision and Pillow, as they were built here, make the same pixels of a JPEG."""
    if decode_jpeg is None:
        return False
    pixels = np.random.default_rng(0).integers(0, 256, (19, 37, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((74, 38)).save(file, "jpeg")
    with Image.open(file) as image:
        return torch.equal(TF.pil_to_tensor(image.convert("RGB")), _jpeg(file.getvalue()))


def _fitted(tensor: Tensor, channels: int, alpha: bool) -> Tensor:
    """Grey becomes three channels where three are wanted, and what is alpha is dropped."""
    found = len(tensor)
    if channels == 3 and (found == 1 or (alpha and found in (2, 4))):
        tensor, found = (tensor[:3] if found == 4 else tensor[:1].expand(3, -1, -1)), 3
    if found != channels:
        raise ValueError(
            f"it has {found} channels, where {channels} are wanted (as many as the first image's, "
            "or data.channels)"
        )
    return tensor


def _deepened(tensor: Tensor, layout: Layout) -> Tensor:
    """uint8 as it is, all else on the scale of its range."""
    return _scaled(tensor, layout) if layout.deep else tensor


def _scaled(tensor: Tensor, layout: Layout) -> Tensor:
    """float32 in [0, 255]."""
    low, high = layout.low, layout.high
    values = (tensor.double() - low) * (255 / (high - low))
    smallest, largest = (float(x) for x in values.aminmax())
    if not np.isfinite(smallest + largest):
        raise ValueError("it has values that are not finite")
    if not layout.clip and (smallest < -1e-3 or largest > 255 + 1e-3):
        darkest, brightest = (low + x * (high - low) / 255 for x in (smallest, largest))
        raise ValueError(
            f"its values go from {darkest:g} to {brightest:g}, outside "
            f"[{low:g}, {high:g}]; set ++data.value_range=[low,high], or ++data.clip=true to cut "
            "them"
        )
    return values.clamp_(0, 255).float()


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):  # its text shows a buffer's address
        return "no known image format"
    return re.sub(r"^\w+, \S+\.cpp:\d+, ", "", first_line(error))  # less torchvision's own file
