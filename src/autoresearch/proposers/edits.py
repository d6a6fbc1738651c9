"""Applies an idea to a program's files, exactly or not at all. What cannot be applied is told to the model, with the place.

Every search text is looked for in its file as it was shown, so the order of blocks does not matter; constants are set
after that. Outside of the replaced spans every byte stays.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from autoresearch.hostile_text import one_line, why_not_a_file
from autoresearch.proposers.constants import Constants, Scalar, owner_of, read_constants, rewrite
from autoresearch.proposers.dimension import Dimension
from autoresearch.proposers.idea import Edit, Idea, Value
from autoresearch.proposers.novelty import parse_program
from autoresearch.proposers.search_space import infer
from autoresearch.providers.exchange import UnusableReply
from autoresearch.repository import MAX_SURFACE_BYTES
from autoresearch.vocabulary import AutoresearchError

_MAX_PLACES = 6  # line numbers in one complaint
_MAX_SHOWN = 6  # lines of the file in one complaint
_SHOWN_WIDTH = 160
_COMPARED_WIDTH = 200  # characters of a line that are compared when the closest one is looked for
_COMPARED_LINES = 5000  # 4 ms for a 700-line file


@dataclass(frozen=True)
class _Span:
    """Replace source[start:end], found for block `number`, by `text`."""

    start: int
    end: int
    text: str
    number: int


def apply_idea(idea: Idea, files: Mapping[str, str], main: str, preset: str) -> dict[str, str]:
    """All files after the idea. `main` is the one that an edit without a file's name is about.

    `preset` says whose entry of PRESET_OVERRIDES is in force when a constant is set. A constant is looked for in the main
    file first. In a file whose lines all end in CRLF, an edit without any CR is read as if it had them.

    Raises:
        UnusableReply: no such file, a search text does not occur exactly once, two blocks overlap, a constant is unknown or
            cannot have that value, or the result does not parse, is the same, too large, or has another first line.
    """
    if idea.whole is not None:
        name = _file_named(idea.whole_of, files, main, "The whole file")
        results = {**files, name: _with_line_ends_of(files[name], idea.whole)}
    else:
        results = _set_constants(_apply_edits(idea.edits, files, main), idea.changes, main, preset)
    if results == dict(files):
        each = "the file already is" if len(files) == 1 else "the files already are"
        raise UnusableReply(f"The edit changes nothing: {each} like this. Send an edit that has an effect.")
    for name, text in files.items():
        if results[name] != text:
            _check_result(text, results[name], "" if len(files) == 1 else name)
    return results


def _file_named(name: str, files: Mapping[str, str], main: str, what: str) -> str:
    """The file that something is about: the main one where no name is given."""
    if name and name not in files:
        raise UnusableReply(f"{what} is about `{one_line(name, 60)}`, and only {' and '.join(files)} may be edited.")
    return name or main


# -- search and replace -------------------------------------------------------------------------------------------------


def _apply_edits(edits: tuple[Edit, ...], files: Mapping[str, str], main: str) -> dict[str, str]:
    spans: dict[str, list[_Span]] = {name: [] for name in files}
    for number, edit in enumerate(edits, 1):
        name = _file_named(edit.file, files, main, f"Block {number}")
        spans[name].append(_span_of(edit, number, name, files))
    return {name: _replaced(spans[name], text) for name, text in files.items()}


def _replaced(found: list[_Span], source: str) -> str:
    spans = sorted(found, key=lambda span: span.start)
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise UnusableReply(
                f"Blocks {before.number} and {after.number} overlap at line {_line_at(source, after.start)}. Join them."
            )
    parts: list[str] = []
    end = 0
    for span in spans:
        parts += [source[end : span.start], span.text]
        end = span.end
    return "".join([*parts, source[end:]])


def _span_of(edit: Edit, number: int, name: str, files: Mapping[str, str]) -> _Span:
    source = files[name]
    search, text = _with_line_ends_of(source, edit.search), _with_line_ends_of(source, edit.replace)
    starts = _places(search, source)
    place = "the file" if len(files) == 1 else name
    if not starts:
        there = next((other for other, text in files.items() if len(_places(search, text)) == 1), "")
        if there:
            raise UnusableReply(
                f"Block {number}: its SEARCH text stands in {there}, not in {name}. Write the line `FILE: {there}` before the block "
                f'(in JSON: "file": "{there}").'
            )
        raise UnusableReply(
            f"Block {number}: its SEARCH text occurs 0 times in {place}. {_closest(search, source)} "
            f"Copy the lines exactly as they are in {place}, indentation and comments included."
        )
    if len(starts) > 1:
        lines = ", ".join(str(_line_at(source, start)) for start in starts[:_MAX_PLACES])
        times = str(len(starts)) if len(starts) <= _MAX_PLACES else f"more than {_MAX_PLACES}"
        raise UnusableReply(
            f"Block {number}: its SEARCH text occurs {times} times, at lines {lines}. "
            "Add a neighbouring line to SEARCH and to REPLACE, so that it names one place."
        )
    start, end = starts[0], starts[0] + len(search)
    if edit.lines and not text and (start == 0 or source[start - 1] == "\n"):
        for line_end in ("\r\n", "\n"):
            if source.startswith(line_end, end):
                return _Span(start, end + len(line_end), text, number)
    return _Span(start, end, text, number)


def _places(search: str, source: str) -> list[int]:
    """Where `search` begins in `source`, overlapping places too: as many as a complaint names, and one more."""
    found: list[int] = []
    start = source.find(search)
    while start >= 0 and len(found) <= _MAX_PLACES:
        found.append(start)
        start = source.find(search, start + 1)
    return found


def _with_line_ends_of(source: str, text: str) -> str:
    num_ends = source.count("\n")
    if num_ends and "\r" not in text and source.count("\r\n") == num_ends == source.count("\r"):
        return text.replace("\n", "\r\n")
    return text


def _line_at(source: str, position: int) -> int:
    return source.count("\n", 0, position) + 1


def _closest(search: str, source: str) -> str:
    """Where the text was probably meant, in words; bounded in work and in length."""
    wanted = [line.strip()[:_COMPARED_WIDTH] for line in search.split("\n")][:_COMPARED_LINES]
    lines = source.split("\n")[:_COMPARED_LINES]
    have = [line.strip()[:_COMPARED_WIDTH] for line in lines]
    known = set(have)
    anchors = [(i, line) for i, line in enumerate(wanted) if line in known and len(line) > 3]
    if anchors:
        offset, anchor = max(anchors, key=lambda found: len(found[1]))
        at = max(0, have.index(anchor) - offset)
        alike = have[at : at + len(wanted)] == wanted
        why = "Only its white space differs from" if alike else "The closest place is"
        return f"{why} {_quoted(lines, at, len(wanted))}"
    longest = max(wanted, key=len)
    near = difflib.get_close_matches(longest, [line for line in have if line], n=1, cutoff=0.5)
    if near:
        return f"The closest place is {_quoted(lines, have.index(near[0]), 1)}"
    return "No line of the file is like it."


def _quoted(lines: list[str], at: int, num: int) -> str:
    shown = lines[at : at + min(num, _MAX_SHOWN)]
    body = "\n".join(f"    {_cut(line)}" for line in shown)
    where = f"line {at + 1}" if len(shown) == 1 else f"lines {at + 1} to {at + len(shown)}"
    return f"{where}:\n{body}\n"


def _cut(line: str) -> str:
    """A line of the file as it is, its indentation too."""
    plain = line.rstrip("\r")
    return plain if len(plain) <= _SHOWN_WIDTH else plain[: _SHOWN_WIDTH - 1] + "…"


# -- constants ----------------------------------------------------------------------------------------------------------


def _set_constants(files: dict[str, str], changes: Mapping[str, Value], main: str, preset: str) -> dict[str, str]:
    """The files with the constants set, each in the main file, or else in the one that has it."""
    of: dict[str, dict[str, Value]] = {}
    for name, value in changes.items():
        of.setdefault(_home_of(name, files, main, preset), {})[name] = value
    return {**files, **{home: _set_in(files[home], own, preset) for home, own in of.items()}}


def _home_of(name: str, files: Mapping[str, str], main: str, preset: str) -> str:
    for home in (main, *files):
        try:
            found = read_constants(files[home], preset).literals
        except SyntaxError:
            continue  # told when its result is checked
        if any(owner_of(name) == owner_of(key) for key in found):
            return home
    return main


def _set_in(source: str, changes: Mapping[str, Value], preset: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a candidate's odd escape sequence is not for our user's terminal
            constants = read_constants(source, preset)
            literals = {key: item for name, value in changes.items() for key, item in _literals(name, value, constants)}
            return rewrite(source, constants, literals)
    except SyntaxError as error:
        raise UnusableReply(_syntax_complaint(error, source)) from error
    except UnusableReply:
        raise
    except AutoresearchError as error:
        raise UnusableReply(f"SET: {error.message}. Send another value, or a SEARCH/REPLACE block.") from error


def _literals(name: str, value: Value, constants: Constants) -> list[tuple[str, Scalar]]:
    """The literals that setting `name` writes, each with a value of its own kind."""
    if isinstance(value, list):
        elements = [key for key in constants.literals if key != name and owner_of(key) == name]
        if len(elements) != len(value):
            raise UnusableReply(
                f"SET: {name} is no list of {len(value)} numbers in the file. {_known(name, constants)}"
            )
        return [(key, _of_its_kind(key, item, constants)) for key, item in zip(elements, value, strict=True)]
    if name not in constants.literals:
        raise UnusableReply(f"SET: {_why_unknown(name, constants)}")
    return [(name, _of_its_kind(name, value, constants))]


def _of_its_kind(name: str, value: Scalar, constants: Constants) -> Scalar:
    """`value` as the file would write it: 6 for 6.0 where whole numbers stand, 1.0 for 1 where fractions do."""
    old = constants.literals[name].value
    is_text, is_switch = isinstance(old, str), isinstance(old, bool)
    if is_text != isinstance(value, str) or is_switch != isinstance(value, bool):
        raise UnusableReply(
            f"SET: {name} is {old!r} in the file and cannot become {value!r}: send the same kind of value."
        )
    if is_text or is_switch:
        return value
    number = float(value)
    if isinstance(old, float):
        return number
    if number.is_integer():
        return int(value)
    if _takes_fractions(name, old) and not constants.literals[name].is_power:
        return value
    raise UnusableReply(f"SET: {name} is a whole number ({old}) and cannot become {value!r}. Send a whole number.")


def _takes_fractions(name: str, value: Scalar) -> bool:
    """Whether a constant that is written as a whole number is a rate or a fraction all the same (`WARMUP_RATIO = 0`)."""
    found = infer(name, value)
    if not isinstance(found, Dimension):
        return False
    return not found.has_rungs or any(isinstance(rung, float) for rung in found.rungs)


def _why_unknown(name: str, constants: Constants) -> str:
    elements = [key for key in constants.literals if owner_of(key) == name]
    if elements:
        return f"{name} is a list in the file: set {elements[0]} and so on, or send all {len(elements)} values."
    if owner_of(name) in constants.skipped:
        return f"{name} cannot be set by name ({constants.skipped[owner_of(name)]}): use a SEARCH/REPLACE block."
    return f"the file has no constant {name}. {_known(name, constants)}"


def _known(name: str, constants: Constants) -> str:
    near = difflib.get_close_matches(name, list(constants.literals), n=4, cutoff=0.5)
    shown = near or list(constants.literals)[:12]
    return (
        f"{'Close names' if near else 'It has'}: {', '.join(shown)}."
        if shown
        else "It has none that can be set by name."
    )


# -- the result ---------------------------------------------------------------------------------------------------------


def _check_result(source: str, result: str, name: str) -> None:
    """`name` of the file, where there are several."""
    if why := why_not_a_file(result, MAX_SURFACE_BYTES):
        raise UnusableReply(f"The edited {name or 'file'} {why}. Send a smaller or cleaner edit.")
    first = source.partition("\n")[0].rstrip("\r")
    if result.partition("\n")[0].rstrip("\r") != first:
        raise UnusableReply(
            f"Line 1 of {name or 'the file'} must stay as it is: `{one_line(first)}`. A whole file must be complete."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parse_program(result)
    except SyntaxError as error:
        raise UnusableReply(_syntax_complaint(error, result, name)) from error


def _syntax_complaint(error: SyntaxError, text: str, name: str = "") -> str:
    lines = text.split("\n")
    at = error.lineno or 0
    where = f" at line {at}:\n    {_cut(lines[at - 1])}\n" if 0 < at <= len(lines) else ". "
    return f"The edited {name or 'file'} is not valid Python: {one_line(error.msg, 120)}{where}Mend it and send the whole reply again."
