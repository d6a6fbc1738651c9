"""A candidate's output on its way to the log: bounded, complete up to there, and never the candidate's to rewrite."""

from __future__ import annotations

import os
import time

import psutil
import pytest
from patience import PATIENCE

from autoresearch.loop import log_pipe
from autoresearch.loop.log_pipe import LogPipe


@pytest.fixture
def piped(tmp_path, monkeypatch):
    """(a pipe into a log of at most 1000 bytes, a writing end as a candidate has it, the path of the log)."""
    monkeypatch.setattr(log_pipe, "MAX_LOG_BYTES", 1000)
    path = tmp_path / "run.log"
    pipe = LogPipe(path)
    theirs = os.dup(pipe.write_fd)
    pipe.hand_over()
    yield pipe, theirs, path
    pipe.close()


def test_all_that_was_said_is_in_the_log_once_the_pipe_is_closed(piped):
    pipe, theirs, path = piped
    for word in (b"first ", b"", b"second\n", bytes(range(256))):
        os.write(theirs, word)
    os.close(theirs)
    pipe.close()
    assert path.read_bytes() == b"first second\n" + bytes(range(256))
    assert not pipe.flooded.is_set()


def test_a_flood_is_cut_at_the_limit_said_and_read_to_its_end(piped):
    """Whoever writes is never stopped by a full pipe, and the disk holds no more than the limit."""
    pipe, theirs, path = piped
    os.write(theirs, b"a" * 600)
    for _ in range(50):
        os.write(theirs, b"b" * 65_536)
    assert pipe.flooded.wait(PATIENCE)
    os.close(theirs)
    pipe.close()
    assert path.read_bytes() == b"a" * 600 + b"b" * 400


def test_a_log_that_just_fills_the_limit_counts_as_a_flood(piped):
    pipe, theirs, path = piped
    os.write(theirs, b"x" * 999)
    os.close(theirs)
    pipe.close()
    assert not pipe.flooded.is_set()
    assert path.stat().st_size == 999


def test_what_was_said_can_be_read_while_more_may_come(piped):
    _, theirs, path = piped
    os.write(theirs, b"step 1")
    deadline = time.monotonic() + PATIENCE
    while path.read_bytes() != b"step 1":
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)
    os.close(theirs)


def test_the_end_that_a_candidate_holds_can_neither_seek_nor_truncate(piped):
    _, theirs, _ = piped
    os.write(theirs, b"said")
    with pytest.raises(OSError, match="Illegal seek"):
        os.lseek(theirs, 0, os.SEEK_SET)
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(theirs, 0)
    os.close(theirs)


def test_handing_over_and_closing_twice_is_harmless_and_leaves_no_descriptor(tmp_path):
    before = psutil.Process().num_fds()
    pipe = LogPipe(tmp_path / "log")
    pipe.hand_over()
    pipe.hand_over()
    pipe.close()
    pipe.close()
    assert pipe.write_fd == -1
    assert psutil.Process().num_fds() == before
