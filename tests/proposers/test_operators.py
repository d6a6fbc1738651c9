from collections import Counter

import pytest
from histories import SOURCE, past, situation

from autoresearch.proposers.operators import (
    MAX_FIXES,
    Operator,
    attempts_of,
    available,
    choose,
    partners_of,
    to_fix,
)
from autoresearch.vocabulary import Outcome, Status

K, D, C = Status.KEEP, Status.DISCARD, Status.CRASH
PLACE = {"preset": "standard"}
LARGER = SOURCE + "".join(f"EXTRA_{n} = {n}\n" for n in range(12))


def crash(number, **more):
    return past(number, C, outcome=more.pop("outcome", Outcome.CRASHED), **more)


def share_of(operator, here, seeds=300):
    return sum(choose(here, seed, **PLACE) is operator for seed in range(seeds)) / seeds


def test_a_new_session_improves_or_drafts():
    assert available(situation(), **PLACE) == (Operator.IMPROVE, Operator.DRAFT)


# -- fix ----------------------------------------------------------------------------------------------------------------


def test_a_crash_of_the_model_is_fixed_before_anything_else():
    here = situation(crash(1, operator="draft", log_tail="NameError: name 'w' is not defined"))
    assert {choose(here, seed, **PLACE) for seed in range(20)} == {Operator.FIX}


