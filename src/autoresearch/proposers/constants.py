"""Reads the UPPER_CASE literals of an experiment file, and rewrites single ones in place.

The file is parsed, never evaluated: only its syntax tree and literals are looked at.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from autoresearch.proposers.novelty import parse_program
from autoresearch.vocabulary import AutoresearchError

Scalar = bool | int | float | str

OVERRIDES = "PRESET_OVERRIDES"
_UPPER_CASE = re.compile(r"[A-Z][A-Z0-9_]*\Z")
_LINE_END = re.compile(rb"\r\n|\r|\n")  # what Python counts as a line; str.splitlines splits at more
_LARGEST_EXPONENT = 62


@dataclass(frozen=True)
class Literal:
    """One literal in force. `name` is the constant's, with an index for an element of a tuple: `ADAM_BETAS[0]`.

    `start` and `end` are byte offsets in the UTF-8 text; of the exponent alone where the value is written `2**19`.
    """

    name: str
    value: Scalar
    start: int
    end: int
    is_power: bool = False


@dataclass(frozen=True)
class Constants:
    """The literals in force for one preset, in the file's order, and why other UPPER_CASE names were left out."""

    literals: Mapping[str, Literal] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def whole(self, name: str, changed: Mapping[str, Scalar]) -> Scalar | tuple[Scalar, ...]:
        """Value of the constant that `name` belongs to (the tuple, for an element) with `changed` applied."""
        owner = owner_of(name)
        if owner in self.literals:
            return changed.get(owner, self.literals[owner].value)
        return tuple(changed.get(key, lit.value) for key, lit in self.literals.items() if owner_of(key) == owner)


def owner_of(name: str) -> str:
    """`ADAM_BETAS` of `ADAM_BETAS[0]`; a plain name is its own."""
    return name.partition("[")[0]


@lru_cache(maxsize=512)  # a search reads every earlier candidate again at each proposal
def read_constants(source: str, preset: str) -> Constants:
    """The literals in force for `preset`: its entry in PRESET_OVERRIDES where there is one, else the top-level literal.

    Raises:
        SyntaxError: the file does not parse.
    """
    tree = parse_program(source)
    offsets = _Offsets(source)
    nodes: dict[str, ast.expr] = {}
    skipped: dict[str, str] = {}
    for statement in tree.body:
        for name, value in _assigned(statement):
            nodes[name] = value
    for name in _assigned_elsewhere(tree):
        if nodes.pop(name, None) is not None:
            skipped[name] = "assigned in more than one place"
    table = nodes.pop(OVERRIDES, None)
    if table is not None:
        _apply_overrides(table, preset, nodes, skipped)
    found: dict[str, Literal] = {}
    for name, node in nodes.items():
        literals = _literals_of(name, node, offsets)
        if literals:
            found.update((literal.name, literal) for literal in literals)
        else:
            skipped[name] = "not a number, a string, a boolean or a tuple of numbers"
    return Constants(found, skipped)


def defines_function(source: str, name: str) -> bool:
    """Whether the file defines this function at its top level; False for text that is no program."""
    try:
        body = parse_program(source).body
    except SyntaxError:
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in body)


def rewrite(source: str, constants: Constants, changes: Mapping[str, Scalar]) -> str:
    """`source` with these literals replaced and every other byte as it was.

    Raises:
        AutoresearchError: the result would not be the same program with exactly these values changed.
    """
    data = source.encode("utf-8")
    for name in sorted(changes, key=lambda key: constants.literals[key].start, reverse=True):
        literal = constants.literals[name]
        old_text = data[literal.start : literal.end].decode("utf-8")
        data = data[: literal.start] + _rendered(changes[name], literal, old_text).encode("utf-8") + data[literal.end :]
    edited = data.decode("utf-8")
    num_different = sum(repr(value) != repr(constants.literals[name].value) for name, value in changes.items())
    _check_only_these_changed(source, edited, num_different)
    return edited


def _assigned(statement: ast.stmt) -> list[tuple[str, ast.expr]]:
    """UPPER_CASE names that a top-level statement binds, each with the expression it is bound to."""
    if isinstance(statement, ast.Assign):
        return [
            (target.id, statement.value)
            for target in statement.targets
            if isinstance(target, ast.Name) and _UPPER_CASE.match(target.id)
        ]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None and isinstance(statement.target, ast.Name):
        return [(statement.target.id, statement.value)] if _UPPER_CASE.match(statement.target.id) else []
    return []


