"""What a person looks at afterwards: the summary, the table, and the chart in the terminal and as a picture."""

from __future__ import annotations

import io
import math
import os
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from autoresearch.files import write_whole
from autoresearch.hostile_text import terminal_line
from autoresearch.report.text import columns, cut, duration, pad
from autoresearch.vocabulary import AutoresearchError

LABEL_LENGTH = 45  # characters of a description beside its point

# Okabe and Ito's palette: told apart with every common form of colour blindness, and by shape besides.
_GREEN, _BLUE, _VERMILLION, _GREY, _INK = "#009E73", "#0072B2", "#D55E00", "#9A9A9A", "#222222"
_ANSI = {"●": "32", "─": "34", "│": "34", "┐": "34", "┘": "34", "×": "33", "·": "90", "▲": "90", "▼": "90"}
_CRASH_HEIGHT = 0.025  # of the picture's height: crashes have no score, so they sit on the axis
# Where a label may go, in points from its keep: (dx, dy, horizontal alignment). Under the falling line on the left is
# the emptiest part of the picture; then above right; then farther out, on a leader.
_LABEL_PLACES = [
    (side * (7 + distance / 3), vertical * (5 + distance), "right" if side < 0 else "left")
    for distance in (0, 14, 30, 50, 75, 105, 140)
    for side, vertical in ((-1, -1), (1, 1), (1, -1), (-1, 1))
]


@dataclass(frozen=True)
class Row:
    """One experiment as the record holds it. Row 0 is the baseline.

    val_bpb is the estimated mean on the search slice, in bits per byte. gain is incumbent minus candidate (positive is
    better), interval its 95 % interval. tok_sec is tokens per second of the contract's clock, memory_gb the peak in
    GiB, seconds the wall time of all its trials. What was not measured is None.
    """

    experiment: int
    commit: str
    status: str  # "keep" | "discard" | "crash"
    description: str
    val_bpb: float | None = None
    gain: float | None = None
    interval: tuple[float, float] | None = None
    p_better: float | None = None
    num_trials: int = 0
    tok_sec: float | None = None
    memory_gb: float | None = None
    seconds: float = 0.0


def summary(rows: Sequence[Row], noise: float | None) -> dict[str, Any]:
    """Counts and the total gain; what cannot be said is None.

    num_experiments, num_keeps and num_discards count ideas, so not row 0, which was judged against nothing; num_crashes
    counts a crashed baseline too. keep_rate is keeps / (keeps + discards). The baseline is the first row that was
    measured, the incumbent the latest kept one; `best_val_bpb` is the incumbent's estimated mean, not the luckiest
    measurement, which repeats would not confirm. `noise` is the standard deviation of one trial.
    """
    ideas = [row for row in rows if row.experiment != 0]
    keeps = sum(row.status == "keep" for row in ideas)
    discards = sum(row.status == "discard" for row in ideas)
    baseline = next((row for row in rows if row.status != "crash" and _score(row) is not None), None)
    incumbent = next((row for row in reversed(rows) if row.status == "keep" and _score(row) is not None), baseline)
    start = None if baseline is None else _score(baseline)
    best = None if incumbent is None else _score(incumbent)
    gain = None if start is None or best is None else start - best
    return {
        "num_experiments": len(ideas),
        "num_keeps": keeps,
        "num_discards": discards,
        "num_crashes": sum(row.status == "crash" for row in rows),
        "keep_rate": keeps / (keeps + discards) if keeps + discards else None,
        "num_trials": sum(row.num_trials for row in rows),
        "seconds": sum(row.seconds for row in rows),
        "baseline_experiment": None if baseline is None else baseline.experiment,
        "baseline_val_bpb": start,
        "best_experiment": None if incumbent is None else incumbent.experiment,
        "best_commit": None if incumbent is None else incumbent.commit,
        "best_val_bpb": best,
        "gain_bpb": gain,
        "gain_percent": None if gain is None or not start else 100 * gain / start,
        "noise": noise,
        "gain_over_noise": None if gain is None or not noise else gain / noise,
    }


