"""The search benchmark: which trials are recorded, what is fitted to them, and how sessions on it are counted."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from search_efficiency import figures, interval, make, quartiles  # noqa: E402
from search_surface.design import KINDS, LOOK_EVERY, STEERED_FROM, coordinates, point  # noqa: E402
from search_surface.record import append, read_recording  # noqa: E402
from search_surface.simulation import ENTRY, Course, SurfaceSession  # noqa: E402
from search_surface.surface import (  # noqa: E402
    BASELINE_FILE,
    CEILING_ABOVE_BASELINE,
    RECORDING,
    OutOfSurface,
    Surface,
    data_of,
    feature_names,
    features,
    fit,
    noise_of_repeats,
    numbers_of,
    read_trials,
    space_from,
    values_of,
)

from autoresearch.proposers.constants import rewrite  # noqa: E402
from autoresearch.vocabulary import Proposal, ProposerExhausted  # noqa: E402

NUMBERS = BASELINE_FILE.read_text(encoding="utf-8")
SPACE = space_from(NUMBERS)
BASELINE = {name: SPACE.values[name] for name in SPACE.dimensions}


def written(**changes) -> str:
    """The baseline's constants with some changed."""
    return rewrite(NUMBERS, SPACE.constants, changes)


# -- the design ---------------------------------------------------------------------------------------------------------


def test_the_constants_of_a_file_alone_are_the_same_search_space():
    whole = (ROOT / ENTRY).read_text(encoding="utf-8")
    alone = numbers_of(whole)
    assert (space_from(alone).values, space_from(alone).dimensions) == (
        space_from(whole).values,
        space_from(whole).dimensions,
    )
    assert len(alone.splitlines()) < len(whole.splitlines()) / 10


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2000))
def test_every_point_of_the_design_is_a_file_that_the_surface_and_train_py_accept(number):
    found = point(number, SPACE, [])
    changes = {name: value for name, value in found.values.items() if repr(value) != repr(SPACE.values[name])}
    assert values_of(written(**changes), SPACE) == found.values
    assert float(found.values["WARMUP_RATIO"]) + float(found.values["WARMDOWN_RATIO"]) <= 1.0 + 1e-9
    assert np.isfinite(features(found.values, SPACE)).all()
    assert point(number, SPACE, []) == found


def test_a_tenth_of_the_points_repeats_earlier_ones_with_other_seeds():
    points = [point(number, SPACE, []) for number in range(40)]
    repeats = [found for found in points if found.repeats is not None]
    assert len(repeats) == 4 and KINDS.count("again") == 1
    assert [found.repeats for found in repeats] == [-1, 0, -1, 1]
    assert repeats[0].values == BASELINE and repeats[1].values == points[0].values
    assert len({found.seed for found in points}) == len(points)


def test_a_sparse_point_moves_four_constants_at_most_and_a_near_one_nearly_all():
    sparse, near = point(1, SPACE, []), point(0, SPACE, [])
    assert 1 <= sum(sparse.values[name] != BASELINE[name] for name in BASELINE) <= 5  # a device batch may come along
    assert sum(near.values[name] != BASELINE[name] for name in BASELINE) > 15


def test_later_points_are_laid_round_the_best_so_far():
    good = {**BASELINE, "MATRIX_LR": 0.16}
    recorded = [
        {"number": n, "val_bpb": 1.7 if n < 10 else 1.9, "values": good if n < 10 else BASELINE} for n in range(100)
    ]
    steered = [point(number, SPACE, recorded) for number in range(STEERED_FROM, STEERED_FROM + LOOK_EVERY)]
    index = list(SPACE.dimensions).index("MATRIX_LR")
    moved = [coordinates(found.values, SPACE)[index] for found in steered if found.kind == "near" and found.number % 2]
    stayed = [
        coordinates(found.values, SPACE)[index] for found in steered if found.kind == "near" and not found.number % 2
    ]
    assert np.mean(moved) > np.mean(stayed) + 1.0


def test_the_recorder_goes_on_after_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "trials.jsonl"
    append(path, {"number": 0})
    with path.open("a") as stream:
        stream.write('{"number": 1, "val')
    append(path, {"number": 2})
    assert [row["number"] for row in read_recording(path)] == [0, 2]


# -- the surface --------------------------------------------------------------------------------------------------------


def synthetic(num: int, noise: float) -> list[dict]:
    """Trials of the design with a known score: a valley in two rates, and a slope in the depth, which also halves the
    speed; and half of them on a machine at three quarters of its speed, which costs 0.06.
    """
    rows: list[dict] = []
    rng = np.random.default_rng(0)
    for number in range(num):
        found = point(number, SPACE, rows)
        busy = bool(rng.integers(2))
        row = {"number": number, "kind": found.kind, "repeats": found.repeats, "values": found.values}
        row["val_bpb"] = truth(found.values) + 0.06 * busy + noise * rng.standard_normal()
        row["tok_sec"] = 20000 * 2.0 ** (2 - int(found.values["DEPTH"])) * (0.75 if busy else 1.0)
        rows.append(row)
    return rows


