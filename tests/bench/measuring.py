"""What the tests of `bench` share: experiment files whose cost is counted, not timed, and a runner in this process."""

from __future__ import annotations

import hashlib
import sys
import types
from dataclasses import replace
from pathlib import Path

from autoresearch.bench.child import Clocks, measure
from autoresearch.bench.experiment_file import read_experiment
from autoresearch.bench.order import Mode, Order, Task

# `work` stands for what a step costs: it moves the clock, so a figure depends on nothing but the file.
COUNTED = """
from work_done import work
from prepare import MAX_SEQ_LEN, SEED, Tokenizer, evaluate_bpb, make_dataloader

ROWS = {rows}
TOTAL_BATCH_SIZE = {micro_steps} * ROWS * MAX_SEQ_LEN

work(100)  # start-up
tokenizer = Tokenizer.from_directory()
micro_step = 0
for inputs, targets, epoch in make_dataloader(tokenizer, ROWS, MAX_SEQ_LEN, "train"):
    assert tuple(inputs.shape) == (ROWS, MAX_SEQ_LEN)
    work({cost})
    micro_step += 1
    if micro_step % {micro_steps} == 0:
        work({update})
    {and_then}
"""


def counted(cost: float, *, rows: int = 2, micro_steps: int = 1, update: float = 0, and_then: str = "pass") -> str:
    """An experiment file whose micro-step costs `cost` seconds of the counted clock."""
    return COUNTED.format(cost=cost, rows=rows, micro_steps=micro_steps, update=update, and_then=and_then)


class CountedClock:
    """Seconds that pass only when a file says that it works."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.ran: list[str] = []  # sha256 of each file, in the order in which they were measured

    def clocks(self) -> Clocks:
        return Clocks(steady=self.now, cpu=self.now, epoch=self.now)

    def now(self) -> float:
        return self.seconds

    def work(self, seconds: float) -> None:
        self.seconds += seconds

    def run(self, order: Order, log_path: Path, cache: Path) -> dict:
        """A runner: the file is read from disk and run, in this process."""
        self.ran.append(order.sha256)
        module = types.ModuleType("work_done")
        module.work = self.work
        sys.modules["work_done"] = module
        try:
            return measure(replace(order, spawned_at=self.seconds), self.clocks())
        finally:
            del sys.modules["work_done"]


def order_for(path: Path, task: Task = Task.WHOLE, mode: Mode = Mode.OWN, **more) -> Order:
    text = path.read_bytes()
    return Order(
        file=str(path),
        sha256=hashlib.sha256(text).hexdigest(),
        task=task,
        mode=mode,
        steps=more.pop("steps", 5),
        limit_seconds=1e6,
        spawned_at=0.0,
        is_named=read_experiment(path).is_named,
        parent=more.pop("parent", 0),
        **more,
    )
