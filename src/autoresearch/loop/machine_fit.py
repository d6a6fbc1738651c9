"""The machine fit: how many threads pay here, and how many rows a forward pass may have, measured once and kept.

Measured by short sealed trials of the experiment file as committed, through the referee itself: the clock counts steps, and the
trial is ended when the weights are handed over. More threads are not always faster (two on a busy machine of two cores ran 4 times
slower than one), so each number of threads is tried twice, in turn, and its worse run counts. Memory is settled by the
experiment file, which halves its batch in the warm-up; what it settled on is the last loader that it opened.

A session stores its fit in the ledger and keeps it: a resume says what has changed, and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch.backends.hardware import MLX_FILE, Hardware
from autoresearch.backends.machine import version_of
from autoresearch.contract.rules import Clock
from autoresearch.files import write_json
from autoresearch.loop.orders import Arena, Order, TrialRun
from autoresearch.loop.referee import run_trial
from autoresearch.loop.session import Stopped
from autoresearch.vocabulary import Outcome

FORMAT = "autoresearch machine fit"
FORMAT_VERSION = 1
NUM_STEPS = 6  # micro-steps of one measurement: warm-up and compilation lie before the first
NUM_ROUNDS = 2
WORTH_IT = 1.1  # times as fast as with fewer threads; less is within what neighbours do
_SEED = 0
_RULES = {
    Clock.CPU: "one thread: CPU seconds are counted, and more threads use more of them for the same work",
    Clock.STEPS: "one thread: the clock counts steps, whatever time they take",
}

Run = Callable[..., TrialRun]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Fit:
    """What a session's candidates are given on this machine.

    max_device_batch_size: most rows of a forward pass; 0: no limit, the experiment file's own batch fits. device_batch_size: rows
    that the measured file settled on, 0 where none was measured. measured_at: UTC, ISO 8601; "" where nothing was measured. reason:
    why nothing was. tok_sec: tokens per second by number of threads, the worse of two runs. key: what it was measured on.
    """

    threads: int = 1
    max_device_batch_size: int = 0
    device_batch_size: int = 0
    measured_at: str = ""
    reason: str = ""
    tok_sec: Mapping[str, float] = field(default_factory=dict)
    key: Mapping[str, Any] = field(default_factory=dict)

    def in_words(self) -> str:
        """ "1 thread, device batch 8: measured on 2026-11-21"."""
        if not self.measured_at:
            return self.reason or f"{self.threads} {'thread' if self.threads == 1 else 'threads'}, as given"
        parts = [f"{self.threads} {'thread' if self.threads == 1 else 'threads'}"]
        if self.device_batch_size:
            halved = " (halved: more did not fit)" if self.max_device_batch_size else ""
            parts.append(f"device batch {self.device_batch_size}{halved}")
        return f"{', '.join(parts)}: measured on {self.measured_at[:10]}"


def key_of(hw: Hardware, arena: Arena, entry: str, source: str) -> dict[str, Any]:
    """What a fit holds for: machine, backend, contract, library versions, and the file that was measured."""
    library = "mlx" if entry == MLX_FILE else "torch"
    return {
        "device": arena.device_kind,
        "memory_gb": round(hw.memory_gb),
        "cores": hw.cores,
        "driver": hw.driver,
        "contract": arena.rules.preset,
        "numpy": np.__version__,
        library: version_of(library),
        "file": entry,
        "file_sha256": hashlib.sha256(source.encode()).hexdigest(),
    }


def machine_fit(
    hw: Hardware,
    arena: Arena,
    files: Mapping[str, str],
    entry: str,
    folder: Path,
    *,
    threads: int | None = None,
    max_device_batch_size: int | None = None,
    say: Say = lambda _: None,
    stop: threading.Event | None = None,
    run: Run = run_trial,
) -> Fit:
    """The fit of this machine for a file: as given, by rule, from `folder`, or measured now and kept there.

    threads, max_device_batch_size: what the person has set; only what is None is measured. say is told each measurement.

    Raises:
        Stopped: the user asked to stop; nothing is kept. InstallationError, DataCorrupt: as `run_trial`.
        DiskError: the result cannot be kept.
    """
    given = Fit(threads or 1, max_device_batch_size or 0)
    if threads is not None and max_device_batch_size is not None:
        return given
    if arena.rules.clock in _RULES:
        return replace(given, reason="" if threads else _RULES[arena.rules.clock])
    key = key_of(hw, arena, entry, files[entry])
    path = fit_path(folder, key)
    found = kept_fit(path, key, say)
    if found is None:
        counts = thread_counts(hw)
        trials = 1 if counts == [1] else NUM_ROUNDS * len(counts)
        say(f"measuring what fits this machine: short trials of {entry}, {trials} or more, once for this file")
        measuring = _Measuring(arena, Order(files, entry, _SEED), stop or threading.Event(), run)
        found = measuring.measured(counts, key, say)
        if found.measured_at:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, to_json(found))
    else:
        say(f"{found.in_words()}, and kept since")
    return replace(
        found,
        threads=found.threads if threads is None else threads,
        max_device_batch_size=found.max_device_batch_size if max_device_batch_size is None else max_device_batch_size,
    )


def thread_counts(hw: Hardware) -> list[int]:
    """Numbers of threads to try: powers of two and all cores where the CPU does the arithmetic, else one."""
    if not (hw.on_cpu or hw.backend == "cpu"):
        return [1]
    powers = [2**power for power in range(hw.cores.bit_length()) if 2**power < hw.cores]
    return [*powers, hw.cores]


def threads_that_pay(tok_sec: Mapping[int, float]) -> int:
    """The fewest threads that are not beaten by WORTH_IT: tokens per second by number of threads."""
    best = min(tok_sec)
    for count in sorted(tok_sec):
        if tok_sec[count] >= WORTH_IT * tok_sec[best]:
            best = count
    return best


# -- measuring ----------------------------------------------------------------------------------------------------------


class _Halt(threading.Event):
    """Set when the trial has shown what it is run for, or when the user's own event is."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def is_set(self) -> bool:
        return super().is_set() or self._stop.is_set()


