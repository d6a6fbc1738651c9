"""Which trials the recording holds: a pure function of the trial's number and of what was recorded before it.

Points are laid in the coordinates of the search space (`proposers/search_space.py`: a step of 1 is the natural first
try), by a scrambled Sobol sequence. Of every ten trials, by their numbers:

    near    4   every constant moved, by up to 0.3 of the way to the edge of its range: 28 slopes at once
    sparse  4   four constants moved, over their whole ranges: what a one-constant search proposes
    wide    1   every constant moved, by up to 0.6: how bad it gets
    again   1   the baseline, or one of a few earlier points, with another seed: the noise

From trial 100 on, every second near or sparse point is laid round the mean of the best tenth so far, looked at anew
every 25 trials, so that the surface is known where searches go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoresearch.proposers.constants import Scalar
from autoresearch.proposers.dimension import Scale
from autoresearch.proposers.search_space import SearchSpace

SEED = 20261121
NUM_MOVED = 4  # constants that a sparse point moves
STEERED_FROM, LOOK_EVERY = 100, 25
AMPLITUDES = {"near": 0.3, "sparse": 1.0, "wide": 0.6}  # of the way from the centre to the edge of the range
KINDS = ("near", "sparse", "near", "sparse", "wide", "near", "sparse", "near", "sparse", "again")
_REPEATED = (0, 1, 2, 3, 5)  # points that share every second `again`; the baseline has the others


@dataclass(frozen=True)
class Point:
    """One trial to run: what kind it is, which earlier number it repeats (-1: the baseline), and the values to write."""

    number: int
    kind: str
    repeats: int | None
    values: dict[str, Scalar]

    @property
    def seed(self) -> int:
        """The trial's: no two trials share one."""
        return 700_000 + self.number


def point(number: int, space: SearchSpace, recorded: Sequence[Mapping[str, object]]) -> Point:
    """Trial `number` of the recording. `recorded` are the lines with smaller numbers."""
    kind = KINDS[number % len(KINDS)]
    if kind == "again":
        turn = number // len(KINDS)
        if turn % 2 == 0:
            return Point(number, kind, -1, dict(_searched(space)))
        source = _REPEATED[turn // 2 % len(_REPEATED)]
        return Point(number, kind, source, point(source, space, ()).values)
    draw = _sobol(number, len(space.dimensions) + NUM_MOVED)
    centre = _centre_for(number, space, recorded)
    moved = _moved(kind, draw[len(space.dimensions) :], len(space.dimensions))
    values: dict[str, Scalar] = {}
    for index, (name, dimension) in enumerate(space.dimensions.items()):
        spot = centre[index]
        if index in moved:
            push = 2.0 * draw[index] - 1.0
            edge = dimension.high if push > 0 else dimension.low
            spot += AMPLITUDES[kind] * abs(push) * (edge - spot)
        if dimension.scale is not Scale.LADDER and spot == dimension.coordinate(space.values[name]):
            values[name] = space.values[name]  # as the file writes it, not rounded
        else:
            values[name] = dimension.value_at(spot)
    return Point(number, kind, None, legal(values, space.seq_len))


def legal(values: Mapping[str, Scalar], seq_len: int) -> dict[str, Scalar]:
    """`values` with what the file refuses mended: micro-batches divide the batch, the schedule fits the budget."""
    mended = dict(values)
    total, rows = mended["TOTAL_BATCH_SIZE"], mended["DEVICE_BATCH_SIZE"]
    assert isinstance(total, int) and isinstance(rows, int)
    mended["DEVICE_BATCH_SIZE"] = min(rows, total // seq_len)  # both are powers of two times 256 and 1
    warm_up, warm_down = float(mended["WARMUP_RATIO"]), float(mended["WARMDOWN_RATIO"])
    mended["WARMDOWN_RATIO"] = round(min(warm_down, 1.0 - warm_up), 2)
    return mended


def coordinates(values: Mapping[str, Scalar], space: SearchSpace) -> NDArray[np.float64]:
    """Coordinates of a point, float64 [number of dimensions], in the space's order."""
    return np.array([dim.coordinate(values[name]) for name, dim in space.dimensions.items()])


def _searched(space: SearchSpace) -> dict[str, Scalar]:
    return {name: space.values[name] for name in space.dimensions}


def _centre_for(number: int, space: SearchSpace, recorded: Sequence[Mapping[str, object]]) -> NDArray[np.float64]:
    baseline = coordinates(_searched(space), space)
    if number < STEERED_FROM or number % 2 == 0 or KINDS[number % len(KINDS)] == "wide":
        return baseline
    looked_at = number - number % LOOK_EVERY
    known = [row for row in recorded if int(str(row["number"])) < looked_at and row["val_bpb"] is not None]
    best = sorted(known, key=lambda row: float(str(row["val_bpb"])))[: max(1, len(known) // 10)]
    spots = [coordinates(row["values"], space) for row in best if isinstance(row["values"], dict)]
    return np.mean(spots, axis=0) if spots else baseline


def _moved(kind: str, draw: NDArray[np.float64], num_dimensions: int) -> set[int]:
    """Indices of the constants that a point moves."""
    if kind != "sparse":
        return set(range(num_dimensions))
    left = list(range(num_dimensions))
    return {left.pop(int(chance * len(left))) for chance in draw}


def _sobol(number: int, num_dimensions: int) -> NDArray[np.float64]:
    """Point `number` of the scrambled Sobol sequence, float64 [num_dimensions] in [0, 1)."""
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(num_dimensions, scramble=True, seed=SEED).fast_forward(number)
    return np.asarray(engine.draw(1)[0].double().numpy())
