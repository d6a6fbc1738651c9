"""The catalogue is read strictly, and everything shipped fits the train.py of this checkout."""

from __future__ import annotations

import re
import tomllib

import pytest

from autoresearch.contract.rules import Clock, rules_for
from autoresearch.redteam.checks import ALWAYS, CHECKS
from autoresearch.redteam.doors import ATTACKS
from autoresearch.redteam.entries import (
    CATALOGUE,
    CatalogueError,
    Entry,
    Expect,
    Kind,
    chosen,
    fields_used,
    load_catalogue,
    load_entry,
    recipe_for,
    source_for,
)
from autoresearch.vocabulary import UsageError
from autoresearch.workspace import SCOPES, template_path

TRAIN = template_path("train.py").read_text(encoding="utf-8")
RECIPE = {name: template_path(name).read_text(encoding="utf-8") for name in SCOPES["data"]}
CHEAT = """\
title = "a cheat"
tried = "something"
source = "own"
kind = "cheat"
expect = "same score"
defended_by = ["referee"]
"""
TINY = "import os\n\nfrom prepare import (\n    SEED,\n    Tokenizer,\n)\n\nDEPTH = 8\nWIDTH = 8\n"
README = (CATALOGUE / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """A function that writes an entry's folder: cheat.toml, and payload.py when given."""

    def write(text: str = CHEAT, *, payload: str | None = "x = 1\n", name: str = "A01_a_cheat"):
        path = tmp_path / name
        path.mkdir()
        (path / "cheat.toml").write_text(text, encoding="utf-8")
        if payload is not None:
            (path / "payload.py").write_text(payload, encoding="utf-8")
        return path

    return write


def test_an_entry_is_what_its_folder_says(folder):
    text = CHEAT + 'needs = []\nchecks = ["no_contact"]\nseconds = 5\nrepeat = 2\n[preset_overrides]\nclock = "steps"\n'
    entry = load_entry(folder(text))
    assert (entry.id, entry.kind, entry.expect) == ("A01", Kind.CHEAT, (Expect.SAME_SCORE,))
    assert (entry.checks, entry.seconds, entry.repeat, entry.payload) == (("no_contact",), 5.0, 2, "x = 1\n")
    rules = entry.rules(rules_for("smoke"))
    assert (rules.trial_deadline, rules.clock) == (5.0, Clock.STEPS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CHEAT + "colour = 1\n", "unknown key 'colour'"),
        (CHEAT.replace("same score", "victory"), "victory"),
        (CHEAT.replace('"cheat"', '"trick"'), "trick"),
        (CHEAT.replace('"referee"', '"police"'), "police"),
        (CHEAT.replace('title = "a cheat"\n', ""), "'title'"),
        (CHEAT.replace('defended_by = ["referee"]\n', ""), "defended_by"),
        (CHEAT + 'needs = ["files"]\n', "must be among"),
        (CHEAT + 'needs = ["referee"]\n', "operating system"),
        (CHEAT + 'checks = ["no_such_check"]\n', "no check 'no_such_check'"),
        (CHEAT + 'reason = "("\n', "regular expression"),
        (CHEAT + "repeat = 4\n", "repeat"),
        (CHEAT + "deep = 1\n", "'deep' must be bool"),
        (CHEAT + "repeat = true\n", "'repeat' must be int"),
        (CHEAT + "[preset_overrides]\nspeed = 1\n", "no rule 'speed'"),
        (CHEAT + '[preset_overrides]\nclock = "cpu"\n', "same score only on the clock"),
        (CHEAT + '[[edit]]\nfind = "x"\n', "`find` and `put`"),
        (CHEAT.replace('"same score"', '"finished"'), "needs `checks`"),
        (CHEAT.replace('"same score"', '"harmless"'), "`door`"),
        (CHEAT + 'door = "loop"\nattack = "propose"\n', "`door`"),
        (CHEAT.replace('"cheat"', '"control"'), "control"),
        (CHEAT + "recipe = 1\n", "'recipe' must be bool"),
        (
            CHEAT.replace("same score", "harmless") + 'recipe = true\ndoor = "loop"\nattack = "propose"\n',
            "an entry with a `door` is none",
        ),
        ("title = \n", "cannot be read"),
    ],
)
def test_a_mistake_in_a_folder_is_told_with_its_name(folder, text, told):
    with pytest.raises(CatalogueError) as caught:
        load_entry(folder(text))
    assert told in caught.value.message
    assert "A01_a_cheat" in caught.value.message


