"""The door to Optuna: asked for values in the coordinates of `search_space`, told what was measured.

Optuna is imported inside the functions (0.35 s), its log and its warnings about experimental samplers stay silent.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoresearch.proposers.constants import Scalar
from autoresearch.proposers.dimension import Dimension

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_NUM_VALUES = 8
# Per generation. The default of 8 for four constants leaves three generations to a session of 24; for 28 it would be 13, and
# leave six to one of 77.
_POPULATION, _POPULATION_OF_MANY, _MANY = 6, 8, 8


@dataclass(frozen=True)
class Observation:
    """Coordinates of one measured program, for every dimension, and its val_bpb."""

    spots: dict[str, float]
    val_bpb: float


def sample_values(
    dimension: Dimension, observations: Sequence[Observation], *, seed: int, uniform: bool = False
) -> list[float]:
    """Coordinates that TPE (or a uniform sampler) would try for one dimension, the others as they are.

    Several, best first in the order asked, because the caller may have to refuse some. TPE models each parameter by
    itself here, so the others need not be in the study: with all 28 of train.py a proposal took ten times as long, and
    the values were the same (192 cases).
    """
    with _quiet_optuna():
        import optuna

        sampler: optuna.samplers.BaseSampler = (
            optuna.samplers.RandomSampler(seed=seed)
            if uniform
            else optuna.samplers.TPESampler(seed=seed, n_startup_trials=2, multivariate=False, constant_liar=True)
        )
        distributions = {dimension.name: _distribution(dimension)}
        study = optuna.create_study(sampler=sampler)
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={dimension.name: _in_study(dimension, seen.spots[dimension.name])},
                    distributions=distributions,
                    value=seen.val_bpb,
                )
                for seen in observations
            ]
        )
        return [float(study.ask(distributions).params[dimension.name]) for _ in range(_NUM_VALUES)]


def sample_joint_step(
    dimensions: Mapping[str, Dimension],
    start: Mapping[str, float],
    reach: float,
    past: Sequence[tuple[int, float | None]],
    *,
    seed: int,
    num_asks: int,
) -> Iterator[dict[str, Scalar]]:
    """Values for all `dimensions` together, step after step, from CMA-ES begun at the coordinates `start`.

    It moves within `reach` of them, and every dimension is a line to it: what lies beyond a range becomes its end, and what lies
    between two rungs the nearer one.

    `past` replays the session: per experiment, how many asks it took and the val_bpb that came of the last one. CMA-ES
    is a function of its seed and of what it was told, so the replay brings it to where it was.
    """
    with _quiet_optuna():
        import optuna

        distributions: dict[str, BaseDistribution] = {
            name: optuna.distributions.FloatDistribution(start[name] - reach, start[name] + reach)
            for name in dimensions
        }
        sampler = optuna.samplers.CmaEsSampler(
            n_startup_trials=1,
            warn_independent_sampling=False,
            seed=seed,
            popsize=_POPULATION if len(dimensions) < _MANY else _POPULATION_OF_MANY,
        )
        study = optuna.create_study(sampler=sampler)
        # CMA-ES works on the parameters that completed trials have in common; without one it would start blind.
        began = {name: start[name] for name in dimensions}
        study.add_trial(optuna.trial.create_trial(params=began, distributions=distributions, value=0.0))
        told: list[float] = []
        for asks, val_bpb in past:
            for _ in range(asks - 1):
                study.tell(study.ask(distributions), state=optuna.trial.TrialState.FAIL)
            trial = study.ask(distributions)
            # Only ranks matter to CMA-ES: a crash ranks last.
            told.append(val_bpb if val_bpb is not None else max(told, default=0.0) + 1.0)
            study.tell(trial, told[-1])
        steps: list[dict[str, Scalar]] = []
        for _ in range(num_asks):
            trial = study.ask(distributions)
            steps.append({name: dim.value_at(trial.params[name]) for name, dim in dimensions.items()})
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return iter(steps)


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    if dimension.has_rungs:
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high)


def _in_study(dimension: Dimension, spot: float) -> int | float:
    return round(spot) if dimension.has_rungs else spot


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
