"""Objectives by name: here the loop is given what it may not import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoresearch.loop.objective import PLAIN, Objective
from autoresearch.vocabulary import UsageError

if TYPE_CHECKING:
    import torch

DEFAULT_METHOD = "turboquant"


def objective_named(name: str) -> Objective | None:
    """The objective of that name, `bpb@4bit` or `bpb@4bit:METHOD`; None for plain val_bpb.

    Raises:
        UsageError: there is no such method, not at that width, or it needs calibration text.
    """
    if name == PLAIN:
        return None
    from autoresearch.quantize.objective import AtBits
    from autoresearch.quantize.scheme import Scheme
    from autoresearch.quantize.turboquant import quantize_tensor

    setting, _, method = name.partition(":")
    scheme = Scheme(method or DEFAULT_METHOD, int(setting.removeprefix("bpb@").removesuffix("bit")))
    if scheme.how.feedback:
        raise UsageError(
            f"{scheme.method} needs the inputs of each layer, and a trial hands over its weights alone",
            hint=f"--objective {setting}:{scheme.method.removesuffix('_ldlq')}",
        )

    def code(tensor_name: str, matrix: torch.Tensor) -> torch.Tensor:
        return quantize_tensor(matrix, scheme, name=tensor_name).dequantize()

    return AtBits(name, code)
