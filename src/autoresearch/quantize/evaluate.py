"""A trained checkpoint under several quantization schemes: what each costs on disk and in val_bpb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoresearch.quantize import theory
from autoresearch.quantize.intervals import Interval, paired_loss
from autoresearch.quantize.measuring import Codec, Measured, Tensors, check_weights, file_bytes_of, measure
from autoresearch.quantize.scoring import RowBits, Score
from autoresearch.vocabulary import DataCorrupt, UsageError

MIN_BITS, MAX_BITS = 1.0, 8.0


class Checkpoint(Protocol):
    """What is needed of a checkpoint: `quantize.checkpoint.Checkpoint`, or a test's own."""

    @property
    def tensors(self) -> Tensors:
        """Weights by name."""

    @property
    def path(self) -> Path:
        """Where it lies."""


@dataclass(frozen=True)
class Form:
    """One way to quantize the checkpoint. `needs_hessians`: it feeds errors back, so it wants calibration text."""

    method: str
    bits: float
    seed: int
    codec: Codec[Any]
    needs_hessians: bool = False

    @property
    def name(self) -> str:
        """How tables call it: `turboquant 4 bit`."""
        return f"{self.method} {self.bits:g} bit"

    @property
    def key(self) -> tuple[str, float, int]:
        """Tells forms apart."""
        return self.method, self.bits, self.seed


@dataclass(frozen=True)
class QuantRow:
    """One form of the checkpoint, measured.

    Sizes are bytes of whole files. `loss` is val_bpb after minus before with its 95 % interval, paired over rows
    (`intervals.paired_loss`); it and `val_bpb` are None where the quantized model gives no finite score. `file` is where the
    form lies, where it was to stay.
    """

    form: Form
    measured: Measured
    checkpoint_bytes: int
    val_bpb_before: float
    val_bpb: float | None
    loss: Interval | None
    file: Path | None = None

    @property
    def name(self) -> str:
        return self.form.name

    @property
    def file_bytes(self) -> int:
        return self.measured.file_bytes

    @property
    def compression(self) -> dict[str, float]:
        """How many times smaller the file is than all weights at 32 bits, than at 16, and than the checkpoint as saved."""
        size, weights = self.measured.file_bytes, self.measured.num_weights
        return {"fp32": 4 * weights / size, "bf16": 2 * weights / size, "file": self.checkpoint_bytes / size}

    def as_json(self) -> dict[str, Any]:
        """The row as docs/quantize.md documents it."""
        found = self.measured
        return {
            "name": self.name,
            "method": self.form.method,
            "bits": self.form.bits,
            "seed": self.form.seed,
            "file_bytes": found.file_bytes,
            "bits_per_weight": found.bits_per_weight,
            "num_weights": found.num_weights,
            "num_quantized": found.num_quantized,
            "compression": self.compression,
            "cosine": found.fidelity.cosine,
            "distortion": found.fidelity.distortion,
            "sqnr_db": theory.sqnr_db(found.fidelity.distortion),
            "val_bpb": self.val_bpb,
            "val_bpb_lost": self.loss.as_json() if self.loss else None,
            "encode_seconds": found.encode_seconds,
            "decode_seconds": found.decode_seconds,
            "score_seconds": found.score_seconds,
            "peak_memory_mb": found.peak_memory_mb,
            "tensors": [
                {
                    "name": fact.name,
                    "shape": list(fact.shape),
                    "method": fact.method,
                    "bits": fact.bits,
                    "num_bytes": fact.num_bytes,
                }
                for fact in found.facts
            ],
        }


@dataclass(frozen=True)
class Stage:
    """Where an evaluation is: form number `index` of `count` (0 is the checkpoint itself), and what is done to it."""

    index: int
    count: int
    form: Form | None
    doing: str


def evaluate(
    checkpoint: Checkpoint,
    forms: Sequence[Form],
    score: Score,
    *,
    hessians: Tensors | None = None,
    check_before: Callable[[RowBits], object] = lambda _score: None,
    device: str = "cpu",
    keep_in: Path | None = None,
    on_stage: Callable[[Stage], object] = lambda _stage: None,
    on_row: Callable[[QuantRow], object] = lambda _row: None,
) -> list[QuantRow]:
    """Each form of the checkpoint, measured on the same rows as the checkpoint itself; one row each, in order.

    `score` is asked once for the checkpoint and once per form, for what was read back from the form's file; the files stay in
    the folder `keep_in` when one is given. check_before: raises where the checkpoint's own score is not what it must be.
    `on_row` gets each row as soon as it is there.

    Raises:
        DataCorrupt: the checkpoint holds NaN or infinity, or gives no finite score itself.
        UsageError: a form needs calibration text and none was given. DiskError: a file cannot be written.
    """
    for form in forms:
        if form.needs_hessians and hessians is None:
            raise UsageError(
                f"{form.method} feeds errors back, and that needs calibration text", hint="--calibration-tokens 65536"
            )
    tensors = checkpoint.tensors
    check_weights(tensors, checkpoint.path.name)
    on_stage(Stage(0, len(forms), None, "scoring"))
    reference = score(tensors)
    check_score(reference, checkpoint.path.name)
    check_before(reference)
    weights = sum(tensor.numel() for tensor in tensors.values())
    checkpoint_bytes = file_bytes_of(checkpoint.path) or 4 * weights
    rows = []
    for index, form in enumerate(forms, start=1):

        def tell(doing: str, index: int = index, form: Form = form) -> None:
            on_stage(Stage(index, len(forms), form, doing))

        file = keep_in / f"{index}.safetensors" if keep_in else None
        measured = measure(
            tensors,
            form.codec,
            score,
            hessians=hessians if form.needs_hessians else None,
            device=device,
            keep=file,
            on_stage=tell,
        )
        after = measured.after
        row = QuantRow(
            form=form,
            measured=measured,
            checkpoint_bytes=checkpoint_bytes,
            val_bpb_before=reference.val_bpb,
            val_bpb=after.val_bpb if after else None,
            loss=paired_loss(reference.bits, after.bits, reference.num_bytes) if after else None,
            file=file,
        )
        on_row(row)
        rows.append(row)
    return rows


def check_score(score: RowBits, name: str) -> None:
    """Pass when the checkpoint itself has a score that others can be set against.

    Raises:
        DataCorrupt: it has none.
    """
    if not score.is_finite:
        raise DataCorrupt(
            f"{name} gives no finite score, so nothing can be measured against it",
            hint="autoresearch history   (and take the checkpoint of an experiment that was kept)",
        )


def check_bits(bits: float) -> float:
    """These bits per weight, when a scheme can have them.

    Raises:
        UsageError: not between 1 and 8.
    """
    if not MIN_BITS <= bits <= MAX_BITS:  # NaN too
        raise UsageError(f"{bits:g} bits per weight: choose from 1 to 8", hint="--bits 2,3,4")
    return bits
