"""The pages agree with the program: every verb and flag, every link, every command they show."""

from __future__ import annotations

import argparse
import re
import shlex
import sqlite3
import tomllib

import pytest
from source_tree import ROOT, markdown_files

from autoresearch.cli.parser import build_parser
from autoresearch.contract.rules import PRESETS
from autoresearch.loop.settings import Settings, known_settings
from autoresearch.records.ledger import Ledger
from autoresearch.records.tables import HISTORY_COLUMNS

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)
PLACEHOLDERS = {
    "N": "1",
    "M": "2",
    "H": "8",
    "S": "1",
    "P": "tiny",
    "D": "embedded",
    "TAG": "nov21",
    "DIR": "mylab",
    "FILE": "train.py",
}


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def arguments_of(parser: argparse.ArgumentParser) -> set[str]:
    """Option strings and the metavars of positionals, without -h."""
    found = set()
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            found |= set(action.option_strings) or {str(action.metavar)}
    return found


def sections() -> dict[str, str]:
    """docs/commands.md by verb: each is a heading "## `verb`"."""
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    parts = re.split(r"^## `([a-z-]+)`\n", text, flags=re.MULTILINE)
    return {
        name: re.split(r"^## ", body, flags=re.MULTILINE)[0]
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_verb_is_in_the_docs_and_no_other():
    assert list(sections()) == list(verbs())


@pytest.mark.parametrize("verb", list(verbs()))
def test_every_argument_of_a_verb_is_in_its_table_and_no_other(verb):
    rows = [line for line in sections()[verb].splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^` ]+)[^`]*`", row.split("|")[1])}
    assert documented == arguments_of(verbs()[verb])


@pytest.mark.parametrize("page", markdown_files(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_are_alive(page):
    prose = "".join(FENCE.split(page.read_text(encoding="utf-8"))[::4]) or page.read_text(encoding="utf-8")
    for target in LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(found), f"{page.name}: {target}"


def anchors_of(page) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown_commands() -> list[tuple[str, str]]:
    """(page, command) of every `autoresearch …` in code of the pages."""
    found = []
    for page in markdown_files():
        text = page.read_text(encoding="utf-8")
        lines = [
            line.strip() for line in text.splitlines() if line.startswith("    ") or line.startswith("autoresearch ")
        ]
        for piece in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
            for command in piece.split("#")[0].split("&&"):
                words = command.strip()
                if re.match(r"(\.venv/bin/|uv run )?autoresearch [a-z]", words):
                    found.append((page.name, re.split(r"\s{3,}", words)[0]))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), shown_commands())
def test_every_command_that_a_page_shows_is_accepted(page, command):
    words = shlex.split(command)
    words = words[words.index(next(word for word in words if word.endswith("autoresearch"))) + 1 :]
    if len(words) == 1:  # a mention, not a command
        assert words[0] in verbs()
        return
    cleaned = [PLACEHOLDERS.get(word.strip("[]<>").upper() if word.startswith("<") else word, word) for word in words]
    build_parser().parse_args(cleaned)


def first_cells(page: str, heading: str) -> list[str]:
    """The backticked names in the first column of the first table under a heading, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_every_table_column_is_described_in_order():
    assert first_cells("records.md", "Tables") == list(HISTORY_COLUMNS)


def test_the_columns_of_the_ledger_are_the_documented_ones(tmp_path):
    Ledger(tmp_path / "ledger.sqlite3").close()
    section = (ROOT / "docs" / "records.md").read_text(encoding="utf-8").split("\n## ")[1]
    rows = {row.split("`")[1]: row.split("|")[2] for row in section.splitlines() if row.startswith("| `")}
    documented = {table: re.findall(r"`([^`]+)`", cell) for table, cell in rows.items()}
    database = sqlite3.connect(tmp_path / "ledger.sqlite3")
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")] for name in tables}
    database.close()
    assert documented == columns


def test_every_preset_is_in_the_table_with_its_numbers():
    text = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    rows = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:]]
        for line in text.splitlines()
        if re.match(r"\| `\w+` \| (climbmix|tinystories|embedded)", line)
    }
    assert set(rows) == set(PRESETS)
    for name, rules in PRESETS.items():
        dataset, row, vocabulary, budget, evaluation, _ = rows[name][:6]
        assert (dataset, int(row), int(vocabulary)) == (rules.dataset, rules.max_seq_len, rules.vocab_size)
        assert float(budget.split()[0]) == rules.time_budget
        product = 1
        for factor in evaluation.replace(",", "").split(" x "):
            product *= int(factor)
        assert product == rules.eval_tokens


def test_every_setting_is_in_the_guide_with_its_default():
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8").split("\n## Settings\n")[1]
    rows = {
        line.split("`")[1]: line.split("|")[2].strip().strip("`")
        for line in text.splitlines()
        if line.startswith("| `")
    }
    assert list(rows) == list(known_settings())
    defaults = {name: getattr(Settings(), name) for name in known_settings()}
    assert {name: rows[name] for name, value in defaults.items() if value is not None} == {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in defaults.items()
        if value is not None
    }


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for names in project["optional-dependencies"].values() for name in names),
    ]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted} - {"autoresearch"}
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert not {name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", page)}
