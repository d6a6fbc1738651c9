"""One sealed trial: the referee holds the clock, the text and the score; the candidate holds none of them."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import select
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from autoresearch.contract import frames
from autoresearch.contract.budget import Budget
from autoresearch.contract.channel import encode_ask
from autoresearch.contract.examination import Ask, Examined, examine, tolerance_for
from autoresearch.contract.prepared import Prepared
from autoresearch.contract.rules import Clock, Rules
from autoresearch.loop import run_log, sandbox
from autoresearch.loop.candidate import Candidate
from autoresearch.loop.supply import Supply
from autoresearch.vocabulary import InstallationError, Outcome, Slice, Trial

_TICK = 0.05  # seconds between looks at deadlines, memory and log while nothing arrives
_STALL = 10.0  # seconds a frame may take once it has begun (200 MB of weights take 0.2)
_LAST_BREATH = 2.0  # seconds between a closed channel and the exit that explains it
_FAREWELL = 5.0  # seconds a candidate may take to exit once it knows its score
_MAX_WEIGHTS_BYTES = 4 * 2**30
_MAX_ANSWER_BYTES = 2**30
_MAX_BATCH_TOKENS = 2**24
# Below this share of a core the neighbours had the machine. The CPU clock itself forgives a lot: the baseline on `tiny`
# measured 23.6, 22.5, 21.5 and 21.4 thousand tokens per CPU second at shares of 84, 56, 44 and 36 %.
DISTURBED_CPU_SHARE = 0.5


@dataclass(frozen=True)
class Arena:
    """What every trial of a session has in common."""

    rules: Rules
    prepared: Prepared
    device_kind: str
    accelerators: bool
    threads: int = 1

    @property
    def memory_limit_mb(self) -> float:
        """Resident memory of a candidate's tree beyond which it is stopped: 80 % of the machine's."""
        return 0.8 * psutil.virtual_memory().total / 2**20


@dataclass(frozen=True)
class Order:
    """One trial as ordered: these files, this entry, this seed, this slice of validation text."""

    files: Mapping[str, str]
    entry: str
    seed: int
    slice: Slice = Slice.SEARCH


@dataclass(frozen=True)
class Glimpse:
    """What a running trial shows of itself: for the live line and status files, never for a decision."""

    phase: str
    step: int = 0
    progress: float = 0.0
    remaining: float = 0.0
    tok_sec: float = 0.0
    loss: float | None = None


@dataclass(frozen=True)
class TrialRun:
    """A trial, with what it left behind."""

    trial: Trial
    log: str
    weights: bytes | None = None


class _Ended(Exception):
    """The trial is over before its score: outcome and reason."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


def run_trial(
    arena: Arena,
    order: Order,
    log_path: Path,
    *,
    on_start: Callable[[int, float], None] = lambda _pid, _created: None,
    on_glimpse: Callable[[Glimpse], None] = lambda _: None,
    on_examination: Callable[[], None] = lambda: None,
    spare: Candidate | None = None,
    stop: threading.Event | None = None,
) -> TrialRun:
    """Run one sealed trial and say how it ended. A candidate's failure is a value here, never an exception.

    log_path receives the raw output. `on_start` is told the candidate's process number and creation time, so that a
    later start can end what a kill left running. `on_examination` is called when training is over and the clock has
    stopped. `spare` is a candidate started ahead; without one, one is started now. A set `stop` ends the trial as
    ABANDONED.

    Raises:
        DataCorrupt: our own prepared data cannot be read. InstallationError: our launcher does not start.
    """
    broken = _syntax_problem(order)
    if broken:
        log_path.write_text(broken + "\n", encoding="utf-8")
        trial = Trial(Outcome.CRASHED, reason=broken, seed=order.seed, slice=order.slice, sealed=sandbox.SEALED)
        return TrialRun(replace(trial, log_tail=broken), broken)
    if spare is not None and spare.tree.poll() is not None:
        spare.close()  # it died while it waited
        spare = None
    candidate = spare or Candidate(accelerators=arena.accelerators, threads=arena.threads)
    try:
        run = _Run(arena, order, log_path, candidate, on_glimpse, on_examination, stop or threading.Event())
        return run.go(on_start)
    finally:
        candidate.close()


