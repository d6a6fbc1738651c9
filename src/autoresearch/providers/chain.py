"""Models in order of preference: who is asked, what it may cost, what is sent back, and who is asked next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from autoresearch.providers.ask import LONGEST_PAUSE, MAX_REPAIRS, Answer, Ask, Capped, Caps, Desk
from autoresearch.providers.exchange import Request, UnusableReply
from autoresearch.providers.keys import KeyringLookup
from autoresearch.providers.line import Patience
from autoresearch.providers.redaction import Redactor, secrets_of
from autoresearch.providers.replay import Recording
from autoresearch.providers.specification import parse_chain
from autoresearch.providers.store import ExchangeStore
from autoresearch.providers.troubles import CallFailed, Trouble
from autoresearch.providers.voice import Voice, voice_of
from autoresearch.records.calls import CallBook, Spending
from autoresearch.vocabulary import ProviderUnavailable, SpendingCapReached, UsageError

__all__ = ["Answer", "Caps", "Chain", "ChainExhausted", "open_chain"]

T = TypeVar("T")


class ChainExhausted(ProviderUnavailable):
    """Nobody in the chain answered. rest_seconds: when the first of them is asked again; None: none will be."""

    def __init__(self, message: str, *, hint: str, rest_seconds: float | None) -> None:
        super().__init__(message, hint=hint)
        self.rest_seconds = rest_seconds


def open_chain(
    spec: str,
    *,
    state_dir: Path,
    tag: str,
    caps: Caps,
    seconds: float,
    environment: Mapping[str, str],
    wait: Callable[[float], bool],
    say: Callable[[str], None],
    keyring: KeyringLookup | None = None,
    patience: Patience | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Chain:
    """The chain that `spec` names, its keys found and its prices known; nothing is sent yet.

    state_dir: holds the ledger and the stored exchanges. seconds: patience with one call. wait: sleeps, and returns True
    when the user asked to stop; with 0 it only tells. say: shows one line to the person.

    Raises:
        UsageError: the text names no chain, or a cap in USD meets a model without a price.
        ProviderUnavailable: none of the models can be asked at all.
        LedgerError: the book of calls cannot be opened.
    """
    specs = parse_chain(spec)
    found = [Voice(one) if one.kind.dialect == "replay" else voice_of(one, environment, keyring) for one in specs]
    redact = Redactor([*secrets_of(environment), *(voice.key for voice in found if voice.key)])
    _refuse_unpriced(found, caps)
    book = CallBook(state_dir / "ledger.sqlite3")
    try:
        store = ExchangeStore(state_dir)
        for voice in found:
            if voice.spec.kind.dialect == "replay":
                _give_recording(voice, book, store)
        _refuse_silent(found)
        for voice in found:
            if voice.out:
                say(f"{voice.spec.label} is left out: {voice.out}")
        limits = patience or Patience(silence=min(Patience.silence, seconds), whole=seconds)
        desk = Desk(tag, book, store, redact, caps, limits, wait, say, Recording(book, store, tag))
        return Chain(found, desk, clock)
    except BaseException:
        book.close()
        raise


def _give_recording(voice: Voice, book: CallBook, store: ExchangeStore) -> None:
    voice.recording = Recording(book, store, voice.spec.model)
    if not len(voice.recording):
        voice.out = f"session {voice.spec.model} has no recorded replies"
        voice.out_hint = f"autoresearch history {voice.spec.model}"


def _refuse_unpriced(voices: Sequence[Voice], caps: Caps) -> None:
    for voice in voices:
        if caps.usd is not None and voice.price is None and not voice.out and voice.spec.kind.dialect != "replay":
            raise UsageError(
                f"--usd cannot be kept: no price is known for {voice.spec.label}",
                hint=f"--model '{voice.spec.label}?input_usd=1.25&output_usd=10' (USD per million tokens), or --tokens instead",
            )


def _refuse_silent(voices: Sequence[Voice]) -> None:
    if all(voice.out for voice in voices):
        listed = "; ".join(f"{voice.spec.label}: {voice.out}" for voice in voices)
        raise ProviderUnavailable(f"no language model can be asked ({listed})", hint=voices[0].out_hint)


class Chain:
    """Asks models in their order. One that fails rests, longer each time; one that can never answer is not asked again.

    Raises (every method that reads or writes the record):
        LedgerError, DiskError: as records and files say.
    """

    def __init__(self, voices: Sequence[Voice], desk: Desk, clock: Callable[[], float]) -> None:
        self._voices = voices
        self._desk = desk
        self._clock = clock

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._desk.book.close()

    @property
    def names(self) -> tuple[str, ...]:
        """ "provider:model" of each, in order of preference."""
        return tuple(voice.spec.label for voice in self._voices)

    @property
    def context_tokens(self) -> int | None:
        """The smallest known limit on prompt and reply together, of the models that may still be asked."""
        known = [voice.manners.context for voice in self._voices if voice.manners.context and not voice.out]
        return min(known, default=None)

    @property
    def first_context(self) -> int | None:
        """That limit of the first model that may still be asked, None when it is not known."""
        return next((voice.manners.context for voice in self._voices if not voice.out), None)

    def spending(self, number: int | None = None) -> Spending:
        """What the session, or one experiment of it, has spent so far."""
        return self._desk.book.totals(self._desk.tag, number)

    def ask(self, request: Request, read: Callable[[str], T], *, number: int) -> Answer[T]:
        """The first reply that `read` accepts, from the first model that gives one.

        `read` raises UnusableReply with a complaint: reply and complaint go back to the same model, at most twice, then the
        next one is asked. number: the experiment that this is for.

        Raises:
            ProviderUnavailable: nobody answered; the message has each model and why.
            SpendingCapReached: no model that could be asked fits under the caps.
            Interrupted: the user asked to stop.
        """
        ask = Ask(self._desk, self._desk.clean(request), number)
        for is_last in (False, True):
            for voice in self._voices:
                if voice.out or voice in ask.finished or voice.rest_until > self._clock():
                    continue
                answer = self._ask_voice(ask, voice, read)
                if answer is not None:
                    return answer
            if is_last or not self._rested(ask):
                break
        raise self._nobody(ask)

    def _ask_voice(self, ask: Ask, voice: Voice, read: Callable[[str], T]) -> Answer[T] | None:
        """Its answer, or None with the reason noted."""
        try:
            return ask.of(voice, read)
        except CallFailed as failed:
            why = self._desk.shown(failed.message)
            voice.failed(failed, why, self._clock())
            if failed.trouble is Trouble.TOO_LONG or voice.recording is not None:
                ask.finished.append(voice)
        except UnusableReply as unusable:
            voice.why = why = self._desk.shown(f"no usable reply in {MAX_REPAIRS + 1} attempts: {unusable.message}")
            ask.finished.append(voice)
        except Capped as capped:
            voice.why = why = str(capped)
            ask.capped.append(voice)
            ask.finished.append(voice)
        self._desk.say(f"{voice.spec.label}: {why}")
        return None

    def _rested(self, ask: Ask) -> bool:
        """Wait for the first of the resting models, when that is soon and asking it again may help; whether one is awake."""
        resting = [v for v in self._voices if not v.out and v.rest_until and v not in ask.finished]
        moment = min((voice.rest_until for voice in resting), default=None)
        if moment is None or moment - self._clock() > LONGEST_PAUSE:
            return False
        self._desk.pause(max(0.0, moment - self._clock()))
        for voice in resting:
            if voice.rest_until <= moment:
                voice.rest_until = 0.0
        return True

    def _soonest(self) -> float | None:
        """Seconds until a resting model may be asked again."""
        waiting = [voice.rest_until for voice in self._voices if not voice.out and voice.rest_until]
        return max(0.0, min(waiting) - self._clock()) if waiting else None

    def _nobody(self, ask: Ask) -> Exception:
        listed = "; ".join(f"{voice.spec.label}: {voice.out or voice.why or 'resting'}" for voice in self._voices)
        might = [voice for voice in self._voices if not voice.out]
        if ask.capped and all(voice in ask.capped for voice in might):
            spent = self.spending()
            return SpendingCapReached(
                f"no call fits under the cap: {spent.usd:.4f} USD and {spent.tokens:,} tokens are spent ({listed})",
                hint="a higher --usd or --tokens, or a cheaper model in --model",
            )
        hint = next((voice.out_hint for voice in self._voices if voice.out_hint), "")
        return ChainExhausted(
            f"no language model answered ({listed})",
            hint=hint or "the same command with --resume when a model answers again, or --proposer search",
            rest_seconds=self._soonest() if might else None,
        )
