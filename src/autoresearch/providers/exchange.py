"""One exchange with a language model: what is asked, what comes back, and what may go wrong in a reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch.vocabulary import AutoresearchError


@dataclass(frozen=True)
class Message:
    """One turn: role is "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class Request:
    """What is asked of a model, whichever answers. Token counts are the model's own; temperature None is its default."""

    system: str
    messages: tuple[Message, ...]
    purpose: str = "improve"  # operator that asks: recorded, shown, never sent
    max_tokens: int = 8192  # of the reply, reasoning included
    temperature: float | None = None
    schema: Mapping[str, Any] | None = None  # JSON schema of the reply, for providers that can hold a model to one


@dataclass(frozen=True)
class Usage:
    """Tokens of one call. `estimated` when the provider did not say."""

    input_tokens: int = 0  # cached ones included
    output_tokens: int = 0  # reasoning included
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True)
class Reply:
    """What one model answered. usd is None where no price is known."""

    text: str
    provider: str
    model: str
    usage: Usage
    usd: float | None
    seconds: float
    stop_reason: str = ""  # "stop", "length", ... as the provider spells it


class UnusableReply(AutoresearchError):
    """A reply that cannot be used. The message is written for the model: it is sent back with the next attempt."""


class Interrupted(AutoresearchError):
    """The user asked to stop while a model was being asked or waited for. The call is recorded as failed."""
