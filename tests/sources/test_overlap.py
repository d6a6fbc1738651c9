"""What training text shares with validation text."""

from __future__ import annotations

import re
import tracemalloc
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.sources import overlap
from autoresearch.sources.overlap import ValidationIndex, overlap_of

WORDS = [f"word{i}" for i in range(60)]
TWENTY = " ".join(WORDS[:20])  # eight runs of thirteen words


def plain_share(validation: list[str], training: list[str]) -> float | None:
    """The definition, without hashing."""

    def runs(texts: list[str]) -> set[tuple[bytes, ...]]:
        split = [overlap.words_of(text).split() for text in texts]
        return {tuple(words[i : i + 13]) for words in split for i in range(len(words) - 12)}

    wanted = runs(validation)
    return len(wanted & runs(training)) / len(wanted) if wanted else None


def test_equal_documents_are_found_whatever_their_case_spacing_and_punctuation():
    found = overlap_of(
        ["The  cat, sat.", "another"], ["unrelated", "the CAT\nsat!", "ＴＨＥ cat sat", "the cat sat down"]
    )
    assert (found.exact_documents, found.num_training_documents) == (2, 4)
    assert found.examples == ("the CAT\nsat!", "ＴＨＥ cat sat")


def test_documents_without_words_equal_nothing():
    assert overlap_of(["...", ""], ["...", "", "?"]).exact_documents == 0


def test_the_share_counts_runs_of_thirteen_words_and_no_shorter_ones():
    assert overlap_of([TWENTY], [" ".join(WORDS[:12])]).ngram_share == 0
    found = overlap_of([TWENTY], ["before " + " ".join(WORDS[3:17]) + " after"])
    assert (found.ngram_share, found.num_ngrams, found.exact_documents) == (2 / 8, 8, 0)


def test_a_run_does_not_cross_from_one_document_into_the_next():
    assert overlap_of([TWENTY], [" ".join(WORDS[:10]), " ".join(WORDS[10:20])]).ngram_share == 0


def test_validation_text_without_a_run_so_long_has_no_share_rather_than_zero():
    assert overlap_of(["too short"], [TWENTY]).ngram_share is None
    assert overlap_of([], [TWENTY]).ngram_share is None


@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from("aZ _'“”’—… \u00a0ﬁ"), max_size=60))
def test_the_quick_way_for_english_finds_the_words_that_the_definition_finds(text: str):
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    assert overlap.words_of(text).decode() == " ".join(words)


texts = st.lists(st.lists(st.sampled_from("abc"), max_size=30).map(" ".join), max_size=8)


@pytest.mark.slow
@given(validation=texts, training=texts)
def test_hashed_shares_are_the_shares_of_the_definition(validation: list[str], training: list[str]):
    assert overlap_of(validation, training).ngram_share == plain_share(validation, training)


def test_long_validation_text_is_sampled_and_the_share_stays_near(monkeypatch):
    monkeypatch.setattr(overlap, "MAX_NGRAMS", 2000)
    validation = [" ".join(f"d{d}w{i}" for i in range(200)) for d in range(100)]
    found = overlap_of(validation, validation[:30])
    assert 1000 <= found.num_ngrams <= 2000
    assert abs((found.ngram_share or 0) - 0.3) < 0.05
    assert overlap_of(reversed(validation), validation[:30]) == found, "the sample follows from the text alone"


@pytest.mark.slow
def test_training_text_is_streamed():
    page = " ".join(WORDS[20:]) + " "

    def documents() -> Iterator[str]:
        for i in range(1600):
            yield f"number {i} " + page * 16

    index = ValidationIndex([TWENTY])
    tracemalloc.start()
    found = index.look(documents())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.num_documents == 1600
    assert peak < 25e6  # the text is 6 million characters, and the sums over all of it would be 50 MB


def test_looks_at_parts_add_up_to_a_look_at_the_whole():
    index = ValidationIndex([TWENTY, "equal text"])
    parts = [[" ".join(WORDS[:14])], ["equal text"], [" ".join(WORDS[6:20]), "x"]]
    whole = overlap_of([TWENTY, "equal text"], [text for part in parts for text in part])
    assert index.overlap([index.look(part) for part in parts]) == whole
    assert whole.exact_documents == 1
