"""The referee's talk with a candidate process: frames, deadlines of frames, limits, and why it ended."""

from __future__ import annotations

import os
import socket
import struct
import threading
from types import SimpleNamespace

import pytest

from autoresearch.contract import frames
from autoresearch.loop import conversation as conversation_module
from autoresearch.loop.conversation import Conversation, Ended, Limits
from autoresearch.vocabulary import InstallationError, Outcome

LIMITS = Limits(memory_mb=1000.0, disk_mb=100.0, num_processes=10)


class FakeCandidate:
    """A candidate whose process, memory and disk are what the test says."""

    def __init__(self, folder):
        self.channel, self.theirs = socket.socketpair()
        self.code = None
        self.memory, self.processes, self.disk, self.flooded = 10.0, 1, 0.0, False
        self.log_closed = False
        self.tree = SimpleNamespace(
            poll=lambda: self.code,
            wait=lambda _seconds: self.code,
            memory_mb=lambda: self.memory,
            num_processes=lambda: self.processes,
        )
        self.cell = SimpleNamespace(disk_mb=lambda: self.disk)
        self.log_path = folder / "run.log"
        self.log_path.write_text("")
        self.early = ""

    def log_flooded(self):
        return self.flooded

    def close_log(self):
        self.log_closed = True

    def early_log(self):
        return self.early


@pytest.fixture
def candidate(tmp_path, monkeypatch):
    monkeypatch.setattr(conversation_module, "_STALL", 0.2)
    made = FakeCandidate(tmp_path)
    yield made
    made.channel.close()
    made.theirs.close()


@pytest.fixture
def talk(candidate):
    talk = Conversation(candidate, candidate.log_path, LIMITS, threading.Event())
    talk.introduced = True
    return talk


def ended(action):
    with pytest.raises(Ended) as caught:
        action()
    return caught.value.outcome, caught.value.reason


# -------------------------------------------------------------------------------------------------------------- frames


def test_frames_go_both_ways(talk, candidate):
    assert not talk.readable()
    frames.send(candidate.theirs, {"op": "hello"}, b"table")
    assert talk.readable()
    header, payload = talk.receive(100)
    assert (header["op"], payload) == ("hello", b"table")
    talk.send({"op": "end"}, b"x")
    header, payload = frames.receive(candidate.theirs, 100)
    assert (header["op"], payload) == ("end", b"x")


def test_a_payload_larger_than_allowed_is_rejected_before_it_is_read(talk, candidate):
    frames.send(candidate.theirs, {"op": "weights"}, bytes(101))
    outcome, reason = ended(lambda: talk.receive(100))
    assert outcome is Outcome.REJECTED
    assert reason.startswith("the channel broke: ")


def test_half_a_frame_is_not_waited_for_without_end(talk, candidate):
    candidate.theirs.sendall(struct.pack("<I", 50) + b'{"op"')
    assert ended(lambda: talk.receive(100))[0] is Outcome.REJECTED


def test_a_candidate_that_does_not_read_is_rejected(talk):
    outcome, reason = ended(lambda: [talk.send({"op": "rows"}, bytes(2**20)) for _ in range(100)])
    assert outcome is Outcome.REJECTED
    assert "does not read its channel" in reason


# ----------------------------------------------------------------------------------------------------- how it ended


@pytest.mark.parametrize("way", ["readable", "receive", "send"])
def test_a_process_that_is_gone_has_crashed_for_the_reason_in_its_log(talk, candidate, way):
    candidate.log_path.write_text("step 1\nValueError: no such head\n")
    candidate.theirs.close()
    candidate.code = 1
    if way == "readable":
        candidate.channel.recv(1)  # the end of the stream itself can be read, once
        candidate.channel.close()
        candidate.channel, theirs = socket.socketpair()
        talk = Conversation(candidate, candidate.log_path, LIMITS, threading.Event())
        talk.introduced = True
        action = talk.readable
    else:
        theirs = None
        action = (lambda: talk.receive(100)) if way == "receive" else (lambda: talk.send({"op": "end"}, bytes(2**20)))
    assert ended(action) == (Outcome.CRASHED, "ValueError: no such head")
    assert candidate.log_closed, "the log is complete before it is read"
    if theirs is not None:
        theirs.close()


def test_what_it_said_last_is_heard_although_it_is_gone(talk, candidate):
    frames.send(candidate.theirs, {"op": "answer"})
    candidate.code = 0
    assert talk.readable()
    assert talk.receive(10)[0]["op"] == "answer"


def test_its_own_fast_fail_is_a_divergence(talk, candidate):
    candidate.log_path.write_text("\nFAIL\n")
    candidate.code = 1
    found = talk.ended()
    assert found.outcome is Outcome.DIVERGED


def test_a_launcher_that_never_said_hello_is_our_failure(talk, candidate):
    talk.introduced = False
    candidate.code = 127
    candidate.early = "bwrap: no such option"
    with pytest.raises(InstallationError, match=r"exit code 127\): bwrap: no such option") as caught:
        talk.ended()
    assert "autoresearch doctor" in caught.value.hint


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("memory", 1001.0, "out of memory: 1,001 MB of 1,000 allowed"),
        ("processes", 11, "11 processes, 10 are allowed"),
        ("disk", 101.0, "wrote 101 MB to disk, 100 are allowed"),
        ("flooded", True, "the log grew beyond 4,194,304 bytes"),
    ],
)
def test_each_limit_that_is_passed_ends_it_and_is_named(talk, candidate, name, value, reason):
    setattr(candidate, name, value)
    assert ended(talk.look) == (Outcome.CRASHED, reason)


def test_limits_that_are_just_met_end_nothing(talk, candidate):
    candidate.memory, candidate.processes, candidate.disk = 1000.0, 10, 100.0
    assert talk.look()
    assert talk.peak_memory == 1000.0


def test_looks_are_taken_at_most_four_times_a_second(talk, candidate, monkeypatch):
    times = iter([10.0, 10.1, 10.24, 10.26, 10.3])
    monkeypatch.setattr(conversation_module.time, "monotonic", lambda: next(times))
    assert [talk.look() for _ in range(5)] == [True, False, False, True, False]


def test_the_most_memory_is_remembered(talk, candidate):
    for candidate.memory in (10.0, 700.0, 20.0):
        talk.look_at_memory()
    assert talk.peak_memory == 700.0


def test_a_user_who_stops_is_heard_at_every_look(candidate):
    stop = threading.Event()
    talk = Conversation(candidate, candidate.log_path, LIMITS, stop)
    assert talk.look()
    stop.set()
    assert ended(talk.look) == (Outcome.ABANDONED, "stopped by the user")


def test_waiting_uses_no_processor(talk):
    """A look is taken every twentieth of a second, not as fast as a core can."""
    before = os.times()
    for _ in range(4):
        assert not talk.readable()
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.1
