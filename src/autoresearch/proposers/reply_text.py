"""The text form of a reply: header lines, SET lines, search/replace blocks or one fenced file. Prose around is skipped.

IDEA: one line             what is changed (required)
TOPIC: a few words         direction it belongs to
MECHANISM: one line        why it should help
EXPECT: +0.003             gain in bits per byte that is foreseen
LESSON: one line           what the history taught
NOTE: one line             for the person, about files that may not be edited here
SET: NAME = literal        a constant by name, as often as needed
FILE: name                 which file the blocks and the fence after it are about; without it the main one
<<<<<<< SEARCH             lines as they are in the file ...
=======
>>>>>>> REPLACE            ... and what takes their place
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass, field

from autoresearch.hostile_text import one_line
from autoresearch.proposers.idea import Edit, Idea, make_idea
from autoresearch.providers.exchange import UnusableReply

SEARCH, DIVIDER, REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
_HEADER = re.compile(r"[\s#>*_-]{0,12}(IDEA|TOPIC|MECHANISM|EXPECT|LESSON|NOTE)[*_]{0,4}[ \t]*:[*_]{0,4}(.*)\Z")
_SET = re.compile(r"[\s>*_`-]{0,12}SET[*_]{0,4}[ \t]*:[*_`]{0,4}(.*)\Z")
_FILE = re.compile(r"[\s#>*_`-]{0,12}FILE[*_]{0,4}[ \t]*:[*_`]{0,4}(.*)\Z")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*(?:\[\d+\])?)\s*=\s*(.+)\Z")
_FENCE = re.compile(r"[ \t]{0,8}(`{3,}|~{3,})[ \t]{0,8}([\w+-]{0,40})[ \t]{0,8}\Z")
_PYTHON = frozenset({"python", "py", "python3"})
# outside of blocks nothing else looks like this; bounded, so that no line of a reply takes more than linear time
_ALMOST_MARKER = re.compile(r"\s{0,20}(?:<{4,20}|>{4,20})\s{0,20}\w{0,20}\s{0,20}\Z")
_NUMBER = re.compile(r"[+\-\u2212]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|[+\-\u2212]?\.\d+")
_MAX_LITERAL = 500  # characters of one SET line's value
_MAX_WRAPPED = 2000  # characters of a header's text that are read, its further lines included
_LARGEST_EXPONENT = 62


@dataclass
class _Found:
    """What has been read so far. `open` is the header whose text may go on in the next line; `file` the last FILE line's."""

    headers: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)  # name and text
    file: str = ""
    open: str = ""