@dataclass(frozen=True)
class _Shown:
    """What one short trial showed: rows per forward pass in the order of its loaders, speed, and why it ended early."""

    opened: tuple[int, ...]
    tok_sec: float
    trouble: str


class _Measuring:
    """Short trials of one order."""

    def __init__(self, arena: Arena, order: Order, stop: threading.Event, run: Run) -> None:
        rules = replace(arena.rules, clock=Clock.STEPS, time_budget=NUM_STEPS)
        self._arena = replace(arena, rules=rules)
        self._order = order
        self._stop = stop
        self._run = run

    def measured(self, counts: list[int], key: Mapping[str, Any], say: Say) -> Fit:
        """The fit, or one without a measurement that says why there is none."""
        limit, shown = self._rows_that_fit(say)
        if shown.trouble:
            return Fit(reason=f"one thread, and nothing measured: {shown.trouble}", key=key)
        speeds = {1: [shown.tok_sec]} if counts != [1] else {}
        for round_number in range(NUM_ROUNDS if counts != [1] else 0):
            for count in counts:
                if (count, round_number) == (1, 0):
                    continue  # it was the first trial
                found = self._try(count, limit)
                if found.trouble:
                    say(f"{count} threads: {found.trouble}")
                speeds.setdefault(count, []).append(0.0 if found.trouble else found.tok_sec)
        worst = {count: min(values) for count, values in speeds.items()}
        for count, speed in sorted(worst.items()):
            say(f"{count} {'thread' if count == 1 else 'threads'}: {speed:,.0f} tokens/s")
        return Fit(
            threads=threads_that_pay(worst) if worst else 1,
            max_device_batch_size=limit,
            device_batch_size=shown.opened[-1],
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            tok_sec={str(count): round(speed, 1) for count, speed in worst.items()},
            key=key,
        )

    def _rows_that_fit(self, say: Say) -> tuple[int, _Shown]:
        """The limit that is needed (0: none), and what the trial under it showed.

        A file that answers "out of memory" itself has settled on fewer rows when its training begins. One that crashes
        is tried again with half of what it had opened, down to one row.
        """
        limit = 0
        while True:
            shown = self._try(1, limit)
            if shown.trouble == "out of memory" and shown.opened and shown.opened[-1] > 1:
                rows = shown.opened[-1] // 2
                if limit and rows >= limit:  # it does not keep to the limit
                    return limit, shown
                limit = rows
                say(f"out of memory with {shown.opened[-1]} rows; {limit} are tried")
                continue
            if not shown.trouble and shown.opened[-1] < shown.opened[0]:
                limit = shown.opened[-1]
            return limit, shown

    def _try(self, threads: int, limit: int) -> _Shown:
        """One short trial.

        Raises:
            Stopped: the user asked to stop.
        """
        halt = _Halt(self._stop)
        arena = replace(self._arena, threads=threads, max_device_batch_size=limit)
        with tempfile.TemporaryDirectory(prefix="autoresearch-fit-") as folder:
            done = self._run(arena, self._order, Path(folder) / "run.log", on_examination=halt.set, stop=halt)
        if self._stop.is_set():
            raise Stopped
        came_through = done.trial.outcome is Outcome.ABANDONED or done.trial.val_bpb is not None
        trouble = "" if came_through and done.opened else done.trial.reason or str(done.trial.outcome)
        return _Shown(done.opened, done.trial.tok_sec, trouble)


