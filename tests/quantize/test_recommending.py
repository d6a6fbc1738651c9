"""Which form to take: by what it loses, never by how alike the weights look."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from autoresearch.quantize.intervals import Interval
from autoresearch.quantize.recommending import pareto_front, recommend


@dataclass(frozen=True)
class Made:
    name: str
    file_bytes: int
    loss: Interval | None
    cosine: float = 1.0


def made(name, size, value, half=0.001, cosine=1.0):
    return Made(name, size, Interval(value, value - half, value + half), cosine)


def test_the_smallest_form_whose_loss_is_surely_below_the_noise_is_recommended():
    forms = [made("4 bit", 400, 0.002), made("3 bit", 300, 0.0095), made("2 bit", 200, 0.05)]
    found = recommend(forms, noise=0.011)
    assert found.name == "3 bit" and found.front == ("2 bit", "3 bit", "4 bit")
    # at the upper end of its interval it is not below
    assert recommend(forms, noise=0.010).name == "4 bit"


def test_a_worse_cosine_does_not_count_against_a_smaller_loss():
    plain = made("plain", 300, 0.009, cosine=0.983)
    fed_back = made("fed back", 300, 0.005, cosine=0.974)
    assert recommend([plain, fed_back], noise=0.02).name == "fed back"


def test_a_few_bytes_of_header_do_not_make_a_form_smaller():
    plain, fed_back = made("plain", 163_448, 0.0077), made("fed back", 163_512, 0.0062)
    assert recommend([plain, fed_back], noise=0.015).name == "fed back"
    assert [form.name for form in pareto_front([plain, fed_back])] == ["fed back"]


def test_where_none_is_below_the_noise_the_one_that_loses_least_is_named_and_it_is_said():
    found = recommend([made("3 bit", 300, 0.09), made("2 bit", 200, 0.2)], noise=0.01)
    assert found.name == "3 bit" and "above the noise" in found.reason


def test_forms_without_a_score_are_never_recommended():
    broken = Made("broken", 10, None)
    assert recommend([broken, made("4 bit", 400, 0.001)], noise=0.01).name == "4 bit"
    assert recommend([broken], noise=0.01).name is None


@given(st.lists(st.tuples(st.integers(100, 10_000), st.floats(-0.1, 1.0)), min_size=1, max_size=12))
def test_whatever_is_measured_the_front_holds_the_form_that_loses_least_and_no_beaten_one(points):
    forms = [made(str(number), size, loss) for number, (size, loss) in enumerate(points)]
    front = pareto_front(forms)
    assert min(form.loss.value for form in forms) in {form.loss.value for form in front}
    assert not [
        (one, other)
        for one in front
        for other in forms
        if other.file_bytes <= one.file_bytes and other.loss.value < one.loss.value
    ]
