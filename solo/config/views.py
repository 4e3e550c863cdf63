"""How views are made of an image: one entry of ``augmentations``."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from solo.config.section import Section, fault

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Size = int | tuple[int, int]
"""Of images, in pixels: the side of square ones, or height and width."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return size if isinstance(size, tuple) else (size, size)


def square(size: Size) -> Size:
    """A single number where height and width are equal."""
    height, width = sides(size)
    return height if height == width else (height, width)


Pixels = Annotated[Positive | tuple[Positive, Positive], AfterValidator(square)]


def in_pixels(size: Size) -> str:
    """In words: 32 px, or 32 x 64 px."""
    height, width = sides(size)
    return f"{height} px" if height == width else f"{height} x {width} px"


def _in_order(section: Section, low: str, high: str) -> None:
    """Raises: a fault, where the lower bound of two keys is above the upper."""
    first, second = getattr(section, low), getattr(section, high)
    if first > second:
        raise fault(f"{low} {first} is above {high} {second}; swap them")


class RandomResizedCropConfig(Section):
    """Crop a random box and resize it (bicubic) to crop_size."""

    enabled: bool = True
    """False resizes the whole image instead."""
    crop_min_scale: float = Field(0.08, gt=0, le=1)
    """Smallest box, as a fraction of the image's area."""
    crop_max_scale: float = Field(1.0, gt=0, le=1)
    """Largest box, as a fraction of the image's area."""

    @model_validator(mode="after")
    def _ordered(self) -> RandomResizedCropConfig:
        _in_order(self, "crop_min_scale", "crop_max_scale")
        return self


class Chance(Section):
    """An operation applied with some probability."""

    enabled: bool = True
    """False switches the operation off whatever its probability."""
    prob: Probability = 0.0
    """Probability of applying it to a view."""

    @property
    def chance(self) -> float:
        """The probability, 0 where it is switched off."""
        return self.prob if self.enabled else 0.0


class ColorJitterConfig(Chance):
    """Random brightness, contrast, saturation and hue, in random order."""

    brightness: float = Field(0.0, ge=0)
    """Factor drawn from [1 - b, 1 + b], not below 0."""
    contrast: float = Field(0.0, ge=0)
    """Factor drawn from [1 - c, 1 + c], not below 0."""
    saturation: float = Field(0.0, ge=0)
    """Factor drawn from [1 - s, 1 + s], not below 0."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Shift drawn from [-hue, hue], in turns of the colour circle."""


class RotationConfig(Chance):
    """Turn a view around its middle, by any angle; what was outside is black."""

    degrees: float = Field(180.0, gt=0, le=180)
    """The angle is drawn from [-degrees, degrees]."""


class NoiseConfig(Chance):
    """Add normal noise to every pixel and channel."""

    sigma: float = Field(0.1, gt=0, le=1)
    """Its standard deviation, where 1 is from black to white."""


class ErasingConfig(Chance):
    """Make a random box black (arXiv 1708.04896), of an aspect ratio from 0.3 to 3.3."""

    min_scale: float = Field(0.02, gt=0, le=1)
    """Smallest box, as a fraction of the view's area."""
    max_scale: float = Field(0.33, gt=0, le=1)
    """Largest box, as a fraction of the view's area."""

    @model_validator(mode="after")
    def _ordered(self) -> ErasingConfig:
        _in_order(self, "min_scale", "max_scale")
        return self


class Augmentation(Section):
    """One recipe for views; several entries make several kinds of view."""

    rrc: RandomResizedCropConfig = RandomResizedCropConfig()
    """Random resized crop."""
    color_jitter: ColorJitterConfig = ColorJitterConfig()
    """Brightness, contrast, saturation and hue."""
    grayscale: Chance = Chance()
    """All three channels become the luminance."""
    gaussian_blur: Chance = Chance()
    """Sigma uniform in [0.1, 2] pixels."""
    solarization: Chance = Chance()
    """Inverts values from 128 up."""
    equalization: Chance = Chance()
    """Histogram equalization."""
    horizontal_flip: Chance = Chance()
    """Mirror image."""
    vertical_flip: Chance = Chance()
    """Upside down."""
    quarter_turns: Chance = Chance()
    """A quarter, a half or three quarters of a turn."""
    rotation: RotationConfig = RotationConfig()
    """Any angle."""
    gaussian_noise: NoiseConfig = NoiseConfig()
    """Normal noise."""
    random_erasing: ErasingConfig = ErasingConfig()
    """A black box."""
    extra: list[str] = Field(default_factory=list)
    """Your own operations, done last: package.module.name of a function (images, numbers) ->
    images, or of a class of such objects. Images are float32 [n, C, H, W] in [0, 255]; numbers,
    float32 [n, 16] uniform in [0, 1], are each view's own: the only randomness to use."""
    crop_size: Pixels = 224
    """Side of the view, in pixels, or its height and width: [64, 128]."""
    num_crops: Positive = 2
    """How many views of this kind each image gives."""

    @model_validator(mode="after")
    def _square_to_turn(self) -> Augmentation:
        if self.quarter_turns.chance and isinstance(self.crop_size, tuple):
            raise fault(
                f"quarter_turns need a square view, and crop_size is {list(self.crop_size)}; set "
                "quarter_turns.prob=0"
            )
        return self
