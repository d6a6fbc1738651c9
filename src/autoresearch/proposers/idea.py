"""One idea of a language model: what it says, and which edits it asks for. Checked for sense here, applied in `edits`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoresearch.hostile_text import one_line
from autoresearch.providers.exchange import UnusableReply
from autoresearch.repository import MAX_SURFACE_BYTES

MAX_DESCRIPTION = 200  # characters, one line: what a table shows
MAX_MECHANISM = 300
MAX_TOPIC = 40
MAX_LESSON = 160
MAX_NOTE = 300  # a line for the person
MAX_EDITS = 40  # blocks; one idea rarely needs more than five
MAX_SETTINGS = 40  # constants
MAX_STRING = 200  # characters of a constant that is a text
LARGEST_EFFECT = 10.0  # bits per byte; a model that knows nothing at all needs 8

Value = bool | int | float | str | list[int | float]
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}(?:\[\d{1,3}\])?\Z")
_FORBIDDEN_IN_STRINGS = re.compile(r"[^ !#-&(-\[\]-~]")  # quotes, backslashes, whatever is not printable ASCII


@dataclass(frozen=True)
class Edit:
    """Put `replace` in the place of `search`, which occurs once in the file.

    `lines`: written as a block of lines, so an empty replacement takes the lines out whole, line end included. `file`: its
    name, "" for the program's main file.
    """

    search: str
    replace: str
    lines: bool = False
    file: str = ""


@dataclass(frozen=True)
class Idea:
    """What a model proposes. Either `whole` is a new file, or `changes` and `edits` say what to change.

    expected: gain in bits per byte that the model foresees, positive is better. changes: values of UPPER_CASE constants.
    whole_of: name of the file that `whole` is, "" for the program's main one. note: a line for the person, about files that
    this program may not edit.
    """

    description: str
    mechanism: str = ""
    topic: str = ""
    expected: float | None = None
    lesson: str = ""
    changes: dict[str, Value] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    whole: str | None = None
    whole_of: str = ""
    note: str = ""


def make_idea(
    *,
    description: str,
    mechanism: str = "",
    topic: str = "",
    expected: float | None = None,
    lesson: str = "",
    changes: Mapping[str, object] | None = None,
    edits: Sequence[Edit] = (),
    whole: str | None = None,
    whole_of: str = "",
    note: str = "",
) -> Idea:
    """The idea, its texts cut to one bounded line each.

    Raises:
        UnusableReply: no description, no edit, both a whole file and edits, an empty search, too much, or a value that no
            constant can have.
    """
    said = one_line(description, MAX_DESCRIPTION)
    if not said:
        raise UnusableReply(
            "The reply does not say what the idea is. Begin with one line `IDEA: what you change` "
            '(in JSON: "description").'
        )
    settings = {name: checked_value(name, value) for name, value in (changes or {}).items()}
    _check_edits(settings, edits, whole)
    if expected is not None and not abs(expected) <= LARGEST_EFFECT:  # NaN too
        raise UnusableReply(
            f"The expected gain {expected:g} is no number of bits per byte. Write the gain you foresee, for example +0.003."
        )
    return Idea(
        description=said,
        mechanism=one_line(mechanism, MAX_MECHANISM),
        topic=topic_slug(topic),
        expected=expected,
        lesson=one_line(lesson, MAX_LESSON),
        changes=settings,
        edits=tuple(edits),
        whole=whole,
        whole_of=whole_of,
        note=one_line(note, MAX_NOTE),
    )


def checked_value(name: str, value: object) -> Value:
    """`value` when a constant called `name` may be set to it; a tuple becomes a list.

    Raises:
        UnusableReply: it may not.
    """
    if not _NAME.match(name):
        raise UnusableReply(
            f"`{one_line(name, 60)}` is no name of a constant: write UPPER_CASE, or NAME[0] for an element."
        )
    if isinstance(value, str):
        if len(value) > MAX_STRING or _FORBIDDEN_IN_STRINGS.search(value):
            raise UnusableReply(
                f"The text for {name} is too long or holds quotes, backslashes or characters that are not plain ASCII. "
                "Send a short plain text, or change that line with a SEARCH/REPLACE block."
            )
        return value
    if isinstance(value, bool) or _is_sound_number(value):
        return value  # type: ignore[return-value]  # int or float, by the check
    if isinstance(value, list | tuple) and 0 < len(value) <= MAX_SETTINGS and all(map(_is_sound_number, value)):
        return list(value)
    raise UnusableReply(
        f"The value for {name} must be a finite number, a plain text, True or False, or a list of numbers. "
        "Anything else needs a SEARCH/REPLACE block."
    )


def topic_slug(text: str) -> str:
    """A topic as it is compared and shown: lower-case letters and digits in words joined by `-`, at most 40 characters.

    `MATRIX_LR`, "Matrix LR" and "matrix-lr" are one topic.
    """
    words = re.findall("[a-z0-9]+", one_line(text, 200).casefold())
    return "-".join(words)[:MAX_TOPIC].strip("-")


def _is_sound_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return abs(value) < 2**62 if isinstance(value, int) else isinstance(value, float) and math.isfinite(value)


def _check_edits(settings: Mapping[str, Value], edits: Sequence[Edit], whole: str | None) -> None:
    if whole is not None and (edits or settings):
        raise UnusableReply(
            "The reply holds a whole file and also edits, so it is not clear which to take. "
            "Send either the whole file, or SET lines and SEARCH/REPLACE blocks."
        )
    if whole is None and not edits and not settings:
        raise UnusableReply(
            "The reply holds no edit. Send `SET: NAME = value` lines, SEARCH/REPLACE blocks, or the whole file in one "
            '```python fence (in JSON: "set", "edits" or "file").'
        )
    if whole is not None and not whole.strip():
        raise UnusableReply("The whole file is empty. Send the complete new text, or edits.")
    if len(edits) > MAX_EDITS or len(settings) > MAX_SETTINGS:
        raise UnusableReply(
            f"The reply has {len(edits)} blocks and {len(settings)} constants; at most {MAX_EDITS} of each are read. "
            "Test one idea: change less."
        )
    for number, edit in enumerate(edits, start=1):
        if not edit.search.strip():
            raise UnusableReply(
                f"Block {number} has an empty SEARCH text. Copy the lines of the file that are to be replaced; to insert, "
                "repeat a line beside the place and add to it."
            )
    if len(whole or "") + sum(len(edit.search) + len(edit.replace) for edit in edits) > MAX_SURFACE_BYTES:
        raise UnusableReply(f"The edits are larger than {MAX_SURFACE_BYTES:,} bytes, the most that a file may have.")
