"""The feeder: batches of the trial's order over a socket, from `serve` and from the real process."""

import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from autoresearch.contract import frames
from autoresearch.contract.feeder import DocumentStream, serve
from autoresearch.contract.packing import pack_batches

BOS = 999


def documents(count, length=7):
    """Documents of one repeated token each: document k holds k, in epoch 1 + k // 100."""
    for index in range(count):
        yield np.full(length, index, dtype=np.uint16), 1 + index // 100


@pytest.fixture
def serving():
    """A function that serves documents in a thread and returns our end of the socket."""
    started = []

    def start(stream):
        ours, theirs = socket.socketpair()
        ours.settimeout(30.0)

        def run():
            try:
                serve(theirs, stream, BOS)
            except frames.BrokenFrame as error:
                outcome.append(error)
            finally:
                theirs.close()

        outcome = []
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        started.append((ours, thread))
        return ours, thread, outcome

    yield start
    for ours, thread in started:
        ours.close()
        thread.join(30.0)
        assert not thread.is_alive()


def open_stream(channel, stream, batch_size, seq_len):
    frames.send(channel, {"op": "open", "stream": stream, "batch_size": batch_size, "seq_len": seq_len})


def next_rows(channel, seq_len):
    header, payload = frames.receive(channel, 1 << 24)
    return header, np.frombuffer(payload, dtype=header["dtype"]).reshape(-1, seq_len + 1)


def test_nothing_is_sent_before_a_shape_is_asked_for(serving):
    ours, _, _ = serving(DocumentStream(documents(5)))
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        ours.recv(1)


def test_rows_are_those_of_the_packer_and_end_with_the_documents(serving):
    ours, thread, outcome = serving(DocumentStream(documents(40)))
    open_stream(ours, 1, 4, 9)
    expected = list(pack_batches((tokens for tokens, _ in documents(40)), 4, 10, BOS))
    for batch in expected:
        header, rows = next_rows(ours, 9)
        assert (header["op"], header["stream"], header["dtype"]) == ("rows", 1, "<u2")
        np.testing.assert_array_equal(rows, batch)
    assert len(expected) > 1
    assert len(expected[-1]) < 4, "the last batch must be a short one, or this proves less"
    thread.join(30.0)
    assert outcome == []
    with pytest.raises(frames.BrokenFrame, match="closed"):
        next_rows(ours, 9)


def test_a_new_shape_goes_on_with_documents_that_were_not_taken_yet(serving):
    ours, _, _ = serving(DocumentStream(documents(60_000)))
    open_stream(ours, 1, 2, 9)
    before = {int(token) for token in np.unique(next_rows(ours, 9)[1]) if token != BOS}
    open_stream(ours, 2, 3, 5)
    header, rows = next_rows(ours, 9)
    while header["stream"] == 1:
        assert rows.shape == (2, 10)
        before |= set(np.unique(rows).tolist()) - {BOS}
        header, payload = frames.receive(ours, 1 << 24)
        rows = np.frombuffer(payload, dtype=header["dtype"]).reshape(-1, 10 if header["stream"] == 1 else 6)
    assert header["stream"] == 2
    assert rows.shape == (3, 6)
    after = set(np.unique(rows).tolist()) - {BOS}
    assert min(after) > max(before), "no document is handed out twice"


def test_the_epoch_is_that_of_the_newest_document_taken(serving):
    ours, _, _ = serving(DocumentStream(documents(250)))
    open_stream(ours, 1, 1, 9)
    epochs = [next_rows(ours, 9)[0]["epoch"] for _ in range(200)]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 3


def test_a_closed_channel_ends_the_service(serving):
    ours, thread, outcome = serving(DocumentStream(documents(10**9)))
    open_stream(ours, 1, 4, 63)
    next_rows(ours, 63)
    ours.close()
    thread.join(30.0)
    assert not thread.is_alive()
    assert len(outcome) == 1


@pytest.fixture
def feeder_process(smoke):
    """A function that starts the real feeder with a seed and returns (our end, process)."""
    _, prepared = smoke
    started = []

    def start(seed):
        ours, theirs = socket.socketpair()
        ours.settimeout(60.0)
        command = [sys.executable, "-P", "-m", "autoresearch.contract.feeder", "--fd", str(theirs.fileno())]
        command += ["--prepared", str(prepared.directory), "--seed", str(seed)]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
        theirs.close()
        started.append((ours, process))
        return ours, process

    yield start
    for ours, process in started:
        ours.close()
        process.communicate(timeout=60)


def test_the_process_feeds_the_prepared_text_in_the_order_of_its_seed(feeder_process, smoke):
    _, prepared = smoke
    bos = prepared.tokenizer.get_bos_token_id()
    first_rows = []
    for seed in (7, 8):
        ours, _ = feeder_process(seed)
        open_stream(ours, 1, 4, 64)
        expected = pack_batches((tokens for tokens, _ in prepared.documents(seed)), 4, 65, bos)
        for _ in range(3):
            header, rows = next_rows(ours, 64)
            np.testing.assert_array_equal(rows, next(expected))
            assert header["epoch"] == 1
            assert (rows[:, 0] == bos).all()
        first_rows.append(rows.tolist())
    assert first_rows[0] != first_rows[1]


def test_the_process_ends_quietly_when_the_trial_is_over(feeder_process):
    ours, process = feeder_process(1)
    open_stream(ours, 1, 4, 64)
    next_rows(ours, 64)
    ours.close()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said == b""
