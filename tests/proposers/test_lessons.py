import pytest
from hostile_words import HOSTILE, hidden
from hypothesis import given, settings
from hypothesis import strategies as st
from pasts import past

from autoresearch.proposers.lessons import lessons_of
from autoresearch.proposers.situation import Situation


def lessons(*said: object, most: int = 20) -> list[str]:
    history = [past(number, details={"lesson": text}) for number, text in enumerate(said, start=1)]
    return lessons_of(Situation({}, history), most)


def test_the_newest_lesson_comes_first():
    assert lessons("smaller batches help", "depth costs steps") == ["depth costs steps", "smaller batches help"]


def test_of_rewordings_only_the_newest_stays():
    assert lessons("Smaller batches help here.", "depth costs steps", "smaller batches help here, too") == [
        "smaller batches help here, too",
        "depth costs steps",
    ]


def test_no_more_than_asked_for_and_one_bounded_line_each():
    found = lessons(*(f"lesson {i} word{i} thing{i} {'x' * i}\nmore{i} " + f"tail{i} " * 50 for i in range(60)), most=7)
    assert len(found) == 7
    assert all(len(lesson) <= 160 and "\n" not in lesson for lesson in found)


def test_what_is_no_text_is_no_lesson():
    assert lessons(None, 3, "", "  ", ["a"], "?!") == []


def test_lessons_of_other_sessions_come_after_our_own():
    situation = Situation(
        {}, [past(1, details={"lesson": "ours is old"})], elsewhere=[past(9, details={"lesson": "theirs is borrowed"})]
    )
    assert lessons_of(situation) == ["ours is old", "theirs is borrowed"]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(HOSTILE, max_size=30))
def test_any_lessons_are_clean_distinct_lines(said):
    found = lessons(*said)
    assert len(found) <= 20
    assert len(set(found)) == len(found)
    assert not [char for lesson in found for char in hidden(lesson)]
