"""From a model's reply to an idea, strictly: whatever could be meant in two ways is refused, with a complaint for the model.

Two forms are read, `reply_text` and `reply_json`. Thinking before the answer is dropped, prose around it is skipped.
`reply_schema` describes the JSON form to providers that can hold a model to a schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from autoresearch.proposers.constants import Literal
from autoresearch.proposers.edits import takes_fractions
from autoresearch.proposers.idea import Edit, Idea, Value
from autoresearch.proposers.reply_json import read_json
from autoresearch.proposers.reply_text import read_text
from autoresearch.providers.exchange import UnusableReply
from autoresearch.repository import MAX_SURFACE_BYTES

__all__ = ["Edit", "Idea", "Value", "parse_reply", "reply_schema"]

_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(r"\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
_HAS_HEADER = re.compile(r"^[\s#>*_-]{0,12}IDEA[*_]{0,4}[ \t]*:", re.MULTILINE)


def parse_reply(text: str) -> Idea:
    """The one idea of a reply.

    Raises:
        UnusableReply: there is none, there are several, or it is not complete. The message says what to send instead.
    """
    if len(text) > 2 * MAX_SURFACE_BYTES:
        raise UnusableReply(f"The reply has {len(text):,} characters. Send edits instead of everything.")
    answer = _without_thoughts(text)
    if not answer.strip():
        raise UnusableReply("The reply is empty. Send the headers and the edit, as asked for.")
    if not _HAS_HEADER.search(answer):
        idea = read_json(answer)
        if idea is not None:
            return idea
    return read_text(answer)


def _without_thoughts(text: str) -> str:
    """The answer after a thought that some models write into their reply."""
    end = _THOUGHT_ENDS.search(text)
    if end is not None:
        return text[end.end() :]
    if _THOUGHT_BEGINS.match(text):
        raise UnusableReply("The reply ended before the thought did. Think less, then send the headers and the edit.")
    return text


def reply_schema(constants: Mapping[str, Literal], *, numbers_only: bool = False) -> dict[str, Any]:
    """JSON schema of a reply, with `set` limited to the names in `constants` (`read_constants(...).literals`).

    Every property is required, null or an empty list stands for "not given", and nothing bounds a length: that is the part of
    JSON schema that the large providers' strict modes have in common. `numbers_only` is for small local models: one
    constant with a number of its kind, first, then texts that end, because a grammar is all that makes such a model stop. Of a
    135M model's replies (benchmarks/small_model.py) none could be used in the written form or with the full schema; with this
    one all are whole, and what is refused is a value that changes nothing or was tried.
    """
    if numbers_only and (setting := _numeric_setting(constants)):
        return _object(
            {
                "set": {"type": "array", "items": setting, "minItems": 1, "maxItems": 1},
                "description": {"type": "string", "minLength": 8, "maxLength": 80},
                "mechanism": {"type": "string", "maxLength": 80},
            }
        )
    text = {"type": "string"}
    properties: dict[str, Any] = {
        "description": text,
        "mechanism": text,
        "topic": text,
        "expected": {"type": ["number", "null"]},
        "lesson": text,
    }
    if constants:
        scalar = {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]}
        setting = _object({"name": {"type": "string", "enum": list(constants)}, "value": scalar})
        properties["set"] = {"type": "array", "items": setting}
    properties["edits"] = {"type": "array", "items": _object({"search": text, "replace": text})}
    properties["file"] = {"type": ["string", "null"]}
    return _object(properties)


def _numeric_setting(constants: Mapping[str, Literal]) -> dict[str, Any] | None:
    """A name with a number that it takes: whole numbers apart from fractions. None when no constant is a number."""
    whole = [name for name, lit in constants.items() if type(lit.value) is int and not takes_fractions(lit)]
    others = [name for name, lit in constants.items() if type(lit.value) in (int, float) and name not in whole]
    forms = [
        _object({"name": {"type": "string", "enum": names}, "value": {"type": kind}})
        for names, kind in ((whole, "integer"), (others, "number"))
        if names
    ]
    return {"anyOf": forms} if len(forms) > 1 else next(iter(forms), None)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
