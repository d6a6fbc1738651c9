"""What a benchmark leaves: JSON and a table for people. docs/quantize.md has the schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autoresearch.quantize import theory
from autoresearch.quantize.benchmark import FAIR_BASELINE, Summary, summaries
from autoresearch.quantize.cells import Cell
from autoresearch.quantize.recommending import recommend
from autoresearch.quantize.results import Setting, aligned, interval_text
from autoresearch.quantize.scoring import RowBits
from autoresearch.records.ledger import now

FORMAT = "autoresearch-tq-benchmark"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class LeftOut:
    """A method that was not run at a width (None: at any), and why."""

    method: str
    bits: float | None
    reason: str


def benchmark_json(
    setting: Setting, before: RowBits, cells: Sequence[Cell], left_out: Sequence[LeftOut], *, num_cells: int
) -> dict[str, Any]:
    """A benchmark as JSON values; num_cells is how many it has when it is finished."""
    found = summaries(before, cells)
    chosen = recommend(found, setting.noise) if len(cells) == num_cells else None
    front = set(recommend(found, setting.noise).front)
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "measured_at": now(),
        "finished": len(cells) == num_cells,
        **setting.as_json(),
        "val_bpb_before": before.val_bpb,
        "fair_baseline": FAIR_BASELINE,
        "num_cells": num_cells,
        "summaries": [row.as_json(on_front=row.name in front) for row in found],
        "cells": [_cell_json(before, cell) for cell in cells],
        "left_out": [asdict(entry) for entry in left_out],
        "recommended": {"name": chosen.name, "reason": chosen.reason, "front": list(chosen.front)} if chosen else None,
    }


def _cell_json(before: RowBits, cell: Cell) -> dict[str, Any]:
    """A cell without its rows, which lie in its own file."""
    values = {name: value for name, value in asdict(cell).items() if name != "bits_of_rows"}
    rows = cell.bits_of_rows
    return {**values, "val_bpb": None if rows is None else RowBits(rows, before.num_bytes).val_bpb}


def benchmark_text(setting: Setting, before: RowBits, cells: Sequence[Cell], left_out: Sequence[LeftOut]) -> str:
    """A benchmark for people: one line per method and width, what was left out, and what to take."""
    found = summaries(before, cells)
    chosen = recommend(found, setting.noise)
    lines = [
        f"{setting.checkpoint}: val_bpb {before.val_bpb:.4f} on {setting.num_rows} rows of {setting.preset}"
        f" ({setting.num_bytes:,} bytes of text); {setting.calibration_tokens:,} tokens of calibration",
        "",
    ]
    head = (
        "form",
        "seeds",
        "bits/w",
        "bytes",
        "lost (95 %, seeds and rows)",
        f"against {FAIR_BASELINE}",
        "cosine",
        "SQNR dB",
        "theory",
        "bound",
        "enc GB/s",
        "dec GB/s",
    )
    lines += aligned([head, *(_line(row, row.name == chosen.name, row.name in chosen.front) for row in found)])
    lines.append("")
    lines += [
        f"left out: {entry.method}{'' if entry.bits is None else f' {entry.bits:g} bit'}: {entry.reason}"
        for entry in left_out
    ]
    lines.append(f"recommended: {chosen.name or 'none'}: {chosen.reason}")
    lines.append("* no other form is both smaller and loses less; the recommended one has **")
    lines.append(
        "theory: of the method on Gaussian weights; bound: 4^-b at the bits per weight that are stored, scales included"
    )
    return "\n".join(lines)


def _line(row: Summary, is_best: bool, on_front: bool) -> tuple[str, ...]:
    expected = row.theory_distortion

    def db(distortion: float | None) -> str:
        found = theory.sqnr_db(distortion) if distortion is not None else None
        return "" if found is None else f"{found:.2f}"

    return (
        f"{row.name}{' **' if is_best else ' *' if on_front else ''}",
        str(row.num_seeds),
        f"{row.bits_per_weight:.3f}",
        f"{row.file_bytes:,}",
        interval_text(row.loss),
        "" if row.against_fair is None else interval_text(row.against_fair),
        f"{row.cosine.value:.4f}",
        db(row.distortion.value),
        db(expected),
        db(theory.bound(row.bits_per_weight)),
        f"{row.encode_gb_s:.2g}",
        f"{row.decode_gb_s:.2g}",
    )
