"""Classical search as a proposer: no key, no network. It changes one constant of the experiment file at a time.

Which constant: a small bandit. Constants are visited in the order of the effects reported in the field; the first visit
is a step of about a factor of two, a keep is followed up in the same direction, a discard turns round once and then
waits. What value, from the third look at a constant on: Optuna's TPE (Bergstra et al., NeurIPS 2011) through ask and
tell, every other constant fixed at the incumbent's value; or CMA-ES (Hansen, arXiv:1604.00772) over all constants at
once. The study is rebuilt from the history each time, so nothing is lost with the process.

Covered: numbers, tuples of numbers, booleans, window patterns, and the named choices of a data recipe. Not covered: changes of
code, and interactions other than the joint steps of CMA-ES and the weights that come along in a recipe.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoresearch.contract.rules import rules_for
from autoresearch.proposers.constants import Constants, Scalar, owner_of, read_constants, rewrite
from autoresearch.proposers.dimension import Dimension, Scale, movable_together
from autoresearch.proposers.novelty import digest_of_files
from autoresearch.proposers.samplers import Observation, sample_joint_step, sample_values
from autoresearch.proposers.search_space import SearchSpace, space_of
from autoresearch.proposers.situation import PastExperiment, Situation, program_of
from autoresearch.vocabulary import Proposal, ProposerExhausted, Status, UsageError

METHODS = ("tpe", "cmaes", "random")

# A value closer than this (in steps, see search_space) to one already tried cannot be told from it: the effect of a
# factor of two is about the noise of a few trials.
_CLOSEST = 0.3
# Coordinates tried when every better idea is taken, per dimension.
_GRID = 33
# CMA-ES starts in the middle of its ranges with a standard deviation of a sixth of them: a factor of 1.6 for one of four
# constants. With more the reach shrinks as the root of their number, so that a whole step is as long. On the recorded
# surface (benchmarks/search_surface, 10 seeds) all 28 so ended at 1.8069, the four learning rates alone at 1.8480.
_CMAES_REACH = 2.0
_CMAES_REACH_OF = 4  # constants
_CMAES_ASKS = 8
_MOST_NAMED = 4  # changes that a description names
_TOLD_TRIES = 4  # per constant, the last ones: a step out, a turn round, two refinements


@dataclass(frozen=True)
class Visit:
    """One finished look at a dimension: from where to where (coordinates), and what came of it."""

    index: int  # position in the history
    old: float
    new: float
    status: Status
    gain: float | None


@dataclass(frozen=True)
class Plan:
    """What to do next with one dimension: a step of natural size in a direction, or 0 to ask Optuna for the value."""

    score: float
    name: str
    direction: int
    uniform: bool = False  # asked of a uniform sampler, not of TPE


class SearchProposer:
    """Proposes one-constant edits of `surface` under `preset`. See the module's text for how.

    In the data program it searches the first file that has something to search, `surface` before the others.

    `skipped` says, after a call of `propose`, which UPPER_CASE names were left alone and why.
    """

    def __init__(
        self, preset: str, *, seed: int = 0, surface: str = "train.py", method: str = "tpe", program: str = "model"
    ) -> None:
        if method not in METHODS:
            raise UsageError(
                f"unknown search method {method!r}; known: {', '.join(METHODS)}", hint="--proposer search:tpe"
            )
        self.name = f"search:{method}"
        self.skipped: dict[str, str] = {}
        self._rules = rules_for(preset)
        self._seed = seed
        self._surface = surface
        self._method = method
        self._program = program

    def propose(self, situation: Situation) -> Proposal:
        """The next edit, a function of the constructor's arguments, the incumbent and the history alone.

        Raises:
            UsageError: the incumbent lacks the file to edit, it does not parse, or it has nothing to search.
            ProposerExhausted: every value within the ranges has been tried.
        """
        attempt = self._attempt(situation)
        space = attempt.space
        if self._method == "cmaes":
            return self._joint_proposal(attempt)
        plans = self._random_plans(attempt) if self._method == "random" else self._bandit_plans(attempt)
        for plan in plans:
            changes = attempt.changes_for(plan)
            if changes is not None:
                return self._proposal(attempt, changes, {"parameter": plan.name})
        for plan in plans:
            changes = attempt.anything_new(space.dimensions[plan.name])
            if changes is not None:
                return self._proposal(attempt, changes, {"parameter": plan.name})
        raise ProposerExhausted(
            "every value within the search's ranges has been tried",
            hint="autoresearch research NEWTAG, from this incumbent or with another proposer",
        )

    def learned(self, situation: Situation) -> str:
        """What the history says of each constant, a line each: its value and range, and the last values tried.

        Text for a language model that may overrule the search: names, numbers and verdicts of ours, no machine's words.

        Raises:
            UsageError: as `propose` does.
        """
        attempt = self._attempt(situation)
        lines, untried = [], []
        for dimension in attempt.space.dimensions.values():
            tries = [_said(row, dimension) for row in attempt.rows if dimension.name in row.changes]
            now = _shown(attempt.space.values[dimension.name])
            low, high = (_shown(dimension.value_at(spot)) for spot in (dimension.low, dimension.high))
            about = f"{dimension.name} = {now} (searched from {low} to {high})"
            if tries:
                lines.append(f"{about}: {'; '.join(tries[-_TOLD_TRIES:])}")
            else:
                untried.append(about)
        return "\n".join([*lines, *(f"{about}: not tried" for about in untried)])

    def _attempt(self, situation: Situation) -> _Attempt:
        """The incumbent and the history as the search reads them.

        Raises:
            UsageError: the incumbent lacks the file to edit, it does not parse, or it has nothing to search.
        """
        incumbent = situation.incumbent
        if self._surface not in incumbent:
            raise UsageError(
                f"the incumbent has no {self._surface}; it has {', '.join(incumbent) or 'no files'}", hint="git status"
            )
        others = [name for name in incumbent if name != self._surface] if self._program == "data" else []
        for file in (self._surface, *others):
            rows = [_Row.read(past, situation, file, self._rules.preset) for past in situation.history]
            space = self._space(file, incumbent[file], rows)
            if file == self._surface or space.dimensions:
                self.skipped = space.skipped
            if space.dimensions:
                return _Attempt(space, file, incumbent, rows, random.Random(f"{self._seed}:{len(rows)}"))
        raise UsageError(
            f"{self._surface} has no UPPER_CASE constants that the search can change",
            hint="autoresearch research TAG --proposer NAME, with another proposer",
        )

    def _space(self, file: str, source: str, rows: Sequence[_Row]) -> SearchSpace:
        try:
            constants = read_constants(source, self._rules.preset)
        except SyntaxError as error:
            raise UsageError(f"{file} does not parse: {error}", hint=f"python -m py_compile {file}") from error
        anchors: dict[str, Scalar] = {}
        seen: dict[str, list[Scalar]] = {}
        for row in rows:
            for name, (old, new) in row.changes.items():
                anchors.setdefault(name, old)  # the first change ever of a constant started at the baseline's value
                seen.setdefault(name, []).extend((old, new))
        return space_of(
            constants,
            seq_len=self._rules.max_seq_len,
            anchors=anchors,
            seen=seen,
            program=self._program,
            vocab_size=self._rules.vocab_size,
        )

    def _bandit_plans(self, attempt: _Attempt) -> list[Plan]:
        """For each dimension what to do next, and what if a side of it is closed; all of them, best first."""
        plans: list[Plan] = []
        for dimension in attempt.space.dimensions.values():
            luck = attempt.rng.gauss(1.0, 0.08)
            closed: frozenset[int] = frozenset()
            while True:
                plan = plan_for(dimension, attempt, noise=self._rules.noise_prior, luck=luck, closed=closed)
                plans.append(plan)
                if plan.direction == 0:
                    break
                closed |= {plan.direction}
        return sorted(plans, key=lambda plan: -plan.score)

    def _random_plans(self, attempt: _Attempt) -> list[Plan]:
        names = list(attempt.space.dimensions)
        attempt.rng.shuffle(names)
        return [Plan(0.0, name, 0, uniform=True) for name in names]

    def _joint_proposal(self, attempt: _Attempt) -> Proposal:
        """One CMA-ES step of all constants together."""
        dimensions = attempt.space.dimensions
        earlier = [row for row in attempt.rows if row.details.get("method") == "cmaes"]
        group = [
            name
            for name in (earlier[0].details["group"] if earlier else movable_together(dimensions))
            if name in dimensions
        ]
        if len(group) < 2:
            raise UsageError(
                f"search:cmaes needs at least two constants to move together; {self._surface} has {len(group)}",
                hint="--proposer search:tpe",
            )
        past = [(int(row.details["asks"]), row.value_told) for row in earlier]
        reach = _CMAES_REACH * min(1.0, math.sqrt(_CMAES_REACH_OF / len(group)))
        start = {name: attempt.anchor(name) for name in group}
        chosen = {name: dimensions[name] for name in group}
        steps = sample_joint_step(chosen, start, reach, past, seed=self._seed, num_asks=_CMAES_ASKS)
        for asks, step in enumerate(steps, start=1):
            now = attempt.space.values
            changes = {name: value for name, value in step.items() if value != now[name]}
            if changes and attempt.is_new(changes):
                return self._proposal(attempt, changes, {"group": group, "asks": asks})
        raise ProposerExhausted("CMA-ES has converged: its steps repeat", hint="--proposer search:tpe")

    def _proposal(self, attempt: _Attempt, changes: Mapping[str, Scalar], details: Mapping[str, Any]) -> Proposal:
        constants = attempt.space.constants
        owners = list(dict.fromkeys(owner_of(name) for name in changes))
        pairs = {owner: (constants.whole(owner, {}), constants.whole(owner, changes)) for owner in owners}
        said = [f"{owner} {_shown(old)} -> {_shown(new)}" for owner, (old, new) in pairs.items()]
        text = ", ".join(said[:_MOST_NAMED])
        return Proposal(
            description=text if "group" not in details else _joint_text(len(pairs), text),
            files=attempt.files_with(changes),
            proposer=self.name,
            details={
                "changes": {owner: [_json(old), _json(new)] for owner, (old, new) in pairs.items()},
                "method": self._method,
                **details,
            },
        )


def plan_for(
    dimension: Dimension, attempt: _Attempt, *, noise: float, luck: float = 1.0, closed: frozenset[int] = frozenset()
) -> Plan:
    """What to do next with a dimension, and how much it promises, from what was seen of it so far.

    Scores are relative: an untried dimension has its weight (0.1 to 1), a keep that can be followed up beats them all,
    a turn round comes after most first visits, and refinements wait. Waiting adds to the score, so none starves.
    `luck` varies the order between seeds. `closed` are directions in which there is nothing new.
    """
    visits = attempt.visits(dimension)
    here = attempt.here(dimension)
    if dimension.scale is Scale.CHOICE:
        return _plan_for_choice(dimension, attempt, visits, here, luck, closed)
    spots = {spot for visit in visits for spot in (visit.old, visit.new)}
    open_sides = [
        side
        for side, edge in ((1, dimension.high), (-1, dimension.low))
        if side not in closed
        and side * (edge - here) >= _CLOSEST
        and not any(side * (spot - here) > 1e-9 for spot in spots)
    ]
    weight = dimension.weight * luck
    if not visits:
        sides = sorted(open_sides, key=lambda side: side != dimension.first)
        return Plan(weight + _waiting(attempt, -1), dimension.name, sides[0] if sides else 0)
    last = visits[-1]
    waiting = _waiting(attempt, last.index)
    onward = 1 if last.new > last.old else -1
    if last.status is Status.KEEP and onward in open_sides:
        return Plan(1.3 * luck + waiting, dimension.name, onward)
    if open_sides:
        gain = last.gain if last.gain is not None else 0.0
        slope = 1.3 if gain < -2.0 * noise else 0.8 if abs(gain) < noise else 1.0  # a clear loss points the other way
        return Plan(0.9 * slope * weight + waiting, dimension.name, open_sides[0])
    keeps = sum(visit.status is Status.KEEP for visit in visits)
    score = (0.3 + 0.1 * min(keeps, 2)) * weight * 0.75 ** max(0, len(visits) - 2)
    return Plan(score + waiting, dimension.name, 0)


def _plan_for_choice(
    dimension: Dimension, attempt: _Attempt, visits: Sequence[Visit], here: float, luck: float, closed: frozenset[int]
) -> Plan:
    """As `plan_for`: each value is an idea of its own, so one that failed says nothing of the others."""
    seen = {round(here), *(round(spot) for visit in visits for spot in (visit.old, visit.new))}
    fresh = [at for at in range(len(dimension.rungs)) if at not in seen and at - round(here) not in closed]
    if fresh:
        weights = dict(enumerate(dimension.weights))
        best = max(fresh, key=lambda at: weights.get(at, 0.0))
        return Plan(weights.get(best, 0.1) * luck + _waiting(attempt, -1), dimension.name, best - round(here))
    score = 0.2 * dimension.weight * luck * 0.75 ** max(0, len(visits) - len(dimension.rungs))
    return Plan(score + _waiting(attempt, visits[-1].index if visits else -1), dimension.name, 0)


def _waiting(attempt: _Attempt, since: int) -> float:
    return 0.005 * (len(attempt.rows) - 1 - since)


@dataclass(frozen=True)
class _Row:
    """A past experiment as the search reads it. Another proposer's may lack details and have other constants."""

    past: PastExperiment
    constants: Constants
    changes: dict[str, tuple[Scalar, Scalar]]  # by literal name, old and new
    digest: str | None

    @classmethod
    def read(cls, past: PastExperiment, situation: Situation, file: str, preset: str) -> _Row:
        source, program = past.files.get(file), program_of(past, situation)
        constants = Constants()
        if source is not None:
            try:
                constants = read_constants(source, preset)
            except SyntaxError:
                constants = Constants()  # a crash of some other proposer: known not to repeat it, useless otherwise
        digest = digest_of_files(program) if program is not None else None
        return cls(past, constants, _literal_changes(past.details), digest)

    @property
    def details(self) -> dict[str, Any]:
        return self.past.details

    @property
    def value_told(self) -> float | None:
        """val_bpb to tell a sampler; None for a crash or an undecided experiment."""
        return self.past.val_bpb


