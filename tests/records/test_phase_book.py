"""The entry that a phase has in EXPERIMENT_LOG.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoresearch.records.ledger import Ledger
from autoresearch.records.phases import PhaseBook, PhaseState, phase_entry


@pytest.fixture
def row(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    book = PhaseBook(ledger)
    yield book.end("e", "benchmark", PhaseState.DONE, "", {"text": "best: trellis\n"}, 12.4)
    book.close()
    ledger.close()


def test_an_entry_has_the_files_and_the_words_of_its_phase(row):
    outputs = {"b/report.json": "1", "b/cells/one.json": "2", "a.txt": "3"}
    assert phase_entry(replace(row, ended_at="then", result={**row.result, "outputs": outputs})) == (
        "## e: benchmark\n\n**done** · 12 s, then\n\n- `a.txt`\n- `b/report.json`\n- `b/cells/one.json`\n\n"
        "    best: trellis\n\n---\n\n"
    )


def test_a_folder_of_many_files_has_one_line(row):
    outputs = {"b/report.json": "1", **{f"b/cells/{n:03}.json": "2" for n in range(137)}}
    entry = phase_entry(replace(row, result={"outputs": outputs}))
    assert "- `b/report.json`\n- `b/cells/` (137 files)\n" in entry
    assert "001.json" not in entry


def test_a_run_that_was_begun_has_no_entry(row):
    assert phase_entry(replace(row, state=PhaseState.BEGUN)) == ""