def _assigned_elsewhere(tree: ast.Module) -> set[str]:
    """UPPER_CASE names bound more than once: no single literal is the one in force."""
    count: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and _UPPER_CASE.match(node.id):
            count[node.id] = count.get(node.id, 0) + 1
    return {name for name, times in count.items() if times > 1}


def _apply_overrides(table: ast.expr, preset: str, nodes: dict[str, ast.expr], skipped: dict[str, str]) -> None:
    """Put the preset's entries in the place of the top-level literals. What cannot be read is skipped, not guessed."""
    entry: ast.expr | None = None
    readable = isinstance(table, ast.Dict)
    if isinstance(table, ast.Dict):
        for key, value in zip(table.keys, table.values, strict=True):
            if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                readable = False
            elif key.value == preset:
                entry = value
    if readable and entry is None:
        return
    if not readable or not isinstance(entry, ast.Dict):
        for name in list(nodes):
            skipped[name] = f"{OVERRIDES} is not a table of literals for {preset!r}"
            del nodes[name]
        return
    for key, value in zip(entry.keys, entry.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            if _UPPER_CASE.match(key.value):
                nodes[key.value] = value
                skipped.pop(key.value, None)
            continue
        for name in list(nodes):  # `**base`, or a computed key: it may have bound any name
            skipped[name] = f"{OVERRIDES}[{preset!r}] has an entry that is not a literal"
            del nodes[name]


def _literals_of(name: str, node: ast.expr, offsets: _Offsets) -> list[Literal]:
    """The literal, or the elements of a tuple or list of numbers; empty when it is neither."""
    if isinstance(node, ast.Tuple | ast.List):
        elements = [_scalar(f"{name}[{i}]", element, offsets) for i, element in enumerate(node.elts)]
        numbers = [e for e in elements if e is not None and isinstance(e.value, int | float)]
        return numbers if len(numbers) == len(node.elts) else []
    literal = _scalar(name, node, offsets)
    return [literal] if literal is not None else []


def _scalar(name: str, node: ast.expr, offsets: _Offsets) -> Literal | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, exponent = _whole_number(node.left), _whole_number(node.right)
        if base != 2 or exponent is None or not 0 <= exponent <= _LARGEST_EXPONENT:
            return None
        return Literal(name, base**exponent, *offsets.span(node.right), is_power=True)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    if isinstance(value, bool | int | float | str):
        return Literal(name, value, *offsets.span(node))
    return None


def _whole_number(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


class _Offsets:
    """Byte offsets of nodes. The syntax tree counts columns in UTF-8 bytes, from the start of the line."""

    def __init__(self, source: str) -> None:
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(source.encode("utf-8")))]

    def span(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None  # the parser sets both
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset


def _rendered(value: Scalar, literal: Literal, old_text: str) -> str:
    """`value` in the way the old literal was written."""
    if literal.is_power:
        assert isinstance(value, int)
        exponent = value.bit_length() - 1
        if value <= 0 or 2**exponent != value:
            raise AutoresearchError(f"{literal.name} is written as a power of two; {value} is none")
        return str(exponent)
    if isinstance(value, str):
        quote = "'" if old_text.startswith("'") else '"'
        return f"{quote}{value}{quote}"
    if type(value) is int and "_" in old_text:
        return f"{value:_}"
    return repr(value)


def _check_only_these_changed(before: str, after: str, num_changes: int) -> None:
    try:
        old, new = list(ast.walk(parse_program(before))), list(ast.walk(parse_program(after)))
    except SyntaxError as error:
        raise AutoresearchError(f"the edit broke the file: {error}") from error
    same_shape = len(old) == len(new) and all(type(a) is type(b) for a, b in zip(old, new, strict=True))
    if same_shape:
        values = [_own_fields(a) != _own_fields(b) for a, b in zip(old, new, strict=True)]
        if sum(values) == num_changes:
            return
    raise AutoresearchError("the edit changed more than the chosen constants")


def _own_fields(node: ast.AST) -> list[tuple[str, str]]:
    """A node's plain values (names, constants), without children and positions."""
    return [(key, repr(value)) for key, value in ast.iter_fields(node) if not isinstance(value, ast.AST | list)]
