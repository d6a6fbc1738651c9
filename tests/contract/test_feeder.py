"""The feeder: what was ordered and nothing else, from `serve` and from the real process; and what is no batch."""

import json
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE
from token_corpora import BOS, Ledger, shards_of

from autoresearch.contract import frames
from autoresearch.contract.feeder import PlainText, batch_problem, serve
from autoresearch.contract.stream import RowStream


class Numbered:
    """A source whose batches say what they were asked for."""

    def __init__(self):
        self.asked = []

    def open(self, batch_size, seq_len):
        self.shape = (batch_size, seq_len + 1)
        self.asked.append(self.shape)

    def rows(self, progress):
        self.asked.append(progress)
        return np.full(self.shape, round(progress * 1000), np.uint16), 1 + len(self.asked)


@pytest.fixture
def serving():
    """A function that serves a source in a thread and returns our end of the socket."""
    started = []

    def start(source):
        ours, theirs = socket.socketpair()
        ours.settimeout(30.0)
        outcome = []

        def run():
            with theirs:
                try:
                    serve(theirs, source)
                except frames.BrokenFrame as error:
                    outcome.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        started.append((ours, thread))
        return ours, thread, outcome

    yield start
    for ours, thread in started:
        ours.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def open_stream(channel, stream, batch_size, seq_len):
    frames.send(channel, {"op": "open", "stream": stream, "batch_size": batch_size, "seq_len": seq_len})


def order(channel, progress=0.0):
    frames.send(channel, {"op": "more", "progress": progress})


def next_rows(channel, seq_len):
    header, payload = frames.receive(channel, 1 << 24)
    return header, np.frombuffer(payload, dtype=header["dtype"]).reshape(-1, seq_len + 1)


# --------------------------------------------------------------------------------------------------------------- serving


def test_nothing_is_made_before_it_is_ordered(serving):
    source = Numbered()
    ours, _, _ = serving(source)
    open_stream(ours, 1, 2, 3)
    order(ours, 0.25)
    next_rows(ours, 3)
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        ours.recv(1)
    assert source.asked == [(2, 4), 0.25]


def test_every_order_is_answered_once_with_the_progress_it_came_with(serving):
    ours, _, _ = serving(Numbered())
    open_stream(ours, 7, 2, 3)
    for progress in (0.0, 0.5, 0.125):
        order(ours, progress)
    answers = [next_rows(ours, 3) for _ in range(3)]
    assert [rows[0, 0] for _, rows in answers] == [0, 500, 125]
    assert [rows.shape for _, rows in answers] == [(2, 4)] * 3
    assert [header["stream"] for header, _ in answers] == [7] * 3


def test_the_bytes_of_an_answer(serving):
    ours, _, _ = serving(Numbered())
    open_stream(ours, 3, 1, 2)
    order(ours, 0.001)
    expected = b'{"op":"rows","stream":3,"epoch":3,"dtype":"<u2","n":6}'
    expected = len(expected).to_bytes(4, "big") + expected + b"\1\0" * 3
    got = b""
    while len(got) < len(expected):  # a socket with a time limit hands out what has come, MSG_WAITALL or not
        got += ours.recv(len(expected) - len(got))
    assert got == expected


def test_orders_before_a_new_shape_are_answered_in_the_old_one(serving):
    ours, _, _ = serving(Numbered())
    open_stream(ours, 1, 2, 3)
    order(ours)
    open_stream(ours, 2, 1, 8)
    order(ours)
    assert next_rows(ours, 3)[0]["stream"] == 1
    header, rows = next_rows(ours, 8)
    assert (header["stream"], rows.shape) == (2, (1, 9))


def test_a_closed_channel_ends_the_service(serving):
    ours, thread, outcome = serving(Numbered())
    open_stream(ours, 1, 4, 63)
    order(ours)
    next_rows(ours, 63)
    ours.close()
    thread.join(PATIENCE)
    assert len(outcome) == 1


# ------------------------------------------------------------------------------------------------------------ plain text


def test_plain_text_is_the_stream_of_its_seed_at_every_progress(tmp_path):
    shards = shards_of(tmp_path, [[9] * 40, [30] * 7])
    stream = RowStream(shards, seed=5, row_len=12, bos=BOS)
    text = PlainText(shards, 5, BOS)
    text.open(4, 11)
    for step in range(30):
        rows, epoch = text.rows(step / 30)
        assert rows.tolist() == stream.take(4).tolist()
        assert epoch == stream.epoch
    assert epoch > 1


