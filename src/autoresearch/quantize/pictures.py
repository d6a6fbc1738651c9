"""Pictures of a benchmark: bits per weight against val_bpb lost, and against SQNR beside theory and the bound."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autoresearch.files import write_whole
from autoresearch.quantize import theory
from autoresearch.quantize.benchmark import Summary
from autoresearch.quantize.recommending import pareto_front
from autoresearch.vocabulary import AutoresearchError

_MARKERS = "osD^vP*Xp<>h"
_SIZE = (9.0, 6.0)  # inches, at 150 dots: 1350 x 900


def save_pictures(rows: Sequence[Summary], folder: Path, *, noise: float, title: str) -> list[Path]:
    """Write `pareto_bpb.png` and `pareto_sqnr.png` into the folder, each whole or not at all; returns their paths.

    Raises:
        AutoresearchError: matplotlib is not installed. DiskError: a file cannot be written.
    """
    return [
        _save(folder / "pareto_bpb.png", lambda axes: _draw_losses(axes, rows, noise, title)),
        _save(folder / "pareto_sqnr.png", lambda axes: _draw_sqnr(axes, rows, title)),
    ]


def _save(path: Path, draw: Callable[[Any], object]) -> Path:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        hint = "pip install 'autoresearch[plot]'"
        raise AutoresearchError(f"the pictures need matplotlib: {error}", hint=hint) from error
    figure = Figure(figsize=_SIZE, dpi=150, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    picture = io.BytesIO()
    canvas.print_png(picture)
    write_whole(path, picture.getvalue())
    return path


def _by_method(rows: Sequence[Summary]) -> dict[str, list[Summary]]:
    """The summaries of each method, in order of their width."""
    found: dict[str, list[Summary]] = {}
    for row in rows:
        found.setdefault(row.method, []).append(row)
    return {method: sorted(group, key=lambda row: row.bits_per_weight) for method, group in found.items()}


def _draw_losses(axes: Any, rows: Sequence[Summary], noise: float, title: str) -> None:
    """Loss of each method by width, the best of all numbered."""
    for number, (method, group) in enumerate(_by_method(rows).items()):
        scored = [(row, row.loss) for row in group if row.loss is not None]
        if not scored:
            continue
        axes.errorbar(
            [row.bits_per_weight for row, _ in scored],
            [loss.value for _, loss in scored],
            yerr=[loss.half_width or 0.0 for _, loss in scored],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1,
            capsize=3,
            label=method,
        )
    front = sorted(pareto_front(rows), key=lambda row: row.bits_per_weight)
    points = [(row.bits_per_weight, row.loss.value) for row in front if row.loss is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color="black", linewidth=1, linestyle=":", label="best at its size")
    axes.axhline(noise, color="grey", linewidth=1, linestyle="--", label="noise of one run")
    _scale(axes, [row.loss.value for row in rows if row.loss is not None], noise)
    _name_front(axes, front)
    axes.set_xlabel("stored bits per quantized weight")
    axes.set_ylabel("val_bpb lost (95 % intervals)")
    _finish(axes, title, "upper right")


def _scale(axes: Any, losses: Sequence[float], noise: float) -> None:
    """Logarithmic where every form loses; else linear within a tenth of the noise. The points set the limits: the interval
    of two seeds may be wider than the picture."""
    shown = [*losses, noise]
    if min(shown) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(shown) / 3, max(shown) * 2)
        return
    axes.set_yscale("symlog", linthresh=max(noise / 10, 1e-5))
    axes.set_ylim(2 * min(shown) - noise / 10, max(shown) * 2)


def _name_front(axes: Any, front: Sequence[Summary]) -> None:
    """Number the best points and list them in a corner: their names would write over each other."""
    lines = []
    for number, row in enumerate(front, start=1):
        if row.loss is None:
            continue
        axes.annotate(
            str(number),
            (row.bits_per_weight, row.loss.value),
            textcoords="offset points",
            xytext=(-7 if number % 2 else 7, -9),
            ha="center",
            va="top",
            fontsize=8,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "grey", "linewidth": 0.5},
        )
        lines.append(f"{number}  {row.name}: {row.file_bytes:,} bytes, {row.loss.value:+.4f}")
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "grey", "alpha": 0.9}
    axes.text(0.01, 0.01, "\n".join(lines), transform=axes.transAxes, fontsize=7, va="bottom", bbox=box)


def _draw_sqnr(axes: Any, rows: Sequence[Summary], title: str) -> None:
    """SQNR of the weights; the bound is a line of 6.02 dB a bit, Lloyd-Max's own points are crosses."""
    widths = [row.bits_per_weight for row in rows] or [1.0]
    low, high = min(1.0, *widths), max(widths) + 0.25
    axes.plot(
        [low, high],
        [theory.sqnr_db(theory.bound(bits)) for bits in (low, high)],
        color="black",
        linewidth=1,
        label="bound 4^-b",
    )
    known = [(bits, theory.sqnr_db(distortion)) for bits, distortion in theory.LLOYD_MAX.items() if bits <= high]
    axes.plot(
        *zip(*known, strict=True), color="grey", marker="x", linestyle="none", label="Lloyd-Max, theory, no scales"
    )
    for number, (method, group) in enumerate(_by_method(rows).items()):
        points = [
            (row.bits_per_weight, found) for row in group if (found := theory.sqnr_db(row.distortion.value)) is not None
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5,
                linewidth=1,
                label=method,
            )
    axes.set_xlabel("stored bits per quantized weight")
    axes.set_ylabel("SQNR of the weights, dB")
    _finish(axes, title, "upper left")


def _finish(axes: Any, title: str, legend: str) -> None:
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7, loc=legend)
