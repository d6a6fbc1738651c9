"""The rigorous comparison: rotation seeds x bits x methods on one checkpoint, each cell kept when done, and what follows.

Three kinds of uncertainty, kept apart: of the rotation (Student's t over seeds), of the text (paired over rows, the seeds'
rows averaged first), and both together. A method without randomness has one cell per width and no interval over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoresearch.quantize import theory
from autoresearch.quantize.cells import Cell, CellStore, cell_of
from autoresearch.quantize.evaluate import Checkpoint, Form, check_score
from autoresearch.quantize.intervals import Interval, mean_over, paired_loss, together
from autoresearch.quantize.measuring import Tensors, check_weights, measure
from autoresearch.quantize.scoring import RowBits, Score

# The baseline that does not flatter: clipped, asymmetric round-to-nearest. A symmetric one over the full range loses twice
# as much at 3 bits and five times at 2.
FAIR_BASELINE = "rtn_asymmetric"
MIN_SEEDS = 5  # below five the t interval over seeds is wider than what it should tell apart

Progress = Callable[[int, int, Form | None, str], object]
"""Gets cells done, cells in all, the form in work (None: the checkpoint itself), and what is done to it."""


def in_rounds(forms: Sequence[Form]) -> list[Form]:
    """Every form of the first seed before any of the second: stopped early, the benchmark still covers every method."""
    return sorted(forms, key=lambda form: form.seed)  # stable: methods and widths stay in their order


def run_benchmark(
    checkpoint: Checkpoint,
    forms: Sequence[Form],
    score: Score,
    store: CellStore,
    *,
    hessians: Callable[[], Tensors] | None = None,
    device: str = "cpu",
    check_before: Callable[[RowBits], object] = lambda _score: None,
    on_progress: Progress = lambda *_told: None,
    on_cells: Callable[[RowBits, Sequence[Cell]], object] = lambda *_known: None,
) -> tuple[RowBits, list[Cell]]:
    """The checkpoint's own score, and one cell per form: those in the store as they are, the others measured and kept.

    hessians: asked for once, and only when a cell that feeds errors back is missing. check_before: raises where the checkpoint's own
    score is not what it must be. on_cells: gets the checkpoint's score and all cells known so far, after each that was measured.

    Raises:
        DataCorrupt: the checkpoint holds NaN or infinity, or gives no finite score. DiskError: a file cannot be written.
    """
    tensors = checkpoint.tensors
    check_weights(tensors, checkpoint.path.name)
    found = {form.key: store.find(form) for form in forms}
    done = sum(cell is not None for cell in found.values())
    before = store.find_before()
    if before is None:
        on_progress(done, len(forms), None, "scoring")
        before = score(tensors)
        check_score(before, checkpoint.path.name)
        check_before(before)
        store.keep_before(before)
    statistics: Tensors | None = None
    for form in in_rounds(forms):
        if found[form.key] is not None:
            continue
        if form.needs_hessians and statistics is None:
            assert hessians is not None, "give hessians where a form needs them"
            on_progress(done, len(forms), None, "calibrating")
            statistics = hessians()

        def tell(doing: str, done: int = done, form: Form = form) -> None:
            on_progress(done, len(forms), form, doing)

        measured = measure(
            tensors,
            form.codec,
            score,
            hessians=statistics if form.needs_hessians else None,
            device=device,
            on_stage=tell,
        )
        cell = found[form.key] = cell_of(form, measured)
        store.keep(form, cell)
        done += 1
        on_cells(before, _known(forms, found))
    return before, _known(forms, found)


def _known(forms: Sequence[Form], found: Mapping[tuple[str, float, int], Cell | None]) -> list[Cell]:
    """The finished cells in the order of the forms."""
    return [cell for form in forms if (cell := found[form.key]) is not None]


@dataclass(frozen=True)
class Summary:
    """One method at one width over all its seeds.

    Losses are bits per byte of val_bpb, positive is worse, None without a finite score: `loss` with the interval for rotation and
    text together, `over_seeds` and `over_rows` for one of them, `against_fair` the paired difference from FAIR_BASELINE at the same
    width (None for itself and where it was not run). Distortion and cosine are means over seeds.
    """

    method: str
    bits: float
    num_seeds: int
    file_bytes: int
    bits_per_weight: float
    loss: Interval | None
    over_seeds: Interval | None
    over_rows: Interval | None
    against_fair: Interval | None
    distortion: Interval
    cosine: Interval
    slope: Interval
    encode_gb_s: float
    decode_gb_s: float
    peak_memory_mb: float

    @property
    def name(self) -> str:
        return f"{self.method} {self.bits:g} bit"

    @property
    def theory_distortion(self) -> float | None:
        """What theory predicts for it."""
        return theory.expected_distortion(self.method, self.bits)

    @property
    def bits_above_bound(self) -> float | None:
        """Bits per weight beyond the best possible code of equal distortion."""
        return theory.bits_above_bound(self.distortion.value, self.bits_per_weight)

    def as_json(self, *, on_front: bool) -> dict[str, Any]:
        """As docs/quantize.md documents it."""

        def plain(interval: Interval | None) -> dict[str, float | None] | None:
            return interval.as_json() if interval else None

        return {
            "name": self.name,
            "method": self.method,
            "bits": self.bits,
            "num_seeds": self.num_seeds,
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "val_bpb_lost": plain(self.loss),
            "val_bpb_lost_over_seeds": plain(self.over_seeds),
            "val_bpb_lost_over_rows": plain(self.over_rows),
            "val_bpb_against_fair_baseline": plain(self.against_fair),
            "distortion": self.distortion.as_json(),
            "sqnr_db": theory.sqnr_db(self.distortion.value),
            "theory_distortion": self.theory_distortion,
            "theory_sqnr_db": theory.sqnr_db(self.theory_distortion) if self.theory_distortion else None,
            "bound_distortion": theory.bound(self.bits_per_weight),
            "bits_above_bound": self.bits_above_bound,
            "cosine": self.cosine.as_json(),
            "inner_product_slope": self.slope.as_json(),
            "encode_gb_s": self.encode_gb_s,
            "decode_gb_s": self.decode_gb_s,
            "peak_memory_mb": self.peak_memory_mb,
            "on_front": on_front,
        }


def summaries(before: RowBits, cells: Sequence[Cell]) -> list[Summary]:
    """One summary per method and width, in the order in which they first appear."""
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.method, cell.bits), []).append(cell)
    return [_summary(before, group, groups.get((FAIR_BASELINE, bits))) for (_, bits), group in groups.items()]


def _summary(before: RowBits, group: Sequence[Cell], fair: Sequence[Cell] | None) -> Summary:
    rows = _mean_rows(group)
    over_seeds = over_rows = loss = against = None
    if rows is not None:
        losses = [
            paired_loss(before.bits, cell.bits_of_rows, before.num_bytes).value
            for cell in group
            if cell.bits_of_rows is not None
        ]
        over_seeds = mean_over(losses)
        over_rows = paired_loss(before.bits, rows, before.num_bytes)
        loss = together(over_seeds, over_rows)
        fair_rows = _mean_rows(fair) if fair and group[0].method != FAIR_BASELINE else None
        if fair_rows is not None:
            against = together(paired_loss(fair_rows, rows, before.num_bytes), over_seeds)
    count = len(group)
    return Summary(
        method=group[0].method,
        bits=group[0].bits,
        num_seeds=count,
        file_bytes=max(cell.file_bytes for cell in group),
        bits_per_weight=sum(cell.bits_per_weight for cell in group) / count,
        loss=loss,
        over_seeds=over_seeds,
        over_rows=over_rows,
        against_fair=against,
        distortion=mean_over([cell.distortion for cell in group]),
        cosine=mean_over([cell.cosine for cell in group]),
        slope=mean_over([cell.slope for cell in group]),
        encode_gb_s=max(cell.encode_gb_s for cell in group),
        decode_gb_s=max(cell.decode_gb_s for cell in group),
        peak_memory_mb=max(cell.peak_memory_mb for cell in group),
    )


def _mean_rows(group: Sequence[Cell]) -> Any:
    """float64 [num_rows]: bits of each row, averaged over seeds; None when one of the seeds has no finite score."""
    rows = [cell.bits_of_rows for cell in group if cell.bits_of_rows is not None]
    return np.mean(rows, axis=0) if len(rows) == len(group) else None
