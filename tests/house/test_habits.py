"""Habits of the source that a reader relies on."""

from __future__ import annotations

import ast
import re
import sys

import pytest
from source_tree import PACKAGE, ROOT, SRC, modules, tracked_files, tree_of

MAX_LINES = 500
# Written in pieces, so that this file is not a find of its own.
FORBIDDEN = re.compile(
    "|".join(
        (
            r"py" + r"pi\.org",
            r"python" + r"hosted\.",
            r"registry\." + r"npmjs",
            r"download\." + r"pytorch\.org",
            r"conda\." + r"anaconda\.org",
            r"proxy\." + r"golang\.org",
            r"index-" + r"url\s*[=:]",
            r"(?<![\w.])/(?:" + r"work|root|home/\w+|Users/\w+)/",
        )
    )
)


def test_no_source_file_is_longer_than_a_sitting():
    too_long = {}
    for path in sorted(SRC.rglob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        name = path.relative_to(SRC).as_posix()
        if lines > MAX_LINES:
            too_long[name] = lines
    assert not too_long


@pytest.mark.slow
def test_tracked_files_name_no_registry_host_and_no_path_of_a_machine():
    finds = []
    for path in tracked_files():
        if path.suffix in (".parquet", ".png", ".npy"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if FORBIDDEN.search(line):
                finds.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not finds


def test_no_lock_file_is_tracked():
    """A lock written by uv always holds the addresses of the registry it was resolved on."""
    assert not [path for path in tracked_files() if path.name in ("uv.lock", "pylock.toml", "poetry.lock")]


def strings_of(path) -> list[str]:
    """String constants of a module that are not docstrings."""
    tree = tree_of(path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize("folder", ["loop", "contract", "backends", "sandbox"])
def test_candidates_are_never_started_through_uv(folder):
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        assert not [text for text in strings_of(path) if text == "uv" or "uv run" in text], path


def test_candidates_are_started_with_our_own_interpreter_and_a_safe_path():
    from autoresearch.sandbox.environment import interpreter

    command = interpreter("autoresearch.contract.channel")
    assert command[0] == sys.executable
    assert "-P" in command


@pytest.mark.slow
def test_only_the_roof_prints():
    """The library logs or returns; what is shown is decided at the command line."""
    for path in modules():
        if path.relative_to(PACKAGE).parts[0] == "cli" or path.name == "live.py":
            continue
        calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        assert not [call.lineno for call in calls if getattr(call.func, "id", "") == "print"], path


@pytest.mark.slow
def test_no_module_swallows_every_exception():
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                bare = node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
                reraised = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                assert not bare or reraised, f"{path}:{node.lineno}"
