"""Where a step's time goes, for one experiment file or for two side by side: which processes run, in which order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch.bench.children import BenchmarkFailed, Runner
from autoresearch.bench.experiment_file import ExperimentFile
from autoresearch.bench.order import Mode, Order, Task
from autoresearch.bench.ratio import Ratio, ratio_of, running_order
from autoresearch.bench.sampling import Spread, spread_of
from autoresearch.vocabulary import UsageError

OURS, YOURS = "A", "B"


@dataclass(frozen=True)
class Wish:
    """What is measured. files: ours, and yours where two are compared. modes: none given means as each file decides,
    and where that is compiled, eager beside it. rounds: processes per file of a comparison.
    """

    files: tuple[ExperimentFile, ...]
    modes: tuple[Mode, ...]
    steps: int
    rounds: int
    limit_seconds: float


@dataclass
class Measurement:
    """One file in one mode. runs: results of its whole-step processes, in order; parts: that of the other, or None
    and why in `parts_problem`.
    """

    label: str
    file: ExperimentFile
    mode: Mode
    runs: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, Any] | None = None
    parts_problem: str = ""

    @property
    def first(self) -> dict[str, Any]:
        """The first process: the one whose compile cache was empty."""
        return self.runs[0]

    @property
    def step(self) -> Spread:
        """Seconds of a whole step, over all runs, by the clock that the contract counts."""
        return spread_of([seconds for run in self.runs for seconds in run["step_seconds"]])

    @property
    def wall_step(self) -> Spread:
        """The same by the clock on the wall."""
        return spread_of([seconds for run in self.runs for seconds in run["wall_seconds"]])

    @property
    def tokens_per_step(self) -> int:
        return int(self.first["rows"] * self.first["seq_len"] * self.first["micro_steps"])

    @property
    def compiled(self) -> bool | None:
        """Whether the step is compiled; None where the file does not say."""
        if self.mode is Mode.EAGER:
            return False
        found: bool | None = self.first["compiled"]
        return found

    def part_spreads(self) -> dict[str, Spread]:
        """Seconds per step of each part, in the order of the step; empty where parts were not measured."""
        return {name: spread_of(samples) for name, samples in self.parts["parts"].items()} if self.parts else {}

    @property
    def overhead_seconds(self) -> float | None:
        """A whole step's median less those of its parts. Below zero where parts overlap unless they are waited for."""
        spreads = self.part_spreads()
        return self.step.median - sum(spread.median for spread in spreads.values()) if spreads else None

    @property
    def compile_seconds(self) -> float | None:
        """Wall seconds of the first step with an empty compile cache, less a usual one; None where nothing is compiled."""
        if not self.parts or not self.parts["compiled"]:
            return None
        wall = self.parts["wall_seconds"]
        return max(0.0, float(wall[0]) - spread_of(wall[self.parts["warm_up_steps"] :]).median)

    def seconds_per_token(self) -> list[float]:
        """Of each run: its median step over the tokens of a step."""
        return [spread_of(run["step_seconds"]).median / self.tokens_per_step for run in self.runs]


@dataclass(frozen=True)
class Comparison:
    """Yours against ours in one mode. order: of the processes, "ABBA..."."""

    mode: Mode
    order: str
    ratio: Ratio


@dataclass(frozen=True)
class Benchmark:
    """Everything that was measured."""

    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]


Tell = Callable[[str, float], object]  # what is measured now, and the share of all processes that are done


