"""The candidate's end of a trial: questions on the wire, the loader, the names, and a whole talk over a socket pair."""

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoresearch.backends.runtime import NumpyRuntime
from autoresearch.contract import channel as channel_module
from autoresearch.contract import frames
from autoresearch.contract.channel import (
    Batch,
    Evaluator,
    Loader,
    SocketLink,
    decode_ask,
    encode_ask,
    surface_names,
)
from autoresearch.contract.examination import AskAudit, AskClaim, AskPrefix, examine
from autoresearch.contract.rules import rules_for
from autoresearch.contract.tokenizer import Tokenizer

TOKENIZER = Tokenizer([bytes([value]) for value in range(256)])
V = TOKENIZER.get_vocab_size()
CONSTANTS = {"MAX_SEQ_LEN": 16, "TIME_BUDGET": 8, "SEED": 3, "PRESET": "smoke"}


@pytest.fixture(autouse=True)
def _plain_arrays(monkeypatch):
    """Other tests of this process may have imported torch; the experiments here are numpy's."""
    monkeypatch.setattr(channel_module, "runtime_in_use", NumpyRuntime)


def ids(*shape):
    return arrays.arrays(np.int64, shape, elements=st.integers(0, 2**31))


# ----------------------------------------------------------------------------------------------------------- questions


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([AskPrefix, AskClaim, AskAudit]), st.integers(1, 5), st.integers(1, 7), st.data())
def test_a_question_survives_the_wire(kind, B, T, data):  # noqa: N803
    shapes = {AskPrefix: [(B, T), (B,)], AskClaim: [(B, T), (B, T)], AskAudit: [(B,), (B,)]}[kind]
    ask = kind(*(data.draw(ids(*shape)) for shape in shapes))
    header, payload = encode_ask(ask)
    again = decode_ask(json.loads(json.dumps(header)), payload)
    assert type(again) is kind
    for name, value in vars(ask).items():
        assert getattr(again, name).dtype == np.int64
        np.testing.assert_array_equal(getattr(again, name), value)


def test_the_bytes_of_a_question():
    header, payload = encode_ask(AskAudit(rows=np.array([1, 0]), columns=np.array([2, 258])))
    assert header == {"op": "ask", "kind": "audit", "shapes": [[2], [2]]}
    assert payload == bytes.fromhex("0100000000000000 0000000000000000 0200000000000000 0201000000000000")


def test_a_question_made_of_views_is_sent_in_order():
    rows = np.arange(12, dtype=np.uint16).reshape(2, 6)
    header, payload = encode_ask(AskClaim(inputs=rows[:, :-1], targets=rows[:, 1:]))
    again = decode_ask(header, payload)
    assert again.inputs.tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]]
    assert again.targets.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]


# -------------------------------------------------------------------------------------------------------------- loader


class FakeLink:
    """Hands out the batches it was given and keeps what it was told."""

    def __init__(self, batches=()):
        self.batches = list(batches)
        self.opened = []
        self.asked = 0
        self.weights = b""

    def open_stream(self, batch_size, seq_len):
        self.opened.append((batch_size, seq_len))

    def next_batch(self):
        self.asked += 1
        return self.batches.pop(0) if self.batches else None

    def examine(self, weights, batch_size, answer):
        self.weights = weights
        self.batch_size = batch_size
        self.answer = answer
        return 1.5


def two_batches():
    rows = np.arange(10, dtype=np.uint16).reshape(2, 5)
    return [Batch(rows, 1, 0.0, 0.0), Batch(rows + 100, 2, 0.5, 4.25)]


def test_the_loader_shifts_rows_into_inputs_and_targets():
    loader = Loader(FakeLink(two_batches()), NumpyRuntime(), 2, 4, V)
    inputs, targets, epoch = next(loader)
    assert inputs.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert targets.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]
    assert inputs.dtype == targets.dtype == np.int64
    assert epoch == 1


def test_inputs_do_not_lie_in_memory_that_holds_the_targets():
    inputs, targets, _ = next(Loader(FakeLink(two_batches()), NumpyRuntime(), 2, 4, V))
    assert inputs.base is None
    assert targets.base is None
    assert inputs.nbytes == 2 * 4 * 8
    assert not np.shares_memory(inputs, targets)


def test_the_loader_ends_with_the_budget_and_stays_ended():
    link = FakeLink(two_batches())
    loader = Loader(link, NumpyRuntime(), 2, 4, V)
    assert [epoch for _, _, epoch in loader] == [1, 2]
    assert list(loader) == []
    assert link.asked == 3, "an ended loader asks no more"


def test_progress_and_training_seconds_are_those_of_the_batch_just_handed_out():
    loader = Loader(FakeLink(two_batches()), NumpyRuntime(), 2, 4, V)
    seen = [(loader.progress, loader.training_seconds)]
    seen += [(loader.progress, loader.training_seconds) for _ in loader]
    assert seen == [(0.0, 0.0), (0.0, 0.0), (0.5, 4.25)]
    assert (loader.progress, loader.training_seconds) == (0.5, 4.25)


