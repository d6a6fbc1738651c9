"""What kind of idea to ask for next, and with which earlier experiments.

A bandit on gain per device-second: Thompson sampling under a budget (Xia, Li, Qin, Yu and Liu, IJCAI 2015: draw a reward
and a cost from their Beta posteriors, take the largest ratio), with old evidence discounted (Raj and Kalyani,
arXiv:1707.09727) because what paid early in a session stops paying. A discard or a crash is a reward of nothing at its
full cost. Rewards between 0 and 1 update the posteriors by their size, not by a coin flip, so that the choice is a
function of the history and the seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from autoresearch.proposers.novelty import num_code_lines
from autoresearch.proposers.retest import files_before, files_of, shaky_keeps
from autoresearch.proposers.situation import PastExperiment, Situation, program_of
from autoresearch.proposers.stagnation import is_stagnant
from autoresearch.vocabulary import Outcome, Status


class Operator(StrEnum):
    """Kinds of ideas that a language model is asked for."""

    IMPROVE = "improve"  # one step from the incumbent
    DRAFT = "draft"  # another structure
    COMBINE = "combine"  # two promising experiments in one
    SIMPLIFY = "simplify"  # less code for the same score
    FIX = "fix"  # the model's last idea crashed
    RETEST = "retest"  # an old keep taken out again


_BY_NAME = {str(operator): operator for operator in Operator}

# Expected reward and cost of an operator before it was tried, as if seen in `_PRIOR_TRIES` attempts; 1 is the largest
# gain, and the dearest attempt, of the session. The published H100 history gained 0.02 of its largest step per
# experiment, nearly all of it from small steps; a prior that is twice as hopeful makes each operator be tried.
# That a draft wins less often, and that less code or an old edit undone seldom lowers the score, is a guess.
_PRIOR_REWARD = {
    Operator.IMPROVE: 0.05,
    Operator.DRAFT: 0.03,
    Operator.COMBINE: 0.04,
    Operator.SIMPLIFY: 0.015,
    Operator.RETEST: 0.015,
}
_PRIOR_COST = 0.5
_PRIOR_TRIES = 8.0
_DISCOUNT = 0.98  # per later attempt: half is forgotten after 34, so a night's evidence counts by its last third
_CHEAPEST = 0.1  # of the dearest attempt: a refused idea used no device, but a call of the model and its turn
_KEEP_WORTH = 0.1  # least reward of a keep: one that is no better was kept because it is shorter
# In a standstill, factors on the draws. Without other evidence they take small steps from 43 % of the choices to 12 %.
_STALLED_MIX = {Operator.IMPROVE: 0.25, Operator.DRAFT: 4.0, Operator.COMBINE: 4.0}

MAX_FIXES = 2  # in a row, of one idea: a broken one costs three turns at most
_NUM_PROMISING = 6  # of the best experiments, paired: 15 pairs
_GROWN_BY = 12  # lines of code more than the baseline: an idea or two
_SIMPLIFY_EVERY = 10  # attempts of the model, at most one of them to simplify
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "memory limit", "memoryerror", "cannot allocate memory")


@dataclass(frozen=True)
class Attempt:
    """What one experiment of the model brought and cost, both from 0 to 1."""

    operator: Operator
    reward: float
    cost: float


def available(situation: Situation, *, preset: str) -> tuple[Operator, ...]:
    """The operators that make sense now, in the order of `Operator`."""
    fitting = {Operator.IMPROVE, Operator.DRAFT}
    if to_fix(situation) is not None:
        fitting.add(Operator.FIX)
    if partners_of(situation, preset=preset):
        fitting.add(Operator.COMBINE)
    if _may_simplify(situation, preset=preset):
        fitting.add(Operator.SIMPLIFY)
    if shaky_keeps(situation):
        fitting.add(Operator.RETEST)
    return tuple(operator for operator in Operator if operator in fitting)


def choose(situation: Situation, seed: int, *, preset: str, without: Sequence[Operator] = ()) -> Operator:
    """The operator for the next experiment, a function of the arguments alone. A fix that is due has right of way."""
    fitting = [found for found in available(situation, preset=preset) if found not in without]
    if Operator.FIX in fitting:
        return Operator.FIX
    attempts = attempts_of(situation)
    mix = _STALLED_MIX if is_stagnant(situation) else {}
    rng = random.Random(f"{seed}:{situation.number}:operator")
    drawn = {operator: _drawn(operator, attempts, rng) * mix.get(operator, 1.0) for operator in fitting}
    return max(drawn, key=lambda operator: drawn[operator])


def attempts_of(situation: Situation) -> list[Attempt]:
    """The model's judged experiments as the bandit counts them, oldest first.

    A fix counts for the operator whose idea it mends. Experiments of a classical search have no operator and are not here.
    """
    by_number = {past.number: past for past in situation.history}
    known = [(past, _credited(past, by_number)) for past in situation.history if past.status is not None]
    mine = [(past, operator) for past, operator in known if operator is not None]
    largest = max([*(gain_of(past) for past, _ in mine if past.status is Status.KEEP), situation.noise or 0.0])
    dearest = max((past.seconds for past, _ in mine), default=0.0)
    return [
        Attempt(
            operator,
            _reward(past, largest),
            max(_CHEAPEST, past.seconds / dearest) if dearest > 0.0 else 1.0,
        )
        for past, operator in mine
    ]


def gain_of(past: PastExperiment) -> float:
    """Estimated gain, 0 where there is none: what did not run was no gain."""
    return past.gain if past.gain is not None and math.isfinite(past.gain) else 0.0


def operator_of(past: PastExperiment) -> Operator | None:
    """The operator that an experiment came from; None when it was not a model's."""
    name = past.details.get("operator")
    return _BY_NAME.get(name) if isinstance(name, str) else None


