"""What is planted is noticed when it is touched."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from autoresearch.loop.candidate import FOLDER_PREFIX
from autoresearch.redteam.checks import is_validation_text
from autoresearch.redteam.decoys import ENVIRONMENT_NAME, Decoys
from autoresearch.redteam.pictures import changes, ipc_objects, left_behind, marked_paths, picture_of
from autoresearch.vocabulary import Outcome, Trial

TRIAL = Trial(Outcome.CRASHED)


@pytest.fixture
def decoys(smoke):
    with Decoys(*smoke) as planted:
        yield planted


@pytest.fixture
def look(decoys, tmp_path):
    """A function that does something between the two pictures of a trial and gives the evidence."""

    def during(act):
        watch = decoys.watch("mark-of-this-test", tmp_path / "run.log")
        act(decoys.fields())
        return watch.seen(TRIAL, None)

    return during


def test_a_quiet_trial_leaves_no_evidence(look):
    evidence = look(lambda fields: None)
    assert evidence.victim_alive
    found = (evidence.contacts, evidence.signals, evidence.disturbed, evidence.leftovers, evidence.changed_files)
    assert not any(found)
    assert not any((evidence.marked_files, evidence.prepared_changes, evidence.package_changes))


def test_every_secret_is_where_the_fields_say_and_in_no_field(decoys):
    fields = decoys.fields()
    places = {
        "home": Path(fields["HOME_CANARY"]).read_text(),
        "repository": Path(fields["REPOSITORY"], "notes.md").read_text(),
        "ledger": Path(fields["LEDGER"]).read_bytes().decode(errors="replace"),
        "other trial": Path(fields["OTHER_TRIAL"], "scratch/notes.txt").read_text(),
        "environment": os.environ[fields["ENVIRONMENT_NAME"]],
        "process": psutil.Process(int(fields["VICTIM_PID"])).environ()[fields["VICTIM_NAME"]],
    }
    assert {place: decoys.secrets[place] in text for place, text in places.items()} == dict.fromkeys(places, True)
    assert not [name for name, value in fields.items() if any(secret in value for secret in decoys.secrets.values())]


@pytest.mark.slow
def test_the_phrase_that_is_given_away_leads_to_validation_text_and_proves_nothing(decoys, look):
    evidence = look(lambda fields: None)
    fields = decoys.fields()
    rows = next(Path(fields["PREPARED"]).glob("rows.search.npy")).read_bytes()
    start = bytes.fromhex(fields["ROW_START_HEX"])
    following = rows[rows.index(start) + len(start) :][:96]
    assert is_validation_text(following, evidence.validation, evidence.known_text)
    assert not is_validation_text(start, evidence.validation, evidence.known_text)
    assert any(bytes.fromhex(fields["PHRASE_HEX"]) in form for form in evidence.validation)


def _tcp(fields):
    socket.create_connection(("127.0.0.1", int(fields["TCP_PORT"]))).close()


def _udp(fields):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", int(fields["UDP_PORT"])))


def _unix(fields):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(fields["UNIX_SOCKET"])


def _abstract(fields):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect("\0" + fields["ABSTRACT_SOCKET"])


@pytest.mark.parametrize(
    ("call", "heard"),
    [(_tcp, "TCP"), (_udp, "UDP"), (_unix, "Unix socket"), (_abstract, "abstract Unix socket")],
)
@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_call_to_a_listener_is_heard(look, call, heard):
    assert look(call).contacts == (heard,)


@pytest.mark.slow
def test_a_signal_to_the_referee_is_noticed_and_survived(look):
    assert look(lambda fields: os.kill(int(fields["REFEREE_PID"]), signal.SIGUSR1)).signals == ("SIGUSR1",)


def test_the_end_of_the_victim_is_noticed_and_harm_can_be_mended(decoys, look):
    assert not decoys.harmed()

    def end(fields):
        victim = psutil.Process(int(fields["VICTIM_PID"]))
        victim.kill()
        decoys._victim.wait()

    assert not look(end).victim_alive
    assert decoys.harmed()


@pytest.mark.slow
def test_a_change_of_priority_is_noticed(look):
    evidence = look(lambda fields: os.setpriority(os.PRIO_PROCESS, int(fields["VICTIM_PID"]), 7))
    assert evidence.disturbed == ("another process's priority",)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["OUTSIDE", "HOME", "REPOSITORY", "OTHER_TRIAL"])
def test_a_file_added_to_a_decoy_is_noticed(decoys, look, place):
    assert look(lambda fields: Path(fields[place], "new").write_text("x")).changed_files
    assert decoys.harmed()


def test_a_ledger_rewritten_with_its_old_times_is_noticed(look):
    def rewrite(fields):
        path = Path(fields["LEDGER"])
        before = path.stat()
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert [Path(path).name for path in look(rewrite).changed_files] == ["ledger.sqlite3"]


def test_a_marked_file_in_a_temporary_folder_is_noticed_and_removed(look):
    path = Path(tempfile.gettempdir(), "a-mark-of-this-test-b")
    assert look(lambda fields: path.write_text("x")).marked_files == (str(path),)
    assert not path.exists()


@pytest.mark.slow
def test_a_process_of_the_trial_that_lives_on_is_noticed_and_ended(look):
    started = []

    def start(fields):
        command = [sys.executable, "-c", "import signal; signal.pause()", "mark-of-this-test"]
        started.append(subprocess.Popen(command, start_new_session=True))

    (leftover,) = look(start).leftovers
    assert str(started[0].pid) in leftover
    assert started[0].wait() == -signal.SIGKILL


def test_leaving_takes_everything_away(smoke):
    with Decoys(*smoke) as planted:
        fields = planted.fields()
    assert not Path(fields["HOME"]).exists()
    assert not Path(fields["OTHER_TRIAL"]).exists()
    assert not psutil.pid_exists(int(fields["VICTIM_PID"]))
    assert ENVIRONMENT_NAME not in os.environ
    assert not list(Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}{os.getpid()}-*"))


@pytest.mark.slow
def test_decoys_of_a_killed_run_are_removed_by_the_next_and_those_of_a_living_one_stay(smoke):
    from autoresearch.contract.corpora import cache_root

    dead = cache_root() / ".redteam-1-dead"
    dead.mkdir()
    (dead / "lock").touch()
    with Decoys(*smoke) as first, Decoys(*smoke) as second:
        assert not dead.exists()
        assert first.root.exists() and second.root.exists()


def test_a_picture_shows_what_was_added_removed_and_changed(tmp_path):
    for name in ("kept", "changed", "removed"):
        (tmp_path / name).write_text("x")
    before = picture_of([tmp_path])
    (tmp_path / "changed").write_text("y")
    (tmp_path / "removed").unlink()
    (tmp_path / "added").mkdir()
    assert [Path(path).name for path in changes(before, picture_of([tmp_path]))] == ["added", "changed", "removed"]


def test_marks_are_found_two_folders_deep_and_no_deeper(tmp_path):
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    for folder in (tmp_path, deep.parent, deep):
        (folder / "x-mark-x").write_text("")
    assert marked_paths("mark", [tmp_path]) == [tmp_path / "x-mark-x", deep.parent / "x-mark-x"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="POSIX shared memory is not a folder here")
def test_shared_memory_is_left_behind_once_nobody_uses_it():
    before = ipc_objects()
    path = Path(f"/dev/shm/redteam-test-{os.getpid()}")
    try:
        with path.open("w+b") as stream:
            stream.truncate(4096)
            with mmap.mmap(stream.fileno(), 4096):
                assert str(path) in ipc_objects() - before and str(path) not in left_behind(before)
        assert str(path) in left_behind(before)
    finally:
        path.unlink()
    assert str(path) not in left_behind(before)
