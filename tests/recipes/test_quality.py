"""Scorers: what usually stands in the text scores above what does not."""

import random

import pytest

from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.recipes.quality import KINDS, scorer
from autoresearch.vocabulary import UsageError


@pytest.fixture(scope="module")
def chapters():
    documents = open_corpus("embedded", cache_root()).train_documents()
    return [next(documents) for _ in range(120)]


def learnt(kind, documents):
    made = scorer(kind, own=len)
    made.learn(documents)
    return made


def shuffled(text):
    words = text.split()
    random.Random(1).shuffle(words)
    return " ".join(words)


NOISE = "qx vjz wkp 8812 zzgh ytrw bvmn plok " * 40


@pytest.mark.parametrize("kind", ["words", "pairs", "compression"])
def test_noise_and_boilerplate_score_below_the_usual_text(chapters, kind):
    made = learnt(kind, chapters)
    usual = [made.score(text) for text in chapters[:20]]
    assert made.score(random.Random(2).randbytes(900).hex()) < min(usual)
    assert made.score(NOISE) < min(usual)


def test_shuffled_words_score_lower_only_where_pairs_are_looked_at(chapters):
    by_words, by_pairs = learnt("words", chapters), learnt("pairs", chapters)
    for text in chapters[:20]:
        assert by_words.score(shuffled(text)) == pytest.approx(by_words.score(text), abs=1e-9)
        assert by_pairs.score(shuffled(text)) < by_pairs.score(text) - 0.2


def test_short_documents_are_compared_with_short_ones(chapters):
    made = learnt("compression", [*chapters, *(text[:100] for text in chapters)])
    short = [made.score(text[:100]) for text in chapters]
    assert sum(short) / len(short) > -0.2
    assert made.score("ab" * 50) < min(short)


def test_ones_own_function_is_asked():
    assert learnt("own", []).score("four") == 4.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_document_or_text_is_no_error(kind):
    for made in (learnt(kind, []), learnt(kind, [""])):
        assert made.score("") == made.score("")
        assert made.score("word") == made.score("word")


@pytest.mark.parametrize("kind", ["words", "pairs", "compression"])
def test_scores_are_the_same_each_time(chapters, kind):
    assert learnt(kind, chapters).score(chapters[5]) == learnt(kind, chapters).score(chapters[5])


@pytest.mark.parametrize(("kind", "own"), [("perplexity", len), ("own", None)])
def test_an_unknown_kind_is_refused(kind, own):
    with pytest.raises(UsageError, match="QUALITY"):
        scorer(kind, own)
