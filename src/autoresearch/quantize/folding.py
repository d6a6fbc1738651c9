"""A portable model in the form that stock runtimes compute, and back. Exact but for float32's rounding.

Stock here is a transformer with RMS norms before each part and on queries and keys, rotary embedding, and squared ReLU
(Apertus with its xIELU set to it; NanoChat). What the shipped model has besides is folded into weights:

    resid_lambdas  the stream entering layer i is P_i times the stock one, P_i the product of the lambdas so far. A norm
                   drops |P_i|; its sign goes into the matrices that read the norm, 1/P_i into those that write the stream
    norm(wte)      each embedding row over its root mean square, once and for all
    rotary         ours turns by minus the angle. With the halves of each head swapped in c_q and c_k, plus the angle does it
    QK norm        before or after the rotation is the same: a rotation keeps the length

A norm's epsilon (1.2e-7) stays outside: the stock stream is 1/P_i of ours, which matters when the lambdas' product is
below a thousandth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoresearch.quantize.architecture import RMS_EPS, ArchitectureEdited, ModelConfig, obstacles
from autoresearch.vocabulary import UsageError

if TYPE_CHECKING:
    import torch

PORTABLE = 'train with ARCHITECTURE = "portable" in train.py, or export for our own loader: --architecture autoresearch'


def foldable(config: ModelConfig, tensors: Mapping[str, torch.Tensor], *, with_softcap: bool = False) -> list[str]:
    """Why a stock runtime cannot compute this model, a phrase a reason; empty when it can.

    with_softcap: the runtime has a softcap (NanoChat has, Apertus has not).
    """
    reasons = [reason for reason in obstacles(config) if not (with_softcap and reason.startswith("softcap"))]
    if not reasons and not bool((tensors["resid_lambdas"] != 0).all()):
        reasons.append("a resid_lambda of exactly 0")
    return reasons


def fold(
    config: ModelConfig, tensors: Mapping[str, torch.Tensor], *, normalise: bool, swap: bool, with_softcap: bool = False
) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """The stock form under the tensors' own names, float32, with all resid_lambdas 1.

    normalise: embedding rows leave normalised. swap: the halves of the heads in c_q and c_k change places.

    Raises:
        UsageError: the model is not portable; the message says what is in the way.
    """
    import torch

    reasons = foldable(config, tensors, with_softcap=with_softcap)
    if reasons:
        raise UsageError(f"no stock runtime computes this model: it has {', '.join(reasons)}", hint=PORTABLE)
    out = {name: tensor.to(torch.float32) for name, tensor in tensors.items() if name != "x0_lambdas"}
    product = torch.cumprod(out["resid_lambdas"].to(torch.float64), 0)
    for i, scale in enumerate(product.tolist()):
        sign = 1.0 if scale > 0 else -1.0
        at = f"layers.{i}"
        for name in ("attn.c_q", "attn.c_k", "attn.c_v", "mlp.c_fc"):
            out[f"{at}.{name}.weight"] = sign * out[f"{at}.{name}.weight"]
        for name in ("attn.c_proj", "mlp.c_proj"):
            out[f"{at}.{name}.weight"] = (out[f"{at}.{name}.weight"].double() / scale).float()
        if swap:
            for name in ("attn.c_q", "attn.c_k"):
                out[f"{at}.{name}.weight"] = swapped(out[f"{at}.{name}.weight"], config.head_dim)
    if product[-1] < 0:
        out["lm_head.weight"] = -out["lm_head.weight"]
    out["resid_lambdas"] = torch.ones(config.n_layer)
    if normalise and not config.normalised_embeddings:
        rows = out["wte.weight"].double()
        out["wte.weight"] = (rows / (rows.square().mean(-1, keepdim=True) + RMS_EPS).sqrt()).float()
    return dataclasses.replace(config, normalised_embeddings=normalise or config.normalised_embeddings), out


def swapped(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """c_q or c_k [H*D, C] with the first and second half of each head's rows exchanged. Its own inverse."""
    import torch

    if weight.size(0) % head_dim or head_dim % 2:
        raise ArchitectureEdited(f"{weight.size(0)} rows are no heads of {head_dim}", hint=PORTABLE)
    heads = weight.view(-1, 2, head_dim // 2, weight.size(1))
    return torch.flip(heads, (1,)).reshape(weight.shape).contiguous()
