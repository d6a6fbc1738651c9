from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.report.comparison import Entry, compare, comparison_json, comparison_text, difference_of, num_lines
from autoresearch.report.text import columns

BASE = Entry(
    label="0",
    fingerprint="f" * 16,
    preset="tiny",
    status="keep",
    description="baseline",
    source="DEPTH = 8\nLR = 0.04\nPRESET_OVERRIDES = {'tiny': {'DEPTH': 2}}\n\nprint(DEPTH)\n",
    val_bpb=2.10,
    num_scores=4,
    tok_sec=1000.0,
    memory_gb=2.0,
)
BETTER = replace(
    BASE,
    label="3",
    description="deeper",
    source=BASE.source.replace("'DEPTH': 2", "'DEPTH': 3") + "extra = 1\n",
    val_bpb=2.08,
    gain=0.02,
    interval=(0.01, 0.03),
    p_better=0.99,
    num_scores=1,
    tok_sec=500.0,
    memory_gb=3.0,
)
CRASH = replace(
    BASE, label="5", status="crash", description="broken", source="def f(:\n", val_bpb=None, num_scores=0, tok_sec=None
)
ELSEWHERE = replace(BETTER, label="other:3", fingerprint="e" * 16, preset="small")
NOISE = {"f" * 16: 0.01, "e" * 16: 0.02}


def test_a_gain_carries_an_interval_from_the_noise_of_both_sides_runs():
    found = difference_of(BASE, BETTER, 0.01)
    assert found.gain == pytest.approx(0.02)
    error = 0.01 * (1 / 4 + 1 / 1) ** 0.5
    assert found.interval == pytest.approx((0.02 - 1.96 * error, 0.02 + 1.96 * error), abs=1e-5)
    assert found.p_better == pytest.approx(0.9632, abs=1e-4)
    assert (found.tok_sec_ratio, found.memory_ratio) == (0.5, 1.5)


def test_constants_are_those_in_force_under_the_preset():
    assert difference_of(BASE, BETTER, 0.01).constants == (("DEPTH", "2", "3"),)
    assert difference_of(BASE, replace(BETTER, preset="small"), 0.01).constants == (("DEPTH", "2", "8"),)


def test_lines_are_counted_as_added_and_removed():
    found = difference_of(BASE, BETTER, 0.01)
    assert (found.added, found.removed) == (2, 1)
    assert num_lines(BASE.source) == 4


def test_a_crash_is_never_a_score():
    found = difference_of(BASE, CRASH, 0.01)
    assert (found.gain, found.interval, found.p_better, found.constants) == (None, None, None, ())
    assert found.added == 1


def test_scores_of_two_fingerprints_are_never_set_against_each_other():
    groups = compare([BASE, ELSEWHERE, BETTER], NOISE)
    assert [[entry.label for entry in group.entries] for group in groups] == [["0", "3"], ["other:3"]]
    assert groups[1].differences[0].gain is None
    text = comparison_text(groups)
    assert "cannot be compared" in text
    assert "cannot be compared" not in comparison_text(groups[:1])
    assert comparison_json(groups)["comparable"] is False
    assert comparison_json(groups[:1])["comparable"] is True


def test_json_holds_what_an_agent_reads():
    (group,) = comparison_json(compare([BASE, BETTER], NOISE))["groups"]
    assert group["reference"] == "0"
    reference, entry = json.loads(json.dumps(group["entries"]))
    assert reference["against_reference"] is None
    assert entry["against_reference"]["constants"] == [["DEPTH", "2", "3"]]
    assert entry["lines"] == 5
    assert "source" not in entry


def test_the_table_says_what_changed_in_words():
    text = comparison_text(compare([BASE, BETTER, CRASH], NOISE))
    assert "DEPTH 2 -> 3, lines +2 -1, speed x0.50, memory x1.50" in text
    row = next(line for line in text.splitlines() if line.startswith("3 "))
    assert row.split() == [
        "3",
        "keep",
        "2.0800",
        "+0.0200",
        "+0.0100..+0.0300",
        "0.99",
        "+0.0200",
        "0.96",
        "1",
        "500",
        "3.0",
        "5",
    ]


@given(st.integers(40, 160), st.text(max_size=80))
def test_no_line_is_wider_than_asked_and_no_word_drives_the_terminal(width, description):
    text = comparison_text(compare([BASE, replace(BETTER, description=description + "\x1b[2J")], NOISE), width)
    body = text.split("\n")[1:]  # the first line names the fingerprint and is never cut
    assert all(columns(line) <= width for line in body)
    assert "\x1b" not in text
