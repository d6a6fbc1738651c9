"""The JSON form of a reply: one object, alone, in a ```json fence, or within prose.

    {"description": "...", "topic": "...", "mechanism": "...", "expected": 0.003, "lesson": "...",
     "note": "", "set": [{"name": "DEPTH", "value": 6}], "edits": [{"search": "...", "replace": "..."}], "file": null}

Where a program has several files, an edit's "file" names the one that it is about, and "file_name" the one that "file" is the
text of; without them it is the main one. `set` may also be an object of names and values, and a single change may be written as "name" and "value". Null and empty
mean: not given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import islice

from autoresearch.hostile_text import one_line
from autoresearch.proposers.idea import Edit, Idea, make_idea
from autoresearch.providers.exchange import UnusableReply

_FENCE = re.compile(r"[ \t]{0,8}```[ \t]{0,8}(json|)[ \t\r]{0,8}\Z", re.IGNORECASE)
_OBJECT = re.compile(r'\{\s*"')
_MAX_STARTS = 40  # places at which an object may begin that are looked at
_FIELDS = ("description", "mechanism", "topic", "expected", "lesson", "note", "set", "edits", "file", "file_name")
_KEYS = (*_FIELDS, "name", "value")
_MARK = "description"  # makes an object a reply
_MEANT = re.compile(r'\{\s*"(?:description|mechanism|topic|expected)"')  # one that begins like this was meant as one


class _RepeatedKeyError(ValueError):
    """An object with one key twice."""


def read_json(text: str) -> Idea | None:
    """The idea in a reply of the JSON form; None when there is no such object and the text form may be meant.

    Raises:
        UnusableReply: more than one object, an object that does not parse, or fields of the wrong kind.
    """
    fenced = _fenced_in(text)
    if len(fenced) > 1:
        raise UnusableReply(f"The reply holds {len(fenced)} ```json fences. Send exactly one JSON object.")
    found = _objects_in(fenced[0] if fenced else text)
    if len(found) > 1:
        raise UnusableReply(f"The reply holds {len(found)} JSON objects. Send exactly one, with one idea.")
    if found:
        return _idea_of(found[0])
    if fenced or text.lstrip().startswith("{"):
        raise UnusableReply(_why_not_json(fenced[0] if fenced else text.lstrip()))
    return None


def _fenced_in(text: str) -> list[str]:
    """Contents of the ```json fences; one that is never closed goes on to the end."""
    found: list[list[str]] = []
    is_open = False
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if fence and not is_open and fence[1]:
            is_open = True
            found.append([])
        elif fence and not fence[1]:
            is_open = False
        elif is_open:
            found[-1].append(line)
    return ["\n".join(lines) for lines in found]


def _objects_in(text: str) -> list[Mapping[str, object]]:
    """Objects with a key that a reply has, in order; what is inside one of them is not looked at again."""
    found: list[Mapping[str, object]] = []
    end = 0
    for start in islice(_OBJECT.finditer(text), _MAX_STARTS):
        if start.start() < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, start.start())
        except _RepeatedKeyError as error:
            raise UnusableReply(f"The JSON object has {error} twice. Send each key once.") from error
        except (ValueError, RecursionError) as error:
            if _MEANT.match(text, start.start()):
                raise UnusableReply(_why_not_json(text[start.start() :])) from error
            continue  # a brace in prose or code
        if isinstance(value, dict) and _MARK in value:
            found.append(value)
    return found


def _why_not_json(text: str) -> str:
    try:
        _DECODER.raw_decode(text.lstrip())
    except (_RepeatedKeyError, RecursionError) as error:
        return f"The JSON cannot be read ({one_line(str(error), 80)}). Send one flat object with the fields asked for."
    except json.JSONDecodeError as error:
        cut = " It looks cut off: send a shorter reply." if error.pos >= len(text.rstrip()) - 1 else ""
        return f"The JSON is not valid: {error.msg}, line {error.lineno} column {error.colno}.{cut}"
    return f'The JSON object has no "{_MARK}". Its fields must be: {", ".join(_FIELDS)}.'


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in pairs:
        if key in out:
            raise _RepeatedKeyError(f'"{one_line(key, 40)}"')
        out[key] = value
    return out


# not strict: a line feed inside a string is what many models write for "\n", and it can mean nothing else
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_without_repeats)


def _idea_of(given: Mapping[str, object]) -> Idea:
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        raise UnusableReply(
            f'The JSON object has an unknown field "{one_line(unknown[0], 40)}". The fields are: {", ".join(_FIELDS)}.'
        )
    return make_idea(
        description=_text(given, "description"),
        mechanism=_text(given, "mechanism"),
        topic=_text(given, "topic"),
        expected=_number(given, "expected"),
        lesson=_text(given, "lesson"),
        changes=_settings(given),
        edits=_edits(given),
        whole=_text(given, "file") or None,
        whole_of=_text(given, "file_name"),
        note=_text(given, "note"),
    )


def _text(given: Mapping[str, object], key: str) -> str:
    value = given.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnusableReply(f'"{key}" must be a text, and it is {_kind(value)}.')
    return value


def _number(given: Mapping[str, object], key: str) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableReply(f'"{key}" must be a number of bits per byte such as 0.003, and it is {_kind(value)}.')
    return float(value) if abs(value) < 1e300 else float("inf")


def _settings(given: Mapping[str, object]) -> dict[str, object]:
    """Constants to change, from "set" in either form and from "name" with "value"."""
    pairs: list[tuple[object, object]] = []
    value = given.get("set")
    if isinstance(value, dict):
        pairs += value.items()
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, dict) or set(item) != {"name", "value"}:
                raise UnusableReply('Each entry of "set" must be an object with "name" and "value", and nothing else.')
            pairs.append((item["name"], item["value"]))
    elif value is not None:
        raise UnusableReply('"set" must be a list of objects with "name" and "value".')
    if given.get("name") is not None:
        pairs.append((given["name"], given.get("value")))
    settings: dict[str, object] = {}
    for name, item in pairs:
        if not isinstance(name, str):
            raise UnusableReply(f'The "name" of a constant must be a text, and it is {_kind(name)}.')
        if name in settings:
            raise UnusableReply(f"{one_line(name, 60)} is set twice. Set each constant once.")
        settings[name] = item
    return settings


def _edits(given: Mapping[str, object]) -> list[Edit]:
    value = given.get("edits")
    if value is None:
        return []
    if not isinstance(value, list):
        raise UnusableReply('"edits" must be a list of objects with "search" and "replace".')
    edits: list[Edit] = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, dict) or set(item) - {"file"} != {"search", "replace"}:
            raise UnusableReply(
                f'Entry {number} of "edits" must be an object with "search" and "replace", and "file" where there are several.'
            )
        edits.append(Edit(_text(item, "search"), _text(item, "replace"), file=_text(item, "file")))
    return edits


def _kind(value: object) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")