@pytest.mark.parametrize(
    "last",
    [
        past(1, D),
        past(1, D, outcome=Outcome.REJECTED, reason="it touches prepare.py"),
        crash(1, operator=None),
        crash(1, operator="numbers"),
        crash(1, outcome=Outcome.TIMED_OUT),
        crash(1, log_tail="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        crash(1, reason="crashed: over the memory limit"),
        crash(1, details={"fixes": MAX_FIXES}),
        crash(1, base=7),
    ],
    ids=["discard", "refused", "of the search", "numbers", "too slow", "memory", "killed", "fixed twice", "outdated"],
)
def test_what_an_edit_cannot_mend_is_not_fixed(last):
    assert to_fix(situation(last)) is None


def test_a_crash_is_fixed_twice_and_then_left():
    history = [crash(1, operator="draft")]
    for fixes in (1, 2):
        assert to_fix(situation(*history)).number == fixes
        history.append(crash(1 + fixes, operator="fix", details={"fixes": fixes, "mends": fixes}))
    assert to_fix(situation(*history)) is None
    assert choose(situation(*history), 0, **PLACE) is not Operator.FIX


def test_experiments_of_the_search_after_the_crash_do_not_hide_it():
    assert to_fix(situation(crash(1), past(2, operator=None), past(3, operator=None))).number == 1


# -- combine ------------------------------------------------------------------------------------------------------------


def test_two_near_misses_may_be_combined_and_the_best_come_first():
    here = situation(past(1, gain=0.001), past(2, gain=0.003), past(3, gain=-0.1), past(4, gain=0.002))
    assert [partner.number for partner in partners_of(here, **PLACE)] == [2, 4]
    assert Operator.COMBINE in available(here, **PLACE)


def test_losses_crashes_and_keeps_of_this_session_are_no_partners():
    assert (
        partners_of(situation(past(1, gain=0.01), past(2, gain=-0.01), crash(3), past(4, K, gain=0.5)), **PLACE) is None
    )


def test_a_keep_of_another_session_is_a_partner():
    elsewhere = [past(9, K, gain=0.02, tag="other", base=None)]
    one, other = partners_of(situation(past(1, gain=0.001), elsewhere=elsewhere), **PLACE)
    assert (one.tag, one.number, other.number) == ("other", 9, 1)


def test_what_the_incumbent_contains_is_no_partner():
    first, second = past(1, gain=0.003), past(2, gain=0.002)
    taken_over = SOURCE + "\nIDEA_1 = 1\n"
    assert partners_of(situation(first, second), **PLACE) is not None
    assert partners_of(situation(first, second, incumbent=taken_over, incumbent_number=3), **PLACE) is None
    rate = past(4, gain=0.004, text=SOURCE.replace("0.04", "0.08"), details={"changes": {"MATRIX_LR": [0.04, 0.08]}})
    here = situation(first, second, rate, incumbent=taken_over, incumbent_number=3)
    assert [found.number for found in partners_of(here, **PLACE)] == [4, 2]  # the baseline is known: 1 is inside


def test_an_edit_that_only_removes_is_contained_once_its_lines_are_gone():
    shorter = SOURCE.replace("WEIGHT_DECAY = 0.2\n", "")
    removal, other = past(1, gain=0.003, text=shorter), past(2, gain=0.002)
    assert partners_of(situation(removal, other), **PLACE) is not None
    rate = past(3, text=SOURCE.replace("0.04", "0.08"), details={"changes": {"MATRIX_LR": [0.04, 0.08]}})
    here = situation(removal, other, rate, incumbent=shorter, incumbent_number=4)
    assert partners_of(here, **PLACE) is None


def test_two_values_of_one_constant_have_nothing_to_combine():
    changes = [{"changes": {"MATRIX_LR": [0.04, value]}} for value in (0.05, 0.06)]
    texts = [SOURCE.replace("0.04", value) for value in ("0.05", "0.06")]
    rates = [past(n, gain=0.01 * n, text=texts[n - 1], details=changes[n - 1]) for n in (1, 2)]
    assert partners_of(situation(*rates), **PLACE) is None
    mixed = past(3, gain=0.001, details={"changes": {}, "moved": {"MATRIX_LR": [0.04, 0.07]}})
    assert partners_of(situation(*rates, mixed), **PLACE) is None


def test_a_pair_is_combined_once():
    near = [past(1, gain=0.003, tag="t"), past(2, gain=0.002, tag="t")]
    tried = past(3, operator="combine", gain=-0.1, details={"partners": ["t/2", "t/1"]}, tag="t")
    assert partners_of(situation(*near, tag="t"), **PLACE) is not None
    assert partners_of(situation(*near, tried, tag="t"), **PLACE) is None


# -- simplify, retest ---------------------------------------------------------------------------------------------------


def test_a_file_that_has_grown_is_simplified_now_and_then():
    first = past(1, text=SOURCE.replace("0.04", "0.08"), details={"changes": {"MATRIX_LR": [0.04, 0.08]}})
    assert Operator.SIMPLIFY not in available(situation(first), **PLACE)
    assert Operator.SIMPLIFY in available(situation(first, incumbent=LARGER, incumbent_number=2), **PLACE)
    lately = situation(first, past(2, operator="simplify"), past(3), incumbent=LARGER, incumbent_number=9)
    assert Operator.SIMPLIFY not in available(lately, **PLACE)
    later = [past(2, operator="simplify"), *[past(n) for n in range(3, 13)]]
    assert Operator.SIMPLIFY in available(situation(first, *later, incumbent=LARGER, incumbent_number=99), **PLACE)


def test_comments_and_blank_lines_are_no_growth():
    first = past(1, text=SOURCE)
    commented = SOURCE + "# why\n\n" * 40
    assert Operator.SIMPLIFY not in available(situation(first, incumbent=commented, incumbent_number=2), **PLACE)


def test_an_old_keep_that_rests_on_little_is_offered_for_retest():
    here = situation(past(1, K, p_better=0.81), past(2, K, p_better=0.99), incumbent_number=2)
    assert Operator.RETEST in available(here, **PLACE)
    assert Operator.RETEST not in {choose(here, seed, without=[Operator.RETEST], **PLACE) for seed in range(50)}


# -- the bandit ---------------------------------------------------------------------------------------------------------


def test_the_choice_depends_on_history_and_seed_alone_and_differs_between_seeds():
    here = situation(past(1, K, gain=0.01), past(2))
    assert choose(here, 3, **PLACE) is choose(here, 3, **PLACE)
    assert len({choose(here, seed, **PLACE) for seed in range(60)}) > 1


@pytest.mark.parametrize(("paid", "other"), [("draft", "improve"), ("improve", "draft")])
def test_what_pays_is_chosen_more_often_than_what_does_not(paid, other):
    history = [past(n, K if n % 4 else D, gain=0.01 if n % 4 else -0.01, operator=paid) for n in range(1, 17)]
    history += [past(n, D, gain=-0.01, operator=other) for n in range(17, 33)]
    history += [past(33, K, gain=0.01, operator=None)]  # of the search: no drought, no operator
    assert share_of(Operator(paid), situation(*history, noise=0.001)) > 0.9


def test_of_two_operators_that_gain_the_same_the_cheaper_is_preferred():
    history = [past(n, K, gain=0.01, operator="draft", seconds=300.0) for n in range(1, 12)]
    history += [past(n, K, gain=0.01, operator="improve", seconds=60.0) for n in range(12, 23)]
    assert share_of(Operator.IMPROVE, situation(*history)) > 0.8


def test_crashes_and_refusals_count_as_tries_that_brought_nothing():
    kept = [past(n, K, gain=0.01, operator="draft") for n in range(1, 5)]
    failed = [crash(n, operator="improve", details={"fixes": 2}) for n in range(5, 15)]
    refused = [past(n, D, operator="improve", seconds=0.0, outcome=Outcome.REJECTED) for n in range(15, 30)]
    assert share_of(Operator.DRAFT, situation(*kept, *failed)) > 0.9
    assert share_of(Operator.DRAFT, situation(*kept, *refused)) > 0.9
    attempts = attempts_of(situation(*kept, *refused))
    assert min(attempt.cost for attempt in attempts) == pytest.approx(0.1)
    assert {attempt.reward for attempt in attempts[4:]} == {0.0}


def test_old_success_is_outweighed_by_recent_failure():
    old = [past(n, K, gain=0.01, operator="draft") for n in range(1, 11)]
    since = [past(n, D, gain=-0.01, operator="draft") for n in range(11, 91)]
    since += [past(n, K, gain=0.003, operator="improve") for n in range(91, 95)]
    assert share_of(Operator.IMPROVE, situation(*old, *since)) > 0.8


def test_a_fix_counts_for_the_operator_whose_idea_it_mends():
    mended = [
        crash(1, operator="draft"),
        crash(2, operator="fix", details={"mends": 1, "fixes": 1}),
        past(3, K, gain=0.01, operator="fix", details={"mends": 2, "fixes": 2}),
    ]
    assert [(attempt.operator, attempt.reward) for attempt in attempts_of(situation(*mended))] == [
        (Operator.DRAFT, 0.0),
        (Operator.DRAFT, 0.0),
        (Operator.DRAFT, 1.0),
    ]
    lost = past(3, K, gain=0.01, operator="fix", details={"mends": 99})
    assert attempts_of(situation(lost)) == []


def test_experiments_of_the_search_and_undecided_ones_are_no_attempts():
    assert attempts_of(situation(past(1, operator=None), past(2, None), past(3, operator="numbers"))) == []


@pytest.mark.slow
def test_a_standstill_turns_small_steps_into_drafts_and_combinations():
    near = [past(n, D, gain=0.001, operator=None) for n in (1, 2)]
    busy = [past(n, D, operator=None) for n in range(3, 9)]
    idle = [past(n, D, operator=None) for n in range(3, 30)]
    before, after = situation(*near, *busy), situation(*near, *idle)
    assert share_of(Operator.IMPROVE, after) < 0.5 * share_of(Operator.IMPROVE, before)
    bold = [share_of(Operator.DRAFT, here) + share_of(Operator.COMBINE, here) for here in (before, after)]
    assert bold[1] > bold[0] > 0.0
    assert Counter(choose(after, seed, **PLACE) for seed in range(300))[Operator.COMBINE] > 0
