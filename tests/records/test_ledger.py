import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import CRASHED, HASH, KEPT, open_ledger, record, run_on_small_disk, session_of, trial_of

from autoresearch.records.ledger import SCHEMA_VERSION, Ledger, Purpose, State
from autoresearch.vocabulary import LedgerError, Outcome, Proposal, Slice, Status, Verdict

IDEA = Proposal("LR 1 -> 2", {"train.py": "LR = 2  # größer\n"}, "search", {"asked": [1, {"LR": 2.0}]})


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


def reopened(ledger):
    ledger.close()
    return Ledger(ledger.path)


# -- what is kept -------------------------------------------------------------------------------------------------------


def test_a_session_an_idea_and_a_trial_come_back_as_they_went_in(ledger):
    verdict = Verdict(Status.KEEP, "better", 0.9, 1.9, (-0.1, 0.2), 0.05, 0.01, 3)
    trial = trial_of(slice=Slice.CONFIRM, claimed={"val_bpb": 1.0}, largest_deviation=1e-5, cpu_share=None)
    ledger.propose("nov21", 1, HASH, IDEA)
    ledger.committed("nov21", 1, "c" * 40)
    trial_id = ledger.start_trial("nov21", 1, "c" * 40, Purpose.PAIR, 5, Slice.CONFIRM, "fp")
    ledger.trial_process(trial_id, 4242, 1763.5)
    ledger.end_trial(trial_id, trial, "log ünïcode\n")
    ledger.judged("nov21", 1, verdict)
    again = reopened(ledger)
    experiment, row = again.experiment("nov21", 1), again.trials("nov21", 1)[0]
    assert again.sessions() == [session_of()]
    assert (experiment.proposal, experiment.verdict, experiment.commit_hash) == (IDEA, verdict, "c" * 40)
    assert (row.trial, row.purpose, row.slice, row.seed) == (trial, Purpose.PAIR, Slice.CONFIRM, 5)
    assert (row.pid, row.pid_created_at) == (4242, 1763.5)
    assert again.trial_log(trial_id) == "log ünïcode\n"
    again.close()


def test_a_crash_is_none_in_the_ledger_and_never_zero(ledger):
    record(ledger, 1, trial_of(outcome=Outcome.CRASHED, val_bpb=None), CRASHED)
    assert ledger.trials("nov21", 1)[0].trial.val_bpb is None
    assert ledger.score_groups("f" * 12) == []


def test_an_unknown_session_is_none_and_an_unknown_experiment_an_error(ledger):
    assert ledger.session("dec24") is None
    with pytest.raises(LedgerError, match="no experiment 9") as caught:
        ledger.experiment("nov21", 9)
    assert "history nov21" in caught.value.hint


def test_events_are_told_in_the_order_they_came(ledger):
    ledger.add_event("nov21", "resumed")
    ledger.add_event("nov22", "another session's")
    ledger.add_event("nov21", "stopped")
    assert [what for _, what in ledger.events("nov21")] == ["resumed", "stopped"]


# -- transitions --------------------------------------------------------------------------------------------------------


def test_states_are_passed_in_order_and_each_only_once(ledger):
    states = [ledger.propose("nov21", 1, HASH, IDEA).state]
    for step in (
        lambda: ledger.settled("nov21", 1),  # too early: nothing is judged
        lambda: ledger.committed("nov21", 1, "c" * 40),
        lambda: ledger.committed("nov21", 1, "d" * 40),
        lambda: ledger.judged("nov21", 1, KEPT),
        lambda: ledger.committed("nov21", 1, "e" * 40),
        lambda: ledger.settled("nov21", 1),
        lambda: ledger.settled("nov21", 1),
        lambda: ledger.judged("nov21", 1, CRASHED),
    ):
        step()
        states.append(ledger.experiment("nov21", 1).state)
    assert states == [
        State.PROPOSED, State.PROPOSED, State.COMMITTED, State.COMMITTED,
        State.JUDGED, State.JUDGED, State.SETTLED, State.SETTLED, State.SETTLED,
    ]  # fmt: skip
    assert ledger.experiment("nov21", 1).commit_hash == "c" * 40


def test_a_second_verdict_changes_nothing(ledger):
    ledger.propose("nov21", 1, HASH, IDEA, commit="c" * 40)
    ledger.judged("nov21", 1, KEPT)
    before = ledger.experiment("nov21", 1)
    ledger.judged("nov21", 1, CRASHED)
    assert ledger.experiment("nov21", 1) == before
    assert before.status is Status.KEEP


