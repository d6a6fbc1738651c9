import pytest
from histories import past, situation

from autoresearch.proposers.stagnation import drought, is_stagnant, patience
from autoresearch.vocabulary import Status

K, D = Status.KEEP, Status.DISCARD


def session(statuses):
    return [past(number, status) for number, status in enumerate(statuses, start=1)]


def test_a_new_session_is_not_stagnant():
    assert not is_stagnant(situation())


def test_seventeen_experiments_without_a_first_keep_are_a_standstill_and_sixteen_are_not():
    assert not is_stagnant(situation(*session([D] * 16)))
    assert is_stagnant(situation(*session([D] * 17)))


def test_a_keep_ends_the_standstill():
    assert not is_stagnant(situation(*session([D] * 30 + [K])))


def test_a_session_that_keeps_often_is_stagnant_sooner_than_one_that_keeps_seldom():
    often = session([D, K] * 10 + [D] * 9)
    seldom = session([*([D] * 24), K] * 2 + [D] * 9)
    assert is_stagnant(situation(*often))
    assert not is_stagnant(situation(*seldom))
    assert patience(often) < patience(seldom)


def test_the_drought_itself_does_not_make_us_more_patient():
    before = session([D, K, D, D, K])
    assert patience(session([D, K, D, D, K] + [D] * 60)) == patience(before)


@pytest.mark.parametrize("statuses", [[K] * 50, [], [*([D] * 300), K], [D] * 300])
def test_patience_is_between_eight_and_forty(statuses):
    assert 8 <= patience(session(statuses)) <= 40


def test_undecided_experiments_do_not_count():
    assert not is_stagnant(situation(*session([D] * 16 + [None, None])))
    assert drought([]) == 0


def test_four_repeats_among_the_last_eight_experiments_are_a_standstill():
    refused = [past(n, D, reason="rejected: the same program was tried as experiment 1") for n in (2, 3)]
    sent_back = past(4, D, details={"repeats": 2})
    assert is_stagnant(situation(past(1, K), *refused, sent_back))
    assert not is_stagnant(situation(past(1, K), *refused))
    assert not is_stagnant(situation(*refused, sent_back, past(5, K), *[past(n, D) for n in range(6, 13)]))


def test_a_keep_at_once_is_no_sign_that_keeps_are_frequent():
    """The count ends with a keep, so that one says nothing of the rate."""
    assert patience(session([K])) == patience([]) == 17
