"""The referee's end of the feeder: orders with progress, batches that depend on nothing else, and no trust."""

import json
import socket
import threading
import time

import numpy as np
import pytest
from patience import PATIENCE

from autoresearch.contract import frames
from autoresearch.contract.feeder import PlainText, serve
from autoresearch.contract.stream import RowStream
from autoresearch.loop.supply import AHEAD, Supply
from autoresearch.vocabulary import DataCorrupt

V = 300


class Tree:
    """Stands in for a process: a thread that runs `act` on the feeder's end."""

    def __init__(self, act, channel):
        self._channel = channel.dup()
        self._thread = threading.Thread(target=self._run, args=(act,), daemon=True)
        self._thread.start()

    def _run(self, act):
        try:
            act(self._channel)
        except frames.BrokenFrame:
            return
        finally:
            self._channel.close()

    def kill(self):
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def supply_of(tmp_path):
    """A function that makes a Supply whose feeder is `act(channel)`, opened for 2 rows of 4 tokens."""
    started = []

    def make(act, said=""):
        def start(channel, log_path):
            log_path.write_text(said)
            return Tree(act, channel)

        supply = Supply(tmp_path, 1, tmp_path, start=start)
        started.append(supply)
        return supply

    yield make
    for supply in started:
        supply.close()


def soon():
    return time.monotonic() + PATIENCE


class Echo:
    """Batches that hold the progress they were ordered with."""

    def __init__(self):
        self.orders = []

    def open(self, batch_size, seq_len):
        self.shape = (batch_size, seq_len + 1)

    def rows(self, progress):
        self.orders.append(progress)
        return np.full(self.shape, int(progress * 100), np.uint16), 1


def tokens(payload):
    return np.frombuffer(payload, "<u2")


def test_each_batch_is_made_for_the_progress_known_when_it_was_ordered(supply_of):
    supply = supply_of(lambda channel: serve(channel, Echo()))
    supply.open(2, 3, V)
    progress = [step / 20 for step in range(12)]
    seen = [int(tokens(supply.next(soon(), p)[1])[0]) for p in progress]
    assert seen == [0] * AHEAD + [int(p * 100) for p in progress[:-AHEAD]]


def test_no_more_than_a_few_batches_are_ahead(supply_of):
    source = Echo()
    supply = supply_of(lambda channel: serve(channel, source))
    supply.open(2, 3, V)
    for step in range(5):
        supply.next(soon(), step / 10)
        assert len(source.orders) <= step + 1 + AHEAD


def test_batches_of_the_old_shape_are_passed_over(supply_of):
    supply = supply_of(lambda channel: serve(channel, Echo()))
    supply.open(2, 3, V)
    supply.next(soon(), 0.5)
    supply.open(1, 7, V)
    header, payload = supply.next(soon(), 0.9)
    assert (header["stream"], len(payload)) == (2, 16)
    assert tokens(payload)[0] == 0, "the first batches of a shape are ordered when it is opened"


@pytest.mark.slow
def test_two_runs_get_the_same_batches_however_fast_they_ask(smoke, tmp_path):
    _, prepared = smoke
    bos, vocab_size = prepared.tokenizer.get_bos_token_id(), prepared.tokenizer.get_vocab_size()
    runs = []
    for pause in (False, True):
        folder = tmp_path / str(pause)
        folder.mkdir()
        supply = Supply(prepared.directory, 7, folder)
        supply.open(2, 64, vocab_size)
        first = [supply.next(soon(), 0.0) for _ in range(3)]
        if pause:
            while supply._ahead.qsize() < AHEAD:
                time.sleep(0.001)
        supply.open(3, 32, vocab_size)
        runs.append([*first, *(supply.next(soon(), 0.5) for _ in range(3))])
        supply.close()
    assert runs[0] == runs[1]
    expected = RowStream(prepared.shards, seed=7, row_len=65, bos=bos).take(6)
    assert b"".join(payload for _, payload in runs[0][:3]) == expected.tobytes()


def test_the_data_programs_source_is_served_by_the_same_function(smoke, supply_of):
    """`serve` asks nothing of a source but `open` and `rows`."""
    _, prepared = smoke
    text = PlainText(prepared.shards, 3, prepared.tokenizer.get_bos_token_id())
    supply = supply_of(lambda channel: serve(channel, text))
    supply.open(2, 64, prepared.tokenizer.get_vocab_size())
    assert len(supply.next(soon(), 0.0)[1]) == 2 * 65 * 2