def _syntax_problem(order: Order) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a candidate's odd escape sequence is not for our user's terminal
            compile(order.files[order.entry], order.entry, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"SyntaxError: {error.msg} ({order.entry}, line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"SyntaxError: {order.entry} cannot be compiled: {type(error).__name__}"
    return ""


class _Run:
    """The state of one trial while it runs."""

    def __init__(
        self,
        arena: Arena,
        order: Order,
        log_path: Path,
        candidate: Candidate,
        on_glimpse: Callable[[Glimpse], None],
        on_examination: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self._arena = arena
        self._rules = arena.rules
        self._order = order
        self._log_path = log_path
        self._candidate = candidate
        self._channel = candidate.channel
        self._tree = candidate.tree
        self._budget = Budget(arena.rules, self._tree.cpu_seconds)
        self._on_glimpse = on_glimpse
        self._on_examination = on_examination
        self._stop = stop
        self._phase = "start-up"
        self._introduced = False
        self._batch_tokens = 0
        self._rows_shape = (0, 0)
        self._steps = 0
        self._tokens = 0
        self._feeder_wait = 0.0
        self._startup = 0.0
        self._cpu_at_start = 0.0
        self._cpu_while_training = 0.0
        self._used = 0.0
        self._trained_wall = 0.0
        self._peak_memory = 0.0
        self._weights: bytes | None = None
        self._examination: Generator[Ask, NDArray[np.float32], Examined] | None = None
        self._exam_began = 0.0
        self._last_glimpse = 0.0
        self._last_watch = 0.0
        self._began = time.monotonic()

    def go(self, on_start: Callable[[int, float], None]) -> TrialRun:
        """Start feeder and candidate, serve them to the end, and account for everything."""
        feeder_home = self._candidate.folder / "feeder"
        feeder_home.mkdir()
        self._feeder = Supply(self._arena.prepared.directory, self._order.seed, feeder_home)
        try:
            on_start(self._tree.pid, self._tree.created_at)
            self._candidate.begin(self._order.files, self._order.entry, self._log_path)
            try:
                examined = self._serve()
                outcome = Outcome.FINISHED if examined.val_bpb is not None else Outcome.REJECTED
                self._farewell(examined)
                return self._account(outcome, examined.reason, examined)
            except _Ended as ended:
                return self._account(ended.outcome, ended.reason, None)
        finally:
            self._feeder.close()

    # -- serving ------------------------------------------------------------------------------------------------------

    def _serve(self) -> Examined:
        """Answer the candidate's requests until it is examined."""
        while True:
            readable = bool(select.select([self._channel], [], [], _TICK)[0])
            self._watch(force=not readable)
            if readable:
                header, payload = self._receive()
                examined = self._answer(header, payload)
                if examined is not None:
                    return examined
            elif self._tree.poll() is not None:
                raise self._ended_without_score()

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        most = {"examination": _MAX_ANSWER_BYTES}.get(self._phase, _MAX_WEIGHTS_BYTES)
        try:
            return frames.receive(self._channel, most, _STALL)
        except frames.BrokenFrame as error:
            if self._tree.wait(_LAST_BREATH) is not None:
                raise self._ended_without_score() from error
            raise _Ended(Outcome.REJECTED, f"the channel broke: {error}") from error

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        self._channel.settimeout(_STALL)
        try:
            frames.send(self._channel, header, payload)
        except frames.BrokenFrame as error:
            if self._tree.wait(_LAST_BREATH) is not None:
                raise self._ended_without_score() from error
            raise _Ended(Outcome.REJECTED, f"the candidate does not read its channel: {error}") from error

    def _answer(self, header: dict[str, Any], payload: bytes) -> Examined | None:
        op = header.get("op")
        if op == "next" and self._phase in ("start-up", "training") and self._batch_tokens:
            self._hand_out()
        elif op == "answer" and self._examination is not None:
            return self._next_question(header, payload)
        elif op == "hello" and self._phase == "start-up":
            self._introduce()
        elif op == "open" and self._phase in ("start-up", "training"):
            self._open_stream(header)
        elif op == "weights" and self._phase in ("training", "hand-over"):
            return self._begin_examination(header, payload)
        elif op == "weights":
            raise _Ended(Outcome.REJECTED, "weights were handed over before any training batch was taken")
        else:
            raise _Ended(Outcome.REJECTED, f"unexpected request {str(op)[:40]!r} during {self._phase}")
        return None

    def _introduce(self) -> None:
        self._introduced = True
        constants = {
            "MAX_SEQ_LEN": self._rules.max_seq_len,
            "TIME_BUDGET": self._rules.time_budget,
            "SEED": self._order.seed,
            "PRESET": self._rules.preset,
        }
        self._send({"op": "constants", "constants": constants}, self._arena.prepared.tokenizer.to_json().encode())

    def _open_stream(self, header: dict[str, Any]) -> None:
        batch_size, seq_len = header.get("batch_size"), header.get("seq_len")
        if not (
            isinstance(batch_size, int)
            and isinstance(seq_len, int)
            and 1 <= seq_len <= self._rules.max_seq_len
            and batch_size >= 1
            and batch_size * seq_len <= _MAX_BATCH_TOKENS
        ):
            raise _Ended(Outcome.REJECTED, "a data loader of impossible shape was asked for")
        self._rows_shape = (batch_size, seq_len + 1)
        self._batch_tokens = batch_size * seq_len
        self._feeder.open(batch_size, seq_len)

    def _hand_out(self) -> None:
        first = not self._budget.started
        if first:
            # the feeder had the whole start-up to get ready; what is left of its start is not the candidate's time
            ready = self._feeder.next(time.monotonic() + self._rules.startup_cap)
            self._cpu_at_start = self._tree.cpu_seconds()
        if not self._budget.another_batch():
            self._phase = "hand-over"
            self._send({"op": "end"})
            return
        if first:
            self._phase = "training"
            self._startup = time.monotonic() - self._began
        else:
            asked = time.monotonic()
            ready = self._feeder.next(asked + self._rules.wall_deadline)
            waited = time.monotonic() - asked
            self._feeder_wait += waited
            self._budget.add_wait(waited)
        header, rows = ready
        self._steps += 1
        self._tokens += self._batch_tokens
        reply = {"op": "rows", "dtype": header["dtype"], "epoch": header["epoch"]}
        reply |= {"progress": self._budget.progress(), "used": self._budget.used()}
        self._send(reply, rows)
        self._glimpse()

    def _begin_examination(self, header: dict[str, Any], weights: bytes) -> Examined | None:
        self._used = self._budget.used()
        self._trained_wall = self._budget.wall_seconds()
        self._cpu_while_training = self._tree.cpu_seconds() - self._cpu_at_start
        if self._budget.overrun():
            raise _Ended(Outcome.TIMED_OUT, self._too_late())
        self._check_weights(weights)
        self._weights = weights
        self._phase = "examination"
        self._exam_began = time.monotonic()
        self._last_glimpse = 0.0
        self._glimpse()
        self._on_examination()
        asked_batch = header.get("batch_size")
        batch_size = asked_batch if isinstance(asked_batch, int) and asked_batch > 0 else 1
        self._examination = examine(
            self._arena.prepared.rows(self._order.slice),
            self._arena.prepared.tokenizer.token_bytes,
            self._rules,
            batch_size=batch_size,
            tolerance=tolerance_for(self._arena.device_kind),
            random=np.random.default_rng(int.from_bytes(os.urandom(8))),
        )
        self._send(*encode_ask(next(self._examination)))
        return None

    def _next_question(self, header: dict[str, Any], payload: bytes) -> Examined | None:
        shape = header.get("shape")
        if (
            not isinstance(shape, list)
            or not all(isinstance(size, int) and 0 < size < 2**31 for size in shape)
            or len(shape) > 3
            or len(payload) != 4 * math.prod(shape)
        ):
            raise _Ended(Outcome.REJECTED, "an answer is not a float32 array of the shape it names")
        assert self._examination is not None
        try:
            ask = self._examination.send(np.frombuffer(payload, dtype=np.float32).reshape(shape))
        except StopIteration as finished:
            result: Examined = finished.value
            return result
        self._send(*encode_ask(ask))
        return None

    def _check_weights(self, weights: bytes) -> None:
        """Refuse what is not a safetensors file: 8 bytes header size, a JSON header, the tensors."""
        from safetensors import SafetensorError, deserialize

        try:
            deserialize(weights)  # type: ignore[no-untyped-call]
        except (SafetensorError, ValueError) as error:
            raise _Ended(
                Outcome.REJECTED, f"the weights handed over are not safetensors: {str(error)[:120]}"
            ) from error

    def _farewell(self, examined: Examined) -> None:
        """Tell the candidate its score and let it print its summary and exit."""
        self._exam_seconds = time.monotonic() - self._exam_began
        self._peak_memory = max(self._peak_memory, self._tree.memory_mb())
        if examined.val_bpb is None:
            return
        with contextlib.suppress(_Ended):
            self._send({"op": "score", "val_bpb": examined.val_bpb})
            self._tree.wait(_FAREWELL)

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch(self, *, force: bool) -> None:
        """Raise _Ended when a deadline or a limit is passed, or when the user asked to stop."""
        if self._stop.is_set():
            raise _Ended(Outcome.ABANDONED, "stopped by the user")
        now = time.monotonic()
        if not force and now - self._last_watch < 0.25:
            return
        total = now - self._began
        if not self._budget.started and total > self._rules.startup_cap:
            raise _Ended(Outcome.TIMED_OUT, f"start-up took more than {self._rules.startup_cap:g} s")
        if self._phase in ("training", "hand-over"):
            if self._budget.overrun():
                raise _Ended(Outcome.TIMED_OUT, self._too_late())
            if self._budget.wall_seconds() > self._rules.wall_deadline:
                raise _Ended(Outcome.TIMED_OUT, f"training took more than {self._rules.wall_deadline:g} s of wall time")
        if self._phase == "examination" and now - self._exam_began > self._rules.exam_deadline:
            raise _Ended(Outcome.TIMED_OUT, f"the examination took more than {self._rules.exam_deadline:g} s")
        if total > self._rules.trial_deadline:
            raise _Ended(Outcome.TIMED_OUT, f"the whole trial took more than {self._rules.trial_deadline:g} s")
        if now - self._last_watch < 0.25:
            return
        self._last_watch = now
        memory = self._tree.memory_mb()
        self._peak_memory = max(self._peak_memory, memory)
        if memory > self._arena.memory_limit_mb:
            raise _Ended(
                Outcome.CRASHED, f"out of memory: {memory:,.0f} MB of {self._arena.memory_limit_mb:,.0f} allowed"
            )
        if self._log_path.stat().st_size > run_log.MAX_LOG_BYTES:
            raise _Ended(Outcome.CRASHED, f"the log grew beyond {run_log.MAX_LOG_BYTES:,} bytes")
        self._glimpse()

    def _too_late(self) -> str:
        unit = "CPU seconds" if self._rules.clock is Clock.CPU else "s"
        return f"no weights within {self._rules.time_budget:g} + {self._rules.grace:g} {unit}"

    def _ended_without_score(self) -> _Ended:
        code = self._tree.wait(_FAREWELL)
        if not self._introduced:
            # it never came to the experiment file: that is no verdict on the candidate
            said = run_log.tail_of(run_log.read_log(self._log_path) + self._candidate.early_log(), 3)
            raise InstallationError(
                f"the candidate's launcher did not start (exit code {code}): {said}",
                hint="autoresearch doctor   (was the package changed meanwhile? then --resume)",
            )
        diverged, reason = run_log.why_it_ended(run_log.read_log(self._log_path), code)
        return _Ended(Outcome.DIVERGED if diverged else Outcome.CRASHED, reason)

    def _glimpse(self) -> None:
        now = time.monotonic()
        if now - self._last_glimpse < 0.25:
            return
        self._last_glimpse = now
        used = self._budget.used()
        self._on_glimpse(
            Glimpse(
                phase=self._phase,
                step=self._steps,
                progress=self._budget.progress(),
                remaining=max(0.0, self._rules.time_budget - used),
                tok_sec=self._tokens_per_second(used, self._budget.wall_seconds()),
                loss=run_log.last_loss(self._log_path),
            )
        )

    def _tokens_per_second(self, used: float, wall: float) -> float:
        """Tokens per second of the contract's clock; per wall second where the clock counts steps."""
        seconds = wall if self._rules.clock is Clock.STEPS else used
        return self._tokens / seconds if seconds > 0 else 0.0

    # -- accounting ---------------------------------------------------------------------------------------------------

    def _account(self, outcome: Outcome, reason: str, examined: Examined | None) -> TrialRun:
        self._peak_memory = max(self._peak_memory, self._tree.memory_mb())
        cpu_seconds = self._tree.cpu_seconds()
        self._tree.kill()  # nothing writes to the log after this
        log = run_log.read_log(self._log_path)
        share = self._cpu_while_training / self._trained_wall if self._trained_wall > 0 else None
        on_cpu = self._rules.clock is not Clock.WALL
        claimed = run_log.claimed_summary(log)
        memory = self._peak_memory if on_cpu else claimed.get("peak_vram_mb", self._peak_memory)
        trial = Trial(
            outcome=outcome,
            val_bpb=examined.val_bpb if examined else None,
            reason=reason,
            seed=self._order.seed,
            slice=self._order.slice,
            num_steps=self._steps,
            num_tokens=self._tokens,
            budget_used=self._used,
            training_seconds=self._trained_wall,
            startup_seconds=self._startup,
            exam_seconds=self._exam_seconds if examined else 0.0,
            feeder_wait_seconds=self._feeder_wait,
            total_seconds=time.monotonic() - self._began,
            cpu_seconds=cpu_seconds,
            cpu_share=share if on_cpu else None,
            tok_sec=self._tokens_per_second(self._used, self._trained_wall),
            peak_memory_mb=memory,
            disturbed=_disturbance(share, self._rules) if examined else "",
            sealed=sandbox.SEALED,
            weights_sha256=hashlib.sha256(self._weights).hexdigest() if self._weights else "",
            audited_positions=examined.audited_positions if examined else 0,
            prefix_pairs=examined.prefix_pairs if examined else 0,
            largest_deviation=examined.largest_deviation if examined else None,
            claimed=claimed,
            log_tail=run_log.tail_of(log),
        )
        return TrialRun(trial, log, self._weights if examined else None)


def _disturbance(share: float | None, rules: Rules) -> str:
    if rules.clock is not Clock.CPU or share is None or share >= DISTURBED_CPU_SHARE:
        return ""
    return f"the candidate had {share:.0%} of a core while training: neighbours used the machine"
