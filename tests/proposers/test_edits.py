import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoresearch.proposers.constants import read_constants
from autoresearch.proposers.edits import apply_idea
from autoresearch.proposers.idea import Edit, Idea
from autoresearch.providers.exchange import UnusableReply

BANNER = "# Edited by the model program (program.md)."
FILE = f'''{BANNER}
"""Größe."""
DEPTH = 8  # layers
LR = 0.1
WARMUP_RATIO = 0
BATCH = 2**19
PATTERN = "SSSL"
TIED = False
BETAS = (0.8, 0.95)
RATES = [x for x in BETAS]
PRESET_OVERRIDES = {{"tiny": {{"DEPTH": 2}}}}


def step(x):
\ty = x + 1
\treturn y


def other(x):
    y = x + 1
    return y
'''


def applied(*edits: Edit, source: str = FILE, preset: str = "tiny", **changes: object) -> str:
    return edited(Idea("d", edits=edits, changes=changes), source, preset)  # type: ignore[arg-type]


def edited(idea: Idea, source: str, preset: str = "tiny") -> str:
    return apply_idea(idea, {"train.py": source}, "train.py", preset)["train.py"]


def complaint(*edits: Edit, source: str = FILE, **changes: object) -> str:
    with pytest.raises(UnusableReply) as caught:
        applied(*edits, source=source, **changes)
    return caught.value.message


def test_a_text_that_occurs_once_is_replaced_and_nothing_else():
    assert applied(Edit("\ty = x + 1", "\ty = x + 2")) == FILE.replace("\ty = x + 1", "\ty = x + 2")
    assert applied(Edit('"""Größe."""', '"""Maß."""\nimport os')) == FILE.replace(
        '"""Größe."""', '"""Maß."""\nimport os'
    )


def test_all_blocks_refer_to_the_file_as_shown_in_any_order():
    edits = (Edit("def other(x):", "def step(x, z):"), Edit("def step(x):", "def other(x):"))
    swapped = (
        FILE.replace("def other(x):", "@").replace("def step(x):", "def other(x):").replace("@", "def step(x, z):")
    )
    assert applied(*edits) == applied(*reversed(edits)) == swapped


def test_an_empty_block_takes_whole_lines_out_but_only_a_part_of_a_line_otherwise():
    assert applied(Edit("LR = 0.1", "", lines=True)) == FILE.replace("LR = 0.1\n", "")
    assert applied(Edit("  # layers", "", lines=True), Edit("LR = 0.1", "LR = 0.2")) == FILE.replace(
        "  # layers", ""
    ).replace("LR = 0.1", "LR = 0.2")
    assert applied(Edit("LR = 0.1", "")) == FILE.replace("LR = 0.1", "")


def test_blocks_of_plain_lines_fit_a_file_with_crlf():
    source = FILE.replace("\n", "\r\n")
    assert applied(Edit("LR = 0.1\nWARMUP_RATIO = 0", "LR = 0.2\nA = 1\n"), source=source) == FILE.replace(
        "LR = 0.1\nWARMUP_RATIO = 0", "LR = 0.2\nA = 1\n"
    ).replace("\n", "\r\n")
    assert applied(Edit("LR = 0.1", "", lines=True), source=source) == FILE.replace("LR = 0.1\n", "").replace(
        "\n", "\r\n"
    )
    whole = FILE.replace("LR = 0.1", "LR = 0.3")
    assert edited(Idea("d", whole=whole), source, "tiny") == whole.replace("\n", "\r\n")


def test_a_missing_final_line_end_stays_missing():
    source = FILE.rstrip("\n")
    assert applied(Edit("LR = 0.1", "LR = 0.2"), source=source) == source.replace("LR = 0.1", "LR = 0.2")
    assert (
        applied(Edit("def other(x):\n    y = x + 1\n    return y", "", lines=True), source=source)
        == source.partition("def other")[0]
    )


def test_a_constant_is_set_where_it_is_in_force():
    assert applied(DEPTH=3) == FILE.replace('"DEPTH": 2', '"DEPTH": 3')
    assert applied(DEPTH=3, preset="standard") == FILE.replace("DEPTH = 8", "DEPTH = 3")
    assert applied(BETAS=[0.9, 0.95]) == applied(**{"BETAS[0]": 0.9}) == FILE.replace("(0.8, ", "(0.9, ")
    assert applied(BATCH=2**18, PATTERN="SL", TIED=True) == FILE.replace("2**19", "2**18").replace(
        "SSSL", "SL"
    ).replace("False", "True")


def test_numbers_are_written_in_the_kind_that_the_file_has():
    assert "DEPTH = 4  #" in applied(DEPTH=4.0, preset="standard")
    assert "LR = 1.0\n" in applied(LR=1)
    assert "WARMUP_RATIO = 0.05\n" in applied(WARMUP_RATIO=0.05)  # a fraction, though it is written as 0