def test_each_batch_waits_for_steps_in_flight_before_it_is_asked_for():
    order = []

    class Pacing(NumpyRuntime):
        def pace(self):
            order.append("pace")

    class Asking(FakeLink):
        def next_batch(self):
            order.append("ask")
            return super().next_batch()

    list(Loader(Asking(two_batches()), Pacing(), 2, 4, V))
    assert order == ["pace", "ask"] * 3


def test_a_synthetic_batch_has_the_shape_of_a_real_one_and_starts_no_clock():
    link = FakeLink(two_batches())
    loader = Loader(link, NumpyRuntime(), 2, 4, V)
    inputs, targets = loader.synthetic_batch()
    real_inputs, real_targets, _ = next(loader)
    assert (inputs.shape, inputs.dtype) == (real_inputs.shape, real_inputs.dtype)
    assert (targets.shape, targets.dtype) == (real_targets.shape, real_targets.dtype)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    assert 0 <= inputs.min() <= inputs.max() < V
    loader.synthetic_batch()
    assert link.asked == 1


# --------------------------------------------------------------------------------------------------------------- names


def test_an_experiment_finds_the_names_of_the_field():
    names = surface_names(FakeLink(), TOKENIZER, CONSTANTS)
    assert set(names) == {*CONSTANTS, "Tokenizer", "make_dataloader", "evaluate_bpb"}
    assert {name: names[name] for name in CONSTANTS} == CONSTANTS
    assert names["Tokenizer"].from_directory() is names["Tokenizer"].from_directory("anywhere") is TOKENIZER


def test_make_dataloader_opens_a_stream_of_its_shape():
    link = FakeLink(two_batches())
    loader = surface_names(link, TOKENIZER, CONSTANTS)["make_dataloader"](TOKENIZER, 2, 4, "train")
    assert link.opened == [(2, 4)]
    assert link.asked == 0
    assert next(loader)[0].shape == (2, 4)


@pytest.mark.parametrize("split", ["val", "test", "validation", ""])
def test_validation_text_is_not_handed_out(split):
    link = FakeLink(two_batches())
    with pytest.raises(ValueError, match="only 'train' is handed out"):
        surface_names(link, TOKENIZER, CONSTANTS)["make_dataloader"](TOKENIZER, 2, 4, split)
    assert link.opened == []


@pytest.mark.parametrize(("batch_size", "seq_len"), [(0, 4), (-1, 4), (2, 0), (2, 17)])
def test_a_batch_of_impossible_shape_is_refused_with_the_limits(batch_size, seq_len):
    with pytest.raises(ValueError, match="T from 1 to MAX_SEQ_LEN=16"):
        surface_names(FakeLink(), TOKENIZER, CONSTANTS)["make_dataloader"](TOKENIZER, batch_size, seq_len)


# ------------------------------------------------------------------------------------------------------------ evaluator


class Table:
    """Predicts by the last token."""

    def __init__(self):
        self.table = np.random.default_rng(1).normal(size=(V, V)).astype(np.float32)
        self.calls = 0

    def state_dict(self):
        return {"table": self.table}

    def __call__(self, inputs):
        self.calls += 1
        return self.table[inputs]


