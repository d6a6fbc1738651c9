"""What goes wrong between us and a model, sorted by what to do about it. Pure: words, status codes and headers in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from autoresearch.vocabulary import AutoresearchError


class Trouble(StrEnum):
    """Why a call gave no reply. The value is what a person reads."""

    BUSY = "busy"  # too many requests, overloaded: soon again
    DOWN = "not reachable"
    CUT = "the reply broke off"
    GARBLED = "the reply is not in its protocol"
    EMPTY = "the reply is empty"
    SLOW = "no reply in time"  # not tried again at once: it would take as long again
    TOO_LARGE = "the reply is too large"
    QUOTA = "out of quota"
    TOO_LONG = "the prompt is too long for it"  # says nothing about the next prompt
    REFUSED = "the request was refused"
    KEY = "no valid key"  # these two last for the session
    MODEL = "unknown model or address"


_RETRIED = frozenset({Trouble.BUSY, Trouble.DOWN, Trouble.CUT, Trouble.GARBLED})
_LASTING = frozenset({Trouble.KEY, Trouble.MODEL})
# The request was taken: the provider may send a bill, and did not say for how much.
_PERHAPS_BILLED = frozenset({Trouble.CUT, Trouble.GARBLED, Trouble.EMPTY, Trouble.SLOW, Trouble.TOO_LARGE})


class CallFailed(AutoresearchError):
    """One call gave no reply. Never leaves the chain: what does is ProviderUnavailable.

    retry_after: seconds that the provider asked for. complaint: what it said, for `manners.learned`.
    """

    def __init__(
        self, trouble: Trouble, said: str = "", *, retry_after: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(f"{trouble}: {said}" if said else str(trouble))
        self.trouble = trouble
        self.complaint = said
        self.retry_after = retry_after
        self.status = status

    @property
    def may_retry(self) -> bool:
        return self.trouble in _RETRIED

    @property
    def lasts(self) -> bool:
        """Whether asking again in this session is pointless."""
        return self.trouble in _LASTING

    @property
    def may_be_billed(self) -> bool:
        return self.trouble in _PERHAPS_BILLED


_QUOTA = re.compile(
    r"insufficient_quota|credit balance|billing|payment required|spending limit|out of credits?|hard limit"
)
_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|prompt is too long|input is too long|maximum context|exceeds? the (?:available )?context"
    r"|too many input tokens|request too large"
)
_BAD_KEY = re.compile(
    r"(?:api[ _-]?key|token|credential)s?\b.{0,40}(?:invalid|not valid|incorrect|expired|missing)|invalid.{0,20}api[ _-]?key"
)
_NO_MODEL = re.compile(
    r"model.{0,120}(?:not found|does not exist|not exist|not supported|unknown|not a valid)|(?:unknown|no such|invalid) model"
)
_BUSY_TYPES = re.compile(r"overloaded|rate_limit|rate limit|too many requests|capacity|unavailable|timeout")
_NUMBER = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+)(?![\w.]\w)")


def failure_of(status: int | None, said: str, headers: Mapping[str, str] | None = None) -> CallFailed:
    """The trouble behind an error answer. status None: an error inside a stream that had begun well."""
    words = said.lower()
    wait = retry_after_of(headers or {})
    trouble = _trouble_of(status, words)
    if trouble is Trouble.QUOTA and wait is not None:
        trouble = Trouble.BUSY  # a provider that names a time means a rate, whatever it calls it
    return CallFailed(trouble, f"HTTP {status}: {said}" if status else said, retry_after=wait, status=status)


def _trouble_of(status: int | None, words: str) -> Trouble:
    if status == 402 or (status in (400, 403, 429, None) and _QUOTA.search(words)):
        return Trouble.QUOTA
    if status == 401 or (status in (400, 403) and _BAD_KEY.search(words)):
        return Trouble.KEY
    if status == 413 or (status in (400, 422, 500, None) and _TOO_LONG.search(words)):
        return Trouble.TOO_LONG
    if status in (408, 409, 425, 429, 529) or (status is None and _BUSY_TYPES.search(words)):
        return Trouble.BUSY
    if status == 404 or (status == 400 and _NO_MODEL.search(words)):
        return Trouble.MODEL
    if status == 403:
        return Trouble.KEY
    if status is None:
        return Trouble.CUT
    return Trouble.DOWN if status >= 500 else Trouble.REFUSED


def retry_after_of(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds until the provider wants to be asked again: `retry-after-ms`, or `Retry-After` as seconds or as an HTTP date
    (RFC 9110, 10.2.3). None when it does not say, or says nonsense. `headers` has lower-case names."""
    milliseconds = _seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "").strip()
    seconds = _seconds(text)
    if seconds is not None or not text:
        return seconds
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def said_in(body: Any, otherwise: str = "") -> str:
    """The words of an error body: code, type and message where it is JSON of the usual form, else the text itself."""
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(inner, Mapping):
        parts = [str(inner[name]) for name in ("code", "type", "message", "detail") if inner.get(name)]
        if inner.get("n_ctx"):
            parts.append(f"context size {inner['n_ctx']}")  # llama.cpp says it beside the message
        metadata = inner.get("metadata")
        if isinstance(metadata, Mapping) and metadata.get("raw"):
            parts.append(str(metadata["raw"]))  # OpenRouter: what the provider behind it said
        return " ".join(parts) or otherwise
    return str(inner) if inner else otherwise  # whole: cut before it is redacted, a piece of a key could be left


def numbers_in(words: str) -> list[int]:
    """Whole numbers that stand alone in a sentence, in their order; thousands may have commas."""
    return [int(found.replace(",", "")) for found in _NUMBER.findall(words)]
