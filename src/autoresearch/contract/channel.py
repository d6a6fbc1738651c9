"""The candidate's end of a trial: the names that train.py imports, and the launcher that runs it in a sealed one.

What runs here runs inside the untrusted process and decides nothing: it asks for batches and answers questions. The
standalone script uses the same `Loader` and `Evaluator` over a link inside one process (contract/standalone.py).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import runpy
import socket
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.backends.blas import load_blas
from autoresearch.backends.runtime import Runtime, runtime_in_use
from autoresearch.contract import frames
from autoresearch.contract.description import description_of
from autoresearch.contract.examination import Ask, AskAudit, AskClaim, AskPrefix, AskWeights
from autoresearch.contract.tokenizer import Tokenizer

MAX_PAYLOAD_BYTES = 1 << 30  # one batch of rows, or one question
MAX_WEIGHTS_BYTES = 1 << 32
REBUILD = "load_model"  # what an experiment file calls the function that rebuilds its model from handed-over weights


@dataclass(frozen=True)
class Batch:
    """Packed rows [B, T + 1], the epoch they belong to (from 1), and the referee's clock when they were handed out."""

    rows: NDArray[np.unsignedinteger]
    epoch: int
    progress: float
    used: float


class Link(Protocol):
    """The way to whoever holds clock, text and score."""

    def open_stream(self, batch_size: int, seq_len: int) -> None:
        """Say what batches will be asked for."""

    def next_batch(self) -> Batch | None:
        """The next batch; None when the budget is spent."""

    def examine(self, weights: bytes, batch_size: int, answer: Callable[[Ask], NDArray[np.float32]]) -> float:
        """Hand the weights over, answer every question, and learn the score."""


class Loader:
    """Iterates (inputs, targets, epoch), int64 [B, T] on the device, and ends when the budget is spent.

    `progress` (0..1) is the referee's clock over the budget at the batch just handed out and drives schedules;
    `training_seconds` is the budget used by then, in the contract's unit.

    A batch is asked for when the step before it has been given to the device, and not a step earlier: its progress would
    be a step old, and whether the budget allows another step would be decided before the last one was counted. What
    can be done ahead is done by the feeder; an answer of 8 rows of 2049 takes 0.06 ms where the referee finds
    a free core, and on a device it is hidden behind the two steps that `pace` lets run.
    """

    def __init__(self, link: Link, runtime: Runtime, batch_size: int, seq_len: int, vocab_size: int) -> None:
        self.progress = 0.0
        self.training_seconds = 0.0
        self._link = link
        self._runtime = runtime
        self._shape = (batch_size, seq_len)
        self._vocab_size = vocab_size
        self._ended = False

    def __iter__(self) -> Iterator[tuple[Any, Any, int]]:
        return self

    def __next__(self) -> tuple[Any, Any, int]:
        if self._ended:
            raise StopIteration
        self._runtime.pace()
        batch = self._link.next_batch()
        if batch is None:
            self._ended = True
            raise StopIteration
        self.progress = batch.progress
        self.training_seconds = batch.used
        inputs, targets = self._runtime.place(batch.rows[:, :-1]), self._runtime.place(batch.rows[:, 1:])
        return inputs, targets, batch.epoch

    def synthetic_batch(self) -> tuple[Any, Any]:
        """(inputs, targets) of random tokens in the shape of a real batch: for warm-up before the clock starts."""
        rows = np.random.default_rng(0).integers(0, self._vocab_size, (self._shape[0], self._shape[1] + 1))
        return self._runtime.place(rows[:, :-1]), self._runtime.place(rows[:, 1:])


