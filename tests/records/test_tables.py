from dataclasses import replace

import pytest
from ledgers import CRASHED, HASH, KEPT, open_ledger, record, session_of, trial_of

from autoresearch.files import DiskError
from autoresearch.records import tables
from autoresearch.records.ledger import Purpose
from autoresearch.records.tables import result_rows, write_tables
from autoresearch.vocabulary import Examination, Outcome, Slice

CRASHED_TRIAL = trial_of(
    outcome=Outcome.CRASHED,
    val_bpb=None,
    reason="out of memory",
    log_tail="Traceback\nMemoryError",
    examined=Examination.NONE,
    deep_prefixes=0,
    leak_bound_bpb=None,
)

HEADER = (
    "commit\tval_bpb\tmemory_gb\tavg_tok_sec\tstatus\tdescription\texperiment\ttrials\testimate\tinterval\tp_better\tsealed"
    "\tseconds\tcost_usd\texamined\tpreparation\tobjective\tobjective_bpb"
)
KEPT_ROW = (
    "1234567\t1.987654\t1.5\t61234\tkeep\tMATRIX_LR 0.04 -> 0.055\t1\t1\t1.980000\t-0.001000..+0.025600\t0.910"
    "\tpartial (no network isolation)\t27.2\t0.0000\tdeep\t\t\t"
)
CRASH_ROW = (
    "1234567\t0.000000\t0.0\t0\tcrash\tDEPTH 2 -> 64\t2\t1\t\t\t\tpartial (no network isolation)\t27.2\t0.0000\t\t\t\t"
)
WHEN = "2025-11-22T01:02:03.004Z"

KEPT_ENTRY = """## nov21 #1: `MATRIX_LR 0.04 -> 0.055`

**keep** · `gain +0.0123, P(better) 0.91 after 2 trials`

- commit `1234567`, 1 trial, 27 s, 2025-11-22T01:02:03.004Z
- val_bpb 1.987654, 61,234 tokens/s, 1.5 GB
- estimated mean 1.9800, gain +0.0123 (95 %: -0.0010 to +0.0256)
- sealed: `partial (no network isolation)`
- examined deeply: 640 prefixes, nothing found; bound 0.0235 bpb

---

"""
CRASH_ENTRY = """## nov21 #2: `DEPTH 2 -> 64`

**crash** · `crashed: out of memory`

- commit `1234567`, 1 trial, 27 s, 2025-11-22T01:02:03.004Z
- sealed: `partial (no network isolation)`

The end of its log, as quoted data:

    Traceback
    MemoryError

---

"""


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def write(ledger, tmp_path):
    """Writes all tables of session nov21; returns their folder."""

    def run(tag="nov21"):
        write_tables(
            ledger,
            tag,
            results=[tmp_path / "results.tsv", tmp_path / "logs" / tag / "results.tsv"],
            history_path=tmp_path / "results_history.tsv",
            log_path=tmp_path / "EXPERIMENT_LOG.md",
        )
        return tmp_path

    return run


def kept_and_crashed(ledger):
    record(ledger, 1, trial_of(), KEPT)
    record(ledger, 2, CRASHED_TRIAL, CRASHED, description="DEPTH 2 -> 64")
    return [replace(row, judged_at=WHEN) for row in result_rows(ledger, "nov21")]


def test_results_tsv_reads_as_the_field_expects(ledger):
    assert tables.results_text(kept_and_crashed(ledger)) == f"{HEADER}\n{KEPT_ROW}\n{CRASH_ROW}\n"


def test_history_adds_the_session_and_the_time_of_the_verdict(ledger):
    text = tables.history_text(kept_and_crashed(ledger))
    assert text == f"{HEADER}\ttag\tjudged_at\n{KEPT_ROW}\tnov21\t{WHEN}\n{CRASH_ROW}\tnov21\t{WHEN}\n"


