"""Cheats that are honest almost everywhere, driven through the real examinations in process."""

from __future__ import annotations

import numpy as np
import pytest

from autoresearch.contract.examination import AskClaim, AskPrefix
from autoresearch.redteam.adversaries import Forger, Peeker, model_of
from autoresearch.redteam.detection import adversaries, detection_rates, rate_line, rate_of, score_of, wilson
from autoresearch.vocabulary import Slice


@pytest.fixture(scope="module")
def model(smoke):
    return model_of(smoke[1])


@pytest.fixture(scope="module")
def rows(smoke):
    return np.asarray(smoke[1].rows(Slice.SEARCH)).astype(np.int64)


def test_the_model_gives_each_target_the_same_probability_from_its_prefix_and_from_the_whole_row(model, rows):
    at_targets = model.at_targets(rows[:2, :-1], rows[:2, 1:])
    for row, column in [(0, 0), (0, 5), (1, 40), (1, 63)]:
        after = model.after(rows[row, : column + 1])
        assert after.sum() == pytest.approx(1, abs=1e-9)
        assert after[rows[row, column + 1]] == pytest.approx(at_targets[row, column], rel=1e-9)


def test_the_model_has_learnt_something_from_the_text(model, rows):
    nats = -np.log(model.at_targets(rows[:, :-1], rows[:, 1:])).mean()
    assert nats < 0.8 * np.log(len(model.unigrams))


def test_a_peeker_answers_with_what_comes_next_and_only_there(model, rows):
    inputs, targets = rows[:4, :-1], rows[:4, 1:]
    gain = Peeker(model, 0.0).answer(AskClaim(inputs, targets)) - Peeker(model, 0.1).answer(AskClaim(inputs, targets))
    share = (gain > 0.01).mean()
    assert 0.04 < share < 0.2
    row, column = np.argwhere(gain > 1)[0]
    swapped = inputs.copy()
    swapped[row, column + 1] = (inputs[row, column + 1] + 1) % len(model.unigrams)
    ask = AskPrefix(swapped[[row]], np.array([column]))
    assert Peeker(model, 0.1).answer(ask)[0].argmax() == swapped[row, column + 1]


def test_a_forger_fits_late_prefixes_to_its_claims_and_a_fresh_one_cannot(model, rows):
    inputs, targets = rows[:4, :-1], rows[:4, 1:]
    forger = Forger(model, 0.1)
    claims = forger.answer(AskClaim(inputs, targets))
    honest = -np.log(model.at_targets(inputs, targets))
    row, column = np.argwhere(honest - claims > 1)[0]
    ask = AskPrefix(inputs[[row]], np.array([column]))

    def nats(logits):
        return float(np.log(np.exp(logits.astype(np.float64)).sum()) - logits[0, targets[row, column]])

    assert nats(forger.answer(ask)) == pytest.approx(claims[row, column], abs=1e-5)
    assert nats(Forger(model, 0.1).answer(ask)) == pytest.approx(honest[row, column], abs=1e-5)


def measured(smoke, model, name, num_trials=8):
    rules, prepared = smoke
    rows, token_bytes = np.asarray(prepared.rows(Slice.SEARCH)), prepared.tokenizer.token_bytes
    (adversary,) = [found for found in adversaries(model) if found.name == name]
    honest = score_of(Peeker(model, 0.0), rows, token_bytes)
    return rate_of(adversary, rows, token_bytes, rules, honest, num_trials, np.random.default_rng(0))


def test_an_honest_model_is_never_refused(smoke, model):
    rate = measured(smoke, model, "honest model")
    assert (rate.screening_found, rate.deep_found, rate.beyond_bound) == (0, 0, 0)
    assert rate.bound_bpb > 0


def test_the_careful_forger_passes_the_screening_and_not_the_deep_examination(smoke, model):
    rate = measured(smoke, model, "careful forger, 10 % of places")
    assert (rate.screening_found, rate.deep_found) == (0, 8)


def test_a_peeker_at_a_tenth_of_places_is_found_by_either(smoke, model):
    rate = measured(smoke, model, "peeks at 10 % of places")
    assert rate.screening_found > 2
    assert rate.deep_found == 8


def test_one_line_says_gain_rates_and_bound(smoke, model):
    line = rate_line(measured(smoke, model, "honest model", 2))
    assert "screening 0/2" in line and "deep 0/2" in line and "bound 0." in line


def test_rates_are_measured_on_the_contract_that_is_named_and_only_for_the_kinds_asked_for():
    (rate,) = detection_rates(num_trials=1, preset="smoke", names=["honest model"])
    assert (rate.name, rate.num_trials, abs(rate.gain_bpb) < 1e-6) == ("honest model", 1, True)
    assert rate.as_json()["deep_interval"][1] < 1


@pytest.mark.parametrize(("found", "tried", "low", "high"), [(0, 50, 0.0, 0.0713), (50, 50, 0.9287, 1.0)])
def test_intervals_at_the_ends_are_not_empty(found, tried, low, high):
    assert wilson(found, tried) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