def table(rows: Sequence[Row], width: int = 100, *, judged: str = "val_bpb") -> str:
    """The experiments as plain text of at most `width` columns, one line each under a heading.

    judged: what the scores are, the head of their column. Descriptions are cut first; then tok/s, trials, p, gain and
    val_bpb give way, in this order.
    """
    if not rows:
        return cut("no experiments yet", width)
    heads = ["#", "status", judged, "gain", "p", "trials", "tok/s"]
    cells = [_cells(row) for row in rows]
    widths = [max(columns(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    longest = max(columns(terminal_line(row.description)) for row in rows)
    shown = list(range(len(heads)))
    for dropped in (6, 5, 4, 3, 2):
        if width - sum(widths[i] + 2 for i in shown) >= min(20, longest):
            break
        shown.remove(dropped)
    room = max(0, width - sum(widths[i] + 2 for i in shown))
    lines = []
    for line, last in zip(
        [heads, *cells], ["description", *(terminal_line(row.description) for row in rows)], strict=True
    ):
        left = [pad(line[i], widths[i], right=heads[i] != "status") for i in shown]
        lines.append(cut("  ".join([*left, cut(last, room)]).rstrip(), width))
    return "\n".join(lines)


def terminal_chart(
    rows: Sequence[Row], width: int = 80, height: int = 16, *, colour: bool | None = None, judged: str = "val_bpb"
) -> str:
    """val_bpb against experiment in characters: at most `height` lines of at most `width` columns.

    `●` kept, `·` discarded, `×` crashed (on the axis), a line for the incumbent's estimate; `▲` and `▼` mark what lies
    beyond the scale, which follows the kept rows. `colour=None` means: if standard output is a terminal and NO_COLOR is
    unset.
    """
    if not rows:
        return cut("no experiments yet", width)
    if not _incumbents(rows):
        num_crashes = sum(row.status == "crash" for row in rows)
        return cut(f"nothing measured yet: {num_crashes} of {len(rows)} experiments crashed", width)
    if width < 24 or height < 6:
        return cut(f"no room for a chart in {width} x {height}", width)
    low, high = _limits(rows, None)
    margin = max(len(_axis_label(value)) for value in (low, high)) + 2
    num_columns, num_lines = max(2, width - margin), max(3, height - 3)
    first, last = min(row.experiment for row in rows), max(row.experiment for row in rows)
    grid = [[" "] * num_columns for _ in range(num_lines)]

    def column_of(experiment: int) -> int:
        return (num_columns - 1) * (experiment - first) // max(1, last - first) if last > first else num_columns // 2

    def line_of(score: float) -> int:
        return round((num_lines - 1) * (high - min(high, max(low, score))) / (high - low))

    _draw_steps(grid, [(column_of(row.experiment), line_of(score)) for row, score in _incumbents(rows)])
    for wanted in ("crash", "discard", "keep"):  # the later covers the earlier where columns are shared
        for row in rows:
            score = _score(row)
            if row.status != wanted:
                continue
            if row.status == "crash" or score is None:
                grid[-1][column_of(row.experiment)] = "×"
                continue
            mark = "▲" if score > high else "▼" if score < low else "●" if wanted == "keep" else "·"
            grid[line_of(score)][column_of(row.experiment)] = mark
    paints = _wants_colour() if colour is None else colour
    labels = {0: high, num_lines // 2: high - (high - low) * (num_lines // 2) / (num_lines - 1), num_lines - 1: low}
    lines = [cut(f"{judged} (lower is better)   ● kept  · discarded  × crashed  ─ incumbent", width)]
    for index, cells in enumerate(grid):
        label = f"{_axis_label(labels[index])} ┤" if index in labels else "│"
        lines.append(pad(label, margin, right=True) + _painted("".join(cells).rstrip(), paints))
    lines.append(" " * (margin - 1) + "└" + "─" * num_columns)
    ends = f"#{first}" if first == last else f"#{first}" + f"#{last}".rjust(num_columns - len(f"#{first}"))
    lines.append(" " * margin + (ends if last > first else ends.center(num_columns).rstrip()))
    return "\n".join(lines)


def save_chart(rows: Sequence[Row], path: Path, noise: float | None, *, tag: str = "", judged: str = "val_bpb") -> Path:
    """Write the chart of a session as PNG (1650 x 900 pixels) to `path`, whole or not at all; returns `path`.

    Kept rows with the 95 % interval of their gain, discarded and crashed ones, the incumbent's estimate as a step line
    with a band of one standard deviation of a trial (`noise`) on either side. Points beyond the scale sit on its edge
    as triangles.

    Raises:
        AutoresearchError: matplotlib is not installed.
        DiskError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        hint = "pip install 'autoresearch[plot]'"
        raise AutoresearchError(f"the PNG chart needs matplotlib: {error}", hint=hint) from error
    # A Figure of its own instead of pyplot: no global state, no window system, nothing to close.
    figure = Figure(figsize=(11, 6), dpi=150, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_chart(axes, rows, noise, tag, judged)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # A description may hold characters the font lacks; their boxes are no reason to fail or to warn.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        canvas.draw()
        _label_keeps(axes, rows)
        canvas.print_png(picture)
    write_whole(path, picture.getvalue())
    return path


def _score(row: Row) -> float | None:
    """The row's val_bpb if it is a usable number: NaN and what is beyond 1e12 are overflows, not scores."""
    return row.val_bpb if row.val_bpb is not None and abs(row.val_bpb) < 1e12 else None


def _kept(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    return [(row, score) for row in rows if row.status == "keep" and (score := _score(row)) is not None]


def _incumbents(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """Who was the incumbent from which experiment on: the baseline, the keeps, and the last again at the right end."""
    measured = [(row, score) for row in rows if row.status != "crash" and (score := _score(row)) is not None]
    if not measured:
        return []
    kept = _kept(rows)
    steps = kept if kept and kept[0][0] is measured[0][0] else [measured[0], *kept]
    return [*steps, (rows[-1], steps[-1][1])]


def _limits(rows: Sequence[Row], noise: float | None) -> tuple[float, float]:
    """Lowest and highest val_bpb shown.

    The kept rows set the scale; others are shown up to one more span beyond them (at least six standard deviations of
    noise, or 2 % of the score), so that one blown-up run does not flatten the rest.
    """
    scores = [score for row in rows if row.status != "crash" and (score := _score(row)) is not None]
    if not scores:
        return 0.0, 1.0
    anchors = [score for _, score in _incumbents(rows)]
    span = max(max(anchors) - min(anchors), 6 * (noise or 0.0), 0.02 * abs(statistics.median(anchors)), 1e-6)
    shown = [score for score in scores if min(anchors) - span <= score <= max(anchors) + span] + anchors
    low, high = min(shown), max(shown)
    edge = max(0.06 * (high - low), 0.02 * span)
    return low - edge, high + edge


def _picture_limits(rows: Sequence[Row], noise: float | None) -> tuple[float, float]:
    """`_limits`, widened to hold the noise band and most error bars, and by a strip for the crashes at the bottom."""
    low, high = _limits(rows, noise)
    most = 0.4 * (high - low)
    ends = [(score, *(min(most, length) for length in _error_bar(row))) for row, score in _kept(rows)]
    ends += [(score, min(most, noise or 0.0), min(most, noise or 0.0)) for _, score in _incumbents(rows)]
    low = min([low, *(score - below for score, below, _ in ends)])
    high = max([high, *(score + above for score, _, above in ends)])
    strip = 0.07 if any(row.status == "crash" for row in rows) else 0.02
    return low - strip * (high - low), high + 0.02 * (high - low)


def _cells(row: Row) -> list[str]:
    return [
        str(row.experiment),
        terminal_line(row.status),
        "-" if row.val_bpb is None else f"{row.val_bpb:.4f}",
        "-" if row.gain is None else f"{row.gain:+.4f}",
        "-" if row.p_better is None else f"{row.p_better:.2f}",
        str(row.num_trials) if row.num_trials else "-",
        "-" if row.tok_sec is None else f"{row.tok_sec:,.0f}",
    ]


def _axis_label(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.2e}"


def _draw_steps(grid: list[list[str]], steps: Sequence[tuple[int, int]]) -> None:
    """The incumbent's line: level until the next keep, then down (or up) in that keep's column."""
    for (left, line), (right, next_line) in pairwise(steps):
        for column in range(left, right + 1):
            grid[line][column] = "─"
        if next_line != line:
            for between in range(min(line, next_line) + 1, max(line, next_line)):
                grid[between][right] = "│"
            grid[line][right] = "┐" if next_line > line else "┘"


def _wants_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _painted(text: str, paints: bool) -> str:
    if not paints:
        return text
    return "".join(f"\x1b[{_ANSI[char]}m{char}\x1b[0m" if char in _ANSI else char for char in text)


def _draw_chart(axes: Any, rows: Sequence[Row], noise: float | None, tag: str, judged: str) -> None:
    """Everything but the labels, which need a drawn figure to be measured against."""
    low, high = _picture_limits(rows, noise)
    discarded = [(row, score) for row in rows if row.status == "discard" and (score := _score(row)) is not None]
    inside = [(row.experiment, score) for row, score in discarded if low <= score <= high]
    beyond = [(row.experiment, score) for row, score in discarded if not low <= score <= high]
    crashes = [row.experiment for row in rows if row.status == "crash"]
    kept, steps = _kept(rows), _incumbents(rows)
    if steps:
        x, y = [row.experiment for row, _ in steps], [score for _, score in steps]
        if noise:
            lower, upper = [score - noise for score in y], [score + noise for score in y]
            name = f"± noise of one trial ({noise:.2g})"
            axes.fill_between(x, lower, upper, step="post", color=_BLUE, alpha=0.10, linewidth=0, label=name)
        axes.step(x, y, where="post", color=_BLUE, linewidth=1.6, label="incumbent (estimate)", zorder=2)
    if inside:
        axes.scatter(*zip(*inside, strict=True), s=26, color=_GREY, label="discarded", zorder=3, linewidths=0)
    for marker, edge, name in (("^", high, "discarded, above the scale"), ("v", low, "discarded, below the scale")):
        points = [x for x, y in beyond if (y > high) == (marker == "^")]
        if points:
            axes.scatter(
                points, [edge] * len(points), s=34, marker=marker, color=_GREY, label=name, clip_on=False, zorder=3
            )
    if kept:
        x, y = [row.experiment for row, _ in kept], [score for _, score in kept]
        errors = [_error_bar(row) for row, _ in kept]
        axes.errorbar(
            x, y, yerr=list(zip(*errors, strict=True)), fmt="o", color=_GREEN, markersize=7.5, elinewidth=1.2,
            capsize=2.5, markeredgecolor="white", markeredgewidth=0.8, label="kept, with 95 % interval of its gain",
            zorder=4,
        )  # fmt: skip
    if crashes:
        axes.scatter(
            crashes, [_CRASH_HEIGHT] * len(crashes), marker="x", s=30, color=_VERMILLION, label="crashed",
            transform=axes.get_xaxis_transform(), zorder=3,
        )  # fmt: skip
    _dress(axes, rows, noise, tag, low, high)
    words = "validation bits per byte" if judged == "val_bpb" else f"validation bits per byte, {judged}"
    axes.set_ylabel(f"{words} (lower is better)", color=_INK)


def _error_bar(row: Row) -> tuple[float, float]:
    """Lengths below and above the point, zero where unknown. The interval is of the gain: val_bpb falls as it grows."""
    if row.interval is None or not all(math.isfinite(end) for end in row.interval):
        return 0.0, 0.0
    worst, best = row.interval
    centre = (worst + best) / 2 if row.gain is None else row.gain
    return max(0.0, best - centre), max(0.0, centre - worst)


def _dress(axes: Any, rows: Sequence[Row], noise: float | None, tag: str, low: float, high: float) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = [row.experiment for row in rows] or [0]
    axes.set_xlim(min(numbers) - 0.6, max(max(numbers), min(numbers) + 4) + 0.6)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel("experiment", color=_INK)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors="#555555", length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#BBBBBB")
    name = cut(terminal_line(tag), 60)
    axes.set_title(
        f"autoresearch {name}".rstrip(),
        loc="left",
        fontsize=14,
        fontweight="bold",
        color=_INK,
        pad=24,
        parse_math=False,
    )
    axes.text(0, 1.02, _headline(rows, noise), transform=axes.transAxes, fontsize=10, color="#555555", parse_math=False)
    if _incumbents(rows):
        axes.figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False
        )
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "nothing measured yet", transform=axes.transAxes, ha="center", fontsize=14, color=_GREY)


def _headline(rows: Sequence[Row], noise: float | None) -> str:
    numbers = summary(rows, noise)
    parts = [f"{numbers['num_experiments']} experiments, {numbers['num_keeps']} kept, {numbers['num_crashes']} crashed"]
    if numbers["gain_bpb"] is not None:
        gain = f"{numbers['baseline_val_bpb']:.4f} → {numbers['best_val_bpb']:.4f}"
        percent = "" if numbers["gain_percent"] is None else f" ({-numbers['gain_percent']:+.2f} %)"
        over = "" if numbers["gain_over_noise"] is None else f", {numbers['gain_over_noise']:.1f} x noise"
        parts.append(gain + percent + over)
    if numbers["seconds"]:
        parts.append(duration(numbers["seconds"]))
    return "   ".join(parts)


def _label_keeps(axes: Any, rows: Sequence[Row]) -> None:
    """Name each kept point where there is room; a label that would cover a point, a line or another label is left out.

    Latest first: the incumbent and its ancestors near it matter most. Needs a figure that was drawn once.
    """
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    marks, words, leaders = _mark_boxes(axes, rows), list[Any](), list[Any]()
    for row, score in reversed(_kept(rows)):
        text = f"#{row.experiment} {cut(terminal_line(row.description), LABEL_LENGTH)}"
        for dx, dy, side in _LABEL_PLACES:
            leader = {"arrowstyle": "-", "color": "#AAAAAA", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
            leader["relpos"] = (1 if side == "right" else 0, 0.5)
            label = axes.annotate(
                text, (row.experiment, score), xytext=(dx, dy), textcoords="offset points", ha=side,
                va="bottom" if dy > 0 else "top", fontsize=8, color=_INK, parse_math=False,
                arrowprops=leader if abs(dy) > 5 else None, zorder=5, annotation_clip=False,
            )  # fmt: skip
            label.set_in_layout(False)
            box = _text_box(label, renderer)
            fits = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            start = (box.x1 if side == "right" else box.x0, (box.y0 + box.y1) / 2)
            line = _leader_boxes(start, axes.transData.transform((row.experiment, score))) if abs(dy) > 5 else []
            if (
                fits
                and not any(box.overlaps(other) for other in [*marks, *words, *leaders])
                and not any(piece.overlaps(other) for piece in line for other in words)
            ):
                words.append(box)
                leaders += line
                break
            label.remove()


def _leader_boxes(start: tuple[float, float], end: tuple[float, float]) -> list[Any]:
    """Small pixel boxes along a leader, so that it can be tested against labels."""
    from matplotlib.transforms import Bbox

    (x0, y0), (x1, y1) = start, end
    points = [(x0 + (x1 - x0) * i / 24, y0 + (y1 - y0) * i / 24) for i in range(1, 25)]
    return [Bbox([[x - 3, y - 3], [x + 3, y + 3]]) for x, y in points]


def _text_box(label: Any, renderer: Any) -> Any:
    """The box of the words alone, in pixels: an annotation's own extent includes its leader."""
    from matplotlib.text import Text

    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer).padded(2)


def _mark_boxes(axes: Any, rows: Sequence[Row]) -> list[Any]:
    """Pixel boxes that no label may touch: every mark, every error bar, every piece of the incumbent's line."""
    from matplotlib.transforms import Bbox

    to_pixels = axes.transData.transform
    boxes = []
    for row in rows:
        if row.status == "crash":
            x, y = axes.get_xaxis_transform().transform((row.experiment, _CRASH_HEIGHT))
            boxes.append(Bbox([[x - 7, y - 7], [x + 7, y + 7]]))
            continue
        score = _score(row)
        if score is None:
            continue
        below, above = _error_bar(row) if row.status == "keep" else (0.0, 0.0)
        x, y0 = to_pixels((row.experiment, score - below))
        y1 = to_pixels((row.experiment, score + above))[1]
        boxes.append(Bbox([[x - 7, y0 - 7], [x + 7, y1 + 7]]))
    steps = [(row.experiment, score) for row, score in _incumbents(rows)]
    for (left, level), (right, next_level) in pairwise(steps):
        (x0, y0), (x1, y1) = to_pixels((left, level)), to_pixels((right, next_level))
        boxes.append(Bbox([[x0, y0 - 2], [x1, y0 + 2]]))
        boxes.append(Bbox([[x1 - 2, min(y0, y1)], [x1 + 2, max(y0, y1)]]))
    return boxes
