"""One ask on its way through the chain: calls, attempts, repairs, and what each of them took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from autoresearch.hostile_text import one_line, well_formed
from autoresearch.providers.exchange import Interrupted, Message, Reply, Request, UnusableReply, Usage
from autoresearch.providers.line import Patience
from autoresearch.providers.redaction import Redactor
from autoresearch.providers.replay import Recording
from autoresearch.providers.store import ExchangeStore, reply_json, request_json
from autoresearch.providers.tokens import estimated_tokens
from autoresearch.providers.troubles import CallFailed, Trouble
from autoresearch.providers.voice import LEAST_REPLY, Voice
from autoresearch.records.calls import CallBook, CallState, Cost

T = TypeVar("T")

MAX_REPAIRS = 2
_MAX_ATTEMPTS = 3  # at one model, for troubles that pass
_MAX_LESSONS = 8  # refused parameters in a row that are learned from
LONGEST_PAUSE = 60.0  # seconds between attempts; a provider that asks for more is left to rest instead
_QUOTED_REPLY = 8000  # characters of an unusable reply that are sent back
_SUSPICIOUS = 0.5  # reported input below this share of the estimate: the server cut the prompt


@dataclass(frozen=True)
class Caps:
    """The most that a session may spend; None: no limit. Tokens are those of prompts and replies together."""

    usd: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A reply that could be read. calls, usd, tokens: of everything that this ask took, failures too; usd None: not known."""

    value: T
    reply: Reply
    calls: int
    usd: float | None
    tokens: int


class Capped(Exception):
    """No room under a cap for a call with this model; the message says which cap."""