# -- keeping ------------------------------------------------------------------------------------------------------------


def fit_path(folder: Path, key: Mapping[str, Any]) -> Path:
    """Where the fit of that key is kept."""
    return folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.json"


def kept_fit(path: Path, key: Mapping[str, Any], say: Say) -> Fit | None:
    """The fit in that file; None where there is none, and where it cannot be used, which is said."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        say(f"the machine fit in {path.name} cannot be read ({error}): measured again")
        return None
    try:
        found = from_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        say(f"the machine fit in {path.name} cannot be used ({error}): measured again")
        return None
    if found.key != key:
        say(f"the machine fit in {path.name} is of another machine or file: measured again")
        return None
    return found


def to_json(fit: Fit) -> dict[str, Any]:
    """The fit as its file holds it."""
    return {"format": FORMAT, "version": FORMAT_VERSION, **asdict(fit)}


def from_json(stored: Any) -> Fit:
    """What `to_json` made.

    Raises:
        ValueError: it is something else, of another version, or holds impossible numbers.
    """
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ValueError("it is no machine fit")
    if stored.get("version") != FORMAT_VERSION:
        raise ValueError(f"it has version {stored.get('version')!r}, not {FORMAT_VERSION}")
    values: dict[str, Any] = {each.name: stored.get(each.name) for each in fields(Fit)}
    numbers = (values["threads"], values["max_device_batch_size"], values["device_batch_size"])
    whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers)
    texts = isinstance(values["measured_at"], str) and isinstance(values["reason"], str)
    if not (whole and values["threads"] and texts):
        raise ValueError("its numbers are impossible")
    if not (isinstance(values["key"], dict) and isinstance(values["tok_sec"], dict)):
        raise ValueError("it does not say what it was measured on")
    return Fit(**values)


# -- in a session -------------------------------------------------------------------------------------------------------


def stored_with(settings: Mapping[str, Any], fit: Fit) -> dict[str, Any]:
    """Session settings as the ledger holds them, with the fit in force."""
    in_force = {"threads": fit.threads, "max_device_batch_size": fit.max_device_batch_size}
    return {**settings, **in_force, "fit": to_json(fit)}


def fit_in(settings: Mapping[str, Any]) -> Fit:
    """The fit that a session began with; of one from before there were fits, its threads."""
    if "fit" in settings:
        return from_json(settings["fit"])
    return Fit(settings.get("threads") or 1)


def changes_since(fit: Fit, now: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What differs from when the fit was made, one line each; the session goes on with the fit all the same.

    now: the key of this machine. asked: threads and max_device_batch_size as settings say today, None for what they leave open.
    """
    lines = []
    names = [name for name in fit.key if name not in ("file", "file_sha256") and fit.key[name] != now.get(name)]
    if fit.measured_at and names:
        changed = ", ".join(f"{name} {fit.key[name]} -> {now.get(name) or 'missing'}" for name in names)
        lines.append(f"this machine has changed since its fit was measured ({changed}); the session keeps it")
    for name, value in asked.items():
        kept = getattr(fit, name)
        if value is not None and value != kept:
            lines.append(f"{name} {value} was asked for; this session's trials had {kept}, and that stays")
    return lines
