"""Summary, table and charts, on ordinary sessions and on every degenerate one."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.files import DiskError
from autoresearch.report.analysis import Row, save_chart, summary, table, terminal_chart
from autoresearch.report.text import columns
from autoresearch.vocabulary import AutoresearchError


def keep(number: int, score: float, gain: float | None = None, text: str = "MATRIX_LR 0.04 -> 0.055") -> Row:
    interval = None if gain is None else (gain - 0.01, gain + 0.01)
    return Row(number, "abc1234", "keep", text, score, gain, interval, 0.98, 4, 14_000.0, 0.2, 90.0)


def discard(number: int, score: float) -> Row:
    return Row(number, "def5678", "discard", "DEPTH 2 -> 3", score, -0.01, None, 0.1, 1, 13_000.0, 0.2, 30.0)


def crash(number: int) -> Row:
    return Row(number, "0ddba11", "crash", "typo")


SESSION = [
    keep(0, 2.0, text="baseline"),
    discard(1, 2.03),
    keep(2, 1.95, 0.05),
    crash(3),
    discard(4, 1.94),
    keep(5, 1.9, 0.05),
]
DEGENERATE = {
    "empty": [],
    "baseline only": [keep(0, 2.0)],
    "crash only": [crash(0), crash(1)],
    "crashed baseline, then a keep": [crash(0), keep(1, 2.0)],
    "no keeps": [discard(0, 2.0), discard(1, 2.1)],
    "equal scores": [keep(0, 2.0), discard(1, 2.0), discard(2, 2.0)],
    "zero scores": [keep(0, 0.0), discard(1, 0.0)],
    "one blown up": [keep(0, 2.0), discard(1, 1e9), discard(2, 2.01)],
    "not numbers": [keep(0, math.nan), discard(1, math.inf), keep(2, 2.0, math.nan)],
    "a keep that is worse": [keep(0, 2.0), keep(1, 2.1, -0.1)],
    "one row of a longer session": [discard(40, 2.0)],
}
degenerate = pytest.mark.parametrize("rows", DEGENERATE.values(), ids=DEGENERATE.keys())


def test_the_summary_counts_ideas_and_measures_from_baseline_to_incumbent() -> None:
    numbers = summary(SESSION, 0.02)
    assert (numbers["num_experiments"], numbers["num_keeps"], numbers["num_discards"], numbers["num_crashes"]) == (
        5,
        2,
        2,
        1,
    )
    assert numbers["keep_rate"] == 0.5
    assert (numbers["baseline_val_bpb"], numbers["best_val_bpb"], numbers["best_experiment"]) == (2.0, 1.9, 5)
    assert numbers["gain_bpb"] == pytest.approx(0.1)
    assert numbers["gain_percent"] == pytest.approx(5.0)
    assert numbers["gain_over_noise"] == pytest.approx(5.0)
    assert numbers["seconds"] == 330.0
    assert numbers["num_trials"] == 14


def test_the_best_is_the_latest_kept_estimate_not_a_lucky_discard() -> None:
    assert summary([keep(0, 2.0), discard(1, 1.5)], 0.02)["best_val_bpb"] == 2.0
    assert summary([keep(0, 2.0), keep(1, 1.8), keep(2, 1.85)], 0.02)["best_val_bpb"] == 1.85


def test_a_crashed_baseline_passes_its_place_to_the_first_measured_row() -> None:
    numbers = summary([crash(0), discard(1, 2.2), keep(2, 2.1)], None)
    assert (numbers["baseline_experiment"], numbers["baseline_val_bpb"]) == (1, 2.2)
    assert numbers["num_crashes"] == 1
    assert numbers["gain_bpb"] == pytest.approx(0.1)
    assert numbers["gain_over_noise"] is None


def test_an_empty_session_has_no_rate_and_no_gain() -> None:
    numbers = summary([], 0.02)
    assert numbers["num_experiments"] == 0
    assert numbers["keep_rate"] is numbers["gain_bpb"] is numbers["baseline_val_bpb"] is None


def test_no_noise_or_zero_noise_gives_no_ratio() -> None:
    assert summary(SESSION, 0.0)["gain_over_noise"] is None
    assert summary([keep(0, 0.0)], 0.1)["gain_percent"] is None


@degenerate
def test_every_degenerate_session_has_a_summary_a_table_and_a_terminal_chart(rows: list[Row]) -> None:
    for noise in (None, 0.0, 0.01):
        summary(rows, noise)
    for width in (1, 10, 40, 120):
        for text in (table(rows, width), terminal_chart(rows, width, 12, colour=False)):
            assert text
            assert all(columns(line) <= width for line in text.splitlines())


@pytest.mark.slow
@degenerate
def test_every_degenerate_session_has_a_picture(rows: list[Row], tmp_path: Path) -> None:
    path = save_chart(rows, tmp_path / "deep er" / "chärt.png", 0.01, tag="x")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [child.name for child in path.parent.iterdir()] == ["chärt.png"]


def test_the_table_is_aligned_and_complete() -> None:
    assert table(SESSION[:4], 100).splitlines() == [
        "#  status   val_bpb     gain     p  trials   tok/s  description",
        "0  keep      2.0000        -  0.98       4  14,000  baseline",
        "1  discard   2.0300  -0.0100  0.10       1  13,000  DEPTH 2 -> 3",
        "2  keep      1.9500  +0.0500  0.98       4  14,000  MATRIX_LR 0.04 -> 0.055",
        "3  crash          -        -     -       -       -  typo",
    ]


def test_a_narrow_table_drops_speed_first_and_keeps_the_description() -> None:
    heading = table(SESSION, 60).splitlines()[0]
    assert "tok/s" not in heading
    assert "val_bpb" in heading
    assert heading.endswith("description")


def test_a_description_cannot_break_the_table() -> None:
    hostile = replace(SESSION[0], description="a\nb\x1b[31m\u202ec")
    lines = table([hostile], 100).splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(r"a b\x1b[31m\u202ec")


def test_the_terminal_chart_draws_marks_and_the_falling_line() -> None:
    chart = terminal_chart(SESSION, 60, 14, colour=False)
    heading, *body = chart.splitlines()
    drawing = "\n".join(body)
    assert "lower is better" in heading
    assert (drawing.count("●"), drawing.count("·"), drawing.count("×")) == (3, 2, 1)
    assert "┐" in drawing
    assert "×" in body[-3]  # crashes lie on the axis
    assert body[-1].split() == ["#0", "#5"]
    first_keep = next(i for i, line in enumerate(body) if "●" in line)
    last_keep = max(i for i, line in enumerate(body) if "●" in line)
    assert first_keep < last_keep  # better is lower
    assert len(chart.splitlines()) <= 14


def test_a_blown_up_run_does_not_flatten_the_terminal_chart() -> None:
    chart = terminal_chart([*SESSION, discard(6, 50.0)], 60, 14, colour=False)
    assert "▲" in chart
    keeps = [i for i, line in enumerate(chart.splitlines()[1:]) if "●" in line]
    assert max(keeps) - min(keeps) >= 5


def test_colours_need_a_terminal_and_obey_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    plain = terminal_chart(SESSION, 60, 14)
    assert "\x1b" not in plain
    monkeypatch.setattr(sys, "stdout", Terminal())
    coloured = terminal_chart(SESSION, 60, 14)
    assert "\x1b[32m●" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal_chart(SESSION, 60, 14) == plain


scores = st.none() | st.floats(allow_nan=True, allow_infinity=True)
row_lists = st.lists(
    st.tuples(st.sampled_from(["keep", "discard", "crash"]), scores, st.text(max_size=30)), max_size=30
)


@settings(max_examples=60)
@given(row_lists, st.integers(1, 150), st.integers(1, 30))
def test_any_session_fits_the_room_it_is_given(
    made: list[tuple[str, float | None, str]], width: int, height: int
) -> None:
    rows = [Row(i, "c", status, text, score) for i, (status, score, text) in enumerate(made)]
    chart = terminal_chart(rows, width, height, colour=False)
    assert all(columns(line) <= width for line in chart.splitlines())
    assert len(chart.splitlines()) <= height
    assert all(columns(line) <= width for line in table(rows, width).splitlines())
    assert table(rows, width).count("\n") == len(rows)


@pytest.mark.slow
def test_a_picture_survives_markup_and_characters_its_font_lacks(tmp_path: Path) -> None:
    rows = [keep(0, 2.0, text="$\\frac{1$ 学习率 \x1b[31m"), keep(1, 1.9, 0.1, text="x" * 500)]
    assert save_chart(rows, tmp_path / "a.png", None, tag="$a_b$ \u202e").stat().st_size > 10_000


@pytest.mark.slow
def test_a_picture_shows_what_the_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    made: list[Figure] = []
    plain_init = Figure.__init__

    def remember(self: Figure, *args: object, **kwargs: object) -> None:
        plain_init(self, *args, **kwargs)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Figure, "__init__", remember)
    long = keep(6, 1.85, 0.05, text="W" * 80)
    save_chart([*SESSION, long, discard(7, 50.0)], tmp_path / "a.png", 0.012, tag="jun8")
    axes = made[0].axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        "± noise of one trial (0.012)",
        "incumbent (estimate)",
        "discarded",
        "discarded, above the scale",
        "crashed",
        "kept, with 95 % interval of its gain",
    ]
    assert axes.get_title(loc="left") == "autoresearch jun8"
    assert axes.get_ylim()[1] < 3
    words = [text.get_text() for text in axes.texts]
    assert "#5 MATRIX_LR 0.04 -> 0.055" in words
    assert f"#6 {'W' * 44}…" in words
    assert any("2.0000 → 1.8500 (-7.50 %), 12.5 x noise" in text for text in words)


@pytest.mark.slow
def test_labels_of_crowded_keeps_never_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    made: list[Figure] = []
    plain_init = Figure.__init__

    def remember(self: Figure, *args: object, **kwargs: object) -> None:
        plain_init(self, *args, **kwargs)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Figure, "__init__", remember)
    rows = [keep(i, 2.0 - 0.01 * i, 0.01, text=f"idea number {i} with a rather long name") for i in range(30)]
    save_chart(rows, tmp_path / "a.png", 0.01)
    labels = [text for text in made[0].axes[0].texts if text.get_text().startswith("#")]
    boxes = [Text.get_window_extent(label) for label in labels]
    assert len(boxes) >= 5
    assert not [1 for i, box in enumerate(boxes) for other in boxes[i + 1 :] if box.overlaps(other)]


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AutoresearchError) as caught:
        save_chart(SESSION, tmp_path / "a.png", None)
    assert caught.value.hint == "pip install 'autoresearch[plot]'"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_picture_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError, match="disk full"):
        save_chart(SESSION, path, None)
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["a.png"]
