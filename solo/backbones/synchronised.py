"""BatchNorm over the global batch, which does not wait for the device.

torch's ``SyncBatchNorm`` drops the statistics of processes without images, by a mask on the device:
each layer waits three times for it in each forward pass, and CPUs are refused. Here every process
brings images, as its sampler gives it some.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from solo import distributed
from solo.config import ConfigError


class GlobalBatchNorm(_BatchNorm):
    """Normalises [N, C, …] with mean and variance of all processes' samples, in training.

    The first dimension may differ between processes, but may not be 0. Statistics are float32 for
    half precision. In evaluation, and with one process, it is BatchNorm as torch has it.

    Raises:
        ValueError: for inputs that have other than the layer's channels.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Same shape and dtype."""
        if not (self.training and distributed.is_distributed()):
            return super().forward(input)
        self._check_input_dim(input)
        momentum, tracked = self.momentum, self.track_running_stats
        if tracked and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean of all batches; torch reads their number back, too
                momentum = 1 / float(self.num_batches_tracked)
        running = (self.running_mean, self.running_var) if tracked else (None, None)
        normalise = self._by_kernels if input.is_cuda else self._normalise
        return normalise(input, *running, momentum or 0.0)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            wanted = f"[N, {self.num_features}, …]"
            raise ValueError(f"BatchNorm takes {wanted}, not {list(input.shape)}")

    # The kernels change running statistics and do not say so: a compiled graph ends here.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _by_kernels(
        self, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float
    ) -> Tensor:
        """By torch's kernels for GPUs."""
        affine = self.weight, self.bias
        out: Tensor = _ByKernels.apply(x, *affine, running_mean, running_var, self.eps, momentum)
        return out

    def _normalise(
        self, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float
    ) -> Tensor:
        """By tensor operations that autograd knows."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(wide, axes, correction=0)
        means, variances, counts = _of_all(x, mean, variance)
        counts = counts.detach()
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean).square()) * counts).sum(0) / total
        if running_mean is not None and running_var is not None:
            unbiased = variance.detach() * total / (total - 1)
            running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        shape = (-1, *[1] * (x.ndim - 2))
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        out = (wide - mean.view(shape)) * scale.view(shape)
        return (out if self.bias is None else out + self.bias.view(shape)).to(x.dtype)


class _ByKernels(torch.autograd.Function):
    """The same by the kernels that torch has for it on GPUs: x is read twice, and it and its
    upstream gradient twice more on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        eps: float,
        momentum: float,
    ) -> Tensor:
        x = x.contiguous(memory_format=_order(x))
        means, scales, counts = _of_all(x, *torch.batch_norm_stats(x, eps))
        counts = counts.flatten()
        # The first argument gives a dtype alone; x's would be wrong in half precision.
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            means, means, scales, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, scale, counts.int())
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counts = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_order(x))
        needed = ctx.needs_input_grad[:3]
        own, own_products, *affine = torch.batch_norm_backward_reduce(
            grad, x, mean, scale, weight, *needed
        )
        # Some kernels give what nobody asked for.
        of_weight, of_bias = (each if ask else None for each, ask in zip(affine, needed[1:]))
        of_x = None
        if needed[0]:
            total, products = distributed.all_sum(torch.stack((own, own_products)))
            of_x = torch.batch_norm_backward_elemt(
                grad, x, mean, scale, weight, total, products, counts
            )
        return of_x, of_weight, of_bias, None, None, None, None


def _of_all(x: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two statistics of each process's samples, [W, C], and their number, [W, 1]."""
    channels = x.shape[1]
    count = mean.new_full((1,), x.numel() // channels)
    everyone = distributed.gather(torch.cat((mean, spread, count))[None])
    means, spreads, counts = everyone.split((channels, channels, 1), dim=1)
    return means, spreads, counts


def _order(x: Tensor) -> torch.memory_format:
    """Its order of memory, or the nearest that the kernels take."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return last if last and x.is_contiguous(memory_format=last) else torch.contiguous_format


class _WithActivation(GlobalBatchNorm):
    """timm's BatchNorm, with what comes behind it."""

    act: nn.Module
    drop: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(input)))
        return out


def synchronise_batchnorm(model: nn.Module) -> nn.Module:
    """Let each BatchNorm of a model be a :class:`GlobalBatchNorm`, in place; gives the model.

    Parameters, buffers and what hangs on them stay; timm's layers keep activation and drop.

    Raises:
        ConfigError: for a kind of BatchNorm that computes in its own way.
    """
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, GlobalBatchNorm):
            continue
        kind = _KINDS.get(type(module).forward)
        if kind is None:
            raise ConfigError(
                f"sync_batchnorm is true, but {name} is a {type(module).__name__}, which cannot be "
                "synchronised; set sync_batchnorm=false"
            )
        module.__class__ = kind
    return model


_KINDS: dict[Any, type[GlobalBatchNorm]] = {
    _BatchNorm.forward: GlobalBatchNorm,
    nn.SyncBatchNorm.forward: GlobalBatchNorm,
    BatchNormAct2d.forward: _WithActivation,
}
"""By how a layer computes."""
