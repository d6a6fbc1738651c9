"""Speed of the feeder from token shards, beside the loader that this field's scripts carry; all in one run.

    python benchmarks/feeder.py [--quick]

Token shards of log-normal documents (median 400 tokens, sigma 1.27, mean about 900), uint16, on disk and in the page cache;
batches of 128 rows of 2049. One JSON object:

reference    our own plain writing of the usual loader: a buffer of a thousand documents as Python lists, each beginning
             with BOS; every placement scans it for the longest that fits, and when none does the shortest is cropped and
             the rest of it lost; torch.tensor for each document, copied into an int64 batch, from which inputs and
             targets are cut. Its documents are ready in memory, as lists: it does not even read the shards.
stream       RowStream, from opening the shards on, with the seed's shuffle: in this process, and with 1 and 2 workers.
candidate    the same, and inputs and targets as int64 tensors as train.py receives them.
end_to_end   the feeder in a process of its own, over the socket, through Supply with its check of every batch.
threads      two threads that pack a unit each, against one after the other: why workers are processes.

Speeds are million tokens per CPU second of everything that took part, and per wall second; the reference and ours take
turns, the best of each counts. `memory_mb` is the largest unshared memory that the stream added, its workers' included;
`first_row` and `resume` are the time from nothing to a row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from usual_loader import BATCH_SIZE, BOS, ROW_LEN, VOCAB_SIZE, LinearScan, synthetic_documents

from autoresearch.backends.runtime import TorchRuntime
from autoresearch.contract import frames
from autoresearch.contract.feeder import PlainText, serve
from autoresearch.contract.packing import BUFFER_SIZE
from autoresearch.contract.stream import Position, RowStream
from autoresearch.contract.token_shards import TokenShard, write_token_shard
from autoresearch.contract.units import UNIT_TOKENS, Units, rows_of_unit
from autoresearch.loop.supply import Supply
from autoresearch.sandbox.environment import clean_environment
from autoresearch.sandbox.process_tree import Orphans, ProcessTree

SEED = 1
WARM_UP = 40  # batches before a turn counts: more than workers have ahead


# ------------------------------------------------------------------------------------------------------------ reference


class UsualTensors:
    """The usual loader's batches as tensors: one for each document, copied into the batch."""

    def __init__(self, incoming: Iterator[list[int]]) -> None:
        self.loader = LinearScan(incoming)
        self.num_placed = 0

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs, targets) int64 [BATCH_SIZE, ROW_LEN - 1]."""
        rows = torch.empty((BATCH_SIZE, ROW_LEN), dtype=torch.long)
        for row in rows:
            for position, piece in self.loader.pieces():
                row[position : position + len(piece)] = torch.tensor(piece, dtype=torch.long)
        self.num_placed += rows.numel()
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


# ----------------------------------------------------------------------------------------------------------- measurement


def family_cpu_seconds() -> float:
    """CPU seconds of this process and of those it started, living or waited for."""
    spent = os.times()
    total = spent.user + spent.system + spent.children_user + spent.children_system
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return total


class Best:
    """The best speeds of several turns."""

    def __init__(self) -> None:
        self.per_cpu_second = self.per_wall_second = 0.0

    def turn(self, work: Callable[[], int]) -> None:
        """`work` returns the tokens it made."""
        cpu, wall = family_cpu_seconds(), time.perf_counter()
        num_tokens = work()
        self.per_wall_second = max(self.per_wall_second, num_tokens / (time.perf_counter() - wall) / 1e6)
        self.per_cpu_second = max(self.per_cpu_second, num_tokens / (family_cpu_seconds() - cpu) / 1e6)

    def as_json(self) -> dict[str, float]:
        return {
            "million_tokens_per_cpu_second": round(self.per_cpu_second, 1),
            "million_tokens_per_wall_second": round(self.per_wall_second, 1),
        }


def taken(take: Callable[[], int], num_batches: int) -> int:
    return sum(take() for _ in range(num_batches))


def stream_of(shards: list[TokenShard], **settings: Any) -> RowStream:
    return RowStream(shards, seed=SEED, row_len=ROW_LEN, bos=BOS, **settings)


@contextlib.contextmanager
def streaming(shards: list[TokenShard], workers: int) -> Iterator[Callable[[], int]]:
    with stream_of(shards, workers=workers) as stream:
        yield lambda: stream.take(BATCH_SIZE).size


@contextlib.contextmanager
def placing(shards: list[TokenShard]) -> Iterator[Callable[[], int]]:
    runtime = TorchRuntime()
    runtime.device = torch.device("cpu")
    stream = stream_of(shards)

    def take() -> int:
        rows = stream.take(BATCH_SIZE)
        runtime.place(rows[:, :-1])
        runtime.place(rows[:, 1:])
        return rows.size

    yield take


@contextlib.contextmanager
def supplying(shards: list[TokenShard], workers: int, folder: Path) -> Iterator[Callable[[], int]]:
    home = Path(tempfile.mkdtemp(dir=folder))
    with contextlib.closing(Supply(folder, SEED, home, start=feeder_of(shards, workers, home))) as supply:
        supply.open(BATCH_SIZE, ROW_LEN - 1, VOCAB_SIZE)
        yield lambda: len(supply.next(time.monotonic() + 60, 0.5)[1]) // 2


def start_times(shards: list[TokenShard]) -> dict[str, float]:
    """Milliseconds, wall and CPU, to a first row, and to the next row from a position at the end of a unit; medians."""
    stream = stream_of(shards)
    while stream.position.unit == 0:
        before = stream.position
        stream.take(1)
    result = {}
    for name, start in (("first_row", Position()), ("resume", before)):
        times = []
        for _ in range(5):
            wall, cpu = time.perf_counter(), time.process_time()
            stream_of(shards, start=start).take(1)
            times.append(((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3))
        result[f"{name}_ms"], result[f"{name}_cpu_ms"] = np.median(times, axis=0).round(1).tolist()
    return result


def memory_mb(shards: list[TokenShard], workers: int) -> float:
    """Largest growth of the unshared memory of this process, with that of the workers, while 300 batches are taken."""
    own = psutil.Process()
    before, largest = own.memory_full_info().uss, 0
    with stream_of(shards, workers=workers) as stream:
        for step in range(300):
            stream.take(BATCH_SIZE)
            if step % 10 == 0:
                used = own.memory_full_info().uss - before
                used += sum(child.memory_full_info().uss for child in own.children())
                largest = max(largest, used)
    return round(largest / 2**20, 1)


def threads_against_turns(shards: list[TokenShard]) -> float:
    """Wall seconds of two units packed by two threads over those of one thread packing both."""

    def pack(unit: int) -> None:
        own = rows_of_unit(Units(shards, seed=SEED), 1, unit, BOS, BUFFER_SIZE)
        own.read(np.empty((UNIT_TOKENS // ROW_LEN + 2000, ROW_LEN), dtype=np.uint16))

    ratios = []
    for _ in range(7):
        began = time.perf_counter()
        pack(0)
        pack(1)
        turns = time.perf_counter() - began
        pair = [threading.Thread(target=pack, args=(unit,)) for unit in (0, 1)]
        began = time.perf_counter()
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
        ratios.append((time.perf_counter() - began) / turns)
    return round(float(np.median(ratios)), 2)


# ------------------------------------------------------------------------------------------------------------ end to end


def feeder_of(shards: list[TokenShard], workers: int, folder: Path) -> Callable[[socket.socket, Path], ProcessTree]:
    """What starts this file as a feeder: the real one wants a prepared folder, and these are bare shards."""
    listed = [[str(s.tokens_path), str(s.offsets_path), s.num_documents, s.num_tokens] for s in shards]

    def start(channel: socket.socket, log_path: Path) -> ProcessTree:
        fd = channel.fileno()
        command = [sys.executable, __file__, "--serve", str(fd), str(workers), json.dumps(listed)]
        environment = clean_environment(folder, accelerators=False, threads=1)
        with log_path.open("wb") as log:
            return ProcessTree(
                command, directory=folder, environment=environment, output=log, pass_fds=[fd], orphans=Orphans.NONE
            )

    return start


def serve_shards(fd: int, workers: int, listed: list[Any]) -> None:
    shards = [TokenShard(Path(tokens), Path(offsets), *counts) for tokens, offsets, *counts in listed]
    text = PlainText(shards, SEED, BOS, workers)
    with contextlib.closing(text), contextlib.suppress(frames.BrokenFrame):
        serve(socket.socket(fileno=fd), text)


# ------------------------------------------------------------------------------------------------------------------ main


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_shards(int(options.serve[0]), int(options.serve[1]), json.loads(options.serve[2]))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(Path(folder), options.quick), indent=2))


def measured(folder: Path, quick: bool) -> dict[str, Any]:
    """Everything that is printed."""
    num_documents, num_batches, turns = (6_000, 40, 2) if quick else (22_000, 300, 3)
    shards = [write_token_shard(folder, f"s{k}", synthetic_documents(num_documents, k), np.uint16) for k in range(3)]
    tokens, offsets = shards[0].open()
    lists = [[BOS, *tokens[a:b].tolist()] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    random.Random(0).shuffle(lists)
    usual = UsualTensors(cycle(lists))

    def take_usual() -> int:
        inputs, _ = usual.batch()
        return inputs.numel()

    ours = {
        "stream": lambda: streaming(shards, 0),
        "stream_1_worker": lambda: streaming(shards, 1),
        "stream_2_workers": lambda: streaming(shards, 2),
        "candidate": lambda: placing(shards),
        "end_to_end": lambda: supplying(shards, 0, folder),
        "end_to_end_1_worker": lambda: supplying(shards, 1, folder),
    }
    best = {name: Best() for name in ("reference", *ours)}
    taken(take_usual, 2)  # fills the buffer
    for _ in range(turns):
        best["reference"].turn(lambda: taken(take_usual, 4 if quick else 12))
        for name, opened in ours.items():
            with opened() as take:
                taken(take, WARM_UP)
                best[name].turn(lambda take=take: taken(take, num_batches))
    reference = best["reference"].per_cpu_second
    return {
        "rows": [BATCH_SIZE, ROW_LEN],
        "tokens_of_the_shards": sum(shard.num_tokens for shard in shards),
        "load": round(os.getloadavg()[0], 1),
        **{name: figures.as_json() for name, figures in best.items()},
        "times_the_reference": {name: round(best[name].per_cpu_second / reference, 1) for name in ours},
        "cropped": 0.0,
        "reference_cropped": round(usual.loader.num_cropped / (usual.loader.num_cropped + usual.num_placed), 4),
        **start_times(shards),
        "memory_mb": {f"{workers}_workers": memory_mb(shards, workers) for workers in (0, 1, 2)},
        "threads_over_turns": threads_against_turns(shards),
    }


if __name__ == "__main__":
    main()
