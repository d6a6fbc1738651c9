"""The live line: it fits, it is harmless, and each kind of reader gets what it can read."""

from __future__ import annotations

import io
import json
import math
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.report.live import LiveLine, Progress, render
from autoresearch.report.text import columns, count, cut, duration, for_encoding, pad

FULL = Progress(
    tag="jun8",
    experiment=7,
    phase="training",
    description="MATRIX_LR 0.04 -> 0.055",
    step=61,
    loss=3.214,
    tok_sec=14_230,
    progress=0.437,
    remaining_seconds=11.2,
    incumbent_val_bpb=1.99123,
    keeps=2,
    discards=4,
    crashes=0,
    experiments_left=17,
    eta_seconds=190,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def live(*, terminal: bool, json_lines: bool = False, width: int = 120) -> tuple[LiveLine, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    line = LiveLine(stream, json_lines=json_lines, is_terminal=terminal, clock=clock, width=lambda: width)
    return line, stream, clock


def test_a_wide_line_says_everything() -> None:
    assert render(FULL, 200) == (
        "#7 MATRIX_LR 0.04 -> 0.055 | training  43% | step 61 | loss 3.21 | 14.2k tok/s | 11s left | best 1.9912"
        " | 2 kept, 4 discarded | 17 to go | ETA 3m"
    )


def test_what_is_not_known_is_left_out() -> None:
    assert render(Progress("t", 0, "start-up", "baseline"), 80) == "#0 baseline | start-up   0%"


def test_a_narrow_line_keeps_experiment_phase_and_time_left() -> None:
    line = render(FULL, 60)
    assert columns(line) <= 60
    assert line.startswith("#7 MATRIX_LR")
    assert "training  43%" in line
    assert "11s left" in line
    assert "to go" not in line


def test_the_description_shrinks_before_a_segment_goes() -> None:
    full = render(FULL, 200)
    line = render(FULL, columns(full) - 5)
    assert "…" in line
    assert line.endswith("17 to go | ETA 3m")


@given(
    description=st.text(max_size=120),
    phase=st.text(min_size=1, max_size=20),
    width=st.integers(1, 250),
    loss=st.none() | st.floats(),
    progress=st.floats(),
    seconds=st.none() | st.floats(),
)
def test_any_progress_fits_its_width_on_one_harmless_line(
    description: str, phase: str, width: int, loss: float | None, progress: float, seconds: float | None
) -> None:
    moment = replace(
        FULL,
        description=description,
        phase=phase,
        loss=loss,
        progress=progress,
        remaining_seconds=seconds,
        eta_seconds=seconds,
    )
    line = render(moment, width)
    assert columns(line) <= width
    assert not [char for char in line if unicodedata.category(char).startswith("C") or char in "\u2028\u2029"]


def test_wide_characters_count_two_columns() -> None:
    assert columns("学习率") == 6
    assert cut("学习率", 5) == "学习…"
    assert cut("学习率", 4) == "学…"
    assert pad("学", 4) == "学  "


def test_an_ascii_terminal_gets_likenesses_not_an_error() -> None:
    assert for_encoding("a → b… ● é", "ascii") == "a > b~ O ?"
    assert for_encoding("a → b…", "utf-8") == "a → b…"
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    LiveLine(stream, is_terminal=False).note("LR → 0.1")
    assert stream.buffer.getvalue() == b"LR > 0.1\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (11.4, "11s"),
        (59.6, "1m"),
        (190, "3m"),
        (3569, "59m"),
        (3571, "1h00m"),
        (3900, "1h05m"),
        (200_000, "2d07h"),
        (math.nan, "?"),
        (math.inf, "?"),
        (-3, "0s"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (999.6, "1.0k"),
        (14_230, "14.2k"),
        (123_456, "123k"),
        (999_600, "1.0M"),
        (2.5e9, "2.5G"),
        (math.nan, "?"),
    ],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert count(number) == text


def test_a_terminal_line_is_rewritten_in_place_and_never_reaches_the_last_column() -> None:
    line, stream, _ = live(terminal=True, width=70)
    line.update(FULL)
    assert stream.getvalue().startswith("\r#7 ")
    assert stream.getvalue().endswith("\x1b[K")
    assert "\n" not in stream.getvalue()
    assert columns(stream.getvalue()[1:-3]) <= 69


def test_a_terminal_sees_at_most_four_frames_a_second() -> None:
    line, stream, clock = live(terminal=True)
    for step in range(100):
        line.update(replace(FULL, step=step + 1))
        clock.now += 0.01
    assert stream.getvalue().count("\r") == 4


def test_a_new_phase_is_shown_at_once() -> None:
    line, stream, _ = live(terminal=True)
    line.update(FULL)
    line.update(replace(FULL, phase="examination"))
    assert "examination" in stream.getvalue()


def test_a_note_stays_above_the_live_line() -> None:
    line, stream, _ = live(terminal=True)
    line.update(FULL)
    stream.seek(0)
    stream.truncate()
    line.note("kept #6\n  table\x1b[31m")
    written = stream.getvalue()
    assert written.startswith("\r\x1b[Kkept #6\n  table\\x1b[31m\n\r#7 ")


def test_closing_clears_the_live_line_once() -> None:
    line, stream, _ = live(terminal=True)
    with line:
        line.update(FULL)
    assert stream.getvalue().endswith("\r\x1b[K")
    length = len(stream.getvalue())
    line.close()
    line.note("done")
    assert stream.getvalue()[length:] == "done\n"


def test_a_file_gets_plain_lines_at_phase_changes_only() -> None:
    line, stream, clock = live(terminal=False)
    for step in range(50):
        line.update(replace(FULL, step=step + 1))
        clock.now += 10
    line.update(replace(FULL, phase="examination"))
    line.update(replace(FULL, phase="examination", experiment=8))
    line.result("discard 2.0112", {"val_bpb": 2.0112})
    line.close()
    lines = stream.getvalue().splitlines()
    assert [text.split()[0] for text in lines] == ["#7", "#7", "#8", "discard"]
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_machines_get_one_json_object_per_line() -> None:
    line, stream, clock = live(terminal=True, json_lines=True)
    line.update(replace(FULL, loss=math.nan))
    line.update(replace(FULL, step=62))  # too soon
    clock.now += 1
    line.update(replace(FULL, step=63))
    line.note("two\nlines")
    line.result("keep", {"val_bpb": 1.98, "interval": (math.inf, 0.1)})
    line.close()
    events = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["progress", "progress", "note", "result"]
    assert events[0]["loss"] is None
    assert events[0]["tag"] == "jun8"
    assert events[1]["step"] == 63
    assert events[2]["text"] == "two\nlines"
    assert events[3]["interval"] == [None, 0.1]


def test_a_dumb_terminal_is_not_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name, rewrites in (("dumb", False), ("xterm", True)):
        monkeypatch.setenv("TERM", name)
        stream = Terminal()
        LiveLine(stream).update(FULL)
        assert stream.getvalue().startswith("\r") is rewrites
