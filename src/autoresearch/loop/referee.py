"""One sealed trial: the referee holds the clock, the text and the score; the candidate holds none of them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.budget import Budget
from autoresearch.contract.channel import encode_ask
from autoresearch.contract.deep_examination import DeeplyExamined
from autoresearch.contract.examination import Ask, Examined, examine, tolerance_for
from autoresearch.contract.rules import Clock
from autoresearch.hostile_text import one_line
from autoresearch.loop import run_log
from autoresearch.loop.candidate import Candidate, worth_preloading
from autoresearch.loop.conversation import Conversation, Ended
from autoresearch.loop.interview import Interview
from autoresearch.loop.orders import (
    MAX_ANSWER_BYTES,
    Arena,
    Glimpse,
    Order,
    TrialRun,
    answer_in,
    constants_of,
    system_random,
)
from autoresearch.loop.peers import disturbance
from autoresearch.loop.preparation import recorded_of
from autoresearch.loop.recipe_feeder import RecipeSupply, supply_of
from autoresearch.loop.spare import start_candidate
from autoresearch.loop.weights import check_weights
from autoresearch.sandbox.compile_cache import harvest
from autoresearch.vocabulary import DataCorrupt, Examination, Outcome, Trial

_FAREWELL = 5.0  # seconds a candidate may take to exit once it knows its score
_MAX_BATCH_TOKENS = 2**24


def run_trial(
    arena: Arena,
    order: Order,
    log_path: Path,
    *,
    on_start: Callable[[int, float], None] = lambda _pid, _created: None,
    on_glimpse: Callable[[Glimpse], None] = lambda _: None,
    on_examination: Callable[[], None] = lambda: None,
    spare: Candidate | None = None,
    fresh: Callable[[], Candidate] | None = None,
    stop: threading.Event | None = None,
) -> TrialRun:
    """Run one sealed trial and say how it ended. A candidate's failure is a value here, never an exception.

    log_path receives the raw output. `on_start` is told the candidate's process number and creation time, so that a
    later start can end what a kill left running. `on_examination` is called when training is over and the clock has
    stopped. `spare` is a candidate started ahead; without one, one is started now. `fresh` gives the process that a deep
    examination asks; by default one is started then. A set `stop` ends the trial as ABANDONED.

    Raises:
        DataCorrupt: our own prepared data cannot be read. InstallationError: our launcher does not start.
    """
    broken = _syntax_problem(order)
    if broken:
        log_path.write_text(broken + "\n", encoding="utf-8")
        trial = Trial(Outcome.CRASHED, reason=broken, seed=order.seed, slice=order.slice, sealed=arena.seal.level)
        return TrialRun(replace(trial, log_tail=broken), broken)
    candidate = spare or start_candidate(arena, worth_preloading(order.files[order.entry]))
    try:
        run = _Run(arena, order, log_path, candidate, on_glimpse, on_examination, stop or threading.Event())
        done = run.go(on_start, fresh or (lambda: start_candidate(arena)))
        if order.is_trusted and arena.warm_cache is not None and done.trial.outcome is Outcome.FINISHED:
            harvest(candidate.cell.cache_dir, arena.warm_cache)
        return done
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
        self._tree = candidate.tree
        self._talk = Conversation(candidate, log_path, arena.limits, stop)
        self._budget = Budget(arena.rules, self._cpu_seconds)
        self._on_glimpse = on_glimpse
        self._on_examination = on_examination
        self._stop = stop
        self._phase = "start-up"
        self._batch_tokens = 0
        self._opened: list[int] = []
        self._steps = 0
        self._tokens = 0
        self._feeder_wait = 0.0
        self._recipe_log = ""  # where the recipe's feed ended the trial
        self._startup = 0.0
        self._startup_used = 0.0
        self._hello_at = 0.0
        self._cpu_at_start = 0.0
        self._cpu_while_training = 0.0
        self._used = 0.0
        self._trained_wall = 0.0
        self._weights: bytes | None = None
        self._examination: Generator[Ask, NDArray[np.float32], Examined] | None = None
        self._batch_size = 1  # of the examination
        self._exam_began = 0.0
        self._deep_seconds = 0.0
        self._exam_seconds = 0.0
        self._exam_clock_began = 0.0
        self._exam_used = 0.0
        self._cpu_in_all = 0.0
        self._last_glimpse = 0.0
        self._began = time.monotonic()

    def go(self, on_start: Callable[[int, float], None], fresh: Callable[[], Candidate]) -> TrialRun:
        """Start feeder and candidate, serve them to the end, and account for everything."""
        feeder_home = self._candidate.folder / "feeder"
        feeder_home.mkdir()
        self._feeder = supply_of(self._arena, self._order.seed, feeder_home)
        examined: Examined | None = None
        try:
            on_start(self._tree.pid, self._tree.created_at)
            self._candidate.begin(self._order.files, self._order.entry, self._log_path)
            try:
                examined = self._serve()
                self._farewell(examined)
                self._look_at_text()
                deep = self._examine_deeply(examined, fresh) if examined.val_bpb is not None else None
                reason = deep.reason if deep else examined.reason
                return self._account(Outcome.REJECTED if reason else Outcome.FINISHED, reason, examined, deep)
            except Ended as ended:
                return self._account(ended.outcome, ended.reason, examined, None)
        finally:
            self._feeder.close()

    def _cpu_seconds(self) -> float:
        """What the CPU clock counts: the candidate's whole tree, and a recipe's work while it feeds."""
        own = self._tree.cpu_seconds()
        return own if self._arena.recipe is None else own + self._feeder.tree.cpu_seconds()

    # -- serving ------------------------------------------------------------------------------------------------------

    def _serve(self) -> Examined:
        """Answer the candidate's requests until it is examined."""
        while True:
            readable = self._talk.readable()
            self._watch()
            if readable:
                most = MAX_ANSWER_BYTES if self._phase == "examination" else self._arena.max_weights_bytes
                examined = self._answer(*self._talk.receive(most))
                if examined is not None:
                    return examined

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
        elif op == "weights" and self._phase == "start-up":
            raise Ended(Outcome.REJECTED, "weights were handed over before any training batch was taken")
        else:
            raise Ended(Outcome.REJECTED, f"unexpected request {str(op)[:40]!r} during {self._phase}")
        return None

    def _introduce(self) -> None:
        self._talk.introduced = True
        self._hello_at = self._budget.now()
        constants = constants_of(self._rules, self._order, self._arena.max_device_batch_size)
        self._talk.send({"op": "constants", "constants": constants, "task": "train"}, self._arena.tokenizer_table)

    def _open_stream(self, header: dict[str, Any]) -> None:
        batch_size, seq_len = header.get("batch_size"), header.get("seq_len")
        if not (
            isinstance(batch_size, int)
            and isinstance(seq_len, int)
            and 1 <= seq_len <= self._rules.max_seq_len
            and batch_size >= 1
            and batch_size * seq_len <= _MAX_BATCH_TOKENS
        ):
            raise Ended(Outcome.REJECTED, "a data loader of impossible shape was asked for")
        self._opened.append(batch_size)
        self._batch_tokens = batch_size * seq_len
        with self._recipes_fault():
            self._feeder.open(batch_size, seq_len, self._arena.prepared.tokenizer.get_vocab_size())

    def _next_batch(self, deadline: float, progress: float) -> tuple[dict[str, Any], bytes]:
        with self._recipes_fault():
            return self._feeder.next(deadline, progress)

    @contextlib.contextmanager
    def _recipes_fault(self) -> Iterator[None]:
        """What a recipe's feeder does wrong ends the trial; what ours does is our own fault, and flies through."""
        try:
            yield
        except DataCorrupt as error:
            if not isinstance(self._feeder, RecipeSupply):
                raise
            self._recipe_log = f"\n--- the recipe's feed ---\n{self._feeder.log()}"
            raise Ended(Outcome.CRASHED, f"the recipe's feed: {one_line(error.message, 300)}") from error

    def _hand_out(self) -> None:
        first = not self._budget.started
        if first:
            spent = self._budget.now() - self._hello_at
            # the feeder had the whole start-up to get ready; what is left of its start is not the candidate's time
            ready = self._next_batch(time.monotonic() + self._rules.startup_cap, 0.0)
            self._cpu_at_start = self._tree.cpu_seconds()
        if not self._budget.another_batch():
            self._phase = "hand-over"
            self._talk.send({"op": "end"})
            return
        if first:
            self._phase = "training"
            self._startup = time.monotonic() - self._began
            self._startup_used = spent
            if self._order.startup_allowance is not None:
                self._budget.charge(spent - self._order.startup_allowance)
        else:
            asked = time.monotonic()
            ready = self._next_batch(asked + self._rules.wall_deadline, self._budget.progress())
            waited = time.monotonic() - asked
            self._feeder_wait += waited
            self._budget.add_wait(waited)
        header, rows = ready
        self._steps += 1
        self._tokens += self._batch_tokens
        reply = {"op": "rows", "dtype": header["dtype"], "epoch": header["epoch"]}
        reply |= {"progress": self._budget.progress(), "used": self._budget.used()}
        self._talk.send(reply, rows)
        self._glimpse()

    def _end_training(self) -> None:
        self._used = self._budget.used()
        self._trained_wall = self._budget.wall_seconds()
        self._cpu_while_training = self._tree.cpu_seconds() - self._cpu_at_start

    def _begin_examination(self, header: dict[str, Any], weights: bytes) -> Examined | None:
        self._end_training()
        if self._budget.overrun():
            raise Ended(Outcome.TIMED_OUT, self._too_late())
        check_weights(weights)
        self._weights = weights
        self._phase = "examination"
        self._exam_began = time.monotonic()
        self._exam_clock_began = self._exam_clock()
        self._last_glimpse = 0.0
        self._glimpse()
        self._on_examination()
        asked_batch = header.get("batch_size")
        self._batch_size = asked_batch if isinstance(asked_batch, int) and asked_batch > 0 else 1
        self._examination = examine(
            self._arena.prepared.rows(self._order.slice),
            self._arena.prepared.tokenizer.token_bytes,
            self._rules,
            batch_size=self._batch_size,
            tolerance=tolerance_for(self._arena.device_kind),
            random=system_random(),
            weights_sha256=hashlib.sha256(weights).digest(),
        )
        self._talk.send(*encode_ask(next(self._examination)))
        return None

    def _exam_clock(self) -> float:
        """Seconds on a wall clock, CPU seconds under any other: neighbours make no answer late there."""
        return time.monotonic() if self._rules.clock is Clock.WALL else self._tree.cpu_seconds()

    def _check_exam_work(self) -> None:
        """End a candidate that works far more on its answers than the baseline did, a slower model's time allowed."""
        self._exam_used = self._exam_clock() - self._exam_clock_began
        if self._order.exam_allowance is None:
            return
        own = self._tokens_per_second(self._used, self._trained_wall)
        slower = max(1.0, self._order.usual_tok_sec / own) if own else 1.0
        allowed = self._order.exam_allowance * slower
        if self._exam_used > allowed:
            raise Ended(
                Outcome.TIMED_OUT,
                f"it worked {self._exam_used:.1f} s on the examination's answers; {allowed:.1f} s are allowed at its speed",
            )

    def _next_question(self, header: dict[str, Any], payload: bytes) -> Examined | None:
        assert self._examination is not None
        self._check_exam_work()
        try:
            ask = self._examination.send(answer_in(header, payload))
        except StopIteration as finished:
            result: Examined = finished.value
            return result
        self._talk.send(*encode_ask(ask))
        return None

    def _farewell(self, examined: Examined) -> None:
        """Tell the candidate its score, let it print its summary, and end it with all it started."""
        self._exam_seconds = time.monotonic() - self._exam_began
        self._talk.look_at_memory()
        if examined.val_bpb is not None:
            with contextlib.suppress(Ended):
                self._talk.send({"op": "score", "val_bpb": examined.val_bpb})
                self._tree.wait(_FAREWELL)
        self._cpu_in_all = self._tree.cpu_seconds()
        self._candidate.close_log()

    def _examine_deeply(self, examined: Examined, fresh: Callable[[], Candidate]) -> DeeplyExamined | None:
        """The deep examination, where the order wants it; None where the score stays screened.

        Raises:
            Ended: the score is implausible and cannot be examined deeply, or the fresh process failed.
        """
        assert examined.val_bpb is not None and examined.claims is not None and self._weights is not None
        deep = self._order.deep
        if deep is None:
            if examined.is_implausible:
                raise Ended(Outcome.REJECTED, f"val_bpb {examined.val_bpb:.4f} is below what any such model can reach")
            return None
        if not (examined.is_implausible or deep.wanted(examined.val_bpb)):
            return None
        self._phase = "deep examination"
        self._last_glimpse = 0.0
        self._glimpse()
        began = time.monotonic()
        candidate = fresh()  # the first one is dead by now: nothing it knows can reach this one
        log_path = candidate.folder / "deep.log"
        interview = Interview(self._arena, self._order, candidate, log_path, self._stop)
        try:
            return interview.hold(self._weights, examined.claims, self._batch_size)
        except Ended as ended:
            outcome = Outcome.REJECTED if ended.outcome is Outcome.DIVERGED else ended.outcome
            raise Ended(outcome, f"deep examination: {ended.reason}") from ended
        finally:
            self._talk.peak_memory = max(self._talk.peak_memory, interview.peak_memory)
            candidate.close()
            self._deep_seconds = time.monotonic() - began

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Raise Ended when a deadline or a limit is passed, or when the user asked to stop."""
        now = time.monotonic()
        total = now - self._began
        if not self._budget.started and total > self._rules.startup_cap:
            raise Ended(Outcome.TIMED_OUT, f"start-up took more than {self._rules.startup_cap:g} s")
        if self._phase in ("training", "hand-over"):
            if self._budget.overrun():
                self._end_training()  # whether neighbours starved it is told from what it was given
                raise Ended(Outcome.TIMED_OUT, self._too_late())
            if self._budget.wall_seconds() > self._rules.wall_deadline:
                self._end_training()
                raise Ended(Outcome.TIMED_OUT, f"training took more than {self._rules.wall_deadline:g} s of wall time")
        if self._phase == "examination" and now - self._exam_began > self._rules.exam_deadline:
            raise Ended(Outcome.TIMED_OUT, f"the examination took more than {self._rules.exam_deadline:g} s")
        if total > self._rules.trial_deadline:
            raise Ended(Outcome.TIMED_OUT, f"the whole trial took more than {self._rules.trial_deadline:g} s")
        if self._talk.look():
            self._look_at_feeder()
            self._glimpse()

    def _look_at_text(self) -> None:
        """Refuse a recipe that fed more of the validation text than its training text holds: it may stand in its source."""
        if isinstance(self._feeder, RecipeSupply) and (problem := self._feeder.text_problem()):
            raise Ended(Outcome.REJECTED, problem)

    def _look_at_feeder(self) -> None:
        """End a recipe whose feed uses too much. Where the contract's own feeder runs there is nothing to look at."""
        if self._arena.recipe is None:
            return
        memory, allowed = self._feeder.tree.memory_mb(), self._arena.limits.memory_mb
        if memory > allowed:
            raise Ended(
                Outcome.CRASHED, f"the recipe's feed: out of memory: {memory:,.0f} MB of {allowed:,.0f} allowed"
            )

    def _too_late(self) -> str:
        unit = "CPU seconds" if self._rules.clock is Clock.CPU else "s"
        return f"no weights within {self._rules.time_budget:g} + {self._rules.grace:g} {unit}"

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

    def _account(
        self, outcome: Outcome, reason: str, examined: Examined | None, deep: DeeplyExamined | None
    ) -> TrialRun:
        self._talk.look_at_memory()
        cpu_seconds = self._cpu_in_all or self._tree.cpu_seconds()
        self._candidate.close_log()  # nothing writes to the log after this
        finished = outcome is Outcome.FINISHED
        log = run_log.read_log(self._log_path) + self._recipe_log
        share = self._cpu_while_training / self._trained_wall if self._trained_wall > 0 else None
        on_cpu = self._rules.clock is not Clock.WALL
        claimed = run_log.claimed_summary(log)
        memory = self._talk.peak_memory if on_cpu else claimed.get("peak_vram_mb", self._talk.peak_memory)
        trial = Trial(
            outcome=outcome,
            val_bpb=examined.val_bpb if examined and finished else None,
            reason=reason,
            seed=self._order.seed,
            slice=self._order.slice,
            num_steps=self._steps,
            num_tokens=self._tokens,
            device_batch_size=self._opened[-1] if self._opened else 0,
            budget_used=self._used,
            training_seconds=self._trained_wall,
            startup_seconds=self._startup,
            startup_used=self._startup_used,
            exam_seconds=self._exam_seconds,
            exam_used=self._exam_used,
            feeder_wait_seconds=self._feeder_wait,
            **recorded_of(self._arena),
            total_seconds=time.monotonic() - self._began,
            cpu_seconds=cpu_seconds,
            cpu_share=share if on_cpu else None,
            tok_sec=self._tokens_per_second(self._used, self._trained_wall),
            peak_memory_mb=memory,
            disturbed=disturbance(share, self._rules, is_over=outcome is Outcome.TIMED_OUT)
            if examined or outcome is Outcome.TIMED_OUT
            else "",
            sealed=self._arena.seal.level,
            examined=_strength(deep) if finished else Examination.NONE,
            deep_seconds=self._deep_seconds,
            deep_prefixes=deep.num_prefixes if deep else 0,
            leak_bpb=deep.leak_bpb if deep else None,
            leak_interval_bpb=deep.leak_interval_bpb if deep else None,
            leak_bound_bpb=deep.bound_bpb if deep else None,
            weights_sha256=hashlib.sha256(self._weights).hexdigest() if self._weights else "",
            exam_batch_size=self._batch_size,
            audited_positions=examined.audited_positions if examined else 0,
            prefix_pairs=examined.prefix_pairs if examined else 0,
            largest_deviation=examined.largest_deviation if examined else None,
            claimed=claimed,
            log_tail=run_log.tail_of(log),
        )
        return TrialRun(trial, log, self._weights if finished else None, tuple(self._opened))


def _strength(deep: DeeplyExamined | None) -> Examination:
    return Examination.SCREENED if deep is None else Examination.DEEP