def test_settings_and_blocks_work_together():
    assert applied(Edit("LR = 0.1", "LR = 0.1\nNEW = 5"), NEW=6) == FILE.replace("LR = 0.1", "LR = 0.1\nNEW = 6")


@pytest.mark.parametrize(
    ("edits", "changes", "said"),
    [
        ([Edit("y = x + 1", "y = 2")], {}, "occurs 2 times, at lines 15, 20"),
        (
            [Edit("def stepp(x):", "")],
            {},
            "occurs 0 times in the file. The closest place is line 14:\n    def step(x):",
        ),
        (
            [Edit("def step(x):\n    y = x + 1", "")],
            {},
            "Only its white space differs from lines 14 to 15:\n    def step(x):\n    \ty",
        ),
        ([Edit("def step(x):\n    y = 7", "")], {}, "The closest place is lines 14 to 15"),
        ([Edit("zzzzzzzz", "")], {}, "No line of the file is like it"),
        ([Edit("x + 1\n\treturn", "x"), Edit("\treturn y", "z")], {}, "Blocks 1 and 2 overlap at line 16"),
        ([Edit("LR = 0.1", "LR = 0.1")], {}, "changes nothing"),
        ([], {"LR": 0.1}, "changes nothing"),
        ([Edit("LR = 0.1", "LR = (")], {}, "not valid Python: '(' was never closed at line 4:\n    LR = ("),
        ([Edit(BANNER, "# mine")], {}, "Line 1 of the file must stay"),
        ([Edit("LR = 0.1", "LR = 0.1\0")], {}, "null byte"),
        ([Edit("LR = 0.1", "LR = '\ud800'")], {}, "surrogate"),
        ([Edit("LR = 0.1", f"LR = '{'x' * 1_000_000}'")], {}, "larger than 1,000,000 bytes"),
        ([], {"DEPHT": 3}, "no constant DEPHT. Close names: DEPTH"),
        ([], {"RATES": 3}, "cannot be set by name"),
        ([], {"BETAS": 0.9}, "set BETAS[0] and so on"),
        ([], {"BETAS": [0.9]}, "no list of 1 numbers"),
        ([], {"DEPTH": 2.5}, "whole number (2)"),
        ([], {"DEPTH": True}, "cannot become True"),
        ([], {"PATTERN": 3}, "same kind of value"),
        ([], {"BATCH": 1000}, "power of two"),
        ([], {"LR": -0.1}, "another value"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_place(edits, changes, said):
    assert said in complaint(*edits, **changes)


def test_a_whole_file_must_have_the_banner_and_parse():
    with pytest.raises(UnusableReply, match="must stay"):
        edited(Idea("d", whole="x = 1\n"), FILE, "tiny")
    with pytest.raises(UnusableReply, match="not valid Python"):
        edited(Idea("d", whole=f"{BANNER}\nx = = 1\n"), FILE, "tiny")
    assert edited(Idea("d", whole=f"{BANNER}\nx = 1\n"), FILE, "tiny") == f"{BANNER}\nx = 1\n"


def test_complaints_are_bounded():
    long = "x" * 100_000
    source = f"{BANNER}\n{long} = 1\nLR = 1\n"
    for edit in (Edit(f"{long} = 2", ""), Edit("y" * 100_000, ""), Edit("LR = 1", f"LR = {long} =")):
        assert len(complaint(edit, source=source)) < 1000


TEXTS = st.text(st.sampled_from("ab \t\n\r#ü\u2028\U0001f600'"), max_size=30)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS, TEXTS, TEXTS, st.sampled_from(["\n", "\r\n"]))
def test_an_edit_from_one_text_to_another_gives_the_other_and_leaves_the_rest_byte_for_byte(
    before, old, new, after, end
):
    """Comments, so that any text is a program; the middle is found because of its own two marks."""

    def program(middle: str) -> str:
        inside = "\n".join(f"# {part}" for part in f"{before}<{middle}>{after}".replace("\r", "").split("\n"))
        return f"{BANNER}\n{inside}\n".replace("\n", end)

    source, wanted = program(old), program(new)
    assume(source != wanted)
    start, stop = source.index("<"), source.rindex(">") + 1
    replacement = wanted[wanted.index("<") : wanted.rindex(">") + 1]
    result = applied(Edit(source[start:stop], replacement), source=source)
    assert result == wanted
    assert result.startswith(source[:start])
    assert result.endswith(source[stop:])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.floats(1e-9, 1e9), st.text("SL", min_size=1, max_size=9), st.booleans())
def test_constants_set_by_name_are_read_back(depth, rate, pattern, tied):
    wanted = {"DEPTH": depth, "LR": rate, "PATTERN": pattern, "TIED": tied}
    assume((depth, rate, pattern, tied) != (2, 0.1, "SSSL", False))
    literals = read_constants(applied(**wanted), "tiny").literals
    assert {name: literals[name].value for name in wanted} == wanted
