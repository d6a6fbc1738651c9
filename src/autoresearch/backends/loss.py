"""Cross-entropy of soft-capped logits, in blocks of rows, so that the logits of a whole batch never exist.

At the published sizes logits are 262,144 x 8,192: 8.6 GB in float32, written and read five times and more. Here each block's
logits, in the dtype of the matrix products, become float32 within the block, and their gradient is taken in the same
pass: what stays of a block is its share of three sums.

The loss is that of `F.cross_entropy(cap * tanh(x W^T / cap), targets)`; a cap of 0 means no cap.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

# Elements of a block's logits. On a CPU they must stay in the cache: 256 rows of 1024; 128 to 512 rows measured alike, 64
# slower. Elsewhere 2^25 float32 are 134 MB, 4096 rows of 8192 (not tuned on a GPU).
CPU_ELEMENTS, ELEMENTS = 2**18, 2**25
LARGEST_CAP = 30.0  # above it a probability, at least exp(-2 cap) / V, may vanish in float32


def softcapped_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, cap: float, *, compiled: bool = False
) -> Tensor:
    """Mean loss in nats, float32 scalar. x [N, C], weight [V, C], targets int64 [N].

    The dtype of x is that of the matrix products; sums over rows and the gradient of `weight` are float32. compiled: the blocks run
    through torch.compile, which makes one kernel of all that happens between two matrix products.
    """
    loss: Tensor = _BlockwiseLoss.apply(x, weight, targets, cap, compiled)
    return loss


class _BlockwiseLoss(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, cap: float, compiled: bool) -> Tensor:
        on_cpu = x.device.type == "cpu"
        if on_cpu and x.dtype == torch.float32 and 0 < cap <= LARGEST_CAP:
            nll, grad_x, grad_weight = _in_place(x, weight, targets, cap)
        else:
            block = _compiled_block() if compiled else _block
            nll, grad_x, grad_weight = _in_blocks(block, x, weight, targets, cap, CPU_ELEMENTS if on_cpu else ELEMENTS)
        ctx.save_for_backward(grad_x.div_(x.size(0)), grad_weight.div_(x.size(0)))
        return nll / x.size(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return (grad_x * grad_loss).to(grad_x.dtype), grad_weight * grad_loss, None, None, None


def _in_place(x: Tensor, weight: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor, Tensor]:
    """float32 on a CPU: two buffers for all blocks. Logits within +-30 need no maximum taken off before exp.

    A row is divided by its total where it is short, in `x` and in `grad_x`, not over its V entries; and x^T g, whose long side
    stands behind, is 1.1 to 1.25 times as fast as g^T x.
    """
    num_rows = max(1, CPU_ELEMENTS // weight.size(0))
    scaled = x * (1 / cap)
    totals, of_target = x.new_empty(2, x.size(0), 1).unbind(0)
    grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight.t(), memory_format=torch.contiguous_format)
    tanh_buffer, grad_buffer = x.new_empty(2, num_rows, weight.size(0)).unbind(0)
    by_row = (scaled, targets[:, None], totals, of_target, grad_x)
    for inputs, target, total, picked, out in zip(*(tensor.split(num_rows) for tensor in by_row), strict=True):
        tanh, grad = tanh_buffer[: inputs.size(0)], grad_buffer[: inputs.size(0)]
        torch.mm(inputs, weight.t(), out=tanh).tanh_()
        torch.mul(tanh, cap, out=grad).exp_()
        torch.sum(grad, dim=-1, keepdim=True, out=total)
        torch.gather(tanh, 1, target, out=picked)
        grad.scatter_add_(1, target, -total)  # total times (softmax minus one-hot)
        torch.ops.aten.tanh_backward(grad, tanh, grad_input=grad)  # times 1 - tanh^2
        torch.mm(grad, weight, out=out)
        grad_weight.addmm_((inputs * (cap / total)).t(), grad)
    nll = totals.log().sum() - cap * of_target.sum()
    return nll, grad_x.div_(totals), grad_weight.t()


def _in_blocks(
    block: Any, x: Tensor, weight: Tensor, targets: Tensor, cap: float, elements: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Any device and dtype. Blocks of equal size where the rows divide: one shape, one compilation."""
    num_blocks = -(-x.size(0) * weight.size(0) // elements)
    num_rows = -(-x.size(0) // num_blocks)
    matrix = weight.to(x.dtype)
    nll = torch.zeros((), device=x.device)
    grad_x = torch.empty_like(x)
    grad_weight = torch.zeros_like(weight, dtype=torch.float32)
    for start in range(0, x.size(0), num_rows):
        rows = slice(start, start + num_rows)
        block_nll, grad_x[rows], of_weight = block(x[rows], matrix, targets[rows], cap)
        nll += block_nll
        grad_weight += of_weight
    return nll, grad_x, grad_weight


def _block(x: Tensor, weight: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss of some rows, and its gradients by x and weight in their dtype."""
    logits = (x @ weight.t()).float()
    tanh = torch.tanh(logits / cap) if cap else logits
    logits = cap * tanh if cap else logits
    log_total = torch.logsumexp(logits, dim=-1, keepdim=True)
    target = targets[:, None]
    nll = (log_total - logits.gather(1, target)).sum()
    is_target = torch.arange(logits.size(1), device=logits.device) == target
    grad = torch.exp(logits - log_total) - is_target.float()
    if cap:
        grad = grad * (1 - tanh.square())
    grad = grad.to(x.dtype)
    return nll, grad @ weight, grad.t() @ x


@cache
def _compiled_block() -> Any:
    return torch.compile(_block, dynamic=False)
