"""The plain formulations that ours are measured against, and checked with in the tests.

Written the way papers and tutorials write them: one matrix product, a sort along the first axis,
autograd, an [N, K, T] tensor, one image at a time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from solo.config import Augmentation
from solo.data.operations import OPERATIONS
from solo.distributions import GeneralizedGaussian


def rdm_reg(z: Tensor, targets: Tensor, projections: Tensor) -> Tensor:
    """RDMReg of one view: z and targets [N, D], projections [K, D]."""
    features = (z @ projections.T).sort(dim=0).values
    samples = (targets @ projections.T).sort(dim=0).values
    return (features - samples).square().mean()


def drawn_rdm_reg(z: Tensor, target: GeneralizedGaussian, slices: int) -> Tensor:
    """The same, with its draws."""
    return rdm_reg(z, target.sample(z.shape, device=z.device), random_slices(slices, z))


def random_slices(count: int, z: Tensor) -> Tensor:
    """Unit rows [K, D] for z [.., D]."""
    return F.normalize(torch.randn(count, z.shape[-1], device=z.device), dim=-1)


def rectified_lpjepa(z: Tensor, options: Any) -> Tensor:
    """The method's loss of two views, z [2, N, D], its draws included."""
    target, slices = options.target(), options.num_projections
    reg = torch.stack([drawn_rdm_reg(view, target, slices) for view in z]).mean()
    invariance = (z[0] - z[1]).square().mean()
    return options.invariance_loss_weight * invariance + options.rdm_reg_loss_weight * reg


def sigreg(z: Tensor, projections: Tensor, points: int = 17, t_max: float = 3.0) -> Tensor:
    """Sliced Epps–Pulley of z [N, D]."""
    t = torch.linspace(0, t_max, points, device=z.device)
    weights = torch.full_like(t, 2 * t_max / (points - 1))
    weights[[0, -1]] /= 2
    normal = (-(t**2) / 2).exp()
    phase = (z @ projections.T).unsqueeze(-1) * t  # [N, K, T]
    distance = (phase.cos().mean(0) - normal).square() + phase.sin().mean(0).square()
    return (len(z) * distance @ (weights * normal)).mean()


def view_transform(recipe: Augmentation) -> v2.Transform:
    """torchvision's pipeline for one image: uint8 [3, H, W] -> uint8 [3, size, size].

    Raises:
        ValueError: for an operation that is not written out here.
    """
    known = {"color_jitter", "grayscale", "gaussian_blur", "solarization", "equalization"}
    asked = {each.name for each in OPERATIONS if getattr(recipe, each.name).chance}
    if missing := sorted([*asked - known, *recipe.extra]):
        raise ValueError(f"the plain pipeline has no {', '.join(missing)}")
    size = recipe.crop_size
    if isinstance(size, tuple):
        raise ValueError(f"the plain pipeline is for square views, not {size}")
    bicubic = InterpolationMode.BICUBIC
    steps: list[nn.Module] = []
    if recipe.rrc.enabled:
        scale = (recipe.rrc.crop_min_scale, recipe.rrc.crop_max_scale)
        steps.append(v2.RandomResizedCrop(size, scale, interpolation=bicubic, antialias=True))
    else:
        steps.append(v2.Resize((size, size), interpolation=bicubic, antialias=True))
    jitter = recipe.color_jitter
    if jitter.chance:
        colours = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        steps.append(v2.RandomApply([colours], p=jitter.prob))
    if recipe.grayscale.chance:
        steps.append(v2.RandomGrayscale(recipe.grayscale.prob))
    if recipe.gaussian_blur.chance:
        taps = min(13, 2 * ((size - 1) // 2) + 1)
        blur = v2.GaussianBlur(taps, sigma=(0.1, 2.0))
        steps.append(v2.RandomApply([blur], p=recipe.gaussian_blur.prob))
    if recipe.solarization.chance:
        steps.append(v2.RandomSolarize(threshold=128, p=recipe.solarization.prob))
    if recipe.equalization.chance:
        steps.append(v2.RandomEqualize(p=recipe.equalization.prob))
    if recipe.horizontal_flip.chance:
        steps.append(v2.RandomHorizontalFlip(recipe.horizontal_flip.prob))
    return v2.Compose(steps)
