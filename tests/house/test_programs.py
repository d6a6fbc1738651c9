"""The programs that agents follow say what the code does: files, fields of the answer, and when to stop."""

from __future__ import annotations

import ast
import re

import pytest
from source_tree import ROOT, tree_of

from autoresearch.cli.preflight import RECIPE_NAMES
from autoresearch.loop.attempt import SessionLimits, answer_of
from autoresearch.workspace import BRANCH_PREFIX, SCOPES, WORKSPACE_FILES

PAGES = {"model": "program.md", "data": "program_data.md"}


def page(program: str) -> str:
    return (ROOT / PAGES[program]).read_text(encoding="utf-8")


def first_cells(text: str, header: str) -> list[str]:
    """The backticked names in the first column of the table under that header line."""
    lines = text.splitlines()
    rows = lines[lines.index(header) + 2 :]
    end = next((i for i, line in enumerate(rows) if not line.startswith("|")), len(rows))
    return [name for row in rows[:end] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


@pytest.mark.parametrize("program", list(SCOPES))
def test_the_table_of_a_program_lists_its_scope_and_forbids_the_other(program):
    text = page(program)
    assert tuple(first_cells(text, "| may be edited | must not be edited |")) == SCOPES[program]
    lines = text.splitlines()
    row = lines[lines.index("| may be edited | must not be edited |") + 2]
    forbidden = re.findall(r"`([^`]+)`", row.split("|")[2])
    assert {name for other, names in SCOPES.items() if other != program for name in names} <= set(forbidden)


def test_every_program_comes_with_a_new_workspace():
    assert set(PAGES.values()) <= set(WORKSPACE_FILES)


def fields_of_the_answer() -> set[str]:
    """The names that `answer_of` writes."""
    source = tree_of(ROOT / "src/autoresearch/loop/attempt.py")
    function = next(node for node in source.body if getattr(node, "name", "") == answer_of.__name__)
    nodes = list(ast.walk(function))
    literal = next(node.value for node in nodes if isinstance(node, ast.AnnAssign) and node.target.id == "answer")
    stored = [node for node in nodes if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)]
    return {key.value for key in literal.keys} | {node.slice.value for node in stored}


def test_every_field_of_the_answer_is_explained_and_no_other():
    plain = {"tag", "experiment", "commit", "queue_seconds", "seconds"}  # need no words
    assert set(first_cells(page("model"), "| field | meaning |")) == fields_of_the_answer() - plain


@pytest.mark.parametrize("program", list(PAGES))
def test_the_sentence_that_ends_a_night_is_the_one_that_the_agent_is_told_to_look_for(program, monkeypatch):
    monkeypatch.setattr(SessionLimits, "left", lambda *_: {"experiments_left": 0})
    said = SessionLimits(7, None).reached(None, None)
    start, end = re.search(r'`try` says "([^"]*) … ([^"]*)"', page(program)).groups()
    assert said.startswith(start)
    assert said.endswith(end)
    assert said != f"{start} {end}"


@pytest.mark.parametrize("program", list(PAGES))
def test_a_program_has_every_part_of_a_protocol_and_is_in_force(program):
    titles = re.findall(r"^## (.+)$", page(program), re.MULTILINE)
    wanted = ["Files", "Goal", "Setup", "One experiment", "Crashes, timeouts, refusals", "When to stop"]
    assert [title for title in titles if title in wanted] == wanted
    assert "not in force" not in page(program).lower()
    assert "Never push" in page(program)


def test_the_data_program_keeps_to_its_own_branch_and_files():
    text = page("data")
    assert f"`{BRANCH_PREFIX['data']}/<tag>`" in text
    assert f"git show {BRANCH_PREFIX['data']}/<tag>:data_sources.py" in text
    assert "--program data" in text


def test_the_names_that_a_recipe_must_keep_are_those_that_the_recipe_defines_and_preflight_asks_for():
    for name, functions in RECIPE_NAMES.items():
        defined = {node.name for node in tree_of(ROOT / name).body if isinstance(node, ast.FunctionDef)}
        assert set(functions) <= defined
        assert all(re.search(rf"`{function}\b", page("data")) for function in functions)
    assert set(RECIPE_NAMES) == set(SCOPES["data"])
