"""What a network's patches have in common: principal components as colours, and attention.

    python scripts/utils/patch_pca.py <weights or run> <images, folders or videos> [--out patches]

Three principal components of all patches of all images are red, green and blue, so colours mean the
same in every frame. Writes pca.png (some images, their colours and, of a ViT, what its last block
attends to) and, of several images of one size, pca.gif, all of them in order. A folder's images are
taken by name; an animated GIF or WebP is a video; for other videos, PyAV is asked (pip install av).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from rich.progress import track
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.backbones.fitting import patch_pixels
from solo.backbones.maps import attention_maps, feature_maps
from solo.config import RunError, first_line, sides
from solo.data.decode import UNREADABLE, decode, layout_of, reason_of
from solo.data.folders import unlabelled_tree
from solo.evaluation.encoders import Encoder
from solo.report.patches import Palette
from solo.runs.networks import load_encoder

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
Read = Callable[[Path], list[Image.Image]]
TOKENS = 200_000
"""From which the components are made, at most."""


def frames(paths: Sequence[Path], every: int, most: int, read: Read) -> list[Image.Image]:
    """All images of the files, folders and videos, in order.

    Raises:
        RunError: for what is not there or cannot be read.
    """
    found: list[Image.Image] = []
    for path in paths:
        if path.is_dir():
            source = unlabelled_tree(str(path), "images")
            files = [path / source.names[i] for i in range(len(source))]
            found += [image for file in files for image in read(file)]
        elif path.is_file():
            found += _video(path) if path.suffix.lower() in VIDEOS else read(path)
        else:
            raise RunError(f"{path} is not there")
    return found[::every][:most]


def read_with(encoder: Encoder) -> Read:
    """A file's images as the network's own are read: deep ones by their range."""

    def read(path: Path) -> list[Image.Image]:
        try:
            if path.suffix.lower() in (".gif", ".webp"):
                with Image.open(path) as image:
                    return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
            content = path.read_bytes()
            values = decode(content, layout_of(content, 3, encoder.value_range, encoder.clip))
            return [Image.fromarray(values.round().byte().permute(1, 2, 0).numpy())]
        except UNREADABLE as error:
            raise RunError(f"{path} cannot be read as an image: {reason_of(error)}") from error

    return read


def _video(path: Path) -> list[Image.Image]:
    try:
        import av
    except ModuleNotFoundError:
        raise RunError(
            f"{path} is a video, and PyAV is not installed: pip install av, or give a folder of "
            "its frames"
        ) from None
    try:
        with av.open(str(path)) as container:
            return [frame.to_image() for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise RunError(f"{path} cannot be read as a video: {error}") from error


def fitted(image: Image.Image, short: int, multiple: int) -> Tensor:
    """[3, H, W], uint8: the shorter side at ``short``, both multiples of ``multiple``."""
    scale = short / min(image.size)
    width, height = (max(1, round(side * scale / multiple)) * multiple for side in image.size)
    array = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def multiple_of(encoder: Encoder) -> int:
    """What sides of images have to be multiples of."""
    return math.lcm(*(patch_pixels(encoder.backbone) or (1, 1)))


def look(encoder: Encoder, images: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Feature maps and attention of each image, one at a time (sizes may differ).

    Raises:
        RunError: for a size that the network does not take.
    """
    maps, attention = [], []
    for image in track(images, "Looking", disable=len(images) < 2):
        x = encoder.normalize(image[None])
        try:
            maps.append(feature_maps(encoder.backbone, x)[0])
            weights = attention_maps(encoder.backbone, x)
        except Exception as error:  # whatever a network says of a size or of its parts
            raise RunError(
                f"{encoder.name} cannot be looked at with images of {image.shape[1]} x "
                f"{image.shape[2]} px ({first_line(error)}); give another --size, or "
                "--square"
            ) from error
        if weights is not None:
            attention.append(weights[0].mean(0))
    return maps, attention


