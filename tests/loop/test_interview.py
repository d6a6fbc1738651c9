"""The deep examination as a conversation: what is sent to a fresh process, in which order, and what ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from patience import PATIENCE

from autoresearch.backends.runtime import NumpyRuntime
from autoresearch.contract import channel as channel_module
from autoresearch.contract import frames
from autoresearch.contract.channel import SocketLink
from autoresearch.loop.conversation import Ended, Limits
from autoresearch.loop.interview import Interview
from autoresearch.loop.orders import Arena, DeepWish, Order
from autoresearch.sandbox.layers import probe
from autoresearch.vocabulary import Outcome, Slice

FILES = {"train.py": "the experiment", "notes.py": ""}
FRESH = DeepWish(lambda _: True, noise_bpb=1e-6)


class FakeCandidate:
    """A fresh process that is a thread here: `act` is its end of the channel."""

    def __init__(self, act):
        self.channel, self.theirs = socket.socketpair()
        self.begun = []
        self.tree = SimpleNamespace(
            poll=lambda: None, wait=lambda _: None, memory_mb=lambda: 123.0, num_processes=lambda: 1
        )
        self.cell = SimpleNamespace(disk_mb=lambda: 0.0)
        self.thread = threading.Thread(target=act, args=(self.theirs,), daemon=True)

    def begin(self, files, entry, log_path):
        self.begun.append((dict(files), entry, log_path))
        self.thread.start()

    def log_flooded(self):
        return False


@pytest.fixture
def interview(smoke, tmp_path, monkeypatch):
    """A function (what the process does, options) -> (Interview, candidate); the channel is closed afterwards."""
    rules, prepared = smoke
    monkeypatch.setattr(channel_module, "runtime_in_use", NumpyRuntime)
    made = []

    def make(act, *, deep=FRESH, stop=None, limits=None, **rule_changes):
        arena = Arena(
            dataclasses.replace(rules, **rule_changes), prepared, "cpu", accelerators=False, seal=probe("none")
        )
        if limits is not None:
            monkeypatch.setattr(Arena, "limits", property(lambda _: limits))
        order = Order(FILES, "train.py", seed=9, slice=Slice.CONFIRM, deep=deep)
        candidate = FakeCandidate(act)
        made.append(candidate)
        return Interview(arena, order, candidate, tmp_path / "deep.log", stop or threading.Event()), candidate

    yield make
    for candidate in made:
        candidate.channel.close()
        candidate.theirs.close()
        if candidate.begun:
            candidate.thread.join(PATIENCE)


@pytest.fixture
def model(smoke):
    """(weights of a table of token frequencies, its claims on the confirm slice)."""
    rows = smoke[1].rows(Slice.CONFIRM).astype(np.int64)
    counts = 1.0 + np.bincount(rows[:, 1:].ravel(), minlength=len(smoke[1].tokenizer.token_bytes))
    return NumpyRuntime().pack({"counts": counts}), -np.log(counts / counts.sum())[rows[:, 1:]]


def rebuilt(weights):
    counts = weights["counts"]
    return lambda inputs: np.broadcast_to(np.log(counts), (*inputs.shape, len(counts)))


def honest(channel):
    link = SocketLink(channel)
    with contextlib.suppress(frames.BrokenFrame):  # a referee that refuses hangs up
        link.hello()
        link.be_examined(rebuilt)


def ended(action):
    with pytest.raises(Ended) as caught:
        action()
    return caught.value.outcome, caught.value.reason


def test_an_honest_process_passes_and_is_told_the_end(interview, model, smoke, tmp_path):
    talk, candidate = interview(honest)
    result = talk.hold(*model, batch_size=8)
    assert result.passed
    assert result.num_prefixes == 2.0 * smoke[0].num_eval_rows
    assert candidate.begun == [(FILES, "train.py", tmp_path / "deep.log")]
    candidate.thread.join(PATIENCE)
    assert not candidate.thread.is_alive(), "it ends by itself when it is told so"
    assert talk.peak_memory == 123.0


def test_it_is_given_the_constants_and_weights_and_nothing_of_the_text_but_prefixes(interview, model, smoke):
    rules, prepared = smoke
    heard = []

    def listens(channel):
        frames.send(channel, {"op": "hello"})
        heard.append(frames.receive(channel, 2**20))
        frames.send(channel, {"op": "ready"})
        heard.append(frames.receive(channel, 2**20))
        frames.send(channel, {"op": "loaded"})
        heard.append(frames.receive(channel, 2**20))
        frames.send(channel, {"op": "rude"})

    talk, _ = interview(listens)
    ended(lambda: talk.hold(*model, batch_size=8))
    (constants, table), (weights, packed), (ask, _) = heard
    assert constants["task"] == "rebuild"
    assert constants["constants"] == {
        "MAX_SEQ_LEN": rules.max_seq_len,
        "TIME_BUDGET": rules.time_budget,
        "SEED": 9,
        "PRESET": "smoke",
        "MAX_DEVICE_BATCH_SIZE": 0,
    }
    assert table == prepared.tokenizer.to_json().encode()
    assert (weights["op"], packed) == ("weights", model[0])
    assert (ask["op"], ask["kind"]) == ("ask", "prefix")


def test_claims_that_the_weights_do_not_give_are_a_result_and_no_end(interview, model):
    talk, _ = interview(honest)
    weights, claims = model
    result = talk.hold(weights, claims - 0.2, batch_size=8)
    assert not result.passed
    assert "a fresh process with these weights needs" in result.reason
    talk, _ = interview(honest)
    result = talk.hold(weights, claims - 0.01, batch_size=8)
    assert "nats better on average than a fresh process" in result.reason


def test_prefixes_answered_before_are_not_asked_again(interview, model):
    first, _ = interview(honest, deep=DeepWish(lambda _: True, noise_bpb=0.3))
    second, _ = interview(honest, deep=DeepWish(lambda _: True, noise_bpb=0.3, asked_before=30))
    counts = [talk.hold(*model, batch_size=8).num_prefixes for talk in (first, second)]
    assert counts[1] < counts[0] < 80


@pytest.mark.parametrize(
    ("says", "phase"),
    [(["next"], "start-up"), (["hello", "weights"], "start-up"), (["hello", "ready", "x" * 99], "start-up")],
)
def test_a_word_out_of_turn_is_rejected(interview, model, says, phase):
    def rude(channel):
        for op in says:
            frames.send(channel, {"op": op})

    talk, _ = interview(rude)
    outcome, reason = ended(lambda: talk.hold(*model, batch_size=8))
    assert outcome is Outcome.REJECTED
    assert reason == f"unexpected request {says[-1][:40]!r} during {phase} afresh"


def test_an_answer_that_is_no_array_is_rejected(interview, model):
    def babbles(channel):
        for op in ("hello", "ready", "loaded"):
            frames.send(channel, {"op": op})
        frames.send(channel, {"op": "answer", "shape": [2, 2]}, b"123")

    talk, _ = interview(babbles)
    assert ended(lambda: talk.hold(*model, batch_size=8)) == (
        Outcome.REJECTED,
        "an answer is not a float32 array of the shape it names",
    )


@pytest.mark.slow
def test_each_phase_has_its_own_deadline(interview, model):
    def never_up(channel):
        channel.recv(1)

    def never_answers(channel):
        for op in ("hello", "ready", "loaded"):
            frames.send(channel, {"op": op})
        while channel.recv(2**16):
            pass

    talk, _ = interview(never_up, startup_cap=0.2, exam_deadline=60.0)
    assert ended(lambda: talk.hold(*model, batch_size=8)) == (
        Outcome.TIMED_OUT,
        "the deep examination passed the deadline of its start-up",
    )
    talk, _ = interview(never_answers, startup_cap=60.0, exam_deadline=0.2)
    assert ended(lambda: talk.hold(*model, batch_size=8)) == (
        Outcome.TIMED_OUT,
        "the deep examination passed the deadline of its deep examination",
    )


def test_limits_and_the_users_stop_hold_here_too(interview, model):
    def waits(channel):
        channel.recv(1)

    talk, _ = interview(waits, limits=Limits(memory_mb=100.0))
    assert ended(lambda: talk.hold(*model, batch_size=8))[1] == "out of memory: 123 MB of 100 allowed"
    stop = threading.Event()
    stop.set()
    talk, _ = interview(waits, stop=stop)
    assert ended(lambda: talk.hold(*model, batch_size=8)) == (Outcome.ABANDONED, "stopped by the user")