def test_a_trial_ends_once(ledger):
    trial_id = ledger.start_trial("nov21", 1, HASH, Purpose.FIRST, 7, Slice.SEARCH, "fp")
    assert [row.id for row in ledger.running_trials("nov21")] == [trial_id]
    ledger.end_trial(trial_id, trial_of(), "first")
    ledger.end_trial(trial_id, trial_of(outcome=Outcome.ABANDONED, val_bpb=None), "second")
    assert ledger.running_trials("nov21") == []
    assert ledger.trials("nov21")[0].trial == trial_of()
    assert ledger.trial_log(trial_id) == "first"


def test_verdicts_are_numbered_over_all_sessions_in_the_order_they_fell(ledger):
    ledger.add_session(session_of("nov22"))
    for tag, number in (("nov21", 1), ("nov22", 1), ("nov21", 2)):
        ledger.propose(tag, number, HASH, IDEA, commit=HASH)
    for tag, number in (("nov22", 1), ("nov21", 2), ("nov21", 1)):
        ledger.judged(tag, number, KEPT)
    found = [(one.tag, one.number, one.judged_order) for one in ledger.judged_experiments()]
    assert found == [("nov22", 1, 1), ("nov21", 2, 2), ("nov21", 1, 3)]


def test_the_baseline_starts_as_a_commit(ledger):
    assert ledger.propose("nov21", 0, HASH, IDEA, commit=HASH).state is State.COMMITTED


def test_a_number_taken_twice_is_refused_without_calling_the_file_damaged(ledger):
    ledger.propose("nov21", 1, HASH, IDEA)
    with pytest.raises(LedgerError, match="refuses this record") as caught:
        ledger.propose("nov21", 1, HASH, IDEA)
    assert "damaged" not in str(caught.value)
    assert "mv" not in caught.value.hint
    with pytest.raises(LedgerError, match="refuses"):
        ledger.add_session(session_of())
    ledger.propose("nov21", 2, HASH, IDEA)  # the refused transaction is not left open


def test_an_experiment_of_no_session_is_refused(ledger):
    with pytest.raises(LedgerError, match="FOREIGN KEY"):
        ledger.propose("never-started", 1, HASH, IDEA)


def test_score_groups_hold_repeats_of_one_commit_on_one_slice_and_only_sound_ones(ledger):
    def run(commit, trial, part=Slice.SEARCH, fingerprint="fp"):
        trial_id = ledger.start_trial("nov21", 0, commit, Purpose.CALIBRATE, 1, part, fingerprint)
        if trial:
            ledger.end_trial(trial_id, trial, "")

    run("a", trial_of(val_bpb=1.1))
    run("b", trial_of(val_bpb=2.1))
    run("a", trial_of(val_bpb=1.2))
    run("a", trial_of(val_bpb=1.3), Slice.CONFIRM)
    run("a", trial_of(val_bpb=9.0, disturbed="neighbours took 40 % of the CPU"))
    run("a", trial_of(val_bpb=None, outcome=Outcome.CRASHED))
    run("a", trial_of(val_bpb=8.0), fingerprint="of another contract")
    run("a", None)  # still running
    assert ledger.score_groups("fp") == [[1.1, 1.2], [2.1], [1.3]]


# -- what a kill, a power cut and a second process leave ----------------------------------------------------------------


def test_the_log_is_written_ahead_and_every_commit_reaches_the_disk(ledger):
    assert ledger._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert ledger._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert ledger._db.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_another_process_reads_what_one_has_written(ledger):
    other = Ledger(ledger.path)
    ledger.propose("nov21", 1, HASH, IDEA)
    assert other.experiment("nov21", 1).proposal == IDEA
    other.close()


KILLED = """
import sys
from pathlib import Path
from ledgers import KEPT, record, open_ledger, trial_of
from autoresearch.vocabulary import Proposal

ledger = open_ledger(Path(sys.argv[1]))
record(ledger, 1, trial_of(), KEPT)
with ledger._transaction() as db:
    db.execute("UPDATE experiments SET status = 'crash', state = 'proposed'")
    db.execute("DELETE FROM trials")
    db.execute("PRAGMA cache_spill = 1")
    db.execute("INSERT INTO events (at, tag, what) VALUES ('', 'nov21', ?)", ("x" * 20_000_000,))  # spills into the file
    print("in the middle", flush=True)
    sys.stdin.read()
"""