def read_text(text: str) -> Idea:
    """The idea in a reply of the text form. A carriage return before a line feed is not part of any line.

    Raises:
        UnusableReply: it is ambiguous, incomplete or holds no edit.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    found = _Found()
    at = 0
    while at < len(lines):
        at = _read_line(lines, at, found)
    if len(found.files) > 1:
        raise UnusableReply(
            f"The reply holds {len(found.files)} whole files in ```python fences. Send exactly one, or use edits."
        )
    return make_idea(
        description=found.headers.get("IDEA", ""),
        mechanism=found.headers.get("MECHANISM", ""),
        topic=found.headers.get("TOPIC", ""),
        expected=_expected(found.headers.get("EXPECT")),
        lesson=found.headers.get("LESSON", ""),
        changes=found.settings,
        edits=found.edits,
        whole=found.files[0][1] if found.files else None,
        whole_of=found.files[0][0] if found.files else "",
        note=found.headers.get("NOTE", ""),
    )


def _read_line(lines: list[str], at: int, found: _Found) -> int:
    """Read what begins at line `at` and answer where the next thing begins."""
    line = lines[at]
    before, found.open = found.open, ""
    if line.rstrip() == SEARCH:
        edit, after = _read_block(lines, at, found.file)
        found.edits.append(edit)
        return after
    if fence := _FENCE.match(line):
        return _read_fence(lines, at, fence, found)
    if _ALMOST_MARKER.match(line):
        raise UnusableReply(
            f"Line {at + 1} of the reply, `{one_line(line, 40)}`, is no marker of a block where it stands. A block is "
            f"`{SEARCH}`, the old lines, `{DIVIDER}`, the new lines, `{REPLACE}`, each marker alone on its line."
        )
    if header := _HEADER.match(line):
        name, said = header.groups()
        if name in found.headers:
            raise UnusableReply(f"The reply has two {name}: lines. Send one idea, with each header once.")
        found.headers[name], found.open = said.strip(" \t*_"), name
    elif named := _FILE.match(line):
        found.file = _file_name(named[1])
    elif setting := _SET.match(line):
        _read_setting(setting[1], found)
    elif before and line.strip():  # a long line that the model wrapped
        if len(found.headers[before]) < _MAX_WRAPPED:
            found.headers[before] = f"{found.headers[before]} {line.strip()}"
        found.open = before
    return at + 1


def _file_name(said: str) -> str:
    """The name in a FILE line."""
    name = said.strip(" \t*_`")
    if not _FILE_NAME.match(name):
        raise UnusableReply(
            f"`FILE:{one_line(said, 60)}` is no name of a file. Write the name alone, for example `FILE: prepare.py`, before "
            "the blocks that are about it."
        )
    return name


def _read_block(lines: list[str], at: int, file: str) -> tuple[Edit, int]:
    """The block whose first marker is line `at`, and the line after its last."""
    old: list[str] = []
    new: list[str] = []
    part = old
    for index in range(at + 1, len(lines)):
        marker = lines[index].rstrip()
        if marker == DIVIDER and part is old:
            part = new
        elif marker == REPLACE and part is new:
            return Edit("\n".join(old), "\n".join(new), lines=True, file=file), index + 1
        elif marker in (SEARCH, DIVIDER, REPLACE):
            wanted = DIVIDER if part is old else REPLACE
            raise UnusableReply(
                f"The block that begins at line {at + 1} of the reply has `{marker}` at line {index + 1}, where `{wanted}` "
                "must come first. Where the text itself holds such a line, send JSON or the whole file instead."
            )
        else:
            part.append(lines[index])
    missing = DIVIDER if part is old else REPLACE
    raise UnusableReply(
        f"The block that begins at line {at + 1} of the reply never ends: `{missing}` is missing. "
        "If the reply was cut off, send fewer and shorter blocks."
    )


def _read_fence(lines: list[str], at: int, fence: re.Match[str], found: _Found) -> int:
    """A ```python fence is a whole file, unless it is wrapped around headers or blocks; any other fence is only a line."""
    if fence[2].lower() not in _PYTHON:
        return at + 1
    first = next((line for line in lines[at + 1 :] if line.strip()), "")
    if first.rstrip() == SEARCH or any(mark.match(first) for mark in (_HEADER, _SET, _FILE)):
        return at + 1
    for index in range(at + 1, len(lines)):
        closing = _FENCE.match(lines[index])
        if closing and not closing[2] and closing[1].startswith(fence[1]):
            found.files.append((found.file, "".join(f"{line}\n" for line in lines[at + 1 : index])))
            return index + 1
    raise UnusableReply(
        f"The fence that opens at line {at + 1} of the reply is never closed, so the file is not complete. "
        "If the reply was cut off, send SEARCH/REPLACE blocks instead of the whole file."
    )


def _read_setting(said: str, found: _Found) -> None:
    """One SET line."""
    parts = _ASSIGNMENT.match(said.strip().strip("`").strip())
    if parts is None:
        raise UnusableReply(
            f"`SET:{one_line(said, 80)}` cannot be read. Write `SET: NAME = literal`, for example `SET: DEPTH = 6`."
        )
    name = parts[1]
    if name in found.settings:
        raise UnusableReply(f"{name} is set twice. Send one `SET: {name} = ...` line.")
    found.settings[name] = _literal(name, parts[2])


def _literal(name: str, text: str) -> object:
    """The value of a Python literal, or of a power of two written as `2**19`."""
    if len(text) <= _MAX_LITERAL:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about odd escapes in the model's text
                node = ast.parse(text.strip(), mode="eval").body
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
                base, exponent = ast.literal_eval(node.left), ast.literal_eval(node.right)
                if base == 2 and type(exponent) is int and 0 <= exponent <= _LARGEST_EXPONENT:
                    return 2**exponent
            else:
                value: object = ast.literal_eval(node)
                return value
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pass  # said below
    raise UnusableReply(
        f"`SET: {name} = {one_line(text, 60)}`: the value is no literal. Write a number, a text in quotes, True, False or a "
        "tuple of numbers; an expression needs a SEARCH/REPLACE block."
    )


def _expected(said: str | None) -> float | None:
    """The first number of the EXPECT line; None without such a line."""
    if said is None:
        return None
    number = _NUMBER.search(said)
    if number is None:
        raise UnusableReply(
            f"`EXPECT: {one_line(said, 60)}` holds no number. Write the gain in bits per byte that you foresee, "
            "for example `EXPECT: +0.003`, or leave the line out."
        )
    return float(number[0].replace("\u2212", "-"))
