"""The benchmark's measurements, kept one by one: a cell is one method at one width with one seed, written when it is done.

A cell's file is named for everything it depends on, so a benchmark that was killed goes on where it stopped, and one of another
checkpoint, other rows or another calibration finds none of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.files import write_json
from autoresearch.quantize.evaluate import Form
from autoresearch.quantize.measuring import Measured
from autoresearch.quantize.scoring import RowBits

CELL_VERSION = 1


@dataclass(frozen=True)
class Cell:
    """One method at one width with one seed. `bits_of_rows` float64 [num_rows] is None without a finite score.

    Seconds are of all tensors of the checkpoint; encode_gb_s and decode_gb_s are float32 gigabytes of weights a second.
    """

    method: str
    bits: float
    seed: int
    file_bytes: int
    num_weights: int
    num_quantized: int
    bits_per_weight: float
    distortion: float
    cosine: float
    slope: float
    encode_seconds: float
    decode_seconds: float
    score_seconds: float
    peak_memory_mb: float
    bits_of_rows: NDArray[np.float64] | None

    @property
    def encode_gb_s(self) -> float:
        return 4e-9 * self.num_quantized / self.encode_seconds

    @property
    def decode_gb_s(self) -> float:
        return 4e-9 * self.num_quantized / self.decode_seconds


def cell_of(form: Form, measured: Measured) -> Cell:
    """The cell of a measured form."""
    return Cell(
        method=form.method,
        bits=form.bits,
        seed=form.seed,
        file_bytes=measured.file_bytes,
        num_weights=measured.num_weights,
        num_quantized=measured.num_quantized,
        bits_per_weight=measured.bits_per_weight,
        distortion=measured.fidelity.distortion,
        cosine=measured.fidelity.cosine,
        slope=measured.fidelity.slope,
        encode_seconds=max(measured.encode_seconds, 1e-9),  # a clock of coarse ticks may say 0
        decode_seconds=max(measured.decode_seconds, 1e-9),
        score_seconds=measured.score_seconds,
        peak_memory_mb=measured.peak_memory_mb,
        bits_of_rows=measured.after.bits if measured.after else None,
    )


class CellStore:
    """The cells of one benchmark in a folder. `inputs`: everything that all of them depend on, JSON values."""

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        self._folder = folder
        self._inputs = dict(inputs)

    def path(self, form: Form) -> Path:
        """Where the cell of a form lies."""
        return self._folder / f"{form.method}-{form.bits:g}-{form.seed}-{self._key(form)}.json"

    def find(self, form: Form) -> Cell | None:
        """The finished cell of a form; None when there is none that can be read."""
        found = _read(self.path(form))
        try:
            values = found["cell"]
            rows = values.pop("bits_of_rows")
            return Cell(**values, bits_of_rows=None if rows is None else np.array(rows, dtype=np.float64))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None  # a stranger's file under this name: measured again, and replaced

    def keep(self, form: Form, cell: Cell) -> None:
        """Write a finished cell, whole. Raises DiskError."""
        values = asdict(cell)
        values["bits_of_rows"] = None if cell.bits_of_rows is None else cell.bits_of_rows.tolist()
        write_json(self.path(form), {"version": CELL_VERSION, "inputs": self._inputs, "cell": values})

    def find_before(self) -> RowBits | None:
        """The score of the checkpoint itself, when it is there."""
        found = _read(self._before_path())
        try:
            return RowBits(np.array(found["bits"], dtype=np.float64), np.array(found["num_bytes"], dtype=np.int64))
        except (KeyError, TypeError, ValueError):
            return None

    def keep_before(self, score: RowBits) -> None:
        """Write the score of the checkpoint itself. Raises DiskError."""
        rows = {"bits": score.bits.tolist(), "num_bytes": score.num_bytes.tolist()}
        write_json(self._before_path(), {"version": CELL_VERSION, "inputs": self._inputs, **rows})

    def _before_path(self) -> Path:
        return self._folder / f"before-{_hash_of([CELL_VERSION, self._inputs])}.json"

    def _key(self, form: Form) -> str:
        return _hash_of([CELL_VERSION, self._inputs, form.method, form.bits, form.seed])


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no file or it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
