"""Has the session come to a standstill? Then another kind of idea is wanted, not another step of the same size."""

from __future__ import annotations

import math

from autoresearch.proposers.situation import PastExperiment, Situation
from autoresearch.vocabulary import Status

# A drought is a standstill when the session, keeping at the rate it had, would see one so long this seldom.
_CHANCE = 0.05
# Before anything is measured: 22 keeps of 125 in the published H100 history, as if 12 experiments of it had been seen.
_PRIOR_KEEPS, _PRIOR_EXPERIMENTS = 2.0, 12.0
# Droughts of the published history: 16, 26 and 26 experiments, all others at most 8. 40 is half a night.
_SHORTEST, _LONGEST = 8, 40
# Replies and experiments refused because the same program was tried, among the last experiments, that are a standstill too.
_LATELY, _REPEATS = 8, 4
# In a verdict's reason, in a complaint to a model, and in why a hybrid did without its model.
SAID_AS_TRIED = "same program was tried"


def is_stagnant(situation: Situation) -> bool:
    """Whether the last experiments brought nothing for longer than chance explains, or ideas have begun to repeat."""
    judged = [past for past in situation.history if past.status is not None]
    return drought(judged) >= patience(judged) or _repeats(judged[-_LATELY:]) >= _REPEATS


def drought(judged: list[PastExperiment]) -> int:
    """How many experiments have been judged since the last keep."""
    count = 0
    for past in reversed(judged):
        if past.status is Status.KEEP:
            return count
        count += 1
    return count


def patience(judged: list[PastExperiment]) -> int:
    """How long a drought must be to count, from the keep rate p up to the last keep: the k with (1 - p)^k = 0.05.

    The rate is that of inverse sampling (one keep and one experiment are left out, because the count ends with a keep;
    Haldane, Biometrika 33, 1945), so that the drought itself does not lower it and with it the alarm; it is shrunk
    towards the prior. 17 experiments before the first keep, 8 at a rate of one in three, 40 at one in fifty.
    """
    keeps = sum(past.status is Status.KEEP for past in judged)
    until = len(judged) - drought(judged)
    rate = (max(0, keeps - 1) + _PRIOR_KEEPS) / (max(0, until - 1) + _PRIOR_EXPERIMENTS)
    if rate >= 1.0:
        return _SHORTEST
    return min(_LONGEST, max(_SHORTEST, math.ceil(math.log(_CHANCE) / math.log(1.0 - rate))))


def _repeats(lately: list[PastExperiment]) -> int:
    """Times that a program offered was not new: replies sent back (`details["repeats"]`), a model given up, a refusal."""
    count = 0
    for past in lately:
        sent_back = past.details.get("repeats", 0)
        count += sent_back if isinstance(sent_back, int) else 0
        count += SAID_AS_TRIED in past.reason or SAID_AS_TRIED in str(past.details.get("fell_back", ""))
    return count