def test_a_folder_whose_name_is_no_identifier_is_refused(folder):
    with pytest.raises(CatalogueError, match="its name is not like"):
        load_entry(folder(name="cheat_1"))


def test_a_cheat_that_edits_nothing_is_refused(folder):
    with pytest.raises(CatalogueError, match="edits nothing"):
        load_entry(folder(payload=None))


def test_one_identifier_cannot_be_two_entries(folder):
    parent = folder().parent
    folder(name="A01_another")
    with pytest.raises(CatalogueError, match="both A01"):
        load_catalogue(parent)


def edited(path, text: str = TINY, **values) -> str:
    return source_for(load_entry(path), text, values)


def test_the_payload_stands_after_the_whole_import_and_knows_its_fields(folder):
    text = edited(folder(payload='place = "{{HOME}}"\n'), HOME="somewhere")
    assert text.splitlines()[5:10] == [")", "", 'place = "somewhere"', "", ""]


def test_a_field_that_nobody_fills_is_an_error(folder):
    with pytest.raises(CatalogueError, match=r"no field \{\{NOWHERE\}\}"):
        edited(folder(payload='x = "{{NOWHERE}}"\n'), HOME="x")


@pytest.mark.parametrize(("find", "times"), [("DEPTH = 9", 0), ("= 8", 2)])
def test_an_edit_that_does_not_apply_once_is_an_error_naming_folder_and_text(folder, find, times):
    text = CHEAT + f"[[edit]]\nfind = '''{find}'''\nput = 'x'\n"
    with pytest.raises(CatalogueError, match=f"A01_a_cheat.*applies {times} times: '{find}'"):
        edited(folder(text))


def test_edits_are_made_in_order(folder):
    text = CHEAT + "[[edit]]\nfind = 'DEPTH = 8'\nput = 'DEPTH = 9'\n[[edit]]\nfind = 'DEPTH = 9'\nput = 'DEPTH = 10'\n"
    assert "DEPTH = 10\n" in edited(folder(text))


def test_a_file_that_no_longer_compiles_is_an_error(folder):
    with pytest.raises(CatalogueError, match="does not compile"):
        edited(folder(payload="def broken(:\n"))


def test_a_train_file_without_the_import_has_no_place_for_a_payload(folder):
    with pytest.raises(CatalogueError, match="no place for a payload"):
        edited(folder(), "x = 1\n")


# -- recipes -------------------------------------------------------------------------------------------------------------

TINY_RECIPE = {"prepare.py": "import data_sources\n\nSIZE = 1\n", "data_sources.py": "ORDER = 2\nSHARE = 3\n"}


def cooked(path, **values) -> dict[str, str]:
    return recipe_for(load_entry(path), TINY_RECIPE, values)


def test_a_recipes_payload_ends_prepare_py_and_its_edits_find_their_file(folder):
    text = CHEAT + "recipe = true\n[[edit]]\nfind = 'ORDER = 2'\nput = 'ORDER = {{TURN}}'\n"
    text += "[[edit]]\nfind = 'SIZE = 1'\nput = 'SIZE = 10'\n"
    made = cooked(folder(text, payload='place = "{{HOME}}"\n'), HOME="somewhere", TURN="7")
    assert made["data_sources.py"] == "ORDER = 7\nSHARE = 3\n"
    assert made["prepare.py"] == 'import data_sources\n\nSIZE = 10\n\n\nplace = "somewhere"\n'
    assert TINY_RECIPE["prepare.py"].endswith("SIZE = 1\n"), "the shipped text is left alone"


