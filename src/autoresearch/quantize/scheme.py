"""What a quantization scheme is, and the methods by name."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from autoresearch.quantize import trellis
from autoresearch.vocabulary import UsageError

Grid = Literal["lloyd_max", "uniform", "trellis", "symmetric", "asymmetric"]
MAX_BITS = 8
MAX_GROUP = 8192
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Method:
    """What one method does to a tensor.

    grid: where a weight of a group may lie. rotated: whether groups are turned at random first. feedback: whether the
    error of a column is carried into the columns that follow, which needs a Hessian. overhead: fp16 numbers a group.
    """

    grid: Grid
    rotated: bool
    title: str
    feedback: bool = False
    residual_signs: bool = False
    num_scales: int = 1
    widths: tuple[float, float] = (1, MAX_BITS)
    fractional: bool = False  # one tensor can have a width between integers


METHODS: dict[str, Method] = {
    "turboquant": Method("lloyd_max", True, "TurboQuant, mean squared error (arXiv 2504.19874)"),
    "turboquant_ip": Method(
        "lloyd_max", True, "TurboQuant, inner product: b - 1 bits and QJL", residual_signs=True, num_scales=2
    ),
    "turboquant_ldlq": Method("lloyd_max", True, "TurboQuant's grid with error feedback (LDLQ)", feedback=True),
    "trellis": Method("trellis", True, "trellis code (QTIP, arXiv 2406.11235)", widths=(1, trellis.MAX_BITS)),
    "trellis_ldlq": Method(
        "trellis", True, "trellis code with error feedback", feedback=True, widths=(1, trellis.MAX_BITS)
    ),
    "entropy_uniform": Method(
        "uniform", True, "uniform cells, entropy-coded", widths=(0.25, MAX_BITS), fractional=True
    ),
    "entropy_uniform_ldlq": Method(
        "uniform",
        True,
        "uniform cells, entropy-coded, with error feedback",
        feedback=True,
        widths=(0.25, MAX_BITS),
        fractional=True,
    ),
    "rtn_symmetric": Method("symmetric", False, "round to nearest, symmetric, absmax scale"),
    "rtn_asymmetric": Method("asymmetric", False, "round to nearest, asymmetric, clipped for least MSE", num_scales=2),
    "gptq": Method("asymmetric", False, "GPTQ (arXiv 2210.17323): rtn_asymmetric with feedback", True, num_scales=2),
    "lloyd_max": Method("lloyd_max", False, "Lloyd-Max without rotation"),
}


@dataclass(frozen=True)
class Scheme:
    """How a tensor is quantized. Bits are those of the codes; the groups' fp16 scales come on top.

    bits: 1 to 8 (trellis 1 to 4). An entropy-coded uniform grid takes any width, as the entropy aimed at; the others take
        a width between integers in `quantize_model` alone, which gives each tensor an integer so that the average fits.
    group: weights of a row that share a scale.
    seed: of the rotation, together with the tensor's name.
    entropy: store the codes entropy-coded where that is smaller; `entropy_uniform` always does.
    least_squares: scale each group for least error given its codes (EDEN, ICML 2022; arXiv 2604.18555) instead of keeping
        its norm. Same storage. Ignored with feedback, which has already answered for the error of the other scale.
    damping: added to the Hessian's diagonal, as a part of its mean (GPTQ's percdamp, 0.01 there as here).
    memory_bits: log2 of the trellis's states.
    """

    method: str = "turboquant"
    bits: float = 4
    group: int = 128
    seed: int = 0
    entropy: bool = False
    least_squares: bool = False
    damping: float = 0.01
    memory_bits: int = 12

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"no quantization method {self.method!r}", hint=f"choose one of {', '.join(METHODS)}")
        low, high = self.how.widths
        if not _is_number(self.bits) or not low <= self.bits <= high:
            raise UsageError(
                f"{self.method} has no width of {self.bits!r} bits", hint=f"choose {low} to {high} bits for it"
            )
        if not _is_count(self.group) or not 1 <= self.group <= MAX_GROUP:
            raise UsageError(f"group is {self.group!r}", hint=f"choose 1 to {MAX_GROUP} weights a group; 128 is usual")
        if not _is_count(self.seed) or not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed is {self.seed!r}", hint="choose a whole number from 0")
        if not _is_number(self.damping) or not 0 < self.damping <= 1:
            raise UsageError(f"damping is {self.damping!r}", hint="choose a part of the Hessian's mean, such as 0.01")
        low, high = trellis.MIN_MEMORY_BITS, trellis.MAX_MEMORY_BITS
        if not _is_count(self.memory_bits) or not low <= self.memory_bits <= high:
            raise UsageError(f"memory_bits is {self.memory_bits!r}", hint=f"choose {low} to {high}")
        if not isinstance(self.entropy, bool) or not isinstance(self.least_squares, bool):
            raise UsageError("entropy and least_squares are true or false", hint="write true or false")

    @property
    def how(self) -> Method:
        return METHODS[self.method]

    @property
    def is_whole(self) -> bool:
        """Whether a single tensor can have this width."""
        return self.how.fractional or self.bits == int(self.bits)

    @property
    def code_bits(self) -> int:
        """Bits of one stored code, before any entropy coding."""
        return int(self.bits) - 1 if self.how.residual_signs else int(self.bits)

    def as_json(self) -> dict[str, Any]:
        """Every field, for a file's metadata."""
        return asdict(self)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
