"""Choosing documents: filters, duplicates across datasets, tiers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import Memory, sentence

from autoresearch.recipes.quality import scorer
from autoresearch.recipes.selection import select, tiers_of
from autoresearch.vocabulary import DataMissing, UsageError

TEXT = Memory(one=["aa", "bbbb", "", "cc"], two=["BBBB", "dddddd"])


def test_nothing_asked_keeps_every_document_in_its_order():
    chosen = select(TEXT, ["one", "two"])
    assert list(chosen.documents()) == ["aa", "bbbb", "cc", "BBBB", "dddddd"]
    assert chosen.groups == ("one/0", "two/0")
    assert chosen.removed == {"empty": 1}
    assert list(chosen.documents("two/0")) == ["BBBB", "dddddd"]


def test_the_first_filter_that_drops_a_document_is_the_one_that_counts():
    asked = {"short": lambda text: len(text) > 2, "has b": lambda text: "b" not in text.lower()}
    chosen = select(TEXT, ["one", "two"], filters=asked)
    assert list(chosen.documents()) == ["dddddd"]
    assert chosen.removed == {"short": 2, "has b": 2, "empty": 1}


def test_documents_are_cleaned_before_they_are_filtered_and_when_they_are_read():
    chosen = select(TEXT, ["one"], clean=lambda text: text[1:], filters={"short": lambda text: len(text) != 3})
    assert list(chosen.documents()) == ["a", "c"]
    assert chosen.removed == {"empty": 1, "short": 1}


def test_a_document_that_cleaning_empties_is_dropped():
    assert list(select(TEXT, ["one"], clean=lambda text: text.replace("a", "")).documents()) == ["bbbb", "cc"]


def test_the_dataset_named_first_keeps_what_both_hold():
    for names, kept in ((["one", "two"], "bbbb"), (["two", "one"], "BBBB")):
        chosen = select(TEXT, names, duplicates="exact")
        assert [text for text in chosen.documents() if text.lower() == "bbbb"] == [kept]
        assert chosen.removed["duplicates"] == 1


def test_a_dropped_document_makes_no_other_a_duplicate():
    chosen = select(
        Memory(a=["Long one", "long one"]), ["a"], filters={"L": lambda text: "L" not in text}, duplicates="exact"
    )
    assert list(chosen.documents()) == ["long one"]


def test_near_duplicates_are_dropped_too():
    family = sentence(3, 60)
    text = Memory(a=[family, sentence(4, 60), f"{family} more"])
    assert select(text, ["a"], duplicates="near", near_duplicate=0.7).removed == {"duplicates": 1}
    assert select(text, ["a"], duplicates="exact").removed == {"duplicates": 0}


def test_tiers_hold_equally_much_text_the_best_first():
    text = Memory(a=["x" * 10, "y" * 30], b=["z" * 20, "w" * 20])
    chosen = select(text, ["a", "b"])
    chosen.rank(scorer("own", own=lambda document: "wzyx".index(document[0])), 2)
    assert chosen.groups == ("a/0", "b/1")
    chosen.rank(scorer("own", own=lambda document: -"wzyx".index(document[0])), 2)
    assert chosen.groups == ("a/1", "b/0")
    chosen.rank(scorer("own", own=lambda document: 0.0), 4)
    assert [len("".join(chosen.documents(group))) for group in chosen.groups] == [10, 30, 20, 20]


@given(st.lists(st.tuples(st.floats(allow_nan=True), st.integers(1, 9)), min_size=1), st.integers(1, 5))
def test_tiers_are_cut_by_rank_and_differ_by_a_document_at_most(documents, num_tiers):
    scores, lengths = (np.array(column) for column in zip(*documents, strict=True))
    tiers = tiers_of(scores.astype(float), lengths, num_tiers)
    comparable = np.where(np.isnan(scores), -np.inf, scores)
    for tier in range(1, num_tiers):
        better, worse = comparable[tiers < tier], comparable[tiers >= tier]
        assert not len(better) or not len(worse) or better.min() >= worse.max()
    for tier in range(num_tiers):
        assert abs(lengths[tiers == tier].sum() - lengths.sum() / num_tiers) <= 9


def test_a_recipe_that_keeps_nothing_says_what_took_it_away():
    with pytest.raises(DataMissing, match="3 by keep"):
        select(TEXT, ["one"], filters={"keep": lambda text: False})
    with pytest.raises(DataMissing, match="no text"):
        select(Memory(a=[]), ["a"])


def test_a_text_that_is_not_the_same_twice_is_an_error():
    text = Memory(a=["x", "y"])
    chosen = select(text, ["a"])
    text.datasets["a"].append("z")
    with pytest.raises(ValueError, match="shorter"):
        list(chosen.documents())


@pytest.mark.parametrize(
    "wrong", [{"duplicates": "all"}, {"duplicates": "near", "near_duplicate": 2.0}], ids=["kind", "threshold"]
)
def test_an_unknown_wish_is_refused(wrong):
    with pytest.raises(UsageError):
        select(TEXT, ["one"], **wrong)
    with pytest.raises(UsageError, match="no group 'one/1'"):
        list(select(TEXT, ["one"]).documents("one/1"))
    with pytest.raises(UsageError, match="0 tiers"):
        select(TEXT, ["one"]).rank(scorer("words"), 0)