class _Attempt:
    """One call of `propose`: the space of one file, the incumbent's files, the history, and the randomness of this call."""

    def __init__(
        self, space: SearchSpace, file: str, incumbent: Mapping[str, str], rows: Sequence[_Row], rng: random.Random
    ) -> None:
        self.space, self.file, self.incumbent, self.rows, self.rng = space, file, incumbent, rows, rng
        self._taken = {digest_of_files(incumbent), *(row.digest for row in rows if row.digest is not None)}

    def files_with(self, changes: Mapping[str, Scalar]) -> dict[str, str]:
        """The incumbent's files with these literals replaced."""
        return {**self.incumbent, self.file: rewrite(self.incumbent[self.file], self.space.constants, changes)}

    def here(self, dimension: Dimension) -> float:
        """The incumbent's coordinate."""
        return dimension.coordinate(self.space.values[dimension.name])

    def anchor(self, name: str) -> float:
        """The baseline's coordinate."""
        dimension = self.space.dimensions[name]
        first = next((row.changes[name][0] for row in self.rows if name in row.changes), self.space.values[name])
        return dimension.coordinate(first)

    def visits(self, dimension: Dimension) -> list[Visit]:
        """Finished experiments that were about this dimension, oldest first."""
        found: list[Visit] = []
        for index, row in enumerate(self.rows):
            name = dimension.name
            if row.details.get("parameter") != name or name not in row.changes or row.past.status is None:
                continue
            old, new = row.changes[name]
            if dimension.holds(old) and dimension.holds(new):
                spots = dimension.coordinate(old), dimension.coordinate(new)
                found.append(Visit(index, *spots, row.past.status, row.past.gain))
        return found

    def changes_for(self, plan: Plan) -> dict[str, Scalar] | None:
        """The literals to write for this plan; None when there is nothing new that way."""
        dimension = self.space.dimensions[plan.name]
        here = self.here(dimension)
        if dimension.scale is Scale.CHOICE and plan.direction != 0:
            spots = [here + plan.direction]
        elif plan.direction != 0:
            spots = [here + plan.direction * size for size in (1.0, 0.5, 2.0)]
        else:
            spots = self._sampled(dimension if plan.uniform else self._bracketed(dimension), uniform=plan.uniform)
        found = (self._changes_at(dimension, spot, apart=_CLOSEST) for spot in dict.fromkeys(spots))
        return next((changes for changes in found if changes is not None), None)

    def _bracketed(self, dimension: Dimension) -> Dimension:
        """The dimension between the nearest tried values on either side of the incumbent's, where there is room.

        Both are known to be worse, so the best value lies between them unless the score has several valleys.
        """
        if dimension.scale is Scale.CHOICE:
            return dimension
        here = self.here(dimension)
        spots = {spot for visit in self.visits(dimension) for spot in (visit.old, visit.new)}
        low = max((spot for spot in spots if spot < here - 1e-9), default=dimension.low)
        high = min((spot for spot in spots if spot > here + 1e-9), default=dimension.high)
        has_room = max(here - low, high - here) > (1.0 if dimension.has_rungs else 2.0 * _CLOSEST)
        return replace(dimension, low=low, high=high) if has_room else dimension

    def _sampled(self, dimension: Dimension, *, uniform: bool) -> list[float]:
        """Coordinates on `dimension` from Optuna, told of every observation within its range."""
        low, high = dimension.low, dimension.high
        return sample_values(
            dimension,
            [seen for seen in self.observations() if low <= seen.spots[dimension.name] <= high],
            seed=self.rng.randrange(2**31),
            uniform=uniform,
        )

    def anything_new(self, dimension: Dimension) -> dict[str, Scalar] | None:
        """The value nearest to the incumbent's that is still new."""
        here = self.here(dimension)
        if dimension.has_rungs:
            grid = [float(index) for index in range(len(dimension.rungs))]
        else:
            grid = [dimension.low + (dimension.high - dimension.low) * k / (_GRID - 1) for k in range(_GRID)]
        for spot in sorted(grid, key=lambda spot: (abs(spot - here), spot)):
            changes = self._changes_at(dimension, spot, apart=0.0)
            if changes is not None:
                return changes
        return None

    def _changes_at(self, dimension: Dimension, spot: float, *, apart: float) -> dict[str, Scalar] | None:
        """The literals to write to go to a coordinate; None when it is illegal, not new, or too close."""
        value = dimension.value_at(spot)
        if abs(dimension.coordinate(value) - self.here(dimension)) < apart:
            return None
        changes = self.space.changes_for(dimension.name, value)
        return changes if changes is not None and self.is_new(changes) else None

    def is_new(self, changes: Mapping[str, Scalar]) -> bool:
        """Whether no experiment so far, and not the incumbent, is this program."""
        return digest_of_files(self.files_with(changes)) not in self._taken

    def observations(self) -> list[Observation]:
        """What a study can be told: coordinates of every program measured so far, the incumbents included, with scores.

        A crash is told as the worst score seen and half the spread more, so that its neighbourhood is avoided.
        """
        told: list[Observation] = []
        scores = [row.past.val_bpb for row in self.rows if row.past.val_bpb is not None]
        worst = max(scores) + 0.5 * (max(scores) - min(scores)) if scores else None
        for row in self.rows:
            spots = self._spots(row.constants)
            score = row.past.val_bpb
            if score is None and row.past.status is Status.CRASH and row.changes:
                score = worst
            if score is None or len(spots) < len(self.space.dimensions):
                continue
            told.append(Observation(spots, score))
            if row.past.gain is not None and row.past.val_bpb is not None and row.changes:
                told.append(Observation(self._before(row, spots), row.past.val_bpb + row.past.gain))
        return told

    def _spots(self, constants: Constants) -> dict[str, float]:
        values = {name: literal.value for name, literal in constants.literals.items()}
        return {
            name: dim.coordinate(values[name])
            for name, dim in self.space.dimensions.items()
            if name in values and dim.contains(values[name])
        }

    def _before(self, row: _Row, spots: Mapping[str, float]) -> dict[str, float]:
        """Coordinates of the incumbent that the experiment was measured against."""
        undone = {
            name: dim.coordinate(row.changes[name][0])
            for name, dim in self.space.dimensions.items()
            if name in row.changes
        }
        return {**spots, **undone}