def truth(values) -> float:
    rates = [math.log2(float(values[name]) / float(BASELINE[name])) for name in ("MATRIX_LR", "EMBEDDING_LR")]
    return 1.8 + 0.03 * (rates[0] - 1) ** 2 + 0.02 * rates[1] ** 2 + 0.05 * (int(values["DEPTH"]) - 2)


@pytest.fixture(scope="module")
def fitted():
    rows = synthetic(90, 0.005)
    data = data_of(rows, SPACE)
    return data, Surface(fit(data), SPACE)


@pytest.mark.slow
def test_the_fit_finds_a_known_surface_under_noise_and_busy_neighbours(fitted):
    _, surface = fitted
    here = surface.val_bpb(NUMBERS)  # between quiet and busy
    assert truth(BASELINE) < here < truth(BASELINE) + 0.06
    for changes in ({"MATRIX_LR": 0.08}, {"MATRIX_LR": 0.02}, {"EMBEDDING_LR": 1.2}, {"DEPTH": 3}):
        expected = truth({**BASELINE, **changes}) - truth(BASELINE)
        assert surface.val_bpb(written(**changes)) - here == pytest.approx(expected, abs=0.015)


def test_what_a_slow_run_costs_is_not_counted_as_noise(fitted):
    data, surface = fitted
    raw, degrees = noise_of_repeats(data)
    assert degrees == 8 and raw > 0.02
    assert noise_of_repeats(data, surface.model)[0] < 0.01


def test_the_fit_is_the_same_each_time(fitted):
    data, surface = fitted
    again = fit(data)
    assert (again.score.weights == surface.model.score.weights).all()
    assert (again.score.additive == surface.model.score.additive).all()


def test_a_score_far_above_the_baseline_is_cut_at_the_ceiling_and_a_failure_is_left_out():
    rows = synthetic(40, 0.005)
    rows[1]["val_bpb"], rows[2]["val_bpb"] = 9.0, None
    data = data_of(rows, SPACE)
    assert data.y.max() == data.ceiling < 2.4 and data.num_failed == 1 and len(data.y) == 39
    baseline = [row["val_bpb"] for row in rows if row["repeats"] == -1]
    assert data.ceiling == pytest.approx(np.median(baseline) + CEILING_ABOVE_BASELINE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("DEPTH = (", "SyntaxError"),
        (NUMBERS.replace("MATRIX_LR = 0.04", "MATRIX_LR = rate()"), "MATRIX_LR"),
        (written(DEVICE_BATCH_SIZE=3), "multiple"),
        (written(HEAD_DIM=63), "even"),
    ],
)
def test_what_train_py_would_refuse_has_no_score(text, why):
    with pytest.raises(OutOfSurface, match=why):
        values_of(text, SPACE)


def test_constants_that_build_the_same_layers_are_one_point_of_the_surface():
    """Two layers: the second is full in any case, so all patterns that begin with S are one."""
    assert (features({**BASELINE, "WINDOW_PATTERN": "SSL"}, SPACE) == features(BASELINE, SPACE)).all()
    assert (features({**BASELINE, "WINDOW_PATTERN": "L"}, SPACE) != features(BASELINE, SPACE)).any()
    assert len(feature_names(SPACE)) == len(features(BASELINE, SPACE))


# -- sessions on it -----------------------------------------------------------------------------------------------------


class Slope:
    """A surface where a larger MATRIX_LR is better, and nothing else matters."""

    def val_bpb(self, source: str) -> float:
        return 2.0 - float(values_of(source, SPACE)["MATRIX_LR"])


class Says:
    """Proposes these texts, one after the other."""

    name = "says"

    def __init__(self, texts):
        self.texts = list(texts)
        self.seen = []

    def propose(self, situation):
        self.seen.append(situation)
        if not self.texts:
            raise ProposerExhausted("no more texts")
        return Proposal("an idea", {ENTRY: self.texts.pop(0)}, self.name, {"pair": (1, 2)})


def session(noise=1e-6, trials=100) -> SurfaceSession:
    return SurfaceSession(Slope(), noise, NUMBERS, method="says", seed=0, trials=trials, tok_sec=20000)


