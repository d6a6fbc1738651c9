"""How one model wants to be spoken to: what differs between servers of one dialect, learned from their complaints.

Servers refuse parameters that others require. A refusal (400 or 422) says which one it was; the request is sent again
without it and the lesson is remembered for the session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from autoresearch.providers.specification import ModelSpec
from autoresearch.providers.troubles import CallFailed, numbers_in

_LEARNABLE = (400, 404, 422, 500)  # some servers answer 500 for a chat template that knows no system role
_CONTEXT = re.compile(r"(?:context(?: length| window| size)?\D{0,40}?|tokens > )(\d{1,3}(?:,\d{3})+|\d{3,8})")
_SMALLEST_REPLY = 16  # a smaller number in a complaint about max_tokens is no limit


@dataclass(frozen=True)
class Manners:
    """limit_name: the parameter that bounds the reply. schema_form: json_schema, json_object (llama-cpp-python) or "" for
    none. system: whether it takes a system role. context, reply: limits in tokens, None while not known."""

    limit_name: str = "max_tokens"
    temperature: bool = True
    schema_form: str = ""
    stream_usage: bool = True
    system: bool = True
    context: int | None = None
    reply: int | None = None


def manners_of(spec: ModelSpec, context: int | None) -> Manners:
    """Those to begin with. `context` is what a price list knows; the user's own figure wins."""
    return Manners(
        limit_name="max_completion_tokens" if spec.kind.modern else "max_tokens",
        schema_form="json_schema" if spec.schema == "on" else "",
        context=spec.context or context,
        reply=spec.reply,
    )


def learned(
    manners: Manners, failed: CallFailed, *, sent_tokens: int, temperature: bool, schema: bool
) -> Manners | None:
    """Manners after a complaint, or None when it teaches nothing new.

    sent_tokens: limit of the reply that was sent. temperature, schema: whether they were sent.
    """
    if failed.status not in _LEARNABLE:
        return None
    words = failed.complaint.lower()
    context = _named_context(words)
    if context is not None and (manners.context is None or context < manners.context):
        return replace(manners, context=context)
    other = _other_limit_name(manners.limit_name, words)
    if other:
        return replace(manners, limit_name=other)
    if re.search(r"max_(?:completion_)?tokens|max(?:imum)? (?:output|completion) tokens", words):
        smaller = [number for number in numbers_in(words) if _SMALLEST_REPLY <= number < sent_tokens]
        if smaller:
            return replace(manners, reply=max(smaller))
    if temperature and manners.temperature and "temperature" in words:
        return replace(manners, temperature=False)
    if (
        schema
        and manners.schema_form
        and re.search(r"response_format|json_schema|json_object|output_config|schema|grammar", words)
    ):
        return replace(manners, schema_form="json_object" if manners.schema_form == "json_schema" else "")
    if manners.stream_usage and "stream_options" in words:
        return replace(manners, stream_usage=False)
    if manners.system and "system" in words and re.search(r"role|message|instruction|prompt", words):
        return replace(manners, system=False)
    return None


def _named_context(words: str) -> int | None:
    found = _CONTEXT.search(words)
    return int(found[1].replace(",", "")) if found else None


def _other_limit_name(name: str, words: str) -> str:
    """The other spelling of the limit when this one was refused as a parameter, not for its value."""
    unwanted = re.search(
        r"unsupported|not supported|unrecognized|unknown|unexpected|not permitted|extra|not allowed", words
    )
    if not unwanted:
        return ""
    if name == "max_tokens" and "max_completion_tokens" in words:
        return "max_completion_tokens"
    return "max_tokens" if name == "max_completion_tokens" and name in words else ""
