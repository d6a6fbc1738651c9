"""Filters: length and repetition within a document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.recipes.filters import (
    anything,
    length_within,
    repeated_lines,
    repeated_lines_within,
    repeated_ngrams,
    repeated_ngrams_within,
)
from autoresearch.vocabulary import UsageError


def test_length_counts_characters_and_both_limits_are_inside():
    kept = length_within(2, 4)
    assert [kept("é" * length) for length in range(1, 6)] == [False, True, True, True, False]
    assert length_within(3, 0)("x" * 10**6)
    assert not length_within(3, 0)("xx")


@pytest.mark.parametrize("limits", [(-1, 0), (0, -1), (5, 4)])
def test_limits_that_keep_nothing_are_refused(limits):
    with pytest.raises(UsageError):
        length_within(*limits)


def test_the_share_of_repeated_lines_ignores_blank_lines_and_indentation():
    assert repeated_lines("one\ntwo\n\n  one\n\nthree") == 0.25
    assert repeated_lines("") == 0.0


def test_the_share_of_repeated_runs_of_words():
    words = "a b c d e f"  # two runs of five
    assert repeated_ngrams(words) == 0.0
    assert repeated_ngrams("one two three four") == 0.0
    assert repeated_ngrams(" ".join(["spam"] * 14)) == pytest.approx(0.9)
    assert repeated_ngrams(f"{words} {words.upper()}") == pytest.approx(2 / 8)


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_shares_are_shares_and_repeating_a_document_raises_them(words):
    text = "\n".join(words)
    for share in (repeated_lines, lambda each: repeated_ngrams(each, 2)):
        assert 0.0 <= share(text) <= share(f"{text}\n{text}") < 1.0


def test_a_limit_drops_what_is_above_it_only():
    assert repeated_lines_within(0.25)("one\ntwo\none\nthree")
    assert not repeated_lines_within(0.24)("one\ntwo\none\nthree")
    assert not repeated_ngrams_within(0.5)(" ".join(["spam"] * 14))


def test_the_widest_limits_do_no_work():
    assert length_within(0, 0) is repeated_lines_within(1.0) is repeated_ngrams_within(1) is anything


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_a_limit_that_is_no_share_is_refused(limit):
    with pytest.raises(UsageError, match="share"):
        repeated_lines_within(limit)
