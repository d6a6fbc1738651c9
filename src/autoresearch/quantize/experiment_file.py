"""Does the experiment file beside a checkpoint still define the shipped model? Told by its syntax tree; nothing is run."""

from __future__ import annotations

import ast
from pathlib import Path

MAX_BYTES = 1 << 20
# Where the model's arithmetic begins; what these use is followed from there. Constants are not compared: their values are
# in the checkpoint's configuration.
_ROOTS = ("GPT.__init__", "GPT.hidden", "GPT.forward", "GPTConfig")


def edited_parts(beside: Path, shipped: Path) -> list[str]:
    """Names of the functions, classes and methods of the shipped model that the other file lacks or defines differently.

    Comments, docstrings and layout do not count. Empty when `beside` is not there; ["the whole file"] when it cannot be
    read as Python.
    """
    if not beside.is_file():
        return []
    theirs, ours = _parts_of(beside), _parts_of(shipped)
    if theirs is None or ours is None:
        return ["the whole file"]
    wanted = _used_by(ours, [name for name in _ROOTS if name in ours])
    return [
        name for name in ours if name in wanted and (name not in theirs or _dump(theirs[name]) != _dump(ours[name]))
    ]


def _parts_of(path: Path) -> dict[str, ast.AST] | None:
    """Functions and classes by name, and the methods of GPT as GPT.name in place of the class."""
    if path.stat().st_size > MAX_BYTES:
        return None
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "GPT":
            found |= {f"GPT.{part.name}": part for part in node.body if isinstance(part, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
    return found


def _used_by(parts: dict[str, ast.AST], roots: list[str]) -> set[str]:
    """The roots and all that they name, and what that names."""
    reached: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for node in ast.walk(parts[name]):
            if isinstance(node, ast.Name) and node.id in parts:
                waiting.append(node.id)
            elif isinstance(node, ast.Attribute) and f"GPT.{node.attr}" in parts and _is_self(node.value):
                waiting.append(f"GPT.{node.attr}")
    return reached


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _dump(node: ast.AST) -> str:
    """The tree without docstrings and places."""
    for inner in ast.walk(node):
        body = getattr(inner, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            first.value.value = ""
    return ast.dump(node)
