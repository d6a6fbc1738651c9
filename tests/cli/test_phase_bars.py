"""What phases look like: plain lines that say each change once, and bars on a terminal."""

from __future__ import annotations

import io

import pytest

from autoresearch.cli.phase_bars import fraction_of, shown_phases


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def status(phase: str, progress: object = 0.25, message: str = "") -> dict[str, str]:
    return {"phase": phase, "progress": str(progress), "message": message}


def test_without_a_terminal_each_step_is_one_line_and_no_character_moves_the_cursor():
    stream = io.StringIO()
    with shown_phases(stream, ["train", "convert"]) as shown:
        shown.begin("train")
        for progress in (0.1, 0.2, 0.3):
            shown.look("train", status("training", progress))
        shown.look("train", status("examination\x1b[2J", 1))
        shown.look("train", status("ended", 1))
        shown.end("train", "done", 12.34)
        shown.begin("convert")
        shown.look("convert", {})
        shown.end("convert", "failed", 1)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["train: begun", "train: training, 10%"]
    assert lines[2].startswith("train: examination") and "\x1b" not in stream.getvalue()
    assert lines[3:] == ["train: done in 12.3 s", "convert: begun", "convert: failed in 1.0 s"]


def test_on_a_terminal_every_phase_has_a_bar_from_the_start(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with shown_phases(stream, ["train", "quantize"]) as shown:
        shown.begin("train")
        shown.look("train", status("training", 0.5, "[bold]not markup[/bold] \x1b]0;title\x07"))
        shown.end("train", "done", 3)
    text = stream.getvalue()
    assert "train" in text and "quantize" in text and "100%" in text
    assert "done in 3.0 s" in text
    assert "\x1b]0;" not in text


@pytest.mark.parametrize(
    ("value", "share"), [("0.5", 0.5), ("", 0.0), ("nan", 0.0), ("7", 1.0), ("-1", 0.0), ("much", 0.0), ("inf", 1.0)]
)
def test_progress_is_a_share_whatever_a_file_says(value, share):
    assert fraction_of({"progress": value}) == share
    assert fraction_of({}) == 0.0