def test_the_evaluator_returns_the_referees_score_and_answers_from_one_forward_pass():
    from safetensors.numpy import load

    link, model = FakeLink(), Table()
    assert Evaluator(link)(model, TOKENIZER, 4) == 1.5
    assert link.batch_size == 4
    np.testing.assert_array_equal(load(link.weights)["table"], model.table)
    inputs = np.array([[1, 2, 3], [4, 5, 6]])
    targets = np.array([[2, 3, 9], [5, 6, 9]])
    claims = link.answer(AskClaim(inputs, targets))
    assert (claims.shape, claims.dtype) == ((2, 3), np.float32)
    audit = link.answer(AskAudit(rows=np.array([1, 0]), columns=np.array([2, 1])))
    assert model.calls == 1
    np.testing.assert_array_equal(audit, model.table[[6, 2]])
    log_probs = audit - np.log(np.exp(audit.astype(np.float64)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose([-log_probs[0, 9], -log_probs[1, 3]], [claims[1, 2], claims[0, 1]], atol=1e-6)
    prefix = link.answer(AskPrefix(inputs, positions=np.array([0, 2])))
    np.testing.assert_array_equal(prefix, model.table[[1, 6]])


# ------------------------------------------------------------------------------------------------------- a whole talk


class RefereesEnd(threading.Thread):
    """Speaks the referee's side of a trial over a socket, and keeps what it heard."""

    def __init__(self, channel, rows, batches):
        super().__init__(daemon=True)
        self.channel, self.rows, self.batches = channel, rows, batches
        self.heard = []

    def receive(self):
        header, payload = frames.receive(self.channel, 1 << 30, 30.0)
        self.heard.append(header)
        return header, payload

    def run(self):
        self.receive()
        table = TOKENIZER.to_json().encode()
        frames.send(self.channel, {"op": "constants", "constants": CONSTANTS}, table)
        self.receive()
        for batch in self.batches:
            self.receive()
            reply = {"op": "rows", "dtype": batch.rows.dtype.str, "epoch": batch.epoch}
            reply |= {"progress": batch.progress, "used": batch.used}
            frames.send(self.channel, reply, batch.rows.tobytes())
        self.receive()
        frames.send(self.channel, {"op": "end"})
        header, self.weights = self.receive()
        rules = replace(rules_for("smoke"), max_seq_len=16)
        examination = examine(
            self.rows,
            TOKENIZER.token_bytes,
            rules,
            batch_size=header["batch_size"],
            tolerance=5e-3,
            random=np.random.default_rng(0),
        )
        ask = next(examination)
        while True:
            frames.send(self.channel, *encode_ask(ask))
            header, payload = self.receive()
            try:
                ask = examination.send(np.frombuffer(payload, dtype=np.float32).reshape(header["shape"]))
            except StopIteration as finished:
                self.result = finished.value
                break
        frames.send(self.channel, {"op": "score", "val_bpb": self.result.val_bpb})


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_a_trial_over_a_socket_pair_from_hello_to_score(dtype):
    from safetensors.numpy import load

    rows = np.random.default_rng(2).integers(0, 256, (11, 17)).astype(dtype)
    batches = [Batch(batch.rows.astype(dtype), batch.epoch, batch.progress, batch.used) for batch in two_batches()]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        referee = RefereesEnd(ours, rows, batches)
        referee.start()
        link = SocketLink(theirs)
        header, table = link.hello()
        assert header["constants"] == CONSTANTS
        tokenizer = Tokenizer.from_json(table.decode())
        assert tokenizer.sha256 == TOKENIZER.sha256
        names = surface_names(link, tokenizer, header["constants"])
        loader = names["make_dataloader"](tokenizer, 2, 4)
        seen = [(inputs.tolist(), epoch, loader.progress, loader.training_seconds) for inputs, _, epoch in loader]
        model = Table()
        score = names["evaluate_bpb"](model, tokenizer, 4)
        referee.join(30.0)
    assert seen == [
        ([[0, 1, 2, 3], [5, 6, 7, 8]], 1, 0.0, 0.0),
        ([[100, 101, 102, 103], [105, 106, 107, 108]], 2, 0.5, 4.25),
    ]
    assert referee.result.reason == ""
    assert score == referee.result.val_bpb > 8.0
    np.testing.assert_array_equal(load(referee.weights)["table"], model.table)
    operations = [header["op"] for header in referee.heard]
    assert operations[:7] == ["hello", "open", "next", "next", "next", "weights", "answer"]
    assert set(operations[6:]) == {"answer"}
    assert referee.heard[1] == {"op": "open", "batch_size": 2, "seq_len": 4, "n": 0}


def test_a_candidate_whose_referee_closes_learns_it():
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(frames.BrokenFrame):
        SocketLink(theirs).hello()


# ------------------------------------------------------------------------------------------------------------ launcher


def launched(theirs, *, parent=None):
    command = [sys.executable, "-P", "-m", "autoresearch.contract.channel", "--fd", str(theirs.fileno())]
    command += ["--parent", str(os.getpid() if parent is None else parent)]
    return subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_launcher_runs_an_experiment_from_its_order_to_its_score(tmp_path, smoke):
    from fakes import fake_experiment

    folder = tmp_path / "trial of a name with spaces"
    folder.mkdir()
    # beside the experiment lies a module that would shadow the standard library, and one that would shadow ours
    (folder / "json.py").write_text("raise SystemExit('shadowed')")
    (folder / "prepare.py").write_text("raise SystemExit('shadowed')")
    text = fake_experiment().replace("DEVICE_BATCH_SIZE, MAX_SEQ_LEN,", "2, 4,")
    (folder / "train.py").write_text(text, encoding="utf-8")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = launched(theirs)
        theirs.close()
        with (tmp_path / "run.log").open("wb") as log:
            socket.send_fds(ours, [b"!"], [log.fileno()])
        ours.sendall(f"{folder / 'train.py'}\n".encode())
        rows = np.random.default_rng(2).integers(0, 256, (11, 17)).astype(np.uint16)
        referee = RefereesEnd(ours, rows, two_batches())
        referee.start()
        early, _ = process.communicate(timeout=60)
        referee.join(30.0)
    log_text = (tmp_path / "run.log").read_text()
    assert process.returncode == 0, log_text + early.decode()
    assert early == b"", "all output goes to the log of the order"
    assert f"val_bpb:          {referee.result.val_bpb:.6f}" in log_text


@pytest.mark.parametrize("sent", ["nothing", "half an order"])
def test_the_launcher_ends_when_no_order_comes(sent, tmp_path):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = launched(theirs)
        theirs.close()
        if sent == "half an order":
            with (tmp_path / "run.log").open("wb") as log:
                socket.send_fds(ours, [b"!"], [log.fileno()])
            ours.sendall(b"no end of line")
        ours.close()
        said, _ = process.communicate(timeout=60)
    if sent == "half an order":
        said = (tmp_path / "run.log").read_bytes()
    assert process.returncode == 1
    assert b"the referee closed the channel" in said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_candidate_whose_referee_died_before_it_started_does_not_run():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = launched(theirs, parent=2**22 + 1)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == b"the referee is gone\n"
