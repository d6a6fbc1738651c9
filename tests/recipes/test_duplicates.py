"""Duplicates: exact ones and near ones, on made-up and on real text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import sentence

from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.recipes.duplicates import ExactDuplicates, NearDuplicates, shingles, similarity
from autoresearch.vocabulary import UsageError


def found(finder, documents):
    for document in documents:
        finder.add(document)
    return finder.found().tolist()


@pytest.fixture(scope="module")
def chapters():
    """Real documents: 60 pieces of novels."""
    documents = open_corpus("embedded", cache_root()).train_documents()
    return [next(documents) for _ in range(60)]


def jaccard(one, other):
    one, other = set(shingles(one)), set(shingles(other))
    return len(one & other) / len(one | other)


def with_a_typo_every(words_between, text):
    words = text.split()
    for place in range(0, len(words), words_between):
        words[place] += "x"
    return " ".join(words)


def test_equal_but_for_case_and_white_space_is_an_exact_duplicate():
    documents = ["A  house\n", "a house", "a hous e", "A HOUSE", "another"]
    assert found(ExactDuplicates(), documents) == [False, True, False, True, False]
    assert found(ExactDuplicates(), []) == []


@pytest.mark.slow
@settings(deadline=None, max_examples=50)  # the first one imports scipy
@given(st.lists(st.sampled_from(["a", "A", "b", " b", "c"])))
def test_the_first_of_every_family_stays_and_no_other(documents):
    seen = set()
    expected = []
    for document in documents:
        folded = document.strip().lower()
        expected.append(folded in seen)
        seen.add(folded)
    assert found(ExactDuplicates(), documents) == expected
    assert found(NearDuplicates(0.8), documents) == expected


def test_near_duplicates_are_found_on_real_text(chapters):
    """Every third chapter again with a few changes (similarity above 0.9), or with many (below 0.6)."""
    slightly = [with_a_typo_every(150, text) for text in chapters[::3]]
    heavily = [with_a_typo_every(12, text) for text in chapters[1::3]]
    assert min(map(jaccard, chapters[::3], slightly)) > 0.9
    assert max(map(jaccard, chapters[1::3], heavily)) < 0.6
    result = found(NearDuplicates(0.8), [*chapters, *slightly, *heavily])
    assert result == [False] * 60 + [True] * 20 + [False] * 20


def test_a_lower_threshold_finds_documents_that_are_less_alike(chapters):
    pairs = [chapters[0], with_a_typo_every(40, chapters[0])]
    assert 0.6 < jaccard(*pairs) < 0.85
    assert found(NearDuplicates(0.4), pairs) == [False, True]
    assert found(NearDuplicates(0.97), pairs) == [False, False]


def test_the_estimate_of_a_similarity_is_near_the_true_one(chapters):
    other = with_a_typo_every(60, chapters[3])
    finder = NearDuplicates(0.8)
    finder.add(chapters[3])
    finder.add(other)
    first, second = np.frombuffer(finder._signatures, dtype=np.uint8).reshape(2, -1)
    assert similarity(first[None], second)[0] == pytest.approx(jaccard(chapters[3], other), abs=0.12)  # 3 sd of 128


def test_a_document_like_one_that_was_dropped_but_not_like_one_that_stays_is_kept(chapters):
    words = chapters[0].split()[:300]
    versions = [" ".join(words[start : start + 220]) for start in (0, 12, 75)]
    assert jaccard(versions[0], versions[1]) > 0.85
    assert jaccard(versions[0], versions[2]) < 0.6
    assert found(NearDuplicates(0.75), versions) == [False, True, False]


def test_short_documents_are_alike_only_when_their_words_are():
    documents = ["yes", "no", "Yes!", "", "...", "?", sentence(1), sentence(2)]
    assert found(NearDuplicates(0.5), documents) == [False, False, True, False, False, False, False, False]


def test_the_same_documents_give_the_same_duplicates(chapters):
    documents = chapters[:20] + chapters[10:30]
    assert found(NearDuplicates(0.8), documents) == found(NearDuplicates(0.8), documents)


def test_a_document_takes_few_bytes(chapters):
    finder = NearDuplicates(0.8)
    for document in chapters:
        finder.add(document)
    assert (len(finder._signatures) + 8 * len(finder._bands)) / len(chapters) < 256


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_that_is_no_similarity_is_refused(threshold):
    with pytest.raises(UsageError, match="NEAR_DUPLICATE"):
        NearDuplicates(threshold)