def start_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def test_a_kill_in_mid_transaction_leaves_the_last_whole_state(tmp_path):
    child = start_child(KILLED, str(tmp_path))
    assert child.stdout.readline() == "in the middle\n"
    kill(child)
    path = tmp_path / "state" / "ledger.sqlite3"
    assert path.with_name("ledger.sqlite3-wal").stat().st_size > 0
    again = Ledger(path)
    assert again.check() == "ok"
    assert again.experiment("nov21", 1).state is State.SETTLED
    assert again.experiment("nov21", 1).verdict == KEPT
    assert [row.trial for row in again.trials("nov21")] == [trial_of()]
    assert again.events("nov21") == []
    again.close()


WRITES_FOREVER = """
import sys
from itertools import count
from pathlib import Path
from ledgers import CRASHED, KEPT, record, open_ledger, trial_of

ledger = open_ledger(Path(sys.argv[1]))
for number in count(1):
    record(ledger, number, trial_of(), KEPT if number % 2 else CRASHED, log="line " * 1000)
    print(number, flush=True)
"""


@pytest.mark.parametrize("told", [1, 2, 7])
def test_a_kill_at_any_time_loses_nothing_that_was_told_and_doubles_nothing(tmp_path, told):
    child = start_child(WRITES_FOREVER, str(tmp_path))
    while child.stdout.readline() != f"{told}\n":
        pass
    kill(child)
    again = Ledger(tmp_path / "state" / "ledger.sqlite3")
    experiments = again.experiments("nov21")
    assert again.check() == "ok"
    assert [one.number for one in experiments] == list(range(1, len(experiments) + 1))
    assert len(experiments) >= told
    assert all(one.state is State.SETTLED for one in experiments[:told])
    assert all(len(again.trials("nov21", one.number)) == 1 for one in experiments[:told])
    assert len({one.judged_order for one in experiments[:told]}) == told
    again.close()


# -- damage and its way back --------------------------------------------------------------------------------------------


