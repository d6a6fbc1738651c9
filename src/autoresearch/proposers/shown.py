"""What a prompt shows of a file: all of it, or the parts that fit, with a line for each gap; and edits as diffs.

A file is shown as it is, because edits must copy its lines exactly. So it stands between marks that do not occur in it, and a
line with pieces of a chat template's control tokens is left out: some servers act on those wherever they stand.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoresearch.hostile_text import has_template_mark, one_line, plain_line, quoted_for_model
from autoresearch.proposers.constants import Constants, read_constants
from autoresearch.proposers.novelty import parse_program
from autoresearch.providers.tokens import estimated_tokens

_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*\Z")
_CHUNK = 40  # lines, of a file that does not parse
_GAP_WIDTH = 160  # characters of names in the line for a gap
_MAX_DIFFED = 200_000  # characters; difflib takes quadratic time on texts that have little in common
_DIFF_LINES = 120
_DIFF_WIDTH = 300
_MAX_LISTED = 40  # constants with a preset's value
_SAFE_TEXT = re.compile(r"[\w.+-]{0,40}\Z", re.ASCII)


@dataclass(frozen=True)
class Part:
    """Lines start..end of a file (1-based, both included) that are shown or hidden together."""

    name: str
    start: int
    end: int
    is_constant: bool = False


def whole_listing(source: str) -> str:
    """The whole file between marks."""
    lines = source.split("\n")
    return _framed([_line(line) for line in (lines[:-1] if lines[-1] == "" else lines)])


def part_listing(
    source: str, *, budget_tokens: int, names: Iterable[str] = (), turn: int = 0, only_constants: bool = False
) -> tuple[str, bool]:
    """The constants and as many other parts as fit: first those called `names`, then others from a place that moves with
    `turn`. What is left out has one line for each gap, with names. At most `budget_tokens`, unless not even the gaps fit.
    The second answer is whether every constant is there.
    """
    parts = parts_of(source)
    wanted = [part for part in parts if part.is_constant]
    num_constants = len(wanted)
    if not only_constants:
        named = set(names)
        wanted += [part for part in parts if not part.is_constant and part.name in named]
        others = [part for part in parts if not part.is_constant and part.name not in named]
        wanted += others[turn % len(others) :] + others[: turn % len(others)] if others else []
    lines = source.split("\n")
    shown: set[Part] = set()
    spent = estimated_tokens(_listing(lines, parts, shown))
    for part in wanted:
        cost = estimated_tokens("\n".join(lines[part.start - 1 : part.end]))
        if spent + cost <= budget_tokens:
            shown.add(part)
            spent += cost
    listing = _listing(lines, parts, shown)
    for part in reversed(wanted):  # a gap split in two costs a line more, which the sum above did not see
        if estimated_tokens(listing) <= budget_tokens:
            break
        if part in shown:
            shown.remove(part)
            listing = _listing(lines, parts, shown)
    return listing, sum(part.is_constant for part in shown) == num_constants


def parts_of(source: str) -> list[Part]:
    """The file in order, without gaps: single constants, functions, methods, and what stands between them."""
    num_lines = source.count("\n") + (not source.endswith("\n"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = parse_program(source)
    except SyntaxError:
        starts = range(1, num_lines + 1, _CHUNK)
        return [
            Part(f"lines {at} to {min(at + _CHUNK - 1, num_lines)}", at, min(at + _CHUNK - 1, num_lines))
            for at in starts
        ]
    parts: list[Part] = []
    for name, end, is_constant in _ends(tree):
        start = parts[-1].end + 1 if parts else 1
        if end >= start:  # a second statement on one line belongs to the first
            parts.append(Part(name, start, end, is_constant))
    last = parts[-1].end if parts else 0
    return [*parts, Part("end", last + 1, num_lines)] if last < num_lines else parts


def _ends(tree: ast.Module) -> list[tuple[str, int, bool]]:
    """Name, last line and kind of each part; comments and decorators above a statement fall to it."""
    found: list[tuple[str, int, bool]] = []
    for node in tree.body:
        end = node.end_lineno or node.lineno
        if isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            before = [item for item in node.body if not methods or item.lineno < methods[0].lineno]
            head = max(
                [item.end_lineno or item.lineno for item in before if item not in methods],
                default=node.body[0].lineno - 1,
            )
            if methods and methods[0].decorator_list:
                head = min(head, methods[0].decorator_list[0].lineno - 1)
            found.append((node.name, head if methods else end, False))
            found += [(f"{node.name}.{item.name}", item.end_lineno or item.lineno, False) for item in methods]
            found.append((f"{node.name} (rest)", end, False))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((node.name, end, False))
        elif names := [name for name in _targets(node) if _CONSTANT.match(name)]:
            found.append((names[0], end, True))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.append(("imports", end, False))
        else:
            found.append((_called(node), end, False))
    return found


def _targets(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _called(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return "text"
    return (_targets(node) or ["statements"])[0]


def _listing(lines: Sequence[str], parts: Sequence[Part], shown: set[Part]) -> str:
    out: list[str] = []
    gap: list[Part] = []
    for part in parts:
        if part not in shown:
            gap.append(part)
            continue
        out += _gap(gap)
        gap = []
        out += [_line(line) for line in lines[part.start - 1 : part.end]]
    return _framed(out + _gap(gap))


def _gap(hidden: Sequence[Part]) -> list[str]:
    if not hidden:
        return []
    names = ", ".join(dict.fromkeys(part.name for part in hidden))
    return [f"[not shown: lines {hidden[0].start} to {hidden[-1].end}: {one_line(names, _GAP_WIDTH)}]"]


def _line(line: str) -> str:
    """The line as it is, but for its line end; a mark in place of one that a chat template may act on."""
    if has_template_mark(line):
        return "[not shown: a line with control tokens of a chat template; leave it as it is]"
    return line.removesuffix("\r")


def _framed(lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    salt = 0
    while (mark := f"file-{hashlib.sha256(f'{salt}/{body}'.encode('utf-8', 'replace')).hexdigest()[:12]}") in body:
        salt += 1
    return f"[begin {mark}]\n{body}\n[end {mark}]"


# -- constants in force -------------------------------------------------------------------------------------------------


def in_force(source: str, preset: str) -> str:
    """`DEPTH = 2, HEAD_DIM = 64`: what the preset's entry puts in the place of the file's literals; "" when nothing."""
    try:
        now, plain = read_constants(source, preset), read_constants(source, "")
    except SyntaxError:
        return ""
    before = {name: repr(literal.value) for name, literal in plain.literals.items()}
    changed = [name for name, literal in now.literals.items() if repr(literal.value) != before.get(name)]
    return ", ".join(f"{name} = {_value(now, name)}" for name in changed[:_MAX_LISTED])


def all_in_force(source: str, preset: str, *, budget_tokens: int) -> str:
    """Every constant that can be set by name with its value in force, as many as fit; "" when none."""
    try:
        constants = read_constants(source, preset)
    except SyntaxError:
        return ""
    names = list(constants.literals)
    while names:
        text = ", ".join(f"{name} = {_value(constants, name)}" for name in names)
        if estimated_tokens(text) <= budget_tokens:
            return text if len(names) == len(constants.literals) else f"{text}, ..."
        names = names[: len(names) * 3 // 4]
    return ""


def _value(constants: Constants, name: str) -> str:
    """The value in words that cannot be taken for anything else: texts only where they are plain."""
    value = constants.literals[name].value
    return "(a text)" if isinstance(value, str) and not _SAFE_TEXT.match(value) else repr(value)


# -- edits --------------------------------------------------------------------------------------------------------------


def diff_quotation(before: str, after: str, *, budget_tokens: int, what: str) -> str:
    """The edit from `before` to `after` as a quoted diff with two lines around each change, cut at its end to fit; "" when
    there is no room or nothing differs. `what` must be our own words."""
    if max(len(before), len(after)) > _MAX_DIFFED:
        return "(The files are too large to compare.)"
    diff = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2))[2:]
    most = min(len(diff), _DIFF_LINES)
    while most > 0:
        kept = [plain_line(line, _DIFF_WIDTH) for line in diff[:most]]
        if most < len(diff):
            kept.append(f"({len(diff) - most} more lines of the diff are left out)")
        text = quoted_for_model("\n".join(kept), len(kept) * (_DIFF_WIDTH + 100), what=what)
        if estimated_tokens(text) <= budget_tokens:
            return text
        most = most * 3 // 4
    return ""


def changed_names(before: str, after: str) -> list[str]:
    """Names of the parts of `before` that the edit to `after` touches."""
    if max(len(before), len(after)) > _MAX_DIFFED:
        return []
    blocks = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False).get_opcodes()
    touched = [(start + 1, max(end, start + 1)) for kind, start, end, _, _ in blocks if kind != "equal"]
    return [part.name for part in parts_of(before) if any(a <= part.end and part.start <= b for a, b in touched)]