def test_a_new_shape_goes_on_with_text_that_was_not_taken_yet(tmp_path):
    lengths = [[9] * 80, [30] * 7]
    text = PlainText(shards_of(tmp_path, lengths), 5, BOS)
    ledger = Ledger(lengths)
    for batch_size, seq_len in ((2, 11), (5, 11), (3, 40), (1, 7)):
        text.open(batch_size, seq_len)
        for _ in range(3):
            rows, epoch = text.rows(0.0)
            assert rows.shape == (batch_size, seq_len + 1)
            ledger.read(rows)
    assert epoch == 1
    assert max(ledger.begun.values()) == 1, "no document is handed out twice"


# -------------------------------------------------------------------------------------------------------------- checking

GOOD = {"op": "rows", "stream": 1, "epoch": 1, "dtype": "<u2"}


def problem(header, tokens, vocab_size=300, dtype="<u2"):
    payload = np.array(tokens, dtype=dtype).tobytes()
    return batch_problem(header, payload, num_rows=2, row_len=3, vocab_size=vocab_size)


def test_a_batch_as_it_was_ordered_has_no_problem():
    assert problem(GOOD, [0, 1, 2, 299, 4, 5]) == ""
    assert problem(GOOD | {"dtype": "<u4"}, [0, 1, 2, 65_536, 4, 5], 65_537, "<u4") == ""


@pytest.mark.parametrize(
    ("change", "tokens", "said"),
    [
        ({"op": "error"}, [0] * 6, "'error' instead of rows"),
        ({"dtype": "<u4"}, [0] * 3, "type '<u4', not '<u2'"),
        ({"dtype": "|O"}, [0] * 6, "type"),
        ({"dtype": ["<u2"]}, [0] * 6, "type"),
        ({"epoch": 0}, [0] * 6, "an epoch of 0"),
        ({"epoch": True}, [0] * 6, "an epoch of True"),
        ({"epoch": 1.0}, [0] * 6, "an epoch of 1.0"),
        ({"epoch": 10**300}, [0] * 6, "an epoch of 1000"),
        ({}, [0] * 5, "10 bytes for 2 rows of 3 tokens, which are 12"),
        ({}, [0] * 7, "14 bytes"),
        ({}, [], "0 bytes"),
        ({}, [0, 1, 300, 3, 4, 5], "token 300 of a vocabulary of 300"),
    ],
    ids=str,
)
def test_anything_else_is_a_problem(change, tokens, said):
    assert said in problem(GOOD | change, tokens)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["op", "stream", "epoch", "dtype"]), json_values), st.binary(max_size=40))
def test_no_header_or_payload_makes_the_check_fail_or_pass_by_chance(header, payload):
    said = batch_problem(json.loads(json.dumps(header)), payload, num_rows=2, row_len=3, vocab_size=300)
    assert isinstance(said, str) and len(said) < 200
    assert said


# ----------------------------------------------------------------------------------------------------------- the process


@pytest.fixture
def feeder_process(smoke):
    """A function that starts the real feeder with a seed and returns (our end, process)."""
    _, prepared = smoke
    started = []

    def start(seed, *more):
        ours, theirs = socket.socketpair()
        ours.settimeout(60.0)
        command = [sys.executable, "-P", "-m", "autoresearch.contract.feeder", "--fd", str(theirs.fileno())]
        command += ["--prepared", str(prepared.directory), "--seed", str(seed), *more]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
        theirs.close()
        started.append((ours, process))
        return ours, process

    yield start
    for ours, process in started:
        ours.close()
        process.communicate(timeout=PATIENCE)


@pytest.mark.slow
def test_the_process_feeds_the_prepared_text_in_the_order_of_its_seed(feeder_process, smoke):
    _, prepared = smoke
    bos = prepared.tokenizer.get_bos_token_id()
    vocab_size = prepared.tokenizer.get_vocab_size()
    first_rows = []
    for seed, more in ((7, ()), (8, ("--workers", "1"))):
        ours, _ = feeder_process(seed, *more)
        open_stream(ours, 1, 4, 64)
        expected = RowStream(prepared.shards, seed=seed, row_len=65, bos=bos)
        for _ in range(3):
            order(ours)
            header, rows = next_rows(ours, 64)
            np.testing.assert_array_equal(rows, expected.take(4))
            assert batch_problem(header, rows.tobytes(), num_rows=4, row_len=65, vocab_size=vocab_size) == ""
            assert (rows[:, 0] == bos).all()
        first_rows.append(rows.tolist())
    assert first_rows[0] != first_rows[1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_process_ends_quietly_when_the_trial_is_over(feeder_process, workers):
    ours, process = feeder_process(1, "--workers", workers)
    open_stream(ours, 1, 4, 64)
    order(ours)
    next_rows(ours, 64)
    ours.close()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert said == b""
