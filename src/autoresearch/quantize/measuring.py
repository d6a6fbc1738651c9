"""One scheme on one checkpoint, measured: bytes on disk, fidelity of the weights, bits of every row, seconds, memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from autoresearch.files import disk_error
from autoresearch.quantize.peak_memory import PeakMemory
from autoresearch.quantize.scoring import RowBits, Score
from autoresearch.vocabulary import DataCorrupt

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]


class Coded(Protocol):
    """Quantized weights in memory."""

    @property
    def table(self) -> Sequence[TensorFacts]:
        """What became of each tensor."""

    def dequantized(self) -> dict[str, torch.Tensor]:
        """Every tensor of the checkpoint by name, in full precision again."""


C = TypeVar("C", bound=Coded)


class Codec(Protocol[C]):
    """A way to quantize all of a checkpoint and to keep it in a file."""

    def encode(self, tensors: Tensors, hessians: Tensors | None, /) -> C:
        """The checkpoint quantized. hessians: by the name of the weight, for schemes that feed errors back."""

    def write(self, coded: C, path: Path, /) -> None:
        """Put it into a file; raises DiskError."""

    def read(self, path: Path, /) -> C:
        """What `write` wrote."""


@dataclass(frozen=True)
class TensorFacts:
    """What became of one tensor. `bits` is None where it was kept as it is; num_bytes are those of its stored parts."""

    name: str
    shape: tuple[int, ...]
    method: str
    bits: float | None
    num_bytes: int

    @property
    def num_weights(self) -> int:
        """Elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Fidelity:
    """How near dequantized weights are to the originals: averages over the quantized tensors, weighted by their size.

    distortion: mean squared error over mean square of the tensor. cosine: between the tensors as vectors. slope: <w, w'> /
    <w, w>, 1 for a code whose inner products are unbiased, 1 - distortion for one of least error.
    """

    distortion: float
    cosine: float
    slope: float


@dataclass(frozen=True)
class Measured:
    """One scheme on one checkpoint. `after` is None where the quantized model gives no finite score."""

    file_bytes: int
    facts: tuple[TensorFacts, ...]
    fidelity: Fidelity
    after: RowBits | None
    encode_seconds: float
    decode_seconds: float
    score_seconds: float
    peak_memory_mb: float

    @property
    def num_weights(self) -> int:
        """Elements of the checkpoint."""
        return sum(fact.num_weights for fact in self.facts)

    @property
    def num_quantized(self) -> int:
        """Elements that were quantized."""
        return sum(fact.num_weights for fact in self.facts if fact.bits is not None)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per quantized weight, scales included."""
        stored = sum(fact.num_bytes for fact in self.facts if fact.bits is not None)
        return 8 * stored / self.num_quantized


def measure(
    tensors: Tensors,
    codec: Codec[Any],
    score: Score,
    *,
    hessians: Tensors | None = None,
    device: str = "cpu",
    keep: Path | None = None,
    on_stage: Callable[[str], object] = lambda _stage: None,
) -> Measured:
    """Quantize, write, read back, and score what was read: the score is that of the file alone.

    keep: where the file stays; without it the file is removed. on_stage gets "quantizing" and "scoring".

    Raises:
        DataCorrupt: nothing of the checkpoint was quantized. DiskError: the file cannot be written.
    """
    peak = PeakMemory(device)
    on_stage("quantizing")
    began = _now(device)
    coded = codec.encode(tensors, hessians)
    encode_seconds = _now(device) - began
    with tempfile.TemporaryDirectory(prefix="autoresearch-quantize-") as scratch:
        path = keep or Path(scratch) / "quantized.safetensors"
        codec.write(coded, path)
        try:
            file_bytes = path.stat().st_size
        except OSError as error:
            raise disk_error(error, path) from error
        del coded
        coded = codec.read(path)
    began = _now(device)
    restored = coded.dequantized()
    decode_seconds = _now(device) - began
    facts = tuple(coded.table)
    del coded
    quantized = [fact for fact in facts if fact.bits is not None]
    if not quantized:
        raise DataCorrupt("no tensor of the checkpoint is large enough to quantize", hint="autoresearch doctor")
    fidelity = fidelity_of(tensors, restored, [fact.name for fact in quantized])
    on_stage("scoring")
    began = _now(device)
    after = score(restored)
    score_seconds = _now(device) - began
    return Measured(
        file_bytes=file_bytes,
        facts=facts,
        fidelity=fidelity,
        after=after if after.is_finite else None,
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
        score_seconds=score_seconds,
        peak_memory_mb=peak.mb(),
    )


def fidelity_of(before: Tensors, after: Tensors, names: Sequence[str]) -> Fidelity:
    """The fidelity of these tensors. Tensors of zeros only are exact and left out; all of them zero is exact."""
    weight = distortion = cosine = slope = 0.0
    for name in names:
        w, v = before[name].double().flatten(), after[name].to(before[name].device).double().flatten()
        power = float(w @ w)
        if power == 0:
            continue
        error, size = w - v, float(v @ v)
        inner = float(w @ v)
        weight += len(w)
        distortion += len(w) * float(error @ error) / power
        cosine += len(w) * (inner / (power * size) ** 0.5 if size > 0 else 0.0)
        slope += len(w) * inner / power
    return Fidelity(distortion / weight, cosine / weight, slope / weight) if weight else Fidelity(0.0, 1.0, 1.0)


def check_weights(tensors: Tensors, name: str) -> None:
    """Pass when every weight is a finite number.

    Raises:
        DataCorrupt: names the first tensor that holds another.
    """
    import torch

    for tensor_name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise DataCorrupt(
                f"{name}: {tensor_name} holds {bad} weights that are no finite numbers: the run that left it diverged",
                hint="autoresearch history   (and take the checkpoint of an experiment that was kept)",
            )


def file_bytes_of(path: Path) -> int | None:
    """Size of a file on disk; None where there is none (a folder, or weights that never were in a file)."""
    return path.stat().st_size if path.is_file() else None


def _now(device: str) -> float:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()
