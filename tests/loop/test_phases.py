"""Phases without what they do: which are due, what is recorded, and what the log says."""

from __future__ import annotations

import io
import json
import sys

import pytest

from autoresearch.loop.phases import Phase, PhaseFailed, PhaseRun
from autoresearch.records.ledger import Ledger
from autoresearch.records.phases import PhaseState
from autoresearch.vocabulary import DataMissing
from autoresearch.workspace import open_workspace


@pytest.fixture
def made(make_workspace):
    """A function (phases) -> PhaseRun of one workspace; its connections are closed afterwards."""
    workspace = open_workspace(make_workspace())
    ledger = Ledger(workspace.ledger_path)
    runs: list[PhaseRun] = []

    def make(*phases: Phase) -> PhaseRun:
        runs.append(PhaseRun(workspace, ledger, "e", phases))
        return runs[-1]

    yield make
    for run in runs:
        run.book.close()
    ledger.close()


def leaves(root, name: str, text: str = "x", code: int = 0):
    """Work that writes one file below logs/e and prints a line."""

    def work() -> int:
        path = root / "logs" / "e" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"made {name}")
        return code

    return work


def names(run: PhaseRun) -> list[str]:
    return [phase.name for phase in run.due()]


def test_a_phase_that_is_done_is_due_again_when_what_it_was_made_from_changed(made):
    run = made()
    root = run.workspace.root
    first = Phase("first", leaves(root, "a/one"), outputs=("a",))
    second = Phase("second", leaves(root, "b"), settings={"bits": 4}, made_from=("first",), outputs=("b",))
    run = made(first, second)
    assert names(run) == ["first", "second"]
    run.carry_out(first, io.StringIO())
    assert names(run) == ["second"]
    run.carry_out(second, io.StringIO())
    assert names(run) == []
    assert names(
        made(first, Phase("second", second.work, settings={"bits": 3}, made_from=("first",), outputs=("b",)))
    ) == ["second"]
    (root / "logs" / "e" / "a" / "one").write_text("y")
    assert names(run) == ["first", "second"]
    run.carry_out(Phase("first", leaves(root, "a/one", "y"), outputs=("a",)), io.StringIO())
    assert names(run) == ["second"]  # made from other bytes now


def test_what_a_phase_prints_is_passed_on_and_recorded(made):
    run = made()
    phase = Phase("first", leaves(run.workspace.root, "one"), outputs=("one",))
    echo = io.StringIO()
    before = sys.stdout
    row = made(phase).carry_out(phase, echo)
    assert sys.stdout is before
    assert echo.getvalue() == row.result["text"] == "made one\n"
    written = json.loads((run.folder / "phase_first.json").read_text())
    assert (written["state"], list(written["outputs"])) == ("done", ["one"])
    assert "    made one" in run.workspace.log_path.read_text()


@pytest.mark.parametrize(
    ("work", "said"),
    [(lambda: 7, "exit code 7"), (lambda: 0, "left no one")],
    ids=["exit code", "nothing left"],
)
def test_a_phase_without_its_result_is_recorded_as_failed(made, work, said):
    phase = Phase("first", work, outputs=("one",))
    run = made(phase)
    with pytest.raises(PhaseFailed, match=said) as caught:
        run.carry_out(phase, io.StringIO())
    assert caught.value.hint == "autoresearch experiment e --resume"
    row = run.book.last("e", "first")
    assert row.state is PhaseState.FAILED and said in row.result["error"]
    assert names(run) == ["first"]
    assert "**failed**" in run.workspace.log_path.read_text()


def test_an_error_keeps_its_own_next_step(made):
    def work() -> int:
        raise DataMissing("no shards", hint="autoresearch prepare")

    phase = Phase("first", work)
    run = made(phase)
    with pytest.raises(PhaseFailed):
        run.carry_out(phase, io.StringIO())
    assert run.book.last("e", "first").result["next"] == "autoresearch prepare"


def test_a_kill_within_a_phase_leaves_running_in_its_file_and_nothing_in_the_record(made):
    def work() -> int:
        raise KeyboardInterrupt  # as a kill: nothing of ours runs after it

    phase = Phase("first", work)
    run = made(phase)
    with pytest.raises(KeyboardInterrupt):
        run.carry_out(phase, io.StringIO())
    assert json.loads((run.folder / "phase_first.json").read_text())["state"] == "running"
    assert run.book.last("e", "first") is None


def test_a_kill_between_the_record_and_its_files_is_mended(made):
    phase = Phase("first", lambda: 0)
    run = made(phase)
    run.book.end("e", "first", PhaseState.DONE, run.made_from(phase), {"text": "fine", "outputs": {}}, 1.0)
    assert not (run.folder / "phase_first.json").exists()
    run.write_again()
    assert json.loads((run.folder / "phase_first.json").read_text())["text"] == "fine"
    assert "## e: first" in run.workspace.log_path.read_text()
    assert names(run) == []
    before = run.workspace.log_path.read_bytes()
    run.write_again()
    assert run.workspace.log_path.read_bytes() == before


def test_what_a_phase_says_drives_neither_the_log_nor_its_json(made):
    text = "## not a heading\n\x1b[2J\ud800 ```\n---\n"
    phase = Phase("first", lambda: print(text.encode("utf-8", "replace").decode()) or 0)
    run = made(phase)
    run.carry_out(phase, io.StringIO())
    log = run.workspace.log_path.read_text()
    assert [line for line in log.splitlines() if line.startswith("##")] == ["## e: first"]
    assert "\x1b" not in log
