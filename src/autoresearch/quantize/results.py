"""What an evaluation leaves: JSON, a table for people, and `quant_results.tsv`.

The rows have a file of their own. `results.tsv` and `results_history.tsv` are written from the ledger, whole or by appending
what they lack: a row that is not an experiment would be gone after the next verdict, or have the whole history set aside; and
whoever looks for the least val_bpb there means trained models of one contract. The first six columns are the same ones, so
that whatever reads those tables reads this one: status is `keep` for the recommended form, `crash` for one without a
score, `discard` for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.files import append_whole, write_whole
from autoresearch.hostile_text import tsv_field
from autoresearch.quantize import theory
from autoresearch.quantize.evaluate import QuantRow
from autoresearch.quantize.intervals import Interval
from autoresearch.quantize.origin import Origin
from autoresearch.quantize.recommending import Recommendation, recommend
from autoresearch.records.ledger import now
from autoresearch.records.tables import FIRST_COLUMNS
from autoresearch.vocabulary import Status

FORMAT = "autoresearch-quantize"
FORMAT_VERSION = 1

COLUMNS = (
    *FIRST_COLUMNS,
    "experiment",
    "method",
    "bits",
    "file_bytes",
    "compression_fp32",
    "compression_bf16",
    "compression_file",
    "cosine",
    "sqnr_db",
    "val_bpb_before",
    "val_bpb_lost",
    "interval",
    "seconds",
    "tag",
    "measured_at",
)


@dataclass(frozen=True)
class Setting:
    """What a report was measured under. `rows` is how many of the slice's rows; noise is of one run, bits per byte."""

    checkpoint: str
    sha256: str
    origin: Origin
    preset: str
    dataset: str
    validation_sha256: str
    num_rows: int
    num_tokens: int
    num_bytes: int
    calibration_tokens: int
    noise: float
    noise_from: str
    scorer: str
    device: str

    def as_json(self) -> dict[str, Any]:
        """As docs/quantize.md documents it."""
        return {
            "checkpoint": {
                "path": self.checkpoint,
                "sha256": self.sha256,
                "tag": self.origin.tag,
                "experiment": self.origin.experiment,
                "commit": self.origin.commit,
                "recorded_val_bpb": self.origin.val_bpb,
            },
            "contract": {
                "preset": self.preset,
                "dataset": self.dataset,
                "validation": self.validation_sha256,
                "num_rows": self.num_rows,
                "num_tokens": self.num_tokens,
                "num_bytes": self.num_bytes,
            },
            "calibration": {"source": "training text", "num_tokens": self.calibration_tokens},
            "noise": {"val_bpb": self.noise, "from": self.noise_from},
            "scorer": self.scorer,
            "device": self.device,
        }


def report_json(setting: Setting, rows: Sequence[QuantRow], *, finished: bool) -> dict[str, Any]:
    """All of an evaluation as JSON values; docs/quantize.md has the schema. The recommendation is null until finished."""
    found = recommend(rows, setting.noise) if finished else None
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "measured_at": now(),
        "finished": finished,
        **setting.as_json(),
        "val_bpb_before": rows[0].val_bpb_before if rows else None,
        "rows": [row.as_json() for row in rows],
        "recommended": {"name": found.name, "reason": found.reason, "front": list(found.front)} if found else None,
    }


def table_text(setting: Setting, rows: Sequence[QuantRow]) -> str:
    """The evaluation for people: what was measured, one line a form, and what to take."""
    found = recommend(rows, setting.noise)
    before = rows[0].val_bpb_before if rows else None
    lines = [
        f"{setting.checkpoint}: val_bpb {_number(before, '.4f')} on {setting.num_rows} rows of {setting.preset}"
        f" ({setting.num_bytes:,} bytes of text)",
        f"calibration: {setting.calibration_tokens:,} tokens of training text"
        if setting.calibration_tokens
        else "calibration: none",
        "",
    ]
    head = (
        "form",
        "bytes",
        "/fp32",
        "/bf16",
        "/file",
        "bits/w",
        "cosine",
        "SQNR dB",
        "val_bpb",
        "lost (95 %)",
        "s",
        "MB",
    )
    body = [_cells(row, is_best=row.name == found.name, on_front=row.name in found.front) for row in rows]
    lines += aligned([head, *body])
    lines += ["", kept_line(rows), f"recommended: {found.name or 'none'}: {found.reason}"]
    lines.append("* no other form is both smaller and loses less; the recommended one has **")
    return "\n".join(lines)


