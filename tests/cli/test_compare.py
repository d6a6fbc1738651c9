"""The verb `compare` on a workspace in which a session was run."""

from __future__ import annotations

import json
import sqlite3

import pytest
from calling import done

from autoresearch.cli import main
from autoresearch.records.ledger import Ledger
from autoresearch.workspace import open_workspace


@pytest.fixture
def said(monkeypatch, capsys):
    """Call `compare` in a folder, in this process: exit code, standard output, standard error."""

    def call(root, *arguments):
        monkeypatch.chdir(root)
        monkeypatch.setenv("COLUMNS", "110")
        code = main(["compare", *arguments])
        words = capsys.readouterr()
        return code, words.out, words.err

    return call


@pytest.fixture
def compared(said):
    def call(root, *arguments):
        code, out, err = said(root, *arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


def labels(found) -> list[list[str]]:
    return [[entry["label"] for entry in group["entries"]] for group in found["groups"]]


def test_without_arguments_the_last_ones_are_set_beside_what_they_had_to_beat(lived_workspace, compared):
    found = compared(lived_workspace)
    assert labels(found) == [["0", "1", "2"]]
    assert found["comparable"] is True
    entry = found["groups"][0]["entries"][1]
    assert entry["against_reference"]["constants"]
    assert entry["base"] == "0"


def test_numbers_and_tags_name_experiments_and_the_first_is_the_reference(lived_workspace, compared):
    assert labels(compared(lived_workspace, "2", "0")) == [["2", "0"]]
    assert labels(compared(lived_workspace, "a:1", "a:1", "0")) == [["1", "0"]]
    assert labels(compared(lived_workspace, "--last", "1"))[0][-1] == "2"
    incumbent = [e["label"] for e in compared(lived_workspace)["groups"][0]["entries"] if e["status"] == "keep"][-1]
    assert labels(compared(lived_workspace, "a")) == [[incumbent]]


@pytest.mark.slow
def test_estimates_are_those_of_history(lived_workspace, compared):
    history = [json.loads(line) for line in done(lived_workspace, "history", "--json").splitlines()]
    entries = compared(lived_workspace)["groups"][0]["entries"]
    assert [entry["val_bpb"] for entry in entries] == [row["val_bpb"] for row in history]


def test_sessions_of_another_contract_stand_in_a_group_of_their_own(lived_workspace, compared, said):
    path = lived_workspace / ".git" / "autoresearch" / "ledger.sqlite3"
    database = sqlite3.connect(path)
    for name in ("sessions", "experiments"):  # session b: a copy of a's baseline, measured somewhere else
        database.execute(f"CREATE TEMP TABLE twin AS SELECT * FROM {name} WHERE tag = 'a'")
        database.execute("UPDATE twin SET tag = 'b'")
        if name == "sessions":
            database.execute("UPDATE twin SET fingerprint = 'ffffffffffffffff'")
        else:
            database.execute("DELETE FROM twin WHERE number > 0")
            database.execute("UPDATE twin SET judged_order = 1000")
        database.execute(f"INSERT INTO {name} SELECT * FROM twin")
        database.execute("DROP TABLE twin")
    database.commit()
    database.close()
    found = compared(lived_workspace, "a:0", "b:0")
    assert labels(found) == [["a:0"], ["b:0"]]
    assert found["comparable"] is False
    assert "cannot be compared" in said(lived_workspace, "a", "b")[1]


def test_the_table_is_plain_text(lived_workspace, said):
    _, out, _ = said(lived_workspace)
    assert out.startswith("contract smoke, fingerprint ")
    assert "\x1b" not in out
    assert " -> " in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["99"], 1, "no experiment 99"),
        (["nope"], 2, "no session 'nope' in this repository; known: a"),
        (["1", "--last", "2"], 2, "not both"),
        (["--last", "0"], 2, "from 1 on"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_next_step(lived_workspace, said, arguments, code, words):
    found, out, err = said(lived_workspace, *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "next: autoresearch" in err


def test_a_workspace_without_a_session_says_how_to_begin_one(make_workspace, said):
    code, _, err = said(make_workspace())
    assert code == 1
    assert "next: autoresearch research TAG" in err


def test_before_any_session_it_says_how_to_begin_one(make_workspace, said):
    root = make_workspace()
    for _ in range(2):  # without a ledger, then with an empty one
        code, _out, err = said(root, "3")
        assert (code, "autoresearch research TAG" in err, "None" in err) == (1, True, False)
        Ledger(open_workspace(root).ledger_path).close()