def test_the_log_has_one_entry_per_verdict_ended_by_a_rule(ledger):
    head = "# Experiment log\n\nOne entry per verdict, oldest first. Written from the ledger.\n\n---\n\n"
    assert tables.log_text(kept_and_crashed(ledger)) == head + KEPT_ENTRY + CRASH_ENTRY


def test_a_crash_has_no_score_outside_the_files(ledger):
    crash = kept_and_crashed(ledger)[1]
    assert (crash.val_bpb, crash.memory_gb, crash.avg_tok_sec, crash.estimate) == (None, None, None, None)
    assert "\t0.000000\t" in tables.tsv_line(crash, with_tag=False)


def test_a_row_shows_the_candidates_own_runs_and_counts_everybodys_seconds(ledger):
    record(ledger, 1, trial_of(), KEPT)
    for commit, purpose in ((HASH, Purpose.PAIR), ("9" * 40, Purpose.PAIRED_INCUMBENT)):
        trial_id = ledger.start_trial("nov21", 1, commit, purpose, 8, Slice.CONFIRM, "f" * 12)
        ledger.end_trial(trial_id, trial_of(val_bpb=1.5, peak_memory_mb=2048.0), "")
    row = result_rows(ledger, "nov21")[0]
    assert (row.val_bpb, row.trials, row.memory_gb, row.seconds) == (1.9876543, 2, 2.0, 3 * 27.25)


def test_an_experiment_that_never_ran_has_a_row_without_commit(ledger):
    from autoresearch.vocabulary import Proposal, Status, Verdict

    ledger.propose("nov21", 1, HASH, Proposal("edits prepare.py", {}, "search"))
    ledger.judged("nov21", 1, Verdict(Status.DISCARD, "rejected: outside its scope"))
    line = tables.tsv_line(result_rows(ledger, "nov21")[0], with_tag=False)
    assert line == "none\t0.000000\t0.0\t0\tdiscard\tedits prepare.py\t1\t0\t\t\t\tnot run\t0.0\t0.0000\t\t\t\t\n"


def test_what_a_recipe_took_and_an_idea_for_the_person_are_in_the_row_and_the_log(ledger):
    from autoresearch.vocabulary import Proposal

    ledger.propose(
        "nov21", 1, HASH, Proposal("fewer tiers", {"a": "b"}, "llm", {"for_human": "the head *dim* may be too small"})
    )
    ledger.committed("nov21", 1, HASH)
    trial_id = ledger.start_trial("nov21", 1, HASH, Purpose.FIRST, 7, Slice.SEARCH, "f" * 12)
    took = {"preparation_seconds": 3.24, "preparation_disk_mb": 11.2, "preparation_limits": (120.0, 512.0)}
    ledger.end_trial(trial_id, trial_of(**took), "")
    ledger.judged("nov21", 1, KEPT)
    row = result_rows(ledger, "nov21")[0]
    assert tables.tsv_line(row, with_tag=False).endswith("\tdeep\t3.2 of 120 s, 11 of 512 MB\t\t\n")
    entry = tables.log_entry(row)
    assert "- recipe prepared in 3.2 of 120 s, 11 of 512 MB\n" in entry
    assert "- for you, not tried here: `the head *dim* may be too small`\n" in entry


def test_experiments_without_a_verdict_have_no_row(ledger):
    from autoresearch.vocabulary import Proposal

    ledger.propose("nov21", 1, HASH, Proposal("still running", {}, "search"))
    assert result_rows(ledger, "nov21") == []


def test_a_session_has_its_own_results_and_all_share_one_history(ledger, write):
    record(ledger, 1, trial_of(), KEPT)
    ledger.add_session(session_of("nov22"))
    record(ledger, 1, trial_of(), KEPT, tag="nov22", description="second night")
    folder = write("nov22")
    assert (folder / "results.tsv").read_text() == (folder / "logs" / "nov22" / "results.tsv").read_text()
    assert "MATRIX_LR" not in (folder / "results.tsv").read_text()
    history = (folder / "results_history.tsv").read_text().splitlines()
    assert [line.split("\t")[-2] for line in history[1:]] == ["nov21", "nov22"]


