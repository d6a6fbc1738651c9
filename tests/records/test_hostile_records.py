"""What a candidate or a proposer says cannot break what is written from the ledger."""

import csv
import io
import json
from dataclasses import replace

import pytest
from hostile_words import HORROR, HOSTILE, hidden
from hypothesis import example, given
from ledgers import CRASHED, HASH, KEPT, open_ledger, record, session_of, trial_of
from markdown_it import MarkdownIt

from autoresearch.records import tables
from autoresearch.records.ledger import Experiment, Purpose, State, TrialRow
from autoresearch.records.run_report import RunIdentity, read_status, run_json, status_text, write_run, write_status
from autoresearch.records.snapshots import write_snapshot
from autoresearch.vocabulary import Examination, Outcome, Proposal, Slice, Status

READER = MarkdownIt("gfm-like", {"html": True, "linkify": True, "typographer": True})


def row_of(description: str, reason: str, sealed: str, log_tail: str):
    """The row of a crashed experiment in which every word is a machine's."""
    trial = trial_of(
        outcome=Outcome.CRASHED, val_bpb=None, reason=reason, sealed=sealed, log_tail=log_tail, leak_bound_bpb=None,
        examined=Examination.NONE,
    )  # fmt: skip
    experiment = Experiment(
        "nov21", 1, State.JUDGED, HASH, Proposal(description, {}, "stranger"), HASH, Status.CRASH,
        replace(CRASHED, reason=reason), "2025-11-22", "2025-11-22", 1,
    )  # fmt: skip
    ran = TrialRow(1, "nov21", 1, HASH, Purpose.FIRST, 0, Slice.SEARCH, "f", trial, None, None, "", None)
    return tables.result_row(experiment, [ran])


@given(HOSTILE, HOSTILE)
@example(HORROR, HORROR)
@example("=1+1", '"')
def test_a_row_is_a_line_with_as_many_fields_as_columns_in_every_reader(description, sealed):
    rows = [row_of(description, "r", sealed, ""), row_of("the next", "r", "full", "")]
    for text, columns in (
        (tables.results_text(rows), tables.COLUMNS),
        (tables.history_text(rows), tables.HISTORY_COLUMNS),
    ):
        assert not hidden(text, "\t", "\n")
        for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
            read = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=quoting))
            assert [len(line) for line in read] == [len(columns)] * 3
            assert read[2][5] == "the next"


@pytest.mark.slow
@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
@example(HORROR, HORROR, HORROR, f"{HORROR}\n---\n# heading\n<script>alert(1)</script>\n```\n[x](http://x)\n")
@example("http://x.io", "a@b.io", "www.x.io", "http://x.io")
def test_an_entry_has_the_shape_it_always_has_and_nothing_of_the_words_acts(description, reason, sealed, log_tail):
    entry = tables.log_entry(row_of(description, reason, sealed, log_tail))
    assert not hidden(entry, "\n")
    tokens = READER.parse(entry)
    kinds = [token.type for token in tokens if not token.type.endswith("_close")]
    words = [kind for kind in kinds if kind != "inline"]
    expected = ["heading_open", "paragraph_open", "bullet_list_open"] + ["list_item_open", "paragraph_open"] * 2
    block = ["paragraph_open", "code_block"] if "code_block" in words else []
    # a log of hidden characters alone leaves the line above its block, and no block
    assert words in ([*expected, *block, "hr"], [*expected, "paragraph_open", "hr"])
    inner = {child.type for token in tokens for child in token.children or []}
    assert inner <= {"text", "code_inline", "strong_open", "strong_close"}


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


def snapshot_of(ledger, experiment, folder, diff=""):
    write_snapshot(folder, ledger, session_of(), experiment, diff=diff, checkpoints_dir=folder / "none")


def test_json_of_a_snapshot_is_printable_ascii_and_holds_the_words(ledger, tmp_path):
    horror = HORROR.replace("\ud800", "")  # a lone surrogate never enters the ledger: workspace.admitted
    trial = trial_of(outcome=Outcome.CRASHED, val_bpb=None, reason=HORROR, log_tail=HORROR)
    experiment = record(ledger, 1, trial, replace(CRASHED, reason=HORROR), description=horror)
    snapshot_of(ledger, experiment, tmp_path / "1")
    text = (tmp_path / "1" / "metrics.json").read_text()
    assert not hidden(text, "\n")
    assert text.isascii()
    metrics = json.loads(text)
    assert metrics["description"] == horror
    assert metrics["trials"][0]["trial"]["log_tail"] == HORROR.replace("\ud800", "\ufffd")


def test_a_snapshot_holds_no_file_that_cannot_be_the_edited_one(ledger, tmp_path):
    names = [
        "..",
        ".",
        "",
        "metrics.json",
        "a\nb.py",
        "run.log",
        ".hidden.py",
        "-x.py",
        "x" * 300 + ".py",
        "\ud800.py",
        "ok.py",
    ]
    ledger.propose("nov21", 1, HASH, Proposal("odd names", dict.fromkeys(names, "x = '\ud800'\n"), "stranger"))
    snapshot_of(ledger, ledger.experiment("nov21", 1), tmp_path / "1")
    written = {path.name for path in (tmp_path / "1").iterdir()}
    assert written == {"ok.py", "diff.patch", "settings.json", "fingerprint.json", "metrics.json"}
    assert (tmp_path / "1" / "ok.py").read_text() == "x = '\ufffd'\n"


def test_the_json_of_a_run_is_printable_ascii(tmp_path):
    identity = RunIdentity(session_of(), 1, 2, HASH, HORROR, "first", 7, "search", "", {"NAME": HORROR})
    write_run(tmp_path, run_json(identity, trial_of(outcome=Outcome.CRASHED, val_bpb=None, reason=HORROR)))
    for path in tmp_path.iterdir():
        assert not hidden(path.read_text(), "\n")
        assert json.loads(path.read_text())["result"]["reason"] == HORROR.replace("\ud800", "\ufffd")


@given(HOSTILE)
@example(HORROR)
def test_a_status_file_has_one_line_a_key_whatever_the_message(message):
    text = status_text({"phase": "training", "message": message, "pid": 3})
    assert [line.split("=", 1)[0] for line in text.splitlines()] == ["phase", "message", "pid"]
    assert not hidden(text, "\n")


def test_a_status_file_that_a_stranger_wrote_is_read_as_bounded_clean_lines(tmp_path):
    path = tmp_path / "agent_status.txt"
    path.write_bytes(b"phase=\x1b[2Jtrain\xff\x00ing\nmessage=" + b"x" * 10_000_000 + b"\nno equals\n")
    found = read_status(path)
    assert found["phase"] == "train\ufffding"
    assert len(found["message"]) < 400
    write_status([path], {"phase": "ended"})
    assert read_status(path) == {"phase": "ended"}


def test_a_keep_with_a_hostile_description_is_written_whole_everywhere(ledger, tmp_path):
    record(ledger, 1, trial_of(), KEPT, description=HORROR.replace("\ud800", ""))
    paths = {name: tmp_path / name for name in ("results.tsv", "history.tsv", "log.md")}
    for _ in range(2):  # the second time nothing is found torn or strange
        tables.write_tables(
            ledger, "nov21", results=[paths["results.tsv"]], history_path=paths["history.tsv"], log_path=paths["log.md"]
        )
    assert {path.name for path in tmp_path.iterdir()} == {*paths, "state"}
    assert not any(hidden(path.read_text(), "\n", "\t") for path in paths.values())
