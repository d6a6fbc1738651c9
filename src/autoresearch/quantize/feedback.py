"""Error feedback: each column's rounding error is made good by the columns that follow, as the layer's inputs weigh it.

For a linear layer y = W x the error that counts is tr(E H E^T), H = X^T X over calibration inputs X [tokens, columns].
GPTQ (arXiv 2210.17323) and LDLQ (QuIP, arXiv 2307.13304, which proves them equal) round columns in turn and move the rest
by the optimal answer to the error so far. With U the upper Cholesky factor of H^-1 = U^T U, an error E in the block B of
columns is answered by -E U_BB^-1 U_BR in the rest R. A block of one column is GPTQ; wider ones serve the trellis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from autoresearch.vocabulary import UsageError

if TYPE_CHECKING:
    import torch

BATCH = 128  # columns whose answers are saved up for one matrix product; the result is the same for any
MAX_DAMPING_TRIES = 6


def checked_hessian(hessian: torch.Tensor, cols: int, name: str) -> torch.Tensor:
    """The Hessian as float64, symmetric; on the CPU where its device has no float64.

    Raises:
        UsageError: it is not a finite symmetric [cols, cols] with a non-negative diagonal.
    """
    import torch

    hint = "give X^T X of the layer's inputs, float [columns, columns]"
    if tuple(hessian.shape) != (cols, cols):
        raise UsageError(f"{name}: its Hessian is {list(hessian.shape)}, its columns are {cols}", hint=hint)
    wide = (hessian.detach().cpu() if hessian.device.type == "mps" else hessian.detach()).to(torch.float64)
    if not bool(torch.isfinite(wide).all()):
        raise UsageError(f"{name}: its Hessian holds NaN or infinity", hint=hint)
    largest = float(wide.abs().max())
    if float((wide - wide.T).abs().max()) > 1e-3 * largest or float(wide.diagonal().min()) < 0:
        raise UsageError(f"{name}: its Hessian is not symmetric with a non-negative diagonal", hint=hint)
    return (wide + wide.T) / 2


def inverse_factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """U [cols, cols], upper triangular, U^T U = (H + damping mean(diag H) I)^-1, float64.

    Where rounding leaves the damped Hessian indefinite, the damping grows tenfold, at most six times. A Hessian of zeros
    (no calibration input reached the layer) becomes the identity: plain rounding.
    """
    import torch

    identity = torch.eye(hessian.size(0), dtype=hessian.dtype, device=hessian.device)
    mean = float(hessian.diagonal().mean())
    if mean == 0:
        return identity
    scaled = hessian / mean
    for attempt in range(MAX_DAMPING_TRIES):
        lower, trouble = torch.linalg.cholesky_ex(scaled + damping * 10**attempt * identity)
        if int(trouble) == 0:
            factor: torch.Tensor
            factor, trouble = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if int(trouble) == 0:
                return factor
    raise UsageError("a Hessian is far from positive definite", hint="compute it from the layer's inputs as X^T X")


def with_feedback(
    weights: torch.Tensor,
    factor: torch.Tensor,
    width: int,
    quantize_columns: Callable[[slice, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Quantize weights [rows, cols] in blocks of `width` columns with feedback; returns the quantized values.

    quantize_columns: given the columns' place and their corrected values [rows, width], returns what they become, and keeps
        the codes to itself.
    """
    import torch

    remaining, values = weights.clone(), torch.empty_like(weights)
    factor = factor.to(weights.dtype).to(weights.device)  # in this order: MPS knows no float64
    cols = weights.size(1)
    batch = max(BATCH // width, 1) * width
    for start in range(0, cols, batch):
        stop = min(start + batch, cols)
        answers = torch.empty(weights.size(0), stop - start, dtype=weights.dtype, device=weights.device)
        for left in range(start, stop, width):
            here = slice(left, min(left + width, stop))
            values[:, here] = quantize_columns(here, remaining[:, here])
            error = remaining[:, here] - values[:, here]
            corner = factor[here, here]
            answer = (
                error / corner
                if here.stop - here.start == 1
                else torch.linalg.solve_triangular(corner, error, upper=True, left=False)
            )
            answers[:, here.start - start : here.stop - start] = answer
            remaining[:, here.stop : stop] -= answer @ factor[here, here.stop : stop]
        remaining[:, stop:] -= answers @ factor[start:stop, stop:]
    return values
