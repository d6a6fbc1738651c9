import subprocess

import pytest
from histories import SOURCE, past, situation
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.proposers.novelty import same_program
from autoresearch.proposers.retest import files_before, files_of, merge_texts, shaky_keeps, taken_out
from autoresearch.vocabulary import Status

K = Status.KEEP
PLACE = {"preset": "standard"}
# Distinct lines: where lines repeat, which of them was removed is a matter of taste and tools differ.
texts = st.lists(st.integers(0, 30), unique=True, max_size=20).map(lambda rows: "".join(f"line {n}\n" for n in rows))


def edited(*pairs: tuple[str, str], text: str = SOURCE) -> str:
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


BLOCK = ("y = x * 2", "y = x * 3")
HEAD = ("return x + 1", "return x + 2")
RATE = ("MATRIX_LR = 0.04", "MATRIX_LR = 0.08")
DECAY = ("WEIGHT_DECAY = 0.2", "WEIGHT_DECAY = 0.1")
RATE_SAID = {"changes": {"MATRIX_LR": [0.04, 0.08]}, "method": "tpe"}


@settings(deadline=None, max_examples=60)
@given(texts, texts)
def test_one_sided_edits_merge_to_that_side(base, edit):
    assert merge_texts(base=base, this=edit, other=base) == (edit, 0)
    assert merge_texts(base=base, this=base, other=edit) == (edit, 0)
    assert merge_texts(base=base, this=edit, other=edit) == (edit, 0)


@settings(deadline=None, max_examples=60)
@given(texts, texts, texts)
def test_the_sides_of_a_merge_may_be_swapped(base, this, other):
    assert merge_texts(base=base, this=this, other=other) == merge_texts(base=base, this=other, other=this)


@settings(deadline=None, max_examples=25)
@given(base=texts, this=st.integers(0, 19), other=st.integers(0, 19))
def test_what_merges_cleanly_here_is_what_git_makes_of_it(tmp_path_factory, base, this, other):
    folder = tmp_path_factory.mktemp("merge")
    rows = base.splitlines(keepends=True)
    sides = [[*rows[:at], mark, *rows[at + 1 :]] for at, mark in ((this, "mine\n"), (other, "theirs\n"))]
    for name, lines in (("base", rows), ("this", sides[0]), ("other", sides[1])):
        (folder / name).write_text("".join(lines), encoding="utf-8")
    command = ["git", "merge-file", "-p", "--quiet", "this", "base", "other"]
    git = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    mine, _ = merge_texts(base=base, this="".join(sides[0]), other="".join(sides[1]))
    assert (mine is None) == (git.returncode != 0)
    if mine is not None:
        assert mine == git.stdout


def test_every_byte_outside_the_edits_comes_back():
    base = "a\r\nb\x0b\n\tc\u2028\nd\ne"
    merged = merge_texts(base=base, this=base.replace("d", "D"), other=base.replace("a", "A"))
    assert merged == ("A\r\nb\x0b\n\tc\u2028\nD\ne", 0)


def test_two_edits_of_the_same_line_conflict_and_are_counted():
    assert merge_texts(base="a\nb\nc\nd\ne\n", this="A\nb\nc\nD\ne\n", other="x\nb\nc\ny\ne\n") == (None, 2)


def test_only_old_keeps_that_rest_on_little_and_were_not_retested_are_retested():
    weak = past(1, K, p_better=0.82, interval=(-0.001, 0.004))
    weaker = past(2, K, p_better=0.81, interval=(-0.002, 0.004))
    sure = past(3, K, p_better=0.999, interval=(0.002, 0.006))
    lucky_last = past(4, K, p_better=0.8)
    here = situation(weak, weaker, sure, past(5), lucky_last)
    assert [keep.number for keep in shaky_keeps(here)] == [2, 1]
    again = situation(weak, weaker, sure, past(6, operator="retest", details={"retested": 2}), lucky_last)
    assert [keep.number for keep in shaky_keeps(again)] == [1]


def test_what_was_kept_for_its_brevity_is_no_luck_to_be_taken_out():
    shorter, weak = past(1, K, p_better=0.4, gain=-0.001), past(2, K, p_better=0.81, gain=0.01)
    assert [keep.number for keep in shaky_keeps(situation(shorter, weak, past(3, K, p_better=0.99)))] == [2]