def _cells(row: QuantRow, *, is_best: bool, on_front: bool) -> tuple[str, ...]:
    found, times = row.measured, row.compression
    seconds = found.encode_seconds + found.decode_seconds + found.score_seconds
    return (
        f"{row.name}{' **' if is_best else ' *' if on_front else ''}",
        f"{row.file_bytes:,}",
        f"{times['fp32']:.2f}x",
        f"{times['bf16']:.2f}x",
        f"{times['file']:.2f}x",
        f"{found.bits_per_weight:.3f}",
        f"{found.fidelity.cosine:.4f}",
        _number(theory.sqnr_db(found.fidelity.distortion), ".2f"),
        _number(row.val_bpb, ".4f"),
        interval_text(row.loss),
        f"{seconds:.1f}",
        f"{found.peak_memory_mb:.0f}",
    )


def kept_line(rows: Sequence[QuantRow]) -> str:
    """Which tensors were quantized and which were kept, of the first form: `quantized 14 of 18 tensors, ...`."""
    if not rows:
        return ""
    facts = rows[0].measured.facts
    kept = [fact.name for fact in facts if fact.bits is None]
    share = rows[0].measured.num_quantized / rows[0].measured.num_weights
    line = f"quantized {len(facts) - len(kept)} of {len(facts)} tensors, {share:.2%} of the weights"
    return f"{line}; kept as they are: {', '.join(kept)}" if kept else line


def interval_text(found: Interval | None) -> str:
    """`+0.0123 (+0.0101..+0.0145)`; `none` without a score."""
    if found is None:
        return "none"
    if found.low is None or found.high is None:
        return f"{found.value:+.4f}"
    return f"{found.value:+.4f} ({found.low:+.4f}..{found.high:+.4f})"


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def tsv_rows(setting: Setting, rows: Sequence[QuantRow], found: Recommendation) -> str:
    """The lines of `quant_results.tsv` for these rows, without the header."""
    return "".join("\t".join(_tsv_cells(setting, row, found)) + "\n" for row in rows)


def _tsv_cells(setting: Setting, row: QuantRow, found: Recommendation) -> list[str]:
    measured, origin, times = row.measured, setting.origin, row.compression
    status = Status.CRASH if row.loss is None else Status.KEEP if row.name == found.name else Status.DISCARD
    loss = row.loss
    has_interval = loss is not None and loss.low is not None and loss.high is not None
    seconds = measured.encode_seconds + measured.decode_seconds + measured.score_seconds
    of = f" of {origin}" if origin.tag else f" of {Path(setting.checkpoint).name}"
    return [
        (origin.commit or "none")[:7],
        "0.000000" if row.val_bpb is None else f"{row.val_bpb:.6f}",
        f"{measured.peak_memory_mb / 1024:.1f}",
        f"{setting.num_tokens / measured.score_seconds:.0f}" if measured.score_seconds > 0 else "0",
        str(status),
        tsv_field(f"quantized {row.name}{of}"),
        "" if origin.experiment is None else str(origin.experiment),
        row.form.method,
        f"{row.form.bits:g}",
        str(row.file_bytes),
        *(f"{times[name]:.3f}" for name in ("fp32", "bf16", "file")),
        f"{measured.fidelity.cosine:.5f}",
        _number(theory.sqnr_db(measured.fidelity.distortion), ".3f", missing=""),
        f"{row.val_bpb_before:.6f}",
        "" if loss is None else f"{loss.value:+.6f}",
        f"{loss.low:+.6f}..{loss.high:+.6f}" if loss is not None and has_interval else "",
        f"{seconds:.1f}",
        origin.tag or "",
        now(),
    ]


def append_tsv(path: Path, lines: str) -> None:
    """Append rows to a table, its header first where the file is new; a line that a kill left torn is taken off.

    Raises:
        DiskError: the file cannot be written.
    """
    header = "\t".join(COLUMNS) + "\n"
    present = path.read_bytes() if path.is_file() else b""
    whole = present[: present.rfind(b"\n") + 1]
    if not whole.startswith(header.encode()):
        if present:  # another version's, or a stranger's: set aside whole
            path.replace(path.with_name(f"{path.name}.found"))
        write_whole(path, header + lines)
    elif whole != present:
        write_whole(path, whole + lines.encode())
    else:
        append_whole(path, lines)


def _number(value: float | None, form: str, *, missing: str = "none") -> str:
    return missing if value is None else format(value, form)