@pytest.mark.parametrize(("find", "times"), [("ORDER = 9", 0), (" = ", 3), ("data_sources", 1)])
def test_a_recipes_edit_applies_to_one_place_of_one_file(folder, find, times):
    entry = folder(CHEAT + f"recipe = true\n[[edit]]\nfind = '{find}'\nput = 'json'\n", payload=None)
    if times == 1:
        assert cooked(entry)["prepare.py"].startswith("import json\n")
    else:
        with pytest.raises(CatalogueError, match=f"A01_a_cheat.*applies {times} times"):
            cooked(entry)


def test_a_recipe_that_no_longer_compiles_is_an_error_naming_the_file(folder):
    text = CHEAT + "recipe = true\n[[edit]]\nfind = 'SHARE = 3'\nput = 'SHARE ='\n"
    with pytest.raises(CatalogueError, match=r"the edited data_sources\.py does not compile"):
        cooked(folder(text, payload=None))


def test_an_entry_is_a_recipe_only_where_it_says_so(folder):
    assert not load_entry(folder()).recipe
    assert load_entry(folder(CHEAT + "recipe = true\n", name="R01_a_recipe")).recipe


# -- what is shipped ----------------------------------------------------------------------------------------------------

SHIPPED = load_catalogue()


def documented_fields() -> set[str]:
    section = README.split("### {{FIELDS}}")[1].split("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.folder.name)
def test_every_shipped_entry_applies_to_the_files_of_this_checkout_and_compiles(entry: Entry):
    values = {} if entry.door else dict.fromkeys(documented_fields(), "7")
    if entry.recipe:
        made = recipe_for(entry, RECIPE, values)
        assert made.keys() == RECIPE.keys() and made != RECIPE
    elif entry.door is None or entry.edits or entry.payload:
        text = source_for(entry, TRAIN, values)
        assert (text == TRAIN) == (not entry.edits and not entry.payload)


@pytest.mark.parametrize("entry", [e for e in SHIPPED if e.door], ids=lambda entry: entry.folder.name)
def test_every_shipped_attack_is_one_that_its_door_knows(entry: Entry):
    assert (entry.door, entry.attack) in ATTACKS


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.folder.name)
def test_every_shipped_rejection_says_for_what_reason(entry: Entry):
    if {Expect.REJECTED, Expect.REFUSED_BEFORE_START} & set(entry.expect):
        assert entry.reason


def test_the_group_r_are_the_cheats_that_are_recipes():
    cheats = [entry for entry in SHIPPED if entry.kind is Kind.CHEAT]
    assert all(entry.recipe == entry.id.startswith("R") for entry in cheats)
    assert sum(entry.recipe for entry in cheats) >= 22
    assert sum(entry.recipe for entry in SHIPPED if entry.kind is Kind.CONTROL) >= 4


def test_identifiers_are_unique_and_controls_are_the_group_h():
    assert len({entry.id for entry in SHIPPED}) == len(SHIPPED)
    assert all((entry.kind is Kind.CONTROL) == entry.id.startswith("H") for entry in SHIPPED)


def test_every_check_and_key_is_in_the_readme_and_no_other_check():
    section = README.split("## Checks")[1].split("\n## ")[0]
    assert set(re.findall(r"`([a-z]+_[a-z_]+)`", section)) == set(CHECKS)
    for name in ALWAYS:
        assert name in section.split("| check |")[0]
    keys = {key for entry in SHIPPED for key in tomllib.loads((entry.folder / "cheat.toml").read_text())}
    assert not [key for key in keys if f"`{key}`" not in README and f"[[{key}]]" not in README]


def test_fields_used_by_shipped_entries_are_documented():
    assert not set().union(*(fields_used(entry) for entry in SHIPPED)) - documented_fields()


def test_a_group_is_chosen_by_its_letter_and_an_entry_by_its_identifier():
    assert [entry.id for entry in chosen(SHIPPED, ["b01", "H01"])] == ["B01", "H01"]
    assert {entry.id[0] for entry in chosen(SHIPPED, ["E"])} == {"E"}


def test_an_unknown_identifier_is_wrong_usage():
    with pytest.raises(UsageError, match="Z99"):
        chosen(SHIPPED, ["Z99"])
