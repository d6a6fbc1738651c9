import errno
import json
import math
import os
import subprocess
import sys

import pytest

from autoresearch.files import DiskError, append_whole, sweep_temporaries, write_json, write_whole


def refuse_with(number):
    def refuse(*_arguments, **_keywords):
        raise OSError(number, os.strerror(number))

    return refuse


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_and_no_temporary_stays(tmp_path):
    path = tmp_path / "new folder" / "résults.tsv"
    write_whole(path, "first, longer\n")
    write_whole(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    assert names(path.parent) == ["résults.tsv"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_whoever_has_the_old_file_open_still_reads_it_whole(tmp_path):
    path = tmp_path / "status.txt"
    write_whole(path, b"old")
    with path.open() as reader:
        write_whole(path, b"new and longer")
        assert reader.read() == "old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "said", "hint"),
    [
        (errno.ENOSPC, "disk full while writing", "--resume"),
        (errno.EDQUOT, "disk full while writing", "df -h"),
        (errno.EROFS, "cannot write", "chmod u+w"),
        (errno.EIO, "cannot write", "check the disk"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch, call, number, said, hint):
    path = tmp_path / "results.tsv"
    write_whole(path, "old")
    monkeypatch.setattr(os, call, refuse_with(number))
    with pytest.raises(DiskError, match=said) as caught:
        write_whole(path, "new")
    assert hint in caught.value.hint
    assert str(path) in caught.value.message
    assert path.read_text() == "old"
    assert names(tmp_path) == ["results.tsv"]


def test_a_folder_that_is_a_file_is_a_disk_error(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    for write in (write_whole, append_whole):
        with pytest.raises(DiskError, match="cannot write"):
            write(tmp_path / "logs" / "run.log", "text")


def test_appending_keeps_what_is_there_and_makes_the_file(tmp_path):
    path = tmp_path / "logs" / "history.tsv"
    append_whole(path, "one ü\n")
    append_whole(path, b"two\n")
    assert path.read_bytes() == "one ü\ntwo\n".encode()


def test_an_append_that_the_disk_takes_in_pieces_is_finished(tmp_path, monkeypatch):
    whole_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole_write(descriptor, data[:3]))
    append_whole(tmp_path / "history.tsv", "größer als drei\n")
    assert (tmp_path / "history.tsv").read_text() == "größer als drei\n"


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_append_is_a_disk_error_and_keeps_the_old_rows(tmp_path, monkeypatch, call):
    path = tmp_path / "history.tsv"
    append_whole(path, "old\n")
    monkeypatch.setattr(os, call, refuse_with(errno.ENOSPC))
    with pytest.raises(DiskError, match="disk full"):
        append_whole(path, "new\n")
    assert path.read_text().startswith("old\n")


def test_json_is_indented_ends_with_a_newline_and_holds_no_nan(tmp_path):
    path = tmp_path / "last_run.json"
    write_json(path, {"a": [1, None], "path": path})
    assert path.read_text() == f'{{\n  "a": [\n    1,\n    null\n  ],\n  "path": {json.dumps(str(path))}\n}}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": math.inf})
    assert "null" in path.read_text()


def test_only_leftovers_of_dead_processes_are_swept(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    alive = os.getppid()
    left = (
        f".results.tsv.{ended.pid}.abcdefgh.tmp",
        f".results.tsv.{os.getpid()}.abcdefgh.tmp",
        f".results.tsv.{alive}.abcdefgh.tmp",
        ".editor.swap.tmp",
        "results.tsv",
        "notes.tmp",
    )
    for name in left:
        (tmp_path / name).write_text("x")
    sweep_temporaries(tmp_path)
    assert names(tmp_path) == sorted(left[2:])


KILLED = """
import os, signal, sys
from pathlib import Path
from autoresearch.files import write_whole

path = Path(sys.argv[1])
write_whole(path, "old")
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
write_whole(path, "new" * 100_000)
"""


def test_a_kill_in_mid_write_leaves_the_old_file_and_a_leftover_that_is_swept(tmp_path):
    path = tmp_path / "results.tsv"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    sweep_temporaries(tmp_path)
    assert names(tmp_path) == ["results.tsv"]