def test_writing_again_appends_only_what_is_new(ledger, write):
    record(ledger, 1, trial_of(), KEPT)
    path = write() / "results_history.tsv"
    before, inode = path.read_bytes(), path.stat().st_ino
    write()
    assert path.read_bytes() == before
    record(ledger, 2, CRASHED_TRIAL, CRASHED)
    write()
    assert path.read_bytes().startswith(before)
    assert len(path.read_text().splitlines()) == 3
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("name", ["results_history.tsv", "EXPERIMENT_LOG.md"])
def test_a_torn_tail_is_mended_wherever_it_tore(ledger, write, name):
    record(ledger, 1, trial_of(), KEPT, description="größere Breite → 幅 64")
    path = write() / name
    whole = path.read_bytes()
    inside_characters = {place for place, byte in enumerate(whole) if byte & 0xC0 == 0x80}
    for length in sorted({*range(0, len(whole), 41), len(whole) - 1} | inside_characters):
        path.write_bytes(whole[:length])
        tables._append_missing(path, whole.decode())
        assert path.read_bytes() == whole
    assert not list(path.parent.glob("*.found"))


@pytest.mark.parametrize(
    "strange",
    [
        b"commit\tval_bpb\nabc\t1.0\n",
        b"\xff\xfe not even text",
        b"",
    ],
)
def test_a_strangers_history_is_set_aside_whole(ledger, write, tmp_path, strange):
    record(ledger, 1, trial_of(), KEPT)
    path = tmp_path / "results_history.tsv"
    path.write_bytes(strange)
    write()
    assert len(path.read_text().splitlines()) == 2
    found = [kept.read_bytes() for kept in tmp_path.glob("results_history.tsv.*.found")]
    assert found == ([strange] if strange else [])


def test_rows_that_a_restored_ledger_forgot_are_set_aside_not_erased(ledger, write):
    record(ledger, 1, trial_of(), KEPT)
    path = write() / "results_history.tsv"
    longer = path.read_bytes() + b"abcdef0\t1.900000\n"
    path.write_bytes(longer)
    write()
    assert len(path.read_text().splitlines()) == 2
    assert [kept.read_bytes() for kept in path.parent.glob("*.found")] == [longer]


def test_tables_that_a_git_clean_removed_come_back_the_same(ledger, write):
    kept_and_crashed(ledger)
    names = ("results.tsv", "results_history.tsv", "EXPERIMENT_LOG.md")
    before = {name: (write() / name).read_bytes() for name in names}
    for name in names:
        (write() / name).unlink()
    assert {name: (write() / name).read_bytes() for name in names} == before


def test_a_table_that_cannot_be_written_is_our_error(ledger, write, tmp_path):
    record(ledger, 1, trial_of(), KEPT)
    (tmp_path / "results.tsv").mkdir()
    with pytest.raises(DiskError, match=r"results\.tsv") as caught:
        write()
    assert caught.value.hint


def test_a_row_under_an_objective_has_both_scores_and_the_log_says_which_was_judged(ledger):
    record(ledger, 1, trial_of(objective="bpb@4bit", objective_bpb=2.0123456, objective_seconds=3.0), KEPT)
    row = result_rows(ledger, "nov21")[0]
    assert (row.val_bpb, row.objective, row.objective_bpb) == (1.9876543, "bpb@4bit", 2.0123456)
    assert tables.tsv_line(row, with_tag=False).endswith("\tdeep\t\tbpb@4bit\t2.012346\n")
    assert "- judged on `bpb@4bit`: 2.012346\n" in tables.log_entry(row)


def test_noise_is_pooled_from_the_score_that_is_judged(ledger):
    record(ledger, 1, trial_of(objective="bpb@4bit", objective_bpb=2.5), KEPT)
    assert ledger.score_groups("f" * 12) == [[2.5]]
