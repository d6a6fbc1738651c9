"""The candidate's end of a trial: questions on the wire, the loader, the names, and a whole talk over a socket pair."""

import hashlib
import json
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from fakes import fake_experiment
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from patience import PATIENCE

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
from autoresearch.contract.deep_examination import examine_deeply
from autoresearch.contract.examination import AskAudit, AskClaim, AskPrefix, AskWeights, examine
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


def test_the_question_for_the_weights_is_a_header_alone():
    header, payload = encode_ask(AskWeights())
    assert (header, payload) == ({"op": "ask", "kind": "weights", "shapes": []}, b"")
    assert decode_ask(json.loads(json.dumps(header)), payload) == AskWeights()


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


def test_the_weights_digest_is_that_of_the_weights_as_they_are_when_asked():
    link, model = FakeLink(), Table()
    Evaluator(link)(model, TOKENIZER, 4)
    handed_over = hashlib.sha256(link.weights).digest()
    digest = link.answer(AskWeights())
    assert (digest.shape, digest.dtype) == ((32,), np.float32)
    assert bytes(digest.astype(np.uint8)) == handed_over
    model.table[0, 0] += 1e-6
    assert bytes(link.answer(AskWeights()).astype(np.uint8)) != handed_over


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
        frames.send(self.channel, {"op": "constants", "constants": CONSTANTS, "task": "train"}, table)
        self.receive()
        for batch in self.batches:
            self.receive()
            reply = {"op": "rows", "dtype": batch.rows.dtype.str, "epoch": batch.epoch}
            reply |= {"progress": batch.progress, "used": batch.used}
            frames.send(self.channel, reply, batch.rows.tobytes())
        self.receive()
        frames.send(self.channel, {"op": "end"})
        self.examine()

    def examine(self):
        """From the hand-over of weights to the score."""
        header, self.weights = self.receive()
        examination = examine(
            self.rows,
            TOKENIZER.token_bytes,
            replace(rules_for("smoke"), max_seq_len=16),
            batch_size=header["batch_size"],
            tolerance=5e-3,
            random=np.random.default_rng(0),
            weights_sha256=hashlib.sha256(self.weights).digest(),
        )
        self.result = self.talk(examination)
        frames.send(self.channel, {"op": "score", "val_bpb": self.result.val_bpb})

    def talk(self, examination):
        """What the examination says when all its questions are answered over the wire."""
        ask = next(examination)
        while True:
            frames.send(self.channel, *encode_ask(ask))
            header, payload = self.receive()
            try:
                ask = examination.send(np.frombuffer(payload, dtype=np.float32).reshape(header["shape"]))
            except StopIteration as finished:
                return finished.value


class ScreeningEnd(RefereesEnd):
    """Only the examination, of a candidate that trained elsewhere."""

    def run(self):
        self.examine()


class DeepEnd(RefereesEnd):
    """Speaks the referee's side of a deep examination: a fresh process, weights and claims of another one."""

    def __init__(self, channel, rows, weights, claims, *, says_hello=False):
        super().__init__(channel, rows, [])
        self.weights, self.claims, self.says_hello = weights, claims, says_hello

    def run(self):
        if self.says_hello:
            self.receive()
            constants = {"op": "constants", "constants": CONSTANTS, "task": "rebuild"}
            frames.send(self.channel, constants, TOKENIZER.to_json().encode())
        self.receive()
        frames.send(self.channel, {"op": "weights"}, self.weights)
        self.receive()
        examination = examine_deeply(
            self.rows,
            TOKENIZER.token_bytes,
            self.claims,
            batch_size=4,
            num_prefixes=40,
            tolerance=5e-3,
            most_apart=5e-3,
            random=np.random.default_rng(0),
        )
        self.result = self.talk(examination)
        frames.send(self.channel, {"op": "end"})


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
        referee.join(PATIENCE)
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


# ------------------------------------------------------------------------------------------------- a fresh process asked


def random_rows(num_rows=11):
    return np.random.default_rng(2).integers(0, 256, (num_rows, 17)).astype(np.uint16)