# ------------------------------------------------------------------------------------------------------------- no trust


def answering(*answers):
    """A feeder that reads orders and sends these (header, payload), whatever was ordered."""

    def act(channel):
        for header, payload in answers:
            frames.send(channel, header, payload)
        while True:
            frames.receive(channel, 0)

    return act


def saying(raw):
    """A feeder that sends these bytes and reads orders."""

    def act(channel):
        channel.sendall(raw)
        while True:
            frames.receive(channel, 0)

    return act


GOOD = {"op": "rows", "stream": 1, "epoch": 1, "dtype": "<u2"}
ROWS = bytes(16)


@pytest.mark.parametrize(
    ("header", "payload", "said"),
    [
        (GOOD | {"dtype": "<u4"}, ROWS, "tokens of type"),
        (GOOD, ROWS[:-2], "14 bytes for 2 rows of 4 tokens"),
        (GOOD, b"\xff" * 16, "token 65535 of a vocabulary of 300"),
        (GOOD | {"epoch": None}, ROWS, "an epoch of None"),
        (GOOD | {"stream": 2}, ROWS, "a batch that nobody ordered"),
        ({"op": "rows"}, ROWS, "a batch that nobody ordered"),
    ],
    ids=str,
)
def test_what_was_not_ordered_is_refused(supply_of, header, payload, said):
    supply = supply_of(answering((header, payload)))
    supply.open(2, 3, V)
    with pytest.raises(DataCorrupt, match=said) as caught:
        supply.next(soon(), 0.0)
    assert caught.value.hint


def test_a_flood_fills_a_bounded_number_of_places(supply_of):
    def flood(channel):
        while True:
            frames.send(channel, GOOD, ROWS)

    supply = supply_of(flood)
    supply.open(2, 3, V)
    for _ in range(50):
        supply.next(soon(), 0.0)
    assert supply._ahead.qsize() <= AHEAD + 2


def test_a_frame_that_is_none_is_named(supply_of):
    supply = supply_of(saying(b"\x00\x00\x00\x05hello"))
    supply.open(2, 3, V)
    for _ in range(2):
        with pytest.raises(DataCorrupt, match="the feeder sent header is not JSON"):
            supply.next(soon(), 0.0)


def test_a_batch_of_any_size_is_not_let_into_memory(supply_of):
    announced = json.dumps(GOOD | {"n": 2**40}).encode()
    supply = supply_of(saying(len(announced).to_bytes(4, "big") + announced))
    supply.open(2, 3, V)
    with pytest.raises(DataCorrupt, match="payload of 1099511627776 bytes"):
        supply.next(soon(), 0.0)


def test_a_feeder_that_ends_says_why_each_time_it_is_asked(supply_of):
    supply = supply_of(lambda channel: None, said="Traceback: out of tokens")
    with pytest.raises(DataCorrupt, match="the feeder stopped: Traceback: out of tokens"):
        supply.open(2, 3, V)
        supply.next(soon(), 0.0)
    with pytest.raises(DataCorrupt, match="the feeder stopped"):
        supply.next(soon(), 0.0)


def test_silence_ends_at_the_deadline(supply_of):
    supply = supply_of(answering())
    supply.open(2, 3, V)
    with pytest.raises(DataCorrupt, match="nothing before the deadline"):
        supply.next(time.monotonic(), 0.0)


def test_a_feeder_that_reads_no_orders_cannot_hold_the_referee(supply_of, monkeypatch):
    monkeypatch.setattr("autoresearch.loop.supply._SEND_SECONDS", 0)
    gate = threading.Event()

    def sends_and_never_reads(channel):
        while not gate.is_set():
            frames.send(channel, GOOD, ROWS)

    supply = supply_of(sends_and_never_reads)
    supply._channel.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDTIMEO, (0).to_bytes(8, "little") + (1000).to_bytes(8, "little")
    )
    supply.open(2, 3, V)
    with pytest.raises(DataCorrupt, match="the feeder stopped"):
        for _ in range(100_000):
            supply.next(soon(), 0.0)
    gate.set()