def enlarged(picture: Tensor, size: tuple[int, int]) -> np.ndarray:
    """[3, h, w] in [0, 1] -> [H, W, 3], uint8."""
    resized = torch.nn.functional.interpolate(picture[None], size, mode="nearest")[0]
    return (resized.permute(1, 2, 0) * 255).round().byte().numpy()


def heat(weights: Tensor) -> Tensor:
    """Attention [h, w] as colours [3, h, w]."""
    scaled = (weights / weights.max().clamp(min=1e-12)).numpy()
    return torch.from_numpy(colormaps["inferno"](scaled)[..., :3]).permute(2, 0, 1).float()


def save(folder: Path, shown: Sequence[Sequence[np.ndarray]], per_second: float) -> list[Path]:
    """pca.png and pca.gif from each frame's image, colours and attention."""
    folder.mkdir(parents=True, exist_ok=True)
    picked = [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, 8).astype(int))]
    figure = Figure((2 * len(picked), 2 * len(picked[0])), layout="constrained")
    grid = figure.subplots(len(picked[0]), len(picked), squeeze=False)
    for column, parts in enumerate(picked):
        for row, part in enumerate(parts):
            grid[row, column].imshow(part)
            grid[row, column].axis("off")
    figure.savefig(folder / "pca.png", dpi=110)
    written = [folder / "pca.png"]
    tall, wide = shown[0][0].shape[:2]
    if len(shown) > 1 and all(parts[0].shape[:2] == (tall, wide) for parts in shown):
        zoom = max(1, 192 // min(tall, wide))
        sides = [Image.fromarray(np.concatenate(parts, axis=1)) for parts in shown]
        first, *rest = (
            side.resize((wide * zoom * len(shown[0]), tall * zoom), Image.Resampling.NEAREST)
            for side in sides
        )
        options: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0}
        first.save(folder / "pca.gif", duration=round(1000 / per_second), **options)
        written.append(folder / "pca.gif")
    return written


def draw(options: argparse.Namespace) -> str:
    """Read, look, write; what was written."""
    encoder = load_encoder(options.network).eval()
    if encoder.channels != 3:
        raise RunError(f"{encoder.name} is for images of {encoder.channels} channels, not for RGB")
    found = frames(options.images, options.every, options.most, read_with(encoder))
    if options.square:
        side = min(min(image.size) for image in found)
        found = [_centre(image, side) for image in found]
    short, multiple = options.size or min(sides(encoder.image_size)), multiple_of(encoder)
    images = [fitted(image, short, multiple) for image in found]
    maps, attention = look(encoder, images)
    columns = torch.cat([m.flatten(1) for m in maps], dim=1)  # [C, places of all images]
    step = max(1, columns.shape[1] // TOKENS)
    palette = Palette.of(columns[None, :, None, ::step])
    shown = []
    for index, (image, features) in enumerate(zip(images, maps)):
        size = (image.shape[1], image.shape[2])
        parts = [image.permute(1, 2, 0).numpy(), enlarged(palette.paint(features[None])[0], size)]
        if attention:
            parts.append(enlarged(heat(attention[index]), size))
        shown.append(parts)
    written = save(options.out, shown, options.per_second)
    return f"{len(images)} images: {', '.join(map(str, written))}"


def _centre(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def positive(text: str) -> int:
    """A count of an option."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("network", help="a run, a checkpoint, an exported folder, a timm name")
    parser.add_argument("images", type=Path, nargs="+", help="images, folders or videos")
    parser.add_argument("--out", type=Path, default=Path("patches"), help="folder (%(default)s)")
    parser.add_argument("--size", type=positive, help="shorter side; the network's own without it")
    parser.add_argument("--square", action="store_true", help="cut out the centre")
    parser.add_argument(
        "--every", type=positive, default=1, help="take each n-th frame (%(default)s)"
    )
    parser.add_argument("--most", type=positive, default=300, help="frames, at most (%(default)s)")
    parser.add_argument(
        "--per-second", type=float, default=12, help="frames of the GIF in a second (%(default)s)"
    )
    options = parser.parse_args()
    try:
        print(draw(options))
    except RunError as error:
        parser.error(error.for_user())


if __name__ == "__main__":
    main()
