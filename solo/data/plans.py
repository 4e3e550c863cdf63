"""What will be done to each view: every random parameter of a batch, drawn at once on the host.

As the host knows which view gets which operation, the batched operations need no masks and read
nothing back from the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solo.config import Augmentation

# Which of a view's uniform numbers decides what.
CROP_TRIES = 10
AREA, RATIO = slice(0, CROP_TRIES), slice(CROP_TRIES, 2 * CROP_TRIES)
TOP, LEFT, FLIP, JITTER, ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(20, 29)
GRAYSCALE, BLUR, SIGMA, SOLARIZE, EQUALIZE = range(29, 34)
NUMBERS = 34

ASPECT_RATIOS = (3 / 4, 4 / 3)
BLUR_SIGMAS = (0.1, 2.0)
# The 24 orders of brightness (0), contrast (1), saturation (2) and hue (3).
ORDERS = np.array(
    [
        [a, b, c, 6 - a - b - c]
        for a in range(4)
        for b in range(4)
        for c in range(4)
        if len({a, b, c}) == 3
    ]
)


@dataclass
class ViewPlan:
    """Parameters of n views of one recipe.

    ``boxes``: [n, 4], top, left, height and width of the crop in pixels; ``flip``: [n];
    ``jitter``: for each of four turns, pairs of an operation (0 to 3, as in ``ORDERS``) and the
    views that get it, with their factors; ``grayscale``, ``blur``, ``solarize``, ``equalize``: the
    views that get the operation; ``sigmas``: of the blurred ones, in pixels.
    """

    size: int
    boxes: np.ndarray
    flip: np.ndarray
    jitter: list[tuple[int, np.ndarray, np.ndarray]]
    grayscale: np.ndarray
    blur: np.ndarray
    sigmas: np.ndarray
    solarize: np.ndarray
    equalize: np.ndarray

    @property
    def colourless(self) -> bool:
        """Whether views are only cropped and flipped."""
        colours = (self.grayscale, self.blur, self.solarize, self.equalize)
        return not self.jitter and not any(len(views) for views in colours)


def plan_views(
    recipe: Augmentation, uniforms: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> ViewPlan:
    """Turn uniform numbers into what the recipe says.

    The laws are torchvision's: area uniform, aspect ratio log-uniform in [3/4, 4/3], up to ten
    tries, else the largest centred box; jitter factors uniform and in random order.

    Args:
        recipe: one entry of ``augmentations``.
        uniforms: [n, NUMBERS] in [0, 1).
        heights: [n], of the images.
        widths: [n].
    """
    u = uniforms
    if recipe.rrc.enabled:
        boxes = _crop_boxes(recipe, u, heights, widths)
    else:
        zeros = np.zeros_like(heights)
        boxes = np.stack((zeros, zeros, heights, widths), axis=1)

    def chosen(column: int, probability: float) -> np.ndarray:
        return np.flatnonzero(u[:, column] < probability)

    blur = chosen(BLUR, _probability(recipe.gaussian_blur))
    low, high = BLUR_SIGMAS
    return ViewPlan(
        size=recipe.crop_size,
        boxes=boxes,
        flip=u[:, FLIP] < _probability(recipe.horizontal_flip),
        jitter=_jitter(recipe, u),
        grayscale=chosen(GRAYSCALE, _probability(recipe.grayscale)),
        blur=blur,
        sigmas=(low + (high - low) * u[blur, SIGMA]).astype(np.float32),
        solarize=chosen(SOLARIZE, _probability(recipe.solarization)),
        equalize=chosen(EQUALIZE, _probability(recipe.equalization)),
    )


def _probability(chance: object) -> float:
    return chance.prob if chance.active else 0.0  # type: ignore[attr-defined]


def _crop_boxes(
    recipe: Augmentation, u: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    low, high = recipe.rrc.crop_min_scale, recipe.rrc.crop_max_scale
    area = (heights * widths)[:, None] * (low + (high - low) * u[:, AREA])
    log_ratios = np.log(ASPECT_RATIOS)
    ratio = np.exp(log_ratios[0] + (log_ratios[1] - log_ratios[0]) * u[:, RATIO])
    width = np.round(np.sqrt(area * ratio)).astype(np.int64)
    height = np.round(np.sqrt(area / ratio)).astype(np.int64)
    fits = (width > 0) & (height > 0) & (width <= widths[:, None]) & (height <= heights[:, None])
    first = fits.argmax(axis=1)[:, None]
    width, height = (np.take_along_axis(x, first, axis=1)[:, 0] for x in (width, height))
    # Where no try fits: the whole image, cut to an allowed ratio, in the middle.
    none = ~fits.any(axis=1)
    widest = np.minimum(widths, np.round(heights * ASPECT_RATIOS[1])).astype(np.int64)
    tallest = np.minimum(heights, np.round(widths / ASPECT_RATIOS[0])).astype(np.int64)
    width, height = np.where(none, widest, width), np.where(none, tallest, height)
    top = np.where(none, (heights - height) // 2, u[:, TOP] * (heights - height + 1))
    left = np.where(none, (widths - width) // 2, u[:, LEFT] * (widths - width + 1))
    return np.stack((top.astype(np.int64), left.astype(np.int64), height, width), axis=1)


def _jitter(recipe: Augmentation, u: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    jitter = recipe.color_jitter
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    applied = u[:, JITTER] < _probability(jitter)
    orders = ORDERS[(u[:, ORDER] * len(ORDERS)).astype(np.int64)]
    turns = []
    for turn in range(4):
        for operation, strength in enumerate(strengths):
            views = np.flatnonzero(applied & (orders[:, turn] == operation))
            if not strength or not len(views):
                continue
            number = u[views, BRIGHTNESS + operation]
            low, high = (-strength, strength) if operation == 3 else (1 - strength, 1 + strength)
            low = low if operation == 3 else max(0.0, low)
            turns.append((operation, views, (low + (high - low) * number).astype(np.float32)))
    return turns
