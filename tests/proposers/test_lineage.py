import pytest
from hostile_words import hidden
from hypothesis import given, settings
from hypothesis import strategies as st
from pasts import past, situations

from autoresearch.proposers.lineage import Retired, gain_text, in_bits, lineage_of, retired_of
from autoresearch.proposers.situation import PastExperiment, Situation
from autoresearch.providers.tokens import estimated_tokens
from autoresearch.vocabulary import Outcome, Status

KEEP, DISCARD, CRASH = Status.KEEP, Status.DISCARD, Status.CRASH


def session(*history: PastExperiment, **more: object) -> Situation:
    return Situation({"train.py": ""}, list(history), tag="nov21", **more)  # type: ignore[arg-type]


def rows(text: str) -> list[str]:
    return [line.removeprefix("| ") for line in text.split("\n") if line.startswith("| #")]


def test_a_line_holds_number_verdict_gain_interval_topic_description_and_mechanism():
    one = past(
        7, KEEP, 0.00312, interval=(0.001, 0.0052), description="a gate",
        details={"topic": "Gating", "mechanism": "the gate\nopens late"},
    )  # fmt: skip
    assert rows(lineage_of(session(one), 1000)) == [
        "#7 | keep | +0.0031 [+0.0010, +0.0052] | gating | a gate; the gate opens late"
    ]


def test_an_experiment_without_a_score_says_how_it_ended():
    assert gain_text(past(1, CRASH, outcome=Outcome.TIMED_OUT)) == "timed out"
    assert gain_text(past(1, DISCARD, -0.01)) == "-0.0100"
    assert gain_text(past(1, DISCARD, float("nan"))) == "no score"
    refused = past(2, DISCARD, outcome=Outcome.REJECTED, reason="tried | before", details={"topic": "x"})
    assert rows(lineage_of(session(refused), 1000)) == ["#2 | refused | tried ¦ before | x | idea 2"]


def test_nothing_decided_is_an_empty_text():
    assert lineage_of(session(), 1000) == ""
    assert lineage_of(session(past(1, None)), 1000) == ""


def test_the_newest_the_keeps_and_the_near_misses_have_lines_and_the_rest_are_counted():
    history = [past(n, DISCARD, -0.001, details={"topic": f"t{n % 3}"}) for n in range(1, 201)]
    history[4] = past(5, KEEP, 0.01)
    history[9] = past(10, DISCARD, 0.002)
    history[19] = past(20, CRASH, outcome=Outcome.CRASHED, details={"topic": "t0"})
    text = lineage_of(session(*history), 50_000)
    assert [int(row.split()[0][1:]) for row in rows(text)] == [5, 10, *range(171, 201)]
    assert "| 168 earlier experiments by topic:" in text
    counted = [line for line in text.split("\n") if line.startswith("| t") and "discard" in line]
    assert len(counted) == 3
    assert "| t0: 56 discard, 1 crash, best -0.0010" in counted


def test_only_the_newest_forty_keeps_have_lines():
    text = lineage_of(session(*(past(n, KEEP, 0.001) for n in range(1, 61))), 50_000)
    assert [int(row.split()[0][1:]) for row in rows(text)] == list(range(21, 61))


def test_keeps_of_other_sessions_are_named_with_their_session():
    other = past(3, KEEP, 0.02, tag="oct01", description="theirs")
    assert "| oct01 #3 | keep | +0.0200 | theirs" in lineage_of(session(elsewhere=[other]), 1000)


@pytest.mark.parametrize("budget", [200, 400, 1000, 3000])
def test_a_thousand_experiments_fit_into_any_budget_and_use_it(budget):
    history = [
        past(n, DISCARD, -0.001, description="word " * 40, details={"topic": f"t{n % 50}"}) for n in range(1, 1001)
    ]
    text = lineage_of(session(*history), budget)
    assert estimated_tokens(text) <= budget
    assert text
    assert "earlier experiments by topic" in text


def test_no_room_is_an_empty_text():
    assert lineage_of(session(past(1)), 10) == ""


# -- topics and retired directions --------------------------------------------------------------------------------------


def tried(
    number: int, topic: str, status: Status = DISCARD, gain: float | None = -0.001, **more: object
) -> PastExperiment:
    return past(number, status, gain, details={"topic": topic}, **more)


def test_three_tries_without_a_keep_retire_a_direction():
    history = [tried(1, "a", gain=-0.2), tried(2, "A", gain=0.001), tried(3, "b"), tried(4, "a", CRASH, None)]
    assert retired_of(session(*history)) == [Retired("a", 3, 0, 0.001)]


def test_two_tries_do_not():
    assert retired_of(session(tried(1, "a"), tried(2, "a"))) == []


def test_a_keep_opens_a_direction_again():
    history = [*(tried(n, "a") for n in (1, 2, 3)), tried(4, "a", KEEP, 0.01), tried(5, "a"), tried(6, "a")]
    assert retired_of(session(*history)) == []
    assert retired_of(session(*history, tried(7, "a", gain=None))) == [Retired("a", 3, 1, -0.001)]


def test_refused_and_undecided_experiments_say_nothing_of_a_direction():
    history = [
        tried(1, "a"),
        tried(2, "a"),
        tried(3, "a", outcome=Outcome.REJECTED),
        past(4, None, details={"topic": "a"}),
    ]
    assert retired_of(session(*history)) == []


def test_the_most_tried_direction_comes_first():
    history = [tried(n, "a" if n % 3 else "b") for n in range(1, 13)]
    assert [(one.topic, one.tries) for one in retired_of(session(*history))] == [("a", 8), ("b", 4)]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(situations("DEPTH = 1\n"), st.integers(0, 3000))
def test_any_history_gives_a_bounded_quotation_that_nothing_ends_early(situation, budget):
    text = lineage_of(situation, budget)
    assert estimated_tokens(text) <= max(budget, 0)
    if not text:
        return
    head, begin, *body, end = text.split("\n")
    assert head.startswith("The lines between the two marks are")
    assert begin == end.replace("[end ", "[begin ")
    assert all(line.startswith("| ") for line in body)
    assert not hidden(text, "\n")
    assert len(retired_of(situation)) <= len(situation.history) // 3


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (2.05113, "", "2.0511"),
        (0.0301, "+", "+0.0301"),
        (-0.0, "+", "-0.0000"),
        (1e299, "", "1e+299"),
        (-1.5e8, "+", "-1.5e+08"),
    ],
)
def test_a_number_is_told_to_four_places_unless_it_can_be_no_score(value, sign, text):
    assert in_bits(value, sign) == text
