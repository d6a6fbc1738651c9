"""From a model's reply to an idea, strictly: whatever could be meant in two ways is refused, with a complaint for the model.

Two forms are read, `reply_text` and `reply_json`. Thinking before the answer is dropped, prose around it is skipped.
`reply_schema` describes the JSON form to providers that can hold a model to a schema.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autoresearch.proposers.constants import Literal
from autoresearch.proposers.dimension import Scale
from autoresearch.proposers.idea import Edit, Idea, Value
from autoresearch.proposers.reply_json import read_json
from autoresearch.proposers.reply_text import read_text
from autoresearch.proposers.search_space import SearchSpace, infer
from autoresearch.providers.exchange import UnusableReply
from autoresearch.repository import MAX_SURFACE_BYTES

__all__ = ["Edit", "Idea", "Value", "choices_of", "parse_reply", "reply_schema"]

_STEPS = (-1.0, -0.5, 0.5, 1.0)  # a step of 1 is the search's natural first try
_MOST_CHOICES = 6  # constants; each takes about 100 tokens of the schema

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


def reply_schema(
    constants: Mapping[str, Literal],
    choices: Mapping[str, Sequence[Value]] | None = None,
    files: Sequence[str] = (),
) -> dict[str, Any]:
    """JSON schema of a reply, with `set` limited to the names in `constants` (`read_constants(...).literals`).

    Of several `files` each edit names its own.

    Every property is required, null or an empty list stands for "not given", and nothing bounds a length: that is the part of
    JSON schema that the large providers' strict modes have in common.

    With `choices` (`choices_of(...)`, not empty) it is the schema for small local models: one constant with one of these values,
    then texts that end, because a grammar is all that makes such a model stop. Measured with a model of 135M parameters
    (benchmarks/small_model.py): 0 of 13 replies could be used in the written form and 20 of 20 with this schema; with the full
    one it runs on inside a text, and free to write any number it repeats the file's own or wrote 133385700018738 for a 2.
    """
    if choices:
        settings = [_object({"name": {"const": name}, "value": {"enum": list(of)}}) for name, of in choices.items()]
        return _object(
            {
                "set": {"type": "array", "items": {"anyOf": settings}, "minItems": 1, "maxItems": 1},
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
        "note": text,
    }
    if constants:
        scalar = {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]}
        setting = _object({"name": {"type": "string", "enum": list(constants)}, "value": scalar})
        properties["set"] = {"type": "array", "items": setting}
    named = {"file": {"type": "string", "enum": list(files)}} if len(files) > 1 else {}
    properties["edits"] = {"type": "array", "items": _object({**named, "search": text, "replace": text})}
    properties["file"] = {"type": ["string", "null"]}
    if named:
        properties["file_name"] = {"type": ["string", "null"], "enum": [*files, None]}
    return _object(properties)


def choices_of(
    constants: Mapping[str, Literal],
    *,
    turn: int = 0,
    tried: Collection[tuple[str, Value]] = (),
    space: SearchSpace | None = None,
) -> dict[str, list[Value]]:
    """Values that are worth a try for some of the constants: the classical search's first steps, without those in `tried`.

    At most 6 constants, others with each turn. Batch sizes are left out: they must divide each other, and one is set at a time.
    With a `space` (a data recipe's) only what it would move, and of that only what it would move alone.
    """
    found: dict[str, list[Value]] = {}
    for name, literal in constants.items():
        dimension = infer(name, literal.value) if space is None else space.dimensions.get(name, "")
        if isinstance(dimension, str) or "BATCH" in name:
            continue
        spot = dimension.coordinate(literal.value)
        values = dict.fromkeys(
            dimension.rungs if dimension.scale is Scale.CHOICE else (dimension.value_at(spot + step) for step in _STEPS)
        )
        if space is not None:
            values = dict.fromkeys(value for value in values if (space.changes_for(name, value) or {}).keys() == {name})
        kept: list[Value] = [value for value in values if value != literal.value and (name, value) not in tried]
        if kept:
            found[name] = kept
    names = list(found)
    start = turn * _MOST_CHOICES % len(names) if len(names) > _MOST_CHOICES else 0
    return {name: found[name] for name in (names[start:] + names[:start])[:_MOST_CHOICES]}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