@dataclass
class Desk:
    """What every ask of a session needs: the records, the limits, and the doors to the person."""

    tag: str
    book: CallBook
    store: ExchangeStore
    redact: Redactor
    caps: Caps
    patience: Patience
    wait: Callable[[float], bool]
    say: Callable[[str], None]
    earlier: Recording  # calls of a process that was killed: nothing is paid for twice
    warned: set[str] = field(default_factory=set)

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Interrupted when the user asks to stop."""
        if self.wait(seconds):
            raise Interrupted("stopped while waiting for a language model")

    def stopped(self) -> bool:
        return self.wait(0.0)

    def clean(self, request: Request) -> Request:
        """What may be sent: no key that we hold, and text that UTF-8 can carry."""
        turns = tuple(Message(turn.role, well_formed(self.redact.values_out(turn.text))) for turn in request.messages)
        return replace(request, system=well_formed(self.redact.values_out(request.system)), messages=turns)

    def shown(self, text: str) -> str:
        """One short line for a person."""
        return one_line(self.redact(text), 300)


class Ask:
    """One ask on its way through the chain: what it has taken so far."""

    def __init__(self, desk: Desk, request: Request, number: int) -> None:
        self.desk = desk
        self.request = request
        self.number = number
        self.calls = 0
        self.tokens = 0
        self.usd: float | None = 0.0
        self.capped: list[Voice] = []
        self.finished: list[Voice] = []  # asking these the same again would change nothing

    def of(self, voice: Voice, read: Callable[[str], T]) -> Answer[T]:
        """This model's answer, with repairs. Raises CallFailed, UnusableReply, Capped, Interrupted."""
        turns = self.request
        complaint = UnusableReply("")
        for _ in range(MAX_REPAIRS + 1):
            reply, call_id = self._reply(voice, turns)
            try:
                return Answer(read(reply.text), reply, self.calls, self.usd, self.tokens)
            except UnusableReply as unusable:
                complaint = unusable
            if call_id is not None:
                self.desk.book.mark_unusable(call_id, self.desk.redact(complaint.message))
            turns = _with_complaint(turns, reply, complaint.message)
        raise complaint

    def _reply(self, voice: Voice, turns: Request) -> tuple[Reply, int | None]:
        """A whole reply and the id of its call; attempts are repeated while the trouble may pass."""
        store = self.desk.store
        request_sha256 = store.put(self.desk.redact(request_json(turns)))
        if voice.recording is not None:
            return self._replayed(voice, turns, request_sha256)
        earlier = self.desk.earlier.exact(request_sha256, self.number)
        if earlier is not None:
            return earlier, None
        import tenacity

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes_soon),
            stop=tenacity.stop_after_attempt(_MAX_ATTEMPTS),
            wait=_pause_before_next,
            sleep=self.desk.pause,
            reraise=True,
        )
        return attempts(self._call, voice, turns, request_sha256)

    def _replayed(self, voice: Voice, turns: Request, request_sha256: str) -> tuple[Reply, int]:
        assert voice.recording is not None
        reply = voice.recording.next(request_sha256, self.number)
        call_id = self._begin(voice, turns, request_sha256, 0, 0, 0.0)
        cost = _cost_of(reply.usage, 0.0)
        reply_sha256 = self.desk.store.put(reply_json(reply))
        self.desk.book.end(call_id, CallState.ANSWERED, cost=cost, seconds=0.0, reply_sha256=reply_sha256)
        self._count(reply.usage, 0.0)
        return reply, call_id

    def _call(self, voice: Voice, turns: Request, request_sha256: str) -> tuple[Reply, int]:
        """One call, and again for each parameter that the server refuses."""
        for _ in range(_MAX_LESSONS):
            num_input = voice.expected_input(turns)
            max_tokens = self._affordable(voice, num_input, voice.fitted_reply(turns))
            worst_usd = voice.worst_usd(num_input, max_tokens)
            call_id = self._begin(voice, turns, request_sha256, num_input, max_tokens, worst_usd)
            try:
                return self._reply_to(voice, turns, max_tokens, call_id)
            except CallFailed as failed:
                if not voice.learn(failed, turns, max_tokens):
                    raise
        raise CallFailed(Trouble.REFUSED, f"it refused {_MAX_LESSONS} forms of the same request")

    def _begin(
        self, voice: Voice, turns: Request, request_sha256: str, num_input: int, most_output: int, worst: float | None
    ) -> int:
        self.calls += 1
        return self.desk.book.begin(
            self.desk.tag,
            self.number,
            turns.purpose,
            voice.spec.provider,
            voice.spec.model,
            request_sha256=request_sha256,
            input_tokens=num_input,
            most_output_tokens=most_output,
            worst_usd=worst,
        )

    def _reply_to(self, voice: Voice, turns: Request, max_tokens: int, call_id: int) -> tuple[Reply, int]:
        desk, started = self.desk, time.monotonic()
        try:
            heard = voice.call(turns, max_tokens, desk.patience, desk.stopped)
        except CallFailed as failed:
            self._end_failed(voice, turns, max_tokens, call_id, failed, time.monotonic() - started)
            raise
        except Interrupted:
            desk.book.end(
                call_id, CallState.FAILED, cost=None, seconds=time.monotonic() - started, why="stopped by the user"
            )
            raise
        seconds = time.monotonic() - started
        usage = heard.usage or _guessed(voice, turns, heard.text, heard.hidden_tokens)
        usd = voice.price.usd(usage) if voice.price else None
        text = desk.redact(heard.text)
        reply = Reply(text, voice.spec.provider, voice.spec.model, usage, usd, seconds, desk.redact(heard.stop_reason))
        # an empty reply is kept too: what was paid for is on record
        reply_sha256 = desk.store.put(reply_json(reply))
        empty = not heard.text.strip()
        state, why = (CallState.UNUSABLE, f"empty reply ({reply.stop_reason})") if empty else (CallState.ANSWERED, "")
        desk.book.end(call_id, state, cost=_cost_of(usage, usd), seconds=seconds, why=why, reply_sha256=reply_sha256)
        self._count(usage, usd)
        self._warn_of_cut_prompt(voice, turns, usage)
        if empty:
            raise CallFailed(Trouble.EMPTY, f"it stopped for {reply.stop_reason!r}")
        voice.answered(turns, usage)
        return reply, call_id

    def _end_failed(
        self, voice: Voice, turns: Request, max_tokens: int, call_id: int, failed: CallFailed, seconds: float
    ) -> None:
        usage = Usage(voice.expected_input(turns), max_tokens, estimated=True) if failed.may_be_billed else Usage()
        usd = voice.price.usd(usage) if voice.price else None if failed.may_be_billed else 0.0
        why = self.desk.redact(failed.message)
        self.desk.book.end(call_id, CallState.FAILED, cost=_cost_of(usage, usd), seconds=seconds, why=why)
        self._count(usage, usd)

    def _affordable(self, voice: Voice, num_input: int, wanted: int) -> int:
        """Most tokens of a reply that fit under the caps, at most `wanted`; the worst case of the call is what counts."""
        caps, spent = self.desk.caps, self.desk.book.totals(self.desk.tag)
        most = wanted
        if caps.tokens is not None:
            most = min(most, caps.tokens - spent.tokens - num_input)
        if caps.usd is not None and voice.price is not None:
            most = _most_for(voice, caps.usd - spent.usd, num_input, most)
        if most < min(LEAST_REPLY, wanted):
            raise Capped("the cap on spending leaves no room for a call")
        return most

    def _count(self, usage: Usage, usd: float | None) -> None:
        self.tokens += usage.input_tokens + usage.output_tokens
        self.usd = None if self.usd is None or usd is None else self.usd + usd

    def _warn_of_cut_prompt(self, voice: Voice, turns: Request, usage: Usage) -> None:
        """Some servers (Ollama) cut a prompt that is longer than their context, and say nothing."""
        expected = voice.expected_input(turns)
        label = voice.spec.label
        if usage.estimated or usage.input_tokens >= _SUSPICIOUS * expected or expected < 2000:
            return
        if label not in self.desk.warned:
            self.desk.warned.add(label)
            self.desk.say(
                f"{label} read {usage.input_tokens:,} tokens of a prompt of about {expected:,}: its server may have cut it; "
                f"give the server a larger context, or say --model '{label}?context={usage.input_tokens}'"
            )