class Bench:
    """Runs the processes of a wish one after the other: two at once would measure each other."""

    def __init__(self, run: Runner, log_path: Callable[[str], Path], tell: Tell) -> None:
        """log_path: where the log of a process of that name goes."""
        self._run = run
        self._log_path = log_path
        self._tell = tell
        self._num_done = 0
        self._num_planned = 1

    def measure(self, wish: Wish) -> Benchmark:
        """All that is wished.

        Raises:
            UsageError: a mode that a file cannot be put in. BenchmarkFailed: a file crashed, hung or gave no steps.
        """
        for file in wish.files:
            if Mode.COMPILED in wish.modes and not file.is_named:
                raise UsageError(
                    f"{file.path.name} cannot be compiled from outside: it defines no {', '.join(file.missing)}",
                    hint=f"autoresearch bench {file.path.name}   (measures it as it is)",
                )
        modes = wish.modes or (Mode.OWN,)
        named = sum(file.is_named for file in wish.files)
        self._num_planned = len(modes) * (named + len(wish.files) * (wish.rounds if len(wish.files) > 1 else 1))
        if len(wish.files) > 1:
            return self._compare(wish, modes)
        (file,) = wish.files
        measured = [self._alone(wish, file, mode) for mode in modes]
        if not wish.modes and measured[0].compiled:
            self._num_planned *= 2
            measured.append(self._alone(wish, file, Mode.EAGER))
        return Benchmark(tuple(measured), ())

    def _alone(self, wish: Wish, file: ExperimentFile, mode: Mode) -> Measurement:
        measurement = Measurement(OURS, file, mode)
        with _empty_cache() as cache:
            self._whole(wish, measurement, cache)
        self._parts(wish, measurement)
        return measurement

    def _compare(self, wish: Wish, modes: Sequence[Mode]) -> Benchmark:
        measured: list[Measurement] = []
        comparisons = []
        for mode in modes:
            ours, yours = (
                Measurement(label, file, mode) for label, file in zip((OURS, YOURS), wish.files, strict=True)
            )
            order = running_order(wish.rounds)
            with _empty_cache() as our_cache, _empty_cache() as your_cache:
                for letter in order:
                    if letter == OURS:
                        self._whole(wish, ours, our_cache)
                    else:
                        self._whole(wish, yours, your_cache)
            for measurement in (ours, yours):
                self._parts(wish, measurement)
            comparisons.append(Comparison(mode, order, ratio_of(ours.seconds_per_token(), yours.seconds_per_token())))
            measured += [ours, yours]
        return Benchmark(tuple(measured), tuple(comparisons))

    def _whole(self, wish: Wish, measurement: Measurement, cache: Path) -> None:
        """One process more of its own loop."""
        number = f"-{len(measurement.runs) + 1}" if len(wish.files) > 1 else ""
        order = self._order(wish, measurement, Task.WHOLE)
        measurement.runs.append(self._one(measurement, f"whole{number}", order, cache))

    def _parts(self, wish: Wish, measurement: Measurement) -> None:
        """Its parts, with the batch that its own loop chose; or why not."""
        if not measurement.file.is_named:
            measurement.parts_problem = f"the file defines no {', '.join(measurement.file.missing)}"
            return
        found = measurement.first
        if found["library"] == "numpy":
            measurement.parts_problem = "the file uses neither torch nor mlx"
            return
        order = self._order(wish, measurement, Task.PARTS, found)
        try:
            with _empty_cache() as cache:
                measurement.parts = self._one(measurement, "parts", order, cache)
        except (BenchmarkFailed, UsageError) as error:
            # whole steps are measured and stay so; this is shown beside them
            measurement.parts_problem = f"{error.message.splitlines()[0]}; {error.hint}"

    def _order(self, wish: Wish, measurement: Measurement, task: Task, found: dict[str, Any] | None = None) -> Order:
        found = found or {"rows": 0, "seq_len": 0, "micro_steps": 0}
        return Order(
            file=str(measurement.file.path),
            sha256=measurement.file.sha256,
            task=task,
            mode=measurement.mode,
            steps=wish.steps,
            limit_seconds=wish.limit_seconds,
            spawned_at=0.0,  # the runner knows, and who asks
            is_named=measurement.file.is_named,
            parent=0,
            rows=found["rows"],
            seq_len=found["seq_len"],
            micro_steps=found["micro_steps"],
        )

    def _one(self, measurement: Measurement, what: str, order: Order, cache: Path) -> dict[str, Any]:
        name = f"{measurement.label}-{measurement.mode}-{what}"
        shown = f"{measurement.file.path.name}, {measurement.mode}: {what}"
        self._tell(shown, self._num_done / self._num_planned)
        result = self._run(order, self._log_path(name), cache)
        self._num_done += 1
        return result


@contextmanager
def _empty_cache() -> Iterator[Path]:
    """A folder for compile caches that nobody has written in: what a first run costs is then measured, not remembered."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-bench-cache-") as name:
        yield Path(name)
