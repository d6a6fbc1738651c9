import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.proposers.novelty import is_seed_only, normalised, num_code_lines, parse_program, same_program

PROGRAM = '''"""A file."""
from prepare import SEED

DEPTH = 4  # layers
LR = 0.04


def build(depth):
    """Builds."""
    torch.manual_seed(SEED)
    return [depth, LR]
'''


def test_comments_docstrings_and_layout_do_not_make_a_new_program():
    again = "from prepare import SEED\nDEPTH=4\nLR = 4e-2 # a rate\ndef build(depth):\n  torch.manual_seed(SEED)\n\n  return [depth,\n LR]"
    assert same_program(PROGRAM, again)


def test_a_function_that_is_only_a_docstring_equals_one_that_passes():
    assert same_program('def f():\n    """Nothing."""\n', "def f():\n    pass\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LR = 0.04", "LR = 0.05"),
        ("DEPTH = 4", "DEPTH = 4.0"),
        ("[depth, LR]", "(depth, LR)"),
        ("DEPTH = 4", "DEPTH = True"),
    ],
)
def test_any_other_value_makes_a_new_program(old, new):
    assert not same_program(PROGRAM, PROGRAM.replace(old, new))


def test_text_inside_a_string_counts_unless_it_is_a_docstring():
    assert not same_program('x = "a"  # b', 'x = "b"  # b')


def test_broken_texts_are_the_same_only_when_equal():
    assert same_program("def (", "def (")
    assert not same_program("def (", "def  (")


def test_lines_of_code_are_counted_with_every_statement_in_one_form():
    again = "from prepare import SEED\nDEPTH=4; LR = 4e-2 # a rate\ndef build(depth):\n  torch.manual_seed(SEED)\n\n  return [depth,\n LR]"
    assert num_code_lines({"train.py": PROGRAM}) == num_code_lines({"train.py": again}) == 6
    assert num_code_lines({"a.py": PROGRAM, "b.py": "x = 1\n"}) == 7


def test_of_a_text_that_does_not_parse_every_line_counts():
    assert num_code_lines({"train.py": "def (\n\n# a comment\n"}) == 2


@pytest.mark.parametrize("text", ["x = (", "x = '\0'", "(" * 5000 + ")" * 5000])
def test_whatever_the_parser_dislikes_is_a_syntax_error(text):
    with pytest.raises(SyntaxError):
        parse_program(text)
    with pytest.raises(SyntaxError):
        normalised(text)


@given(st.text(alphabet="# abcäß\t", max_size=30))
def test_a_comment_anywhere_never_changes_the_program(comment):
    lines = PROGRAM.splitlines()
    assert same_program(PROGRAM, "\n".join([*lines[:4], "# " + comment, *lines[4:], "#" + comment]))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SEED = 42", "SEED = 137"),
        ("TRAIN_SEED: int = 42", "TRAIN_SEED: int = 1"),
        ("torch.manual_seed(SEED)", "torch.manual_seed(137)"),
        ("torch.manual_seed(SEED)", "torch.manual_seed(SEED + 1)"),
        ("x = 1", "x = 1\ntorch.manual_seed(3)"),
        ("g = torch.Generator().manual_seed(1)", "g = torch.Generator().manual_seed(2)"),
        ("rng = numpy.random.default_rng(1)", "rng = numpy.random.default_rng(2)"),
        ("train(seed=1)", "train(seed=2)"),
        ("def train(x, seed=1): pass", "def train(x, seed=2): pass"),
        ('PRESET_OVERRIDES = {"tiny": {"SEED": 1}}', 'PRESET_OVERRIDES = {"tiny": {"SEED": 2}}'),
        ("mx.random.seed(SEED)", "mx.random.seed(SEED * 7 + 3)"),
    ],
)
def test_an_edit_of_the_seed_alone_is_seed_only(before, after):
    assert is_seed_only(before, after)
    assert is_seed_only(after, before)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SEED = 42", "SEED = 42"),
        ("SEED = 42", "SEED = 42  # lucky"),
        ("SEED = 42\nLR = 1", "SEED = 137\nLR = 2"),
        ("LR = 1", "LR = 2"),
        ("SEEDLING = 1", "SEEDLING = 2"),
        ("LR = SEED * RATE", "LR = SEED * OTHER"),
        ("SEED = 42", "SEED = ("),
    ],
)
def test_no_edit_or_an_edit_of_more_is_not_seed_only(before, after):
    assert not is_seed_only(before, after)