class Evaluator:
    """`evaluate_bpb`: hands the weights over, answers the referee's questions, and returns the referee's score."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __call__(self, model: Any, tokenizer: Tokenizer, batch_size: int) -> float:
        """val_bpb of the model, as worked out by the referee.

        `model(inputs)` takes int64 [B, T] and returns logits [B, T, V]; `model.state_dict()` names its weights.
        """
        runtime = runtime_in_use()
        runtime.synchronize()
        metadata = description_of(model)
        weights = runtime.pack(model.state_dict(), metadata)
        return self._link.examine(weights, int(batch_size), answers_of(model, runtime, metadata))


def answers_of(
    model: Any, runtime: Runtime, metadata: Mapping[str, str] | None = None
) -> Callable[[Ask], NDArray[np.float32]]:
    """A function that answers the examination's questions by `model(inputs)`. metadata: what its weights were packed with."""
    latest: list[Any] = []

    def answer(ask: Ask) -> NDArray[np.float32]:
        if isinstance(ask, AskAudit):
            return runtime.pick(latest[-1], ask.rows, ask.columns)
        if isinstance(ask, AskWeights):
            digest = hashlib.sha256(runtime.pack(model.state_dict(), metadata)).digest()
            return np.frombuffer(digest, dtype=np.uint8).astype(np.float32)
        latest.clear()  # one batch of logits in memory at a time
        latest.append(runtime.logits(model, ask.inputs))
        if isinstance(ask, AskPrefix):
            return runtime.pick(latest[-1], np.arange(len(ask.positions)), ask.positions)
        return runtime.nll(latest[-1], ask.targets)

    return answer


def surface_names(link: Link, tokenizer: Tokenizer, constants: dict[str, Any]) -> dict[str, Any]:
    """Everything that `from prepare import ...` offers an experiment file."""

    class TokenizerOfTheTrial:
        """A stand-in whose `from_directory` needs no directory: the table came with the trial."""

        @staticmethod
        def from_directory(_directory: object = None) -> Tokenizer:
            return tokenizer

    def make_dataloader(_tokenizer: Tokenizer, B: int, T: int, split: str = "train") -> Loader:  # noqa: N803
        """Batches of B rows of T tokens of training text, until the budget is spent.

        It may be called again before the first batch is taken, when memory did not hold this many rows: the last call counts.
        """
        if split != "train":
            raise ValueError(f"split {split!r}: only 'train' is handed out; validation text stays with the referee")
        if not (1 <= T <= constants["MAX_SEQ_LEN"] and B >= 1):
            raise ValueError(
                f"B={B}, T={T}: B must be at least 1 and T from 1 to MAX_SEQ_LEN={constants['MAX_SEQ_LEN']}"
            )
        link.open_stream(B, T)
        return Loader(link, runtime_in_use(), B, T, tokenizer.get_vocab_size())

    return {
        **constants,
        "Tokenizer": TokenizerOfTheTrial,
        "make_dataloader": make_dataloader,
        "evaluate_bpb": Evaluator(link),
    }


class SocketLink:
    """The link of a sealed trial: frames over one socket pair whose other end is the referee."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def hello(self) -> tuple[dict[str, Any], bytes]:
        """Say that the interpreter is up; learn the constants and the tokenizer's table."""
        frames.send(self._channel, {"op": "hello"})
        return frames.receive(self._channel, MAX_PAYLOAD_BYTES)

    def open_stream(self, batch_size: int, seq_len: int) -> None:
        frames.send(self._channel, {"op": "open", "batch_size": batch_size, "seq_len": seq_len})
        self._shape = (batch_size, seq_len + 1)

    def next_batch(self) -> Batch | None:
        frames.send(self._channel, {"op": "next"})
        header, payload = frames.receive(self._channel, MAX_PAYLOAD_BYTES)
        if header["op"] == "end":
            return None
        rows = np.frombuffer(payload, dtype=header["dtype"]).reshape(self._shape)
        return Batch(rows, header["epoch"], header["progress"], header["used"])

    def examine(self, weights: bytes, batch_size: int, answer: Callable[[Ask], NDArray[np.float32]]) -> float:
        frames.send(self._channel, {"op": "weights", "batch_size": batch_size}, weights)
        return float(self._answer_until("score", answer)["val_bpb"])

    def be_examined(self, load_model: Callable[[dict[str, Any]], Any]) -> None:
        """The deep examination: take the weights of another process, rebuild its model, and answer about prefixes."""
        frames.send(self._channel, {"op": "ready"})
        _, weights = frames.receive(self._channel, MAX_WEIGHTS_BYTES)
        runtime = runtime_in_use()
        model = load_model(runtime.unpack(weights))
        frames.send(self._channel, {"op": "loaded"})
        self._answer_until("end", answers_of(model, runtime))

    def _answer_until(self, last: str, answer: Callable[[Ask], NDArray[np.float32]]) -> dict[str, Any]:
        while True:
            header, payload = frames.receive(self._channel, MAX_PAYLOAD_BYTES)
            if header["op"] == last:
                return header
            reply = np.ascontiguousarray(answer(decode_ask(header, payload)), dtype=np.float32)
            frames.send(self._channel, {"op": "answer", "shape": list(reply.shape)}, reply.tobytes())


