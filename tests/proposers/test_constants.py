import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.proposers.constants import Constants, read_constants, rewrite
from autoresearch.vocabulary import AutoresearchError

SOURCE = """# größe ✓
LR = 0.04  # é: the rate
TOTAL = 2**19
ROWS = 524_288
BETAS = (0.8, 0.95)
PATTERN = 'SSSL'
FUSED = True
lower = 3
DTYPE = torch.float32
TWICE = 1
if FUSED:
    TWICE = 2
PRESET_OVERRIDES = {"tiny": {"LR": 0.08, "EXTRA": 5}, "small": {"ROWS": 65536}}
"""


def values(constants: Constants) -> dict[str, object]:
    return {name: literal.value for name, literal in constants.literals.items()}


def test_the_presets_own_entry_is_in_force_and_the_top_level_one_where_it_has_none():
    assert values(read_constants(SOURCE, "tiny")) == {
        "LR": 0.08,
        "TOTAL": 2**19,
        "ROWS": 524288,
        "BETAS[0]": 0.8,
        "BETAS[1]": 0.95,
        "PATTERN": "SSSL",
        "FUSED": True,
        "EXTRA": 5,
    }
    assert values(read_constants(SOURCE, "standard"))["LR"] == 0.04
    assert values(read_constants(SOURCE, "small"))["ROWS"] == 65536


def test_names_that_are_not_one_literal_are_listed_with_the_reason():
    skipped = read_constants(SOURCE, "tiny").skipped
    assert set(skipped) == {"DTYPE", "TWICE"}
    assert skipped["TWICE"] == "assigned in more than one place"


def test_reading_never_runs_the_file():
    assert values(read_constants("import nowhere_at_all\nraise SystemExit\nLR = 1.5\nA = print('run')\n", "tiny")) == {
        "LR": 1.5
    }


@pytest.mark.parametrize("table", ["make()", '{"tiny": make()}', '{**BASE, "small": {}}', '{"tiny": {**BASE}}'])
def test_an_override_table_that_cannot_be_read_hides_the_constants_rather_than_guessing(table):
    constants = read_constants(f"LR = 0.1\nPRESET_OVERRIDES = {table}\n", "tiny")
    assert not constants.literals
    assert "PRESET_OVERRIDES" in constants.skipped["LR"]


@pytest.mark.parametrize(
    ("preset", "changes", "old", "new"),
    [
        ("standard", {"LR": 0.055}, "LR = 0.04  # é", "LR = 0.055  # é"),
        ("tiny", {"LR": 0.1}, '"LR": 0.08', '"LR": 0.1'),
        ("tiny", {"TOTAL": 2**18}, "2**19", "2**18"),
        ("tiny", {"ROWS": 262144}, "524_288", "262_144"),
        ("tiny", {"BETAS[1]": 0.975}, "(0.8, 0.95)", "(0.8, 0.975)"),
        ("tiny", {"PATTERN": "SL"}, "'SSSL'", "'SL'"),
        ("tiny", {"FUSED": False}, "FUSED = True", "FUSED = False"),
    ],
)
def test_an_edit_replaces_the_literal_in_force_and_leaves_every_other_byte(preset, changes, old, new):
    assert rewrite(SOURCE, read_constants(SOURCE, preset), changes) == SOURCE.replace(old, new)


def test_two_constants_are_rewritten_together():
    edited = rewrite(SOURCE, read_constants(SOURCE, "tiny"), {"LR": 0.1, "TOTAL": 1024})
    assert edited == SOURCE.replace('"LR": 0.08', '"LR": 0.1').replace("2**19", "2**10")


def test_a_value_that_the_old_way_of_writing_cannot_say_is_refused():
    with pytest.raises(AutoresearchError, match="power of two"):
        rewrite(SOURCE, read_constants(SOURCE, "tiny"), {"TOTAL": 1000})


def test_a_value_that_would_become_code_is_refused():
    with pytest.raises(AutoresearchError, match="edit"):
        rewrite(SOURCE, read_constants(SOURCE, "tiny"), {"PATTERN": "S' + evil() + 'L"})


@given(
    comment=st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    value=st.floats(min_value=1e-12, max_value=1e12),
)
def test_positions_hold_for_any_text_and_line_ending(comment, ending, value):
    source = ending.join([f'NOTE = "{"é" * len(comment)}"; LR = 0.5  # {comment}', "DEPTH = 3", ""])
    edited = rewrite(source, read_constants(source, "tiny"), {"LR": value, "DEPTH": 7})
    assert edited == source.replace("LR = 0.5", f"LR = {value!r}", 1).replace("DEPTH = 3", "DEPTH = 7")
    assert ast.parse(edited)
