"""The scorecard counts what held, and says what is missing and why a run failed."""

from __future__ import annotations

import json
from pathlib import Path

from autoresearch.redteam.entries import Defence, Entry, Expect, Kind
from autoresearch.redteam.judging import Judged, Result
from autoresearch.redteam.scorecard import Line, entry_json, entry_line, scorecard, totals, totals_json
from autoresearch.vocabulary import Outcome, Trial


def line(
    identifier: str,
    result: Result,
    *,
    by: Defence | None = None,
    missing=frozenset(),
    trials: int = 1,
    why: str = "why",
) -> Line:
    kind = Kind.CONTROL if identifier.startswith("H") else Kind.CHEAT
    entry = Entry(
        identifier, Path(f"{identifier}_x"), f"title of {identifier}", "tried", "own", kind, (Expect.SAME_SCORE,)
    )
    return Line(
        entry, Judged(result, why, by, frozenset(missing), (Trial(Outcome.FINISHED, val_bpb=3.5),) * trials, 2.0)
    )


RUN = [
    line("A01", Result.REFUSED, by=Defence.EXAMINATION),
    line("A02", Result.NEUTRALISED, by=Defence.REFEREE),
    line("D02", Result.NOT_DEFENDED, by=Defence.FILES, missing={Defence.FILES}, why="read validation text"),
    line("D12", Result.NEUTRALISED, by=Defence.REFEREE),
    line("H01", Result.PASSED, trials=20),
]


def test_the_sums_of_a_run_that_met_what_this_machine_lacks():
    sums = totals(RUN)
    assert (sums.cheats, sums.refused, sums.neutralised, sums.controls, sums.honest_trials) == (4, 1, 2, 1, 20)
    assert sums.by_defence == {"files": (0, 1), "referee": (2, 2), "examination": (1, 1)}
    assert (sums.not_defended_here, sums.missing) == (("D02",), {"files": ("D02",)})
    assert sums.passed


def test_a_run_fails_by_a_cheat_that_nothing_excuses_an_unclear_one_or_a_false_alarm():
    assert not totals([*RUN, line("B01", Result.NOT_DEFENDED, by=Defence.REFEREE)]).passed
    assert not totals([*RUN, line("B01", Result.UNEXPECTED, by=Defence.REFEREE)]).passed
    assert not totals([*RUN, line("H02", Result.FALSE_ALARM)]).passed


def test_people_read_what_is_missing_and_what_to_install():
    text = scorecard(totals(RUN), sealed="partial (no file isolation)", install=["apt-get install bubblewrap"])
    assert "3 of 4 stopped: 1 refused, 2 neutralised" in text
    assert "files: D02 get through without it" in text
    assert "next  apt-get install bubblewrap" in text


def test_nothing_is_advised_where_nothing_is_missing():
    assert "install" not in scorecard(totals(RUN[:2]), sealed="full", install=["apt-get install bubblewrap"])


def test_an_entry_that_held_is_one_line_and_one_that_did_not_says_why():
    assert entry_line(RUN[0]).count("\n") == 0
    assert entry_line(RUN[2]).splitlines()[1].strip() == "read validation text (needs files)"


def test_machines_read_the_same():
    found = json.loads(json.dumps(entry_json(RUN[2])))
    assert (found["id"], found["result"], found["failure"], found["missing"]) == (
        "D02",
        "not defended",
        False,
        ["files"],
    )
    assert json.loads(json.dumps(totals_json(totals(RUN), sealed="none", kind="none")))["passed"] is True