def test_a_better_candidate_is_kept_after_a_repeat_and_every_run_is_counted():
    course = session().run(Says([written(MATRIX_LR=0.2)]))
    assert course.keeps == 1 and course.ended == "no more texts"
    assert course.trials == 3 + 1 + 2  # calibration, first look, both arms of one repeat
    assert course.best == [(0, pytest.approx(1.96)), (6, pytest.approx(1.8))]
    assert course.trials_to(1.8 + 1e-9) == 6 and course.trials_to(1.7) is None
    assert course.true_value_after(5) == pytest.approx(1.96) and course.true_value_after(100) == pytest.approx(1.8)


def test_a_worse_candidate_costs_one_trial_and_is_told_to_the_proposer():
    proposer = Says([written(MATRIX_LR=0.01)])
    course = session().run(proposer)
    assert (course.trials, course.keeps) == (4, 0)
    told = proposer.seen[1].history[0]
    assert told.gain == pytest.approx(-0.03, abs=1e-3) and told.details == {"pair": [1, 2]}  # as JSON gives it back
    assert proposer.seen[1].incumbent == {ENTRY: NUMBERS}


def test_an_idea_that_is_nothing_new_costs_no_trial_and_a_crash_costs_one():
    course = session().run(
        Says([NUMBERS + "# a comment\n", written(DEVICE_BATCH_SIZE=3), written(DEVICE_BATCH_SIZE=3)])
    )
    assert (course.refused, course.crashes, course.trials, course.experiments) == (2, 1, 4, 3)


def test_a_session_never_uses_more_trials_than_it_has():
    better = [written(MATRIX_LR=round(0.05 + 0.01 * step, 2)) for step in range(20)]
    course = session(trials=12).run(Says(better))
    assert course.trials == 12 and course.ended == "12 trials"
    assert all(used <= 12 for used, _ in course.best)


def test_the_incumbent_is_run_again_after_eight_experiments_without_it():
    worse = [written(MATRIX_LR=round(0.03 - 0.001 * step, 3)) for step in range(9)]
    course = session().run(Says(worse))
    assert course.trials == 3 + 9 + 1


@pytest.mark.slow
def test_luck_is_judged_as_in_a_session_so_equal_candidates_are_seldom_kept():
    equal = [written(EMBEDDING_LR=round(0.61 + 0.01 * step, 2)) for step in range(60)]
    course = session(noise=0.01, trials=200).run(Says(equal))
    assert course.keeps <= 0.15 * course.experiments


@pytest.mark.slow
def test_the_registered_searches_run_on_the_surface():
    class Options:
        model, model_share, prompt_tokens, reply_tokens, model_seconds = None, 0.3, 24_000, 2048, 1.0

    for method in ("search:random", "search:cmaes"):
        chosen = session(noise=0.001, trials=14)
        course = chosen.run(make(method, 0, Options(), Path(), print))
        assert course.trials == 14 and course.crashes == course.refused == 0


# -- figures ------------------------------------------------------------------------------------------------------------


def course_of(method, seed, best) -> Course:
    return Course(method, seed, best=[(0, 1.9), *best], trials=100, experiments=50)


def test_a_session_that_never_reaches_the_yardstick_counts_as_more_than_all_trials():
    courses = [course_of("search:random", seed, [(40 + seed, 1.8)]) for seed in range(3)]
    courses += [
        course_of("search:tpe", 0, [(20, 1.8)]),
        course_of("search:tpe", 1, []),
        course_of("search:tpe", 2, [(90, 1.85)]),
    ]
    found = figures(courses, trials=100, reference="search:random")
    assert found["yardstick"] == 1.8 and found["baseline"] == 1.9
    random, tpe = found["methods"]["search:random"], found["methods"]["search:tpe"]
    assert random["trials_to_reach"] == [40, 41, 42] and random["reached"] == 3
    assert tpe["trials_to_reach"] == [20, None, None] and tpe["reached"] == 1
    assert tpe["worse_than_search:random_by"]["mean"] == pytest.approx(0.05)
    assert json.loads(json.dumps(found)) == found


def test_quartiles_are_values_that_occurred():
    assert quartiles(np.array([4.0, 1.0, 3.0, math.inf]), digits=0) == [1, 3, 4]


def test_an_interval_of_equal_differences_has_no_width():
    assert interval(np.full(10, 0.01)) == {"mean": 0.01, "interval": [0.01, 0.01]}


# -- the recording that is shipped --------------------------------------------------------------------------------------


@pytest.mark.skipif(not RECORDING.exists(), reason="no recording yet")
def test_the_shipped_recording_holds_the_trials_of_the_design():
    rows = read_trials(RECORDING)
    numbers = [row["number"] for row in rows]
    assert len(set(numbers)) == len(numbers)
    assert len({row["fingerprint"] for row in rows}) == 1
    unsteered = [row for row in rows if row["number"] < STEERED_FROM]
    for row in unsteered[::7]:
        found = point(row["number"], SPACE, [])
        assert (row["kind"], row["seed"], row["values"]) == (found.kind, found.seed, found.values)