def screened(answer, model, rows):
    """(what screening says, the weights handed over) when questions are answered this way."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        referee = ScreeningEnd(ours, rows, [])
        referee.start()
        SocketLink(theirs).examine(NumpyRuntime().pack(model.state_dict()), 4, answer)
        referee.join(PATIENCE)
    return referee.result, referee.weights


def deeply_examined(load_model, rows, weights, claims):
    """(what the deep examination says of a model rebuilt from the weights, every operation it heard)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        referee = DeepEnd(ours, rows, weights, claims)
        referee.start()
        SocketLink(theirs).be_examined(load_model)
        referee.join(PATIENCE)
    return referee.result, [header["op"] for header in referee.heard]


def load_table(weights):
    model = Table()
    model.table = weights["table"]
    return model


def test_a_model_rebuilt_from_its_weights_answers_as_it_claimed():
    model, rows = Table(), random_rows()
    model.table += 0.5  # not what Table() makes by itself: the weights have to arrive
    model.table[:, 7] += 2.0
    result, weights = screened(channel_module.answers_of(model, NumpyRuntime()), model, rows)
    assert result.reason == ""
    deep, heard = deeply_examined(load_table, rows, weights, result.claims)
    assert deep.reason == ""
    assert deep.passed
    assert deep.num_prefixes == 40
    assert heard[:3] == ["ready", "loaded", "answer"]
    assert set(heard[2:]) == {"answer"}


def test_claims_of_other_weights_than_those_handed_over_are_refused():
    model, rows = Table(), random_rows()
    result, _ = screened(channel_module.answers_of(model, NumpyRuntime()), model, rows)
    other = NumpyRuntime().pack({"table": 0.9 * model.table})
    deep, _ = deeply_examined(load_table, rows, other, result.claims)
    assert not deep.passed
    assert "a fresh process with these weights needs" in deep.reason


class CarefulForger:
    """Honest where it was probed, forged at every fifth other place, and of one mind about it ever after.

    It keeps the places of the first prefixes, learns every whole row when that is shown for its claims, and bends claims,
    audited logits and later prefix answers alike towards the targets it has read by then.
    """

    def __init__(self, model):
        self.model = model
        self.runtime = NumpyRuntime()
        self.probed = set()
        self.known = {}
        self.logits = np.zeros(0)

    def bent(self, inputs):
        logits = self.model(inputs).copy()
        for line, row in enumerate(inputs):
            for column in range(len(row)):
                prefix = row[: column + 1].tobytes()
                if prefix in self.known and prefix not in self.probed and hashlib.sha256(prefix).digest()[0] % 5 == 0:
                    logits[line, column, self.known[prefix]] += 8.0
        return logits

    def __call__(self, ask):
        if isinstance(ask, AskWeights):
            digest = hashlib.sha256(self.runtime.pack(self.model.state_dict())).digest()
            return np.frombuffer(digest, np.uint8).astype(np.float32)
        if isinstance(ask, AskAudit):
            return self.runtime.pick(self.logits, ask.rows, ask.columns)
        if isinstance(ask, AskPrefix):
            if not self.known:
                places = zip(ask.inputs, ask.positions, strict=True)
                self.probed |= {row[: column + 1].tobytes() for row, column in places}
            return self.runtime.pick(self.bent(ask.inputs), np.arange(len(ask.positions)), ask.positions)
        for row, targets in zip(ask.inputs, ask.targets, strict=True):
            for column in range(len(row)):
                self.known.setdefault(row[: column + 1].tobytes(), targets[column])  # one answer to one prefix
        self.logits = self.bent(ask.inputs)
        return self.runtime.nll(self.logits, ask.targets)


def test_a_careful_forger_passes_screening_and_is_refused_by_the_deep_examination():
    model, rows = Table(), random_rows()
    honest, _ = screened(channel_module.answers_of(model, NumpyRuntime()), model, rows)
    forged, weights = screened(CarefulForger(model), model, rows)
    assert forged.reason == ""
    assert forged.val_bpb < 0.85 * honest.val_bpb
    assert forged.largest_deviation < 1e-4
    deep, _ = deeply_examined(load_table, rows, weights, forged.claims)
    assert not deep.passed
    assert "a fresh process with these weights needs" in deep.reason
    # its own process, asked again instead of a fresh one, would have gone on lying
    forger = CarefulForger(model)
    screened(forger, model, rows)
    examination = examine_deeply(
        rows,
        TOKENIZER.token_bytes,
        forged.claims,
        batch_size=4,
        num_prefixes=40,
        tolerance=5e-3,
        most_apart=5e-3,
        random=np.random.default_rng(0),
    )
    ask = next(examination)
    with pytest.raises(StopIteration) as finished:
        while True:
            ask = examination.send(forger(ask))
    assert finished.value.value.passed