def _credited(past: PastExperiment, by_number: dict[int, PastExperiment]) -> Operator | None:
    """The operator whose idea `past` is; a fix is traced back to what it mends."""
    for _ in range(MAX_FIXES + 1):
        operator = operator_of(past)
        mends = past.details.get("mends")
        broken = by_number.get(mends) if isinstance(mends, int) else None
        if operator is not Operator.FIX or broken is None:
            break
        past = broken
    return None if operator is Operator.FIX else operator


def _reward(past: PastExperiment, largest: float) -> float:
    if past.status is not Status.KEEP:
        return 0.0
    share = gain_of(past) / largest if largest > 0.0 else 0.0
    return min(1.0, max(_KEEP_WORTH, share))


def _drawn(operator: Operator, attempts: Sequence[Attempt], rng: random.Random) -> float:
    """One draw of reward per cost from the posteriors of an operator."""
    hits, misses = _PRIOR_TRIES * _PRIOR_REWARD[operator], _PRIOR_TRIES * (1.0 - _PRIOR_REWARD[operator])
    dear, cheap = _PRIOR_TRIES * _PRIOR_COST, _PRIOR_TRIES * (1.0 - _PRIOR_COST)
    for age, attempt in enumerate(reversed(attempts)):
        if attempt.operator is operator:
            weight = _DISCOUNT**age
            hits += weight * attempt.reward
            misses += weight * (1.0 - attempt.reward)
            dear += weight * attempt.cost
            cheap += weight * (1.0 - attempt.cost)
    return rng.betavariate(hits, misses) / max(_CHEAPEST, rng.betavariate(dear, cheap))


