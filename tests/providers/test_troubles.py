from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.providers.manners import Manners, learned
from autoresearch.providers.troubles import Trouble, failure_of, retry_after_of, said_in

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "said", "trouble"),
    [
        (429, "Rate limit reached", Trouble.BUSY),
        (429, "insufficient_quota You exceeded your current quota", Trouble.QUOTA),
        (402, "pay", Trouble.QUOTA),
        (400, "Your credit balance is too low to access the API", Trouble.QUOTA),
        (401, "no", Trouble.KEY),
        (400, "API key not valid. Please pass a valid API key.", Trouble.KEY),
        (403, "forbidden", Trouble.KEY),
        (404, "model 'qwen9' not found, try pulling it first", Trouble.MODEL),
        (400, "The model `gpt-9` does not exist", Trouble.MODEL),
        (400, "This model's maximum context length is 8192 tokens.", Trouble.TOO_LONG),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", Trouble.TOO_LONG),
        (413, "big", Trouble.TOO_LONG),
        (400, "what?", Trouble.REFUSED),
        (500, "oops", Trouble.DOWN),
        (529, "Overloaded", Trouble.BUSY),
        (None, "overloaded_error Overloaded", Trouble.BUSY),
        (None, "something", Trouble.CUT),
    ],
)
def test_an_error_answer_is_sorted_by_what_to_do(status, said, trouble):
    assert failure_of(status, said).trouble is trouble


def test_a_quota_with_a_time_is_a_rate():
    failed = failure_of(429, "You exceeded your current quota, check your plan and billing", {"retry-after": "7"})
    assert (failed.trouble, failed.retry_after) == (Trouble.BUSY, 7.0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "1e999"}, None),
        ({}, None),
    ],
)
def test_a_wait_is_read_as_seconds_or_as_a_date(headers, seconds):
    assert retry_after_of(headers, NOON) == seconds


@given(st.text(max_size=40))
def test_no_text_of_a_wait_is_too_odd(text):
    seconds = retry_after_of({"retry-after": text}, NOON)
    assert seconds is None or seconds >= 0


def test_an_error_body_gives_its_words_in_every_usual_form():
    assert said_in({"error": {"code": "c", "type": "t", "message": "m"}}) == "c t m"
    assert said_in({"type": "error", "error": {"type": "t", "message": "m"}}) == "t m"
    assert said_in({"detail": "d"}) == "d"
    assert said_in("plain") == "plain"
    assert said_in(None, "otherwise") == "otherwise"
    assert "context size 4096" in said_in({"error": {"message": "exceeds", "n_ctx": 4096}})
    assert "upstream words" in said_in({"error": {"message": "m", "metadata": {"raw": "upstream words"}}})


def lesson(said, *, manners=None, sent_tokens=16384, status=400):
    return learned(
        manners or Manners(schema_form="json_schema"),
        failure_of(status, said),
        sent_tokens=sent_tokens,
        temperature=True,
        schema=True,
    )


@pytest.mark.parametrize(
    ("said", "name", "value"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "limit_name",
            "max_completion_tokens",
        ),
        ("max_tokens is too large: 16384. This model supports at most 4096 completion tokens", "reply", 4096),
        (
            "max_tokens: 16384 > 8192, which is the maximum allowed number of output tokens for claude-3-5-haiku-20241022",
            "reply",
            8192,
        ),
        ("Unsupported value: 'temperature' does not support 0.7 with this model.", "temperature", False),
        ("response_format json_schema is not available", "schema_form", "json_object"),
        ("Unknown parameter: stream_options", "stream_usage", False),
        ("System role not supported", "system", False),
        ("This model's maximum context length is 8,192 tokens", "context", 8192),
        ("prompt is too long: 210000 tokens > 200000 maximum", "context", 200000),
    ],
)
def test_a_complaint_teaches_one_thing(said, name, value):
    better = lesson(said)
    assert better is not None
    assert getattr(better, name) == value
    assert lesson(said, manners=better, sent_tokens=min(16384, better.reply or 16384)) != better


def test_a_complaint_that_teaches_nothing_new_is_no_lesson():
    assert lesson("I do not like you") is None
    assert lesson("temperature", status=401) is None
    assert lesson("context length is 8192 tokens", manners=Manners(context=4096)) is None


@given(st.text(max_size=200), st.integers(1, 100_000))
def test_lessons_end(said, sent_tokens):
    """Each lesson changes something that cannot change back, so that no server keeps us asking."""
    manners, number = Manners(schema_form="json_schema"), 0
    while (better := lesson(f"max_tokens context {said}", manners=manners, sent_tokens=sent_tokens)) and number < 20:
        manners, number = better, number + 1
        sent_tokens = min(sent_tokens, manners.reply or sent_tokens)
    assert number < 20
