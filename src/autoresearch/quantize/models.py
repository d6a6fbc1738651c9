"""A whole state dict quantized: which tensors, what became of each, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autoresearch.quantize.allocation import allocate
from autoresearch.quantize.scheme import Scheme
from autoresearch.quantize.tensors import DTYPES, QuantizedTensor, quantize_tensor
from autoresearch.vocabulary import DataCorrupt

if TYPE_CHECKING:
    import torch

# Below either, scales and rotation cost more than they save, and a gate [heads, 32] or a vector of lambdas is a handful of
# numbers that the whole model passes through.
MIN_WEIGHTS = 1024
MIN_SIDE = 16
SIMILARITY_CHUNK = 1 << 20


@dataclass(frozen=True)
class TensorRow:
    """One line of the table. bits: stored per weight, with scales. bytes: stored.

    cosine and sqnr_db compare with the weights as they were: None for a kept tensor, for one of zeros, and in a model read
    from a file; sqnr_db also where nothing was lost. reason: why a tensor was kept.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    code_bits: float | None
    bits: float
    bytes: int
    cosine: float | None = None
    sqnr_db: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Compression:
    """How many times smaller. Over the quantized tensors against 32 and 16 bits a weight; and the whole file against the
    checkpoint's tensors as they came, kept ones, header and all."""

    vs_float32: float | None
    vs_bfloat16: float | None
    whole_file: float


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """Tensors by name, in the checkpoint's order: quantized ones and those kept as they were.

    metadata: texts that travel in the file's header beside ours, such as the model's config.
    """

    names: tuple[str, ...]
    quantized: Mapping[str, QuantizedTensor]
    kept: Mapping[str, torch.Tensor]
    table: tuple[TensorRow, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors that are stored, quantized or kept; the file adds a header."""
        return sum(row.bytes for row in self.table)

    @property
    def original_bytes(self) -> int:
        """Bytes of the tensors as they came."""
        sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
        return sum(q.num_weights * sizes[q.dtype] for q in self.quantized.values()) + sum(
            map(_bytes, self.kept.values())
        )

    @property
    def average_code_bits(self) -> float | None:
        """Mean width of the codes over all quantized weights, without scales and before entropy coding."""
        total = sum(q.num_weights for q in self.quantized.values())
        return sum(q.num_weights * q.scheme.bits for q in self.quantized.values()) / total if total else None

    def compression(self, file_bytes: int) -> Compression:
        """The three ratios; `file_bytes` is the size of the saved file."""
        weights = sum(q.num_weights for q in self.quantized.values())
        stored = sum(q.num_bytes for q in self.quantized.values())
        return Compression(
            4 * weights / stored if stored else None,
            2 * weights / stored if stored else None,
            self.original_bytes / file_bytes,
        )

    def dequantized(self, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """A state dict: every tensor under its name, in its own dtype unless another is asked for."""
        return {
            name: self.quantized[name].dequantize(dtype) if name in self.quantized else self.kept[name]
            for name in self.names
        }


def reason_to_keep(tensor: torch.Tensor) -> str:
    """Why a tensor is never quantized, or "" where it can be."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        return f"{dtype} is no weight's type"
    if tensor.ndim != 2:
        return "a vector" if tensor.ndim < 2 else f"{tensor.ndim} dimensions"
    if min(tensor.shape) < MIN_SIDE:
        return f"a gate: a side of fewer than {MIN_SIDE}"
    return f"fewer than {MIN_WEIGHTS} weights" if tensor.numel() < MIN_WEIGHTS else ""


def quantize_model(
    tensors: Mapping[str, torch.Tensor],
    scheme_for: Callable[[str], Scheme | None],
    hessians: Mapping[str, torch.Tensor] | None = None,
    *,
    sensitivities: Mapping[str, float] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> QuantizedModel:
    """Quantize every matrix that `scheme_for` gives a scheme, embeddings and head as well; keep the rest as it is.

    Schemes with bits between integers share their average: see `allocate`, which `sensitivities` steers. A method with
    feedback becomes the same one without it where `hessians` has none for the tensor (embeddings have no inputs to
    multiply), and the table says so.

    Raises:
        DataCorrupt: a tensor holds NaN or infinity; the message names it.
    """
    hessians = hessians or {}
    schemes = {name: None if reason_to_keep(tensor) else scheme_for(name) for name, tensor in tensors.items()}
    chosen = _with_whole_bits(
        {
            name: _without_feedback(scheme) if name not in hessians else scheme
            for name, scheme in schemes.items()
            if scheme
        },
        {name: tensor.numel() for name, tensor in tensors.items()},
        sensitivities,
    )
    quantized: dict[str, QuantizedTensor] = {}
    kept: dict[str, torch.Tensor] = {}
    rows = []
    for name, tensor in tensors.items():
        if name in chosen:
            quantized[name] = quantize_tensor(tensor, chosen[name], hessians.get(name), name=name)
            rows.append(_row(quantized[name], tensor.detach()))
            continue
        if tensor.is_floating_point() and not bool(tensor.detach().isfinite().all()):
            raise DataCorrupt(
                f"{name} holds NaN or infinite weights", hint="quantize the checkpoint of a run that did not diverge"
            )
        kept[name] = tensor.detach()
        rows.append(kept_row(name, tensor, reason_to_keep(tensor) or "as asked"))
    return QuantizedModel(tuple(tensors), quantized, kept, tuple(rows), dict(metadata or {}))


def quantized_row(tensor: QuantizedTensor) -> TensorRow:
    """The table's line for a quantized tensor whose original is not at hand."""
    return TensorRow(
        tensor.name, tensor.shape, tensor.scheme.method, tensor.scheme.bits, tensor.bits_per_weight, tensor.num_bytes
    )


def kept_row(name: str, tensor: torch.Tensor, reason: str) -> TensorRow:
    """The table's line for a tensor that stays as it is."""
    size = _bytes(tensor)
    return TensorRow(name, tuple(tensor.shape), "kept", None, 8.0 * tensor.element_size(), size, reason=reason)


def similarity(before: torch.Tensor, after: torch.Tensor) -> tuple[float | None, float | None]:
    """(cosine, signal to quantization noise in dB) of two tensors of one shape; None where it is not defined."""
    signal = noise = other = product = 0.0
    flat, other_flat = before.reshape(-1), after.reshape(-1)
    for start in range(0, flat.numel(), SIMILARITY_CHUNK):
        a = flat[start : start + SIMILARITY_CHUNK].cpu().double()
        b = other_flat[start : start + SIMILARITY_CHUNK].cpu().double()
        signal += float(a @ a)
        other += float(b @ b)
        product += float(a @ b)
        noise += float((a - b).square().sum())
    cosine = product / math.sqrt(signal) / math.sqrt(other) if signal and other else None
    return cosine, 10 * math.log10(signal / noise) if signal and noise else None


def _row(tensor: QuantizedTensor, before: torch.Tensor) -> TensorRow:
    import torch

    cosine, sqnr_db = similarity(before, tensor.dequantize(torch.float32))
    return replace(quantized_row(tensor), cosine=cosine, sqnr_db=sqnr_db)


def _without_feedback(scheme: Scheme) -> Scheme:
    if not scheme.how.feedback:
        return scheme
    return replace(scheme, method="rtn_asymmetric" if scheme.method == "gptq" else scheme.method.removesuffix("_ldlq"))


def _with_whole_bits(
    schemes: Mapping[str, Scheme], sizes: Mapping[str, int], sensitivities: Mapping[str, float] | None
) -> dict[str, Scheme]:
    """Schemes whose tensors can have them. Those that ask for one average share it, with and without feedback alike."""
    whole = {name: scheme for name, scheme in schemes.items() if scheme.is_whole}
    averages: dict[tuple[float, int, int], list[str]] = {}
    for name in _without(schemes, whole):
        low, high = schemes[name].how.widths
        averages.setdefault((schemes[name].bits, int(low), int(high)), []).append(name)
    for (bits, low, high), names in averages.items():
        widths = allocate({name: sizes[name] for name in names}, bits, range(low, high + 1), sensitivities)
        whole |= {name: replace(schemes[name], bits=width) for name, width in widths.items()}
    return whole


def _without(all_names: Iterable[str], taken: Mapping[str, Scheme]) -> list[str]:
    return [name for name in all_names if name not in taken]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