def to_fix(situation: Situation) -> PastExperiment | None:
    """The model's last experiment where it crashed for a reason that an edit can mend, and was not mended too often.

    Not what ran out of memory or time: that is the idea's size, not a mistake in it. Not one whose incumbent has been
    replaced since. In a hybrid session experiments of the search may have followed.
    """
    last = next((past for past in reversed(situation.history) if operator_of(past) is not None), None)
    if last is None or last.status is not Status.CRASH or last.outcome not in (Outcome.CRASHED, Outcome.DIVERGED):
        return None
    if last.base is not None and last.base != situation.incumbent_number:
        return None
    said = f"{last.reason}\n{last.log_tail}".lower()
    return None if fixes_of(last) >= MAX_FIXES or any(mark in said for mark in _OUT_OF_MEMORY) else last


def fixes_of(past: PastExperiment) -> int:
    """How many fixes in a row led to this experiment."""
    fixes = past.details.get("fixes", 0)
    return fixes if isinstance(fixes, int) else 0


def partners_of(situation: Situation, *, preset: str) -> tuple[PastExperiment, PastExperiment] | None:
    """The two most promising experiments that the incumbent does not contain and that were not combined before.

    Promising are this session's discards with a positive estimated gain, and keeps of other sessions. Two that set the
    same constant have nothing to combine.
    """
    near = [past for past in situation.history if past.status is Status.DISCARD and program_of(past, situation)]
    kept = [past for past in situation.elsewhere if program_of(past, situation)]
    ranked = sorted(
        (past for past in (*near, *kept) if gain_of(past) > 0.0),
        key=lambda past: (-gain_of(past), past.tag, past.number),
    )
    fresh: list[PastExperiment] = []
    for past in ranked:
        if len(fresh) == _NUM_PROMISING:
            break
        before, after = files_before(past, situation, preset=preset), program_of(past, situation) or {}
        if not _is_contained(after, before, situation.incumbent):
            fresh.append(past)
    done = {_pair(*past.details["partners"]) for past in situation.history if _has_partners(past)}
    for one, other in combinations(fresh, 2):
        if _pair(name_of(one), name_of(other)) not in done and not _constants_of(one) & _constants_of(other):
            return one, other
    return None


def name_of(past: PastExperiment) -> str:
    """`tag/number`: an experiment's name across sessions, as `details["partners"]` holds it."""
    return f"{past.tag}/{past.number}"


def _pair(one: object, other: object) -> frozenset[str]:
    return frozenset((str(one), str(other)))


def _has_partners(past: PastExperiment) -> bool:
    partners = past.details.get("partners")
    return isinstance(partners, list) and len(partners) == 2


def _constants_of(past: PastExperiment) -> set[str]:
    found = (past.details.get(key) for key in ("changes", "moved"))
    return {name for changes in found if isinstance(changes, dict) for name in changes}


def _is_contained(
    program: Mapping[str, str], program_before: Mapping[str, str] | None, incumbent: Mapping[str, str]
) -> bool:
    """Whether the incumbent has every line that the experiment added, or lacks every one that it took away.

    Where the text before is not known, every line of the experiment counts as its own.
    """
    after, here = _code_lines(program), _code_lines(incumbent)
    if program_before is None:
        return after <= here
    before = _code_lines(program_before)
    return after - before <= here if after - before else not (before - after) & here


def _may_simplify(situation: Situation, *, preset: str) -> bool:
    mine = [past for past in situation.history if operator_of(past) is not None]
    if any(operator_of(past) is Operator.SIMPLIFY for past in mine[-_SIMPLIFY_EVERY:]):
        return False
    first = files_of(0, situation, preset=preset)
    if first is None:  # a first edit is the nearest text to the baseline's
        first = next((files for past in situation.history if (files := program_of(past, situation))), None)
    return first is not None and num_code_lines(situation.incumbent) >= num_code_lines(first) + _GROWN_BY


def _code_lines(files: Mapping[str, str]) -> set[tuple[str, str]]:
    """Distinct lines of each file that are neither blank nor comment, without their indentation."""
    stripped = ((name, line.strip()) for name, text in files.items() for line in text.split("\n"))
    return {(name, line) for name, line in stripped if line and not line.startswith("#")}