def test_an_old_keep_of_code_is_taken_out_and_what_came_after_stays():
    first = past(1, K, text=edited(RATE), details=RATE_SAID)
    second = past(2, K, text=edited(RATE, BLOCK), base=1)
    here = situation(first, second, incumbent=edited(RATE, BLOCK, HEAD), incumbent_number=3)
    merge = taken_out(second, here, **PLACE)
    assert merge.files == {"train.py": edited(RATE, HEAD)}


def test_a_constant_is_set_back_by_name_beside_a_line_that_changed_too():
    """The neighbouring lines both changed: a merge by lines would conflict."""
    keep = past(1, K, text=edited(RATE), details=RATE_SAID)
    incumbent = edited(RATE, ("EMBEDDING_LR = 0.6", "EMBEDDING_LR = 0.9"), DECAY)
    merge = taken_out(keep, situation(keep, incumbent=incumbent, incumbent_number=2), **PLACE)
    assert merge.files == {"train.py": incumbent.replace("0.08", "0.04")}


def test_the_entry_in_force_for_the_preset_is_set_back():
    text = edited(('{"DEPTH": 2}', '{"DEPTH": 3}'))
    keep = past(1, K, text=text, details={"changes": {"DEPTH": [2, 3]}, "method": "tpe"})
    here = situation(keep, incumbent=text + "# more\n", incumbent_number=2)
    merge = taken_out(keep, here, preset="tiny")
    assert merge.files == {"train.py": SOURCE + "# more\n"}


def test_a_conflict_is_a_value_and_not_a_text():
    first = past(1, K, text=edited(RATE), details=RATE_SAID)
    second = past(2, K, text=edited(RATE, BLOCK), base=1)
    here = situation(first, second, incumbent=edited(RATE, ("y = x * 2", "y = x * 3 + 1")), incumbent_number=3)
    assert taken_out(second, here, **PLACE).files is None


def test_a_merge_that_does_not_parse_is_a_conflict():
    """The keep put code into a string, and what came later was written into that string."""
    rows = "".join(f"step_{n} = {n}\n" for n in range(6))
    first = past(1, K, text=SOURCE + rows)
    second = past(2, K, text=f'{SOURCE}"""\n{rows}"""\n', base=1)
    later = second.files["train.py"].replace("step_2 = 2\n", "step_2 = 2\nnow these are words\n")
    here = situation(first, second, incumbent=later, incumbent_number=3)
    assert merge_texts(base=second.files["train.py"], this=later, other=first.files["train.py"])[1] == 0
    merge = taken_out(second, here, **PLACE)
    assert (merge.files, merge.conflicts) == (None, 1)


def test_what_is_no_longer_in_the_incumbent_is_nothing_to_take_out():
    first, second = past(1, K, text=edited(RATE)), past(2, K, text=edited(RATE, BLOCK), base=1)
    here = situation(first, second, incumbent=edited(RATE, HEAD), incumbent_number=3)
    assert taken_out(second, here, **PLACE) is None


def test_a_keep_whose_text_before_is_not_known_is_left_alone():
    keep = past(1, K, text=edited(BLOCK), base=0)
    assert taken_out(keep, situation(keep, incumbent=edited(BLOCK, HEAD), incumbent_number=2), **PLACE) is None


def test_the_baseline_is_found_by_undoing_any_edit_of_constants():
    of_search = past(2, text=edited(RATE), details=RATE_SAID)
    keep = past(1, K, text=edited(BLOCK), base=0)
    here = situation(keep, of_search, incumbent=edited(BLOCK, HEAD), incumbent_number=3)
    assert files_of(0, here, **PLACE) == {"train.py": SOURCE}
    assert files_before(keep, here, **PLACE) == {"train.py": SOURCE}
    assert same_program(taken_out(keep, here, **PLACE).files["train.py"], edited(HEAD))


@pytest.mark.parametrize(
    "changes", [{"NOT_THERE": [1, 2]}, {"MATRIX_LR": [0.04, 0.09]}, {"ADAM_BETAS": [[0.8], [0.8, 0.95]]}, {"DEPTH": 3}]
)
def test_changes_that_do_not_fit_the_text_undo_nothing(changes):
    keep = past(1, K, text=edited(RATE), details={"changes": changes, "method": "tpe"})
    here = situation(keep, incumbent=edited(RATE, BLOCK), incumbent_number=2)
    assert files_before(keep, here, **PLACE) is None
    assert taken_out(keep, here, **PLACE) is None