def _joint_text(num_changes: int, named: str) -> str:
    more = f", and {num_changes - _MOST_NAMED} more" if num_changes > _MOST_NAMED else ""
    return f"{num_changes} constants together: {named}{more}"


def _literal_changes(details: Mapping[str, Any]) -> dict[str, tuple[Scalar, Scalar]]:
    """`details["changes"]` by literal: an element of a tuple that changed has an entry of its own."""
    found: dict[str, tuple[Scalar, Scalar]] = {}
    changes = details.get("changes")
    for owner, pair in changes.items() if isinstance(changes, dict) else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            continue
        old, new = pair
        if isinstance(old, list | tuple) and isinstance(new, list | tuple):
            found.update({f"{owner}[{i}]": (a, b) for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b})
        elif isinstance(old, bool | int | float | str) and isinstance(new, bool | int | float | str):
            found[owner] = (old, new)
    return found


def _said(row: _Row, dimension: Dimension) -> str:
    """ "0.08 gain +0.0012 keep": one value of a constant and what came of it."""
    gain = f" gain {row.past.gain:+.4f}" if row.past.gain is not None else ""
    joint = " with others" if len(row.changes) > 1 else ""
    return f"{_shown(row.changes[dimension.name][1])}{joint}{gain} {row.past.status or 'undecided'}"


def _json(value: Scalar | tuple[Scalar, ...]) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Scalar | tuple[Scalar, ...]) -> str:
    return value if isinstance(value, str) else repr(value)
