"""LARS (arXiv 1708.03888): SGD with a layer-wise trust ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Momentum SGD on gradients scaled layer by layer.

    The scaled gradient of a layer is ``ratio * (g + wd * w)`` with
    ``ratio = eta * ||w|| / (||g|| + wd * ||w|| + eps)``. Layers whose weights or gradients are all
    zero are left unscaled and undecayed.

    All layers of a group are updated together, by foreach kernels, and no norm is read back from
    the device; nor is a gradient scaler's finding, where the step itself divides by the scale
    (as torch's fused optimizers do).

    Args:
        params: parameters or groups.
        lr: learning rate.
        momentum: of the velocity.
        weight_decay: added to the gradient before scaling.
        eta: trust coefficient.
        eps: keeps the ratio finite.
        clip_lr: cap the ratio at ``lr``, so that a layer's rate never exceeds ``lr``:
            ``min(ratio / lr, 1)``.
        exclude_bias_n_norm: one-dimensional parameters get neither ratio nor weight decay.
        unscales: take scaled gradients from a :class:`torch.amp.GradScaler`; false where they are
            clipped before the step.

    Raises:
        ValueError: for a negative value.

    Example:
        >>> weight = torch.nn.Parameter(torch.full((2, 2), 3.0))
        >>> weight.grad = torch.ones(2, 2)
        >>> LARS([weight], lr=1.0, eta=0.1).step()  # by a tenth of its norm
        >>> weight.data
        tensor([[2.7000, 2.7000],
                [2.7000, 2.7000]])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        eps: float = 1e-8,
        clip_lr: bool = False,
        exclude_bias_n_norm: bool = False,
        unscales: bool = False,
    ) -> None:
        numbers = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "eta": eta,
            "eps": eps,
        }
        for name, value in numbers.items():
            if value < 0:
                raise ValueError(f"{name} is {value}; it must not be negative")
        flags = {"clip_lr": clip_lr, "exclude_bias_n_norm": exclude_bias_n_norm}
        super().__init__(params, {**numbers, **flags})
        self._step_supports_amp_scaling = unscales

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Set by a gradient scaler while it calls: numbers on the device.
        scale, found = (getattr(self, name, None) for name in ("grad_scale", "found_inf"))
        skip = None if found is None else found.reshape(()) != 0
        factor = 1.0 if scale is None else scale.reciprocal().reshape(())
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates = list(torch._foreach_mul([p.grad for p in params], factor))
            if skip is not None:
                for update in updates:
                    update.masked_fill_(skip, 0)
            self._scale(params, updates, group)
            if group["momentum"] != 0:
                updates = self._accelerate(params, updates, group["momentum"], skip)
            torch._foreach_add_(params, updates, alpha=-group["lr"])
        return loss

    @staticmethod
    def _scale(params: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        """Turn gradients into scaled, decayed gradients, in place."""
        chosen = [
            i for i, p in enumerate(params) if not (group["exclude_bias_n_norm"] and p.ndim <= 1)
        ]
        if not chosen:
            return
        weights, gradients = [params[i] for i in chosen], [updates[i] for i in chosen]
        w_norm = torch.stack(torch._foreach_norm(weights))
        g_norm = torch.stack(torch._foreach_norm(gradients))
        decay = group["weight_decay"]
        ratio = group["eta"] * w_norm / (g_norm + decay * w_norm + group["eps"])
        if group["clip_lr"]:
            ratio = (ratio / group["lr"]).clamp(max=1) if group["lr"] > 0 else ratio.clamp(max=1)
        alive = (w_norm != 0) & (g_norm != 0)
        ratio = torch.where(alive, ratio, torch.ones_like(ratio))
        if decay != 0:
            decays = torch.where(alive, decay, 0.0).to(w_norm.dtype)
            torch._foreach_add_(gradients, torch._foreach_mul(weights, decays.unbind()))
        torch._foreach_mul_(gradients, ratio.unbind())

    def _accelerate(
        self, params: list[Tensor], updates: list[Tensor], momentum: float, skip: Tensor | None
    ) -> list[Tensor]:
        """Fold the updates into the velocities and return those; zeros for a step left out."""
        velocities = []
        for p, update in zip(params, updates):
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(update)
            velocities.append(state["momentum_buffer"])
        kept = momentum if skip is None else torch.where(skip, 1.0, momentum)
        torch._foreach_mul_(velocities, kept)
        torch._foreach_add_(velocities, updates)
        if skip is None:
            return velocities
        return list(torch._foreach_mul(velocities, torch.where(skip, 0.0, 1.0)))