def encode_ask(ask: Ask) -> tuple[dict[str, Any], bytes]:
    """Header and payload of one question: its int64 arrays one after the other."""
    kind: str
    arrays: tuple[NDArray[np.int64], ...]
    if isinstance(ask, AskPrefix):
        kind, arrays = "prefix", (ask.inputs, ask.positions)
    elif isinstance(ask, AskWeights):
        kind, arrays = "weights", ()
    elif isinstance(ask, AskClaim):
        kind, arrays = "claim", (ask.inputs, ask.targets)
    else:
        kind, arrays = "audit", (ask.rows, ask.columns)
    header = {"op": "ask", "kind": kind, "shapes": [list(array.shape) for array in arrays]}
    return header, b"".join(np.ascontiguousarray(array, dtype=np.int64).tobytes() for array in arrays)


def decode_ask(header: dict[str, Any], payload: bytes) -> Ask:
    """The question that `encode_ask` wrote."""
    arrays = []
    offset = 0
    for shape in header["shapes"]:
        count = int(np.prod(shape))
        arrays.append(np.frombuffer(payload, dtype=np.int64, count=count, offset=offset).reshape(shape))
        offset += 8 * count
    kinds: dict[str, Callable[..., Ask]] = {
        "prefix": AskPrefix,
        "claim": AskClaim,
        "audit": AskAudit,
        "weights": AskWeights,
    }
    return kinds[header["kind"]](*arrays)


def main(arguments: list[str] | None = None) -> None:
    """Wait for an order and run its experiment file. Started by the referee, never by a person."""
    parser = argparse.ArgumentParser(prog="autoresearch-candidate")
    parser.add_argument("--fd", type=int, required=True, help="the channel to the referee")
    parser.add_argument("--preload", default="", help="modules to import while waiting, with commas between")
    parser.add_argument("--blas", type=Path, help="library whose matrix products go before those of any module")
    options = parser.parse_args(arguments)
    if options.blas is not None:
        load_blas(options.blas)
    for name in filter(None, options.preload.split(",")):
        importlib.import_module(name)
    channel = socket.socket(fileno=options.fd)
    file = _take_order(channel)
    link = SocketLink(channel)
    header, table = link.hello()
    prepare = types.ModuleType("prepare", "The names of a sealed trial, registered by its launcher.")
    vars(prepare).update(surface_names(link, Tokenizer.from_json(table.decode()), header["constants"]))
    sys.modules["prepare"] = prepare
    # last: a file beside train.py must not shadow the standard library or a package
    sys.path.append(str(file.parent))
    sys.argv = [str(file)]
    if header["task"] == "train":
        runpy.run_path(str(file), run_name="__main__")
        return
    experiment = runpy.run_path(str(file), run_name="experiment")  # defines its functions, and trains nothing
    if REBUILD not in experiment:
        raise NameError(f"{file.name} defines no {REBUILD}(weights): see docs/contract.md")
    link.be_examined(experiment[REBUILD])


def _take_order(channel: socket.socket) -> Path:
    """Wait for the log's descriptor, which becomes standard output and error, and the path of the experiment file."""
    marker, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not marker:
        sys.exit("the referee closed the channel before an order came")
    (log,) = descriptors
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = channel.recv(1)
        if not byte:
            sys.exit("the referee closed the channel within an order")
        line += byte
    return Path(line[:-1].decode())


if __name__ == "__main__":
    main()
