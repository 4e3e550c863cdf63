"""BatchNorm over the global batch, which never waits for the device.

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


class GlobalBatchNorm(_BatchNorm):
    """Normalises [N, C, …] with mean and variance of all processes' samples, in training.

    The first dimension may differ between processes, but may not be 0. Statistics are float32 for
    half precision. In evaluation, and with one process, it is BatchNorm as torch has it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Same shape and dtype."""
        if not (self.training and distributed.is_distributed()):
            return super().forward(input)
        self._check_input_dim(input)
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean of all batches; torch reads their number back, too
                momentum = 1 / float(self.num_batches_tracked)
        if not input.is_cuda:
            return self._normalise(input, momentum or 0.0)
        running = self.running_mean, self.running_var
        options = self.eps, momentum or 0.0
        out: Tensor = _ByKernels.apply(input, self.weight, self.bias, *running, *options)
        return out

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"BatchNorm takes [N, C, …], not {list(input.shape)}")

    def _normalise(self, x: Tensor, momentum: float) -> Tensor:
        """By tensor operations that autograd knows."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(wide, axes, correction=0)
        count = mean.new_full((1,), x.numel() // x.shape[1])
        everyone = distributed.gather(torch.cat((mean, variance, count))[None])
        means, variances, counts = everyone.split((len(mean), len(mean), 1), dim=1)
        counts = counts.detach()
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean).square()) * counts).sum(0) / total
        if self.running_mean is not None and self.running_var is not None:
            unbiased = variance.detach() * total / (total - 1)
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        shape = (-1, *[1] * (x.ndim - 2))
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        out = (wide - mean.view(shape)) * scale.view(shape)
        return (out if self.bias is None else out + self.bias.view(shape)).to(x.dtype)


class _ByKernels(torch.autograd.Function):
    """The same by the kernels that torch has for it on GPUs: x is read twice, and once more for
    the gradient, beside what it is multiplied with."""

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
        x = _dense(x)
        own = torch.batch_norm_stats(x, eps)
        channels = x.shape[1]
        count = own[0].new_full((1,), x.numel() // channels)
        everyone = distributed.gather(torch.cat((*own, count))[None])
        means, scales, counts = everyone.split((channels, channels, 1), dim=1)
        counts = counts.flatten()
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            x, means, scales, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, scale, counts.int())
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counts = ctx.saved_tensors
        grad = _dense(grad)
        own, own_products, of_weight, of_bias = torch.batch_norm_backward_reduce(
            grad, x, mean, scale, weight, *ctx.needs_input_grad[:3]
        )
        of_x = None
        if ctx.needs_input_grad[0]:
            total, products = distributed.all_sum(torch.stack((own, own_products)))
            of_x = torch.batch_norm_backward_elemt(
                grad, x, mean, scale, weight, total, products, counts
            )
        return of_x, of_weight, of_bias, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """In an order of memory that the kernels take."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return x if last and x.is_contiguous(memory_format=last) else x.contiguous()


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
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, GlobalBatchNorm):
            behind = isinstance(module, BatchNormAct2d)
            module.__class__ = _WithActivation if behind else GlobalBatchNorm
    return model