def _most_for(voice: Voice, usd: float, num_input: int, wanted: int) -> int:
    """Most output tokens that `usd` pays beside the input: by bisection, since prices may step with length."""

    def fits(num_output: int) -> bool:
        worst = voice.worst_usd(num_input, num_output)
        return worst is not None and worst <= usd

    if wanted <= 0 or fits(wanted):
        return wanted
    low, high = 0, wanted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _passes_soon(error: BaseException) -> bool:
    return isinstance(error, CallFailed) and error.may_retry and (error.retry_after or 0.0) <= LONGEST_PAUSE


def _pause_before_next(state: object) -> float:
    """Seconds before the next attempt: what the provider asked for, else 1, 2, 4, … with up to a second of jitter."""
    import tenacity

    assert isinstance(state, tenacity.RetryCallState)
    failed = state.outcome.exception() if state.outcome else None
    asked = failed.retry_after if isinstance(failed, CallFailed) else None
    return asked if asked is not None else tenacity.wait_exponential_jitter(1, LONGEST_PAUSE)(state)


def _with_complaint(turns: Request, reply: Reply, complaint: str) -> Request:
    """The conversation with the unusable reply and what was wrong with it."""
    said = reply.text if len(reply.text) <= _QUOTED_REPLY else f"{reply.text[:_QUOTED_REPLY]}\n[…]"
    if reply.stop_reason in ("length", "max_tokens"):
        complaint += "\nYour reply was cut off at its limit of tokens. Answer with less."
    more = (Message("assistant", said or "(empty)"), Message("user", complaint))
    return replace(turns, messages=(*turns.messages, *more))


def _guessed(voice: Voice, turns: Request, text: str, hidden_tokens: int) -> Usage:
    return Usage(voice.expected_input(turns), estimated_tokens(text) + hidden_tokens, 0, hidden_tokens, estimated=True)


def _cost_of(usage: Usage, usd: float | None) -> Cost:
    return Cost(
        usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens, usage.estimated, usd
    )