def test_a_candidate_whose_referee_closes_learns_it():
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(frames.BrokenFrame):
        SocketLink(theirs).hello()


# ------------------------------------------------------------------------------------------------------------ launcher


def launched(theirs):
    command = [sys.executable, "-P", "-m", "autoresearch.contract.channel", "--fd", str(theirs.fileno())]
    return subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run_by_launcher(folder, text, log_path, make_referee):
    """(exit code, what it said before its order, the log, the referee's end) of an experiment in this folder."""
    (folder / "train.py").write_text(text, encoding="utf-8")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = launched(theirs)
        theirs.close()
        with log_path.open("wb") as log:
            socket.send_fds(ours, [b"!"], [log.fileno()])
        ours.sendall(f"{folder / 'train.py'}\n".encode())
        referee = make_referee(ours)
        referee.start()
        early, _ = process.communicate(timeout=PATIENCE)
        ours.shutdown(socket.SHUT_RDWR)  # a process that left early leaves the referee's end waiting
        referee.join(PATIENCE)
    return process.returncode, early, log_path.read_text(), referee


@pytest.mark.slow
def test_the_launcher_runs_an_experiment_from_its_order_to_its_score(tmp_path):
    folder = tmp_path / "trial of a name with spaces"
    folder.mkdir()
    # beside the experiment lies a module that would shadow the standard library, and one that would shadow ours
    (folder / "json.py").write_text("raise SystemExit('shadowed')")
    (folder / "prepare.py").write_text("raise SystemExit('shadowed')")
    text = fake_experiment().replace("DEVICE_BATCH_SIZE, MAX_SEQ_LEN,", "2, 4,")
    code, early, log_text, referee = run_by_launcher(
        folder, text, tmp_path / "run.log", lambda ours: RefereesEnd(ours, random_rows(), two_batches())
    )
    assert code == 0, log_text + early.decode()
    assert early == b"", "all output goes to the log of the order"
    assert f"val_bpb:          {referee.result.val_bpb:.6f}" in log_text


def counted(rows):
    """(weights, claims) of the counting experiment's model, by hand: its SHARPNESS of 0.5 is a square root."""
    counts = np.random.default_rng(4).integers(1, 9, V).astype(np.float64)
    log_probs = np.log(np.sqrt(counts) / np.sqrt(counts).sum())
    return NumpyRuntime().pack({"counts": counts}), -log_probs[rows[:, 1:].astype(np.int64)]


def test_the_launcher_rebuilds_a_model_from_weights_without_training_one(tmp_path):
    rows = random_rows()
    weights, claims = counted(rows)
    code, _, log_text, referee = run_by_launcher(
        tmp_path,
        fake_experiment(),
        tmp_path / "run.log",
        lambda ours: DeepEnd(ours, rows, weights, claims, says_hello=True),
    )
    assert code == 0, log_text
    assert referee.result.reason == ""
    assert referee.result.passed
    assert [header["op"] for header in referee.heard][:4] == ["hello", "ready", "loaded", "answer"]
    assert log_text == ""


def test_an_experiment_that_cannot_be_rebuilt_says_what_is_missing(tmp_path):
    text = fake_experiment().replace("def load_model(", "def load_another(")
    code, _, log_text, _ = run_by_launcher(
        tmp_path, text, tmp_path / "run.log", lambda ours: SaysRebuild(ours, random_rows(), [])
    )
    assert code == 1
    assert "train.py defines no load_model(weights): see docs/contract.md" in log_text


class SaysRebuild(RefereesEnd):
    """Orders a model to be rebuilt, and hears no more."""

    def run(self):
        self.receive()
        constants = {"op": "constants", "constants": CONSTANTS, "task": "rebuild"}
        frames.send(self.channel, constants, TOKENIZER.to_json().encode())


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
        said, _ = process.communicate(timeout=PATIENCE)
    if sent == "half an order":
        said = (tmp_path / "run.log").read_bytes()
    assert process.returncode == 1
    assert b"the referee closed the channel" in said
