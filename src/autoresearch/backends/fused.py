"""Pieces of a transformer with their backward pass written out, for float32 on a CPU, where nothing fuses operations.

Each function computes the expression in its first line, to rounding, and is that expression wherever writing it out would not
help: on an accelerator, in another dtype, in compiled code (which fuses by itself). An experiment may write the expression instead; it
loses the time stated, no more. Times are CPU milliseconds of one thread on a busy machine, forward and backward, at the shapes of
`tiny`: 2048 positions, width 64, hidden 256. None can be differentiated twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

EPS = torch.finfo(torch.float32).eps  # what F.rms_norm adds under the root


def helps(x: Tensor) -> bool:
    """Whether writing the backward pass out is faster for this tensor."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def rms_norm(x: Tensor) -> Tensor:
    """`F.rms_norm(x, (x.size(-1),))` over the last dimension.

    0.9 ms instead of 1.7 ms; since then the backward pass has gone from 0.22 ms to 0.08 ms on a quiet core.
    """
    return _RmsNorm.apply(x) if helps(x) else F.rms_norm(x, (x.size(-1),))


def relu_squared_linear(x: Tensor, weight: Tensor) -> Tensor:
    """`F.relu(F.linear(x, weight)).square()`, x [..., C], weight [H, C] -> [..., H].

    The squared ReLU within it took 1.1 ms instead of 3.4 ms. Its backward pass overwrites what it kept, so it runs once: the second,
    after `backward(retain_graph=True)`, raises RuntimeError.
    """
    return _ReluSquaredLinear.apply(x, weight) if helps(x) else F.relu(F.linear(x, weight)).square()


def turn_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a, b) -> (a cos + b sin, b cos - a sin) for each channel a of x [B, T, H, D] and the one behind it, b.

    cos and sin [1, T, 1, D/2]. As one product of complex numbers: 0.13 ms forward, where turning halves by `roll` took 1.05 ms.
    """
    if helps(x):
        return _TurnPairs.apply(x, cos, sin)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos + b * sin, b * cos - a * sin), dim=-1).flatten(-2)


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = size.square_().mul_(1 / x.size(-1)).add_(EPS).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """inverse * (grad - y * mean(grad * y)).

        PyTorch has that as one kernel: the backward pass of g v / |v| is g / |v| * (grad - v * sum(grad * v) / |v|^2), here with
        v = y, |v| = sqrt(C) and g = inverse * sqrt(C).
        """
        y, inverse = ctx.saved_tensors
        width = y.size(-1)
        rows, norm = y.reshape(-1, width), math.sqrt(width)
        gain, norms = (inverse * norm).reshape(-1, 1), rows.new_full((rows.size(0), 1), norm)
        grads = grad.reshape(rows.shape).contiguous()
        grad_x: Tensor = torch.ops.aten._weight_norm_interface_backward(grads, rows.contiguous(), gain, norms, 0)[0]
        return grad_x.view(y.shape)


class _ReluSquaredLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        positive = F.linear(x, weight).clamp_min_(0)
        ctx.save_for_backward(x, weight, positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        if getattr(ctx, "spent", False):
            raise RuntimeError(
                "relu_squared_linear has one backward pass: write F.relu(F.linear(x, weight)).square() for more"
            )
        ctx.spent = True
        x, weight, positive = ctx.saved_tensors
        # Into memory that is warm: a new tensor of 2 MB cost 4 % of a whole step. The 2 of the square goes into the small factors.
        half = positive.detach().mul_(grad).flatten(0, -2)  # [N, H]
        grad_x = torch.mm(half, 2 * weight).view(x.shape)
        # x^T g is 1.4x as fast as g^T x, whose product has the long side in front
        return grad_x, torch.mm(x.flatten(0, -2).t(), half).mul_(2).t()


class _TurnPairs(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        # One angle per head: 0.13 ms a product; a table that is broadcast over heads takes 0.33 ms.
        cos, sin = (t.expand(-1, -1, x.size(2), -1).contiguous() for t in (cos, sin))
        ctx.tables = cos, sin
        return _times(x, cos, sin, -1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.tables
        return _times(grad, cos, sin, 1.0), None, None


def _times(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """Pairs of channels as complex numbers, times cos + sign * i sin."""
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sign * sin)
    return torch.view_as_real(turned).flatten(-2)