def cut_in_half(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.truncate(size // 2)


def garble_header(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"\x00garbage" * 12)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def read_all(path: Path) -> Ledger:
    """Open the ledger and read everything in it."""
    opened = Ledger(path)
    try:
        for session in opened.sessions():
            opened.experiments(session.tag)
            opened.trials(session.tag)
            opened.events(session.tag)
            [opened.trial_log(row.id) for row in opened.trials(session.tag)]
    except LedgerError:
        opened.close()
        raise
    return opened


@pytest.mark.parametrize("damage", [cut_in_half, garble_header, empty])
@pytest.mark.parametrize("folder", ["plain", "a folder's näme (1)"])
def test_following_the_hint_of_a_damaged_ledger_restores_the_last_backup(tmp_path, damage, folder):
    ledger = open_ledger(tmp_path / folder)
    for number in range(1, 8):
        record(ledger, number, trial_of(), KEPT, log=os.urandom(30_000).hex())
    ledger.back_up()
    ledger.add_event("nov21", "after the backup")
    path = ledger.path
    # a kill leaves a log beside the file, which must not be replayed into the restored copy
    log = path.with_name(f"{path.name}-wal").read_bytes()
    ledger.close()
    damage(path)
    path.with_name(f"{path.name}-wal").write_bytes(log[:100])  # a whole one may hold the damaged pages, and mend them
    with pytest.raises(LedgerError, match="damaged") as caught:
        read_all(path)
    command = caught.value.hint.split("   (")[0]
    assert str(ledger.backup_path.name) in command
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    restored = read_all(path)
    assert [one.number for one in restored.experiments("nov21")] == list(range(1, 8))
    assert restored.check() == "ok"
    assert restored.events("nov21") == []
    record(restored, 8, trial_of(), KEPT)
    restored.close()
    assert len([found for found in path.parent.glob("damaged.*/*") if found.name == path.name]) == 1


def test_the_log_of_the_damaged_file_is_not_replayed_into_the_restored_one(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.back_up()
    for number in range(1, 6):
        record(ledger, number, trial_of(), KEPT)
    shutil.copy(ledger.path.with_name("ledger.sqlite3-wal"), tmp_path / "kept-wal")
    ledger.close()
    shutil.copy(tmp_path / "kept-wal", ledger.path.with_name("ledger.sqlite3-wal"))
    hint = ledger._restore_hint()
    subprocess.run(["sh", "-c", hint.split("   (")[0]], check=True, cwd=tmp_path)
    restored = read_all(ledger.path)
    assert restored.check() == "ok"
    assert (restored.sessions(), restored.experiments("nov21")) == ([session_of()], [])
    restored.close()


def test_without_a_backup_the_hint_moves_the_damage_aside_and_says_where_the_attempts_are(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(LedgerError, match="damaged") as caught:
        Ledger(path)
    assert "git for-each-ref refs/autoresearch" in caught.value.hint
    subprocess.run(["sh", "-c", caught.value.hint.split("   (")[0]], check=True, cwd=tmp_path)
    Ledger(path).close()


def test_a_new_ledger_is_made_from_an_empty_file_when_there_is_no_backup(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    path.touch()
    fresh = Ledger(path)
    assert fresh.sessions() == []
    fresh.close()


def test_a_backup_is_whole_and_is_replaced_whole(ledger):
    record(ledger, 1, trial_of(), KEPT)
    ledger.back_up()
    record(ledger, 2, trial_of(), KEPT)
    ledger.back_up()
    with sqlite3.connect(ledger.backup_path) as copy:
        assert copy.execute("SELECT count(*) FROM experiments").fetchone()[0] == 2
    copy.close()
    names = {path.name.removesuffix("-wal").removesuffix("-shm") for path in ledger.path.parent.iterdir()}
    assert names == {"ledger.sqlite3", "ledger.backup.sqlite3"}


def test_a_newer_schema_is_refused_and_left_alone(ledger):
    ledger._db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    ledger.close()
    before = ledger.path.read_bytes()
    with pytest.raises(LedgerError, match=f"schema {SCHEMA_VERSION + 1}") as caught:
        Ledger(ledger.path)
    assert caught.value.hint.startswith("pip install -U")
    assert ledger.path.read_bytes() == before


# -- full and read-only disks -------------------------------------------------------------------------------------------


def test_a_full_ledger_says_so_and_goes_on_when_there_is_room(ledger):
    record(ledger, 1, trial_of(), KEPT)
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count={pages + 1}")
    big = Proposal("big", {"train.py": "x" * 100_000}, "search")
    with pytest.raises(LedgerError, match="disk full") as caught:
        ledger.propose("nov21", 2, HASH, big)
    assert "--resume" in caught.value.hint
    ledger._db.execute("PRAGMA max_page_count=1000000")
    assert [one.number for one in ledger.experiments("nov21")] == [1]
    assert ledger.propose("nov21", 2, HASH, big).proposal == big


FULL_DISK = """
import errno
import os
from ledgers import HASH, KEPT, open_ledger, record, trial_of
from autoresearch.vocabulary import LedgerError, Proposal

ledger = open_ledger(DISK)
record(ledger, 1, trial_of(), KEPT)
ledger.back_up()
ballast = DISK / "ballast"
descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
try:
    while os.write(descriptor, b"x" * 4096):
        pass
except OSError as error:
    assert error.errno == errno.ENOSPC
os.close(descriptor)
big = Proposal("big", {"train.py": "x" * 50_000}, "search")
for attempt in (lambda: ledger.propose("nov21", 2, HASH, big), ledger.back_up):
    try:
        attempt()
        print("written")
    except LedgerError as error:
        print(error.message.split(" /")[0], "|", error.hint)
ballast.unlink()
print([one.number for one in ledger.experiments("nov21")], ledger.check())
print(ledger.propose("nov21", 2, HASH, big).proposal == big)
"""


def test_a_really_full_disk_keeps_the_last_whole_record_and_the_same_ledger_goes_on(tmp_path):
    said = "disk full while writing the ledger | free some space (df -h), then run the same command with --resume"
    assert run_on_small_disk(tmp_path, FULL_DISK).splitlines() == [said, said, "[1] ok", "True"]


READ_ONLY = """
from ledgers import open_ledger
from autoresearch.records.ledger import Ledger
from autoresearch.vocabulary import LedgerError

ledger = open_ledger(DISK)
ledger.close()
subprocess.run(["mount", "-o", "remount,ro", str(DISK)], check=True)
for path in (ledger.path, DISK / "new folder" / "ledger.sqlite3"):
    try:
        Ledger(path)
    except LedgerError as error:
        print(error.message.split(" /")[0], "|", error.hint)
"""


def test_a_read_only_folder_is_our_error_with_a_way_out(tmp_path):
    lines = run_on_small_disk(tmp_path, READ_ONLY).splitlines()
    assert lines[0] == f"cannot write the ledger | chmod u+w {tmp_path / 'disk' / 'state'}"
    assert lines[1].startswith("cannot write | make the folder writable: chmod u+w")


def test_a_folder_that_is_a_file_is_our_error(tmp_path):
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(LedgerError, match="cannot write") as caught:
        Ledger(tmp_path / "state" / "ledger.sqlite3")
    assert caught.value.hint
