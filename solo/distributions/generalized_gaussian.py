"""The rectified generalized Gaussian: the target distribution of Rectified LpJEPA.

``Y ~ GN_p(mu, sigma)`` has density proportional to ``exp(-|y - mu|^p / (p sigma^p))``, and the
target is ``X = max(Y, 0)``, coordinate by coordinate (arXiv 2602.01456). With
``T = |Y - mu| / sigma``, ``T^p / p`` is Gamma(1/p, 1); moments of a truncated ``T`` are therefore
regularised incomplete gamma functions, and everything below is a closed form in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from scipy import special
from scipy.optimize import brentq
from torch import Tensor

from solo.distributions.quadrature import panel_rule

SigmaMode = Literal["sigma_GN", "sigma_RGN"]


def unit_variance_scale(p: float) -> float:
    """Scale at which GN_p(mu, sigma), not rectified, has variance 1."""
    _check_p(p)
    log_ratio = special.gammaln(1 / p) - special.gammaln(3 / p)
    return float(math.exp(0.5 * log_ratio - math.log(p) / p))


class GeneralizedGaussian:
    """GN_p(mu, sigma) with independent coordinates; p = 2 is a Gaussian, p = 1 a Laplace.

    Args:
        p: shape, > 0. Small p: heavy tails and a sharp peak.
        mu: location.
        sigma: scale, > 0; None takes the scale of unit variance.

    Raises:
        ValueError: for p or sigma not above 0, or a value that is not finite.

    Example:
        >>> laplace = GeneralizedGaussian(p=1.0)
        >>> round(laplace.sigma, 4), round(laplace.variance, 4), laplace.expected_l0
        (0.7071, 1.0, 1.0)
    """

    def __init__(self, p: float = 1.0, mu: float = 0.0, sigma: float | None = None) -> None:
        _check_p(p)
        if not math.isfinite(mu):
            raise ValueError(f"mu is {mu}; it must be a finite number")
        if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"sigma is {sigma}; it must be above 0")
        self.p = float(p)
        self.mu = float(mu)
        self.sigma = unit_variance_scale(p) if sigma is None else float(sigma)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p:g}, mu={self.mu:g}, sigma={self.sigma:g})"

    @property
    def mean(self) -> float:
        """The expectation E[X]."""
        return self.mu

    @property
    def variance(self) -> float:
        """The variance Var[X]."""
        return (self.sigma / unit_variance_scale(self.p)) ** 2

    @property
    def expected_l0(self) -> float:
        """P(X != 0), the expected fraction of non-zero coordinates."""
        return 1.0

    def sample(
        self,
        size: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Independent draws of shape ``size``.

        For p other than 1 and 2: if G ~ Gamma(1 + 1/p) and U is uniform on (-1, 1), then
        ``U (p G)^(1/p)`` is GN_p(0, 1). Unlike a Gamma(1/p) draw, this does not underflow for
        large p.
        """
        options = {"device": device, "dtype": dtype}
        if self.p == 2:
            unit = torch.randn(*size, generator=generator, **options)  # type: ignore[call-overload]
        else:
            uniform = torch.rand(*size, generator=generator, **options)  # type: ignore[call-overload]
            uniform = uniform.mul_(2).sub_(1)
            if self.p == 1:  # Laplace, by its quantile function; -1 itself would be infinite
                smallest = torch.finfo(dtype).tiny
                magnitude = (1 - uniform.abs()).clamp_min_(smallest).log_().neg_()
                unit = magnitude.copysign_(uniform)
            else:
                shape = torch.full(tuple(size), 1 + 1 / self.p, **options)  # type: ignore[call-overload]
                gamma = torch._standard_gamma(shape, generator=generator)
                unit = gamma.mul_(self.p).pow_(1 / self.p).mul_(uniform)
        return unit.mul_(self.sigma).add_(self.mu)

    def cdf(self, x: Tensor | float) -> Tensor:
        """P(X <= x), elementwise; a float gives a float64 scalar tensor."""
        x = _as_tensor(x)
        offset = (x - self.mu) / self.sigma
        inside = torch.special.gammainc(
            torch.full_like(offset, 1 / self.p), offset.abs().pow(self.p) / self.p
        )
        return (1 + offset.sign() * inside) / 2

    def characteristic_function(self, t: Tensor | float) -> Tensor:
        """E[exp(i t X)], elementwise, complex128; absolute error below 1e-9."""
        t = _as_tensor(t)
        frequencies = t.detach().double().cpu().numpy().ravel()
        values = self.expectation(lambda x: np.exp(1j * frequencies[:, None] * x), t.numel())
        return torch.from_numpy(values).reshape(t.shape).to(t.device)

    def expectation(
        self,
        function: Callable[[np.ndarray], np.ndarray],
        size: int = 1,
        tolerance: float = 1e-10,
    ) -> np.ndarray:
        """E[function(X)], by quadrature whose panels are doubled until the values stand still.

        Args:
            function: values of X, float64 [n], to what is averaged, [size, n]; smooth but where X
                has its atom, of values about 1 or below.
            size: how many functions these are.
            tolerance: how still the values must stand.

        Returns:
            [size].
        """
        previous: np.ndarray | None = None
        for panels in (2**k for k in range(3, 15)):
            x, mass = _nodes(self, panels)
            pieces = max(1, x.size * size // 2**22)
            parts = zip(np.array_split(x, pieces), np.array_split(mass, pieces))
            result: np.ndarray = sum(function(part) @ weight for part, weight in parts)
            if previous is not None and np.abs(result - previous).max(initial=0) < tolerance:
                break
            previous = result
        return result

    def _apply(self, y: np.ndarray) -> np.ndarray:
        """From Y to X (NumPy), for the quadrature."""
        return y


class RectifiedGeneralizedGaussian(GeneralizedGaussian):
    """max(Y, 0) for Y ~ GN_p(mu, sigma): sparse, non-negative, of maximum entropy for its moments.

    ``mean`` and ``variance`` are those of the rectified variable. See
    :class:`GeneralizedGaussian` for the arguments.

    Example:
        >>> target = RectifiedGeneralizedGaussian.with_expected_l0(0.25, p=2.0)
        >>> round(target.mu, 4), round(target.mean, 4), round(target.expected_l0, 4)
        (-0.6745, 0.1492, 0.25)
    """

    @classmethod
    def with_unit_variance(cls, p: float, mu: float) -> RectifiedGeneralizedGaussian:
        """Choose sigma so that the *rectified* variable has variance 1 (``sigma_RGN``)."""
        start = unit_variance_scale(p)

        def excess(log_sigma: float) -> float:
            return cls(p, mu, math.exp(log_sigma)).variance - 1

        low = high = math.log(start)
        while excess(low) > 0:
            low -= 1
        while excess(high) < 0:
            high += 1
        return cls(p, mu, math.exp(brentq(excess, low, high, xtol=1e-14, rtol=1e-15)))

    @classmethod
    def with_expected_l0(
        cls, l0: float, p: float, mode_of_sigma: SigmaMode = "sigma_GN"
    ) -> RectifiedGeneralizedGaussian:
        """Choose mu so that P(X > 0) = ``l0``.

        P(X > 0) depends on mu / sigma alone, so either meaning of sigma is a closed form.

        Raises:
            ValueError: for l0 outside (0, 1).
        """
        if not 0 < l0 < 1:
            raise ValueError(f"l0 is {l0}; the expected non-zero fraction lies between 0 and 1")
        _check_p(p)
        tail = special.gammaincinv(1 / p, abs(2 * l0 - 1))
        ratio = math.copysign((p * tail) ** (1 / p), l0 - 0.5)  # mu / sigma
        if mode_of_sigma == "sigma_GN":
            sigma = unit_variance_scale(p)
        else:
            sigma = cls(p, ratio, 1.0).variance ** -0.5
        return cls(p, ratio * sigma, sigma)

    @property
    def mean(self) -> float:
        """The expectation E[X] of the rectified variable."""
        return self._moment(1)

    @property
    def variance(self) -> float:
        """The variance Var[X] of the rectified variable."""
        return max(self._moment(2) - self._moment(1) ** 2, 0.0)

    @property
    def expected_l0(self) -> float:
        """P(X > 0), the expected fraction of non-zero coordinates."""
        inside = special.gammainc(1 / self.p, self._edge)
        above = special.gammaincc(1 / self.p, self._edge)
        return float(0.5 * (1 + inside)) if self.mu >= 0 else float(0.5 * above)

    def sample(
        self,
        size: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Independent draws of shape ``size``."""
        return super().sample(size, generator=generator, device=device, dtype=dtype).relu_()

    def cdf(self, x: Tensor | float) -> Tensor:
        """P(X <= x), elementwise; jumps from 0 to ``1 - expected_l0`` at 0."""
        x = _as_tensor(x)
        return torch.where(x < 0, torch.zeros_like(x), super().cdf(x))

    @property
    def _edge(self) -> float:
        """|mu / sigma|^p / p: where the rectification cuts the Gamma variable T^p / p."""
        return abs(self.mu / self.sigma) ** self.p / self.p

    def _moment(self, order: int) -> float:
        """E[X^order], order 1 or 2, from E[(mu ± sigma T)^order; Y > 0]."""
        total = 0.0
        for k in range(order + 1):
            weight = math.comb(order, k) * self.mu ** (order - k) * self.sigma**k
            shape = (k + 1) / self.p
            scale = math.exp(
                special.gammaln(shape) - special.gammaln(1 / self.p) + k / self.p * math.log(self.p)
            )
            if self.mu >= 0:  # all of the upper half, and the lower half down to 0
                part = 1 + (-1) ** k * special.gammainc(shape, self._edge)
            else:
                part = special.gammaincc(shape, self._edge)
            total += 0.5 * weight * scale * part
        return float(total)

    def _apply(self, y: np.ndarray) -> np.ndarray:
        return np.maximum(y, 0.0)


def _check_p(p: float) -> None:
    if not (math.isfinite(p) and p > 0):
        raise ValueError(f"p is {p}; the shape of a generalized Gaussian must be above 0")


def _as_tensor(x: Tensor | float) -> Tensor:
    return x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=torch.float64)


def _nodes(law: GeneralizedGaussian, panels: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes x and weights of Gauss–Legendre quadrature over the distribution of |Y - mu|."""
    p = law.p
    # Beyond `end`, |Y - mu| / sigma has mass below 1e-17. T = v^power smooths the cusp at mu.
    end = (p * special.gammainccinv(1 / p, 1e-17)) ** (1 / p)
    power = math.ceil(max(1.0, 4.0 / p))
    log_norm = -math.log(p) / p - special.gammaln(1 + 1 / p)  # density of T at 0
    cuts = np.array([0.0, end ** (1 / power)])
    if 0 < -law.mu / law.sigma < end or 0 < law.mu / law.sigma < end:  # X has its kink at Y = 0
        cuts = np.insert(cuts, 1, abs(law.mu / law.sigma) ** (1 / power))
    edges = np.concatenate([np.linspace(a, b, panels + 1)[:-1] for a, b in pairwise(cuts)])
    edges = np.append(edges, cuts[-1])
    v, weights = panel_rule(edges, 16)
    distance = v**power
    mass = weights * power * v ** (power - 1) * np.exp(log_norm - distance**p / p) / 2
    y = law.mu + law.sigma * np.concatenate((-distance, distance))
    x, mass = law._apply(y), np.concatenate((mass, mass))
    inside = x == y
    if inside.all():
        return x, mass
    # Rectified: what is cut off is one node, at 0.
    return np.append(x[inside], 0.0), np.append(mass[inside], mass[~inside].sum())
