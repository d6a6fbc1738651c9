"""Mixing groups of text row by row: each batch holds each group's share, as nearly as whole rows can."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.vocabulary import UsageError

Rows = NDArray[np.unsignedinteger[Any]]

_HINT = "mend weights() and its tables in data_sources.py"


class Stream(Protocol):
    """Rows without end: `contract.stream.RowStream`, or a recipe's own."""

    @property
    def epoch(self) -> int:
        """From 1."""

    def take(self, num_rows: int, /) -> Rows:
        """The next rows [num_rows, row_len]."""


def shares(
    sizes: Mapping[str, int], source_weights: Mapping[str, float], tier_weights: Sequence[float]
) -> dict[str, float]:
    """Each group's share of rows (they sum to 1): a dataset's by its weight, a tier's by its size times its weight.

    sizes: tokens of each group, by "DATASET/TIER". source_weights: by dataset; empty: by size, too. So tiers of equal
    weight give what an unranked dataset gives, and a tier of weight 2 is seen twice while the others are seen once. A
    dataset whose tiers all weigh nothing gives no rows.

    Raises:
        UsageError: a group's name ends in no tier, there are more tiers than weights, or nothing has a weight.
    """
    inside: dict[str, dict[str, float]] = {}
    for group, tokens in sizes.items():
        dataset, _, tier = group.rpartition("/")
        if not dataset or not tier.isdecimal() or int(tier) >= len(tier_weights):
            raise UsageError(f"group {group!r} has none of the {len(tier_weights)} tier weights", hint=_HINT)
        inside.setdefault(dataset, {})[group] = tokens * _weight(group, tier_weights[int(tier)])
    found: dict[str, float] = {}
    for dataset, weighted in inside.items():
        total = sum(weighted.values())
        share = _weight(dataset, source_weights.get(dataset, 0.0)) / total if source_weights and total else 1.0
        found.update({group: share * value for group, value in weighted.items()})
    return _normalized(found)


class Mixture:
    """Rows of several streams, by weights that may change with progress. Deterministic: no draw, only the seed's start.

    Every row goes to the group that is owed most: each group is owed its share of every row, and pays one when it gives
    one (the smooth weighted round robin of nginx). After any number of rows under constant weights, a group has given
    its share of them to within one row for two groups, and a few for many; random draws would be off by the square root. The
    seed decides who begins.
    """

    def __init__(
        self, streams: Mapping[str, Stream], weights: Callable[[float], Mapping[str, float]], seed: int
    ) -> None:
        """weights: from progress (0..1 of the budget) to a weight for each group; those left out give nothing.

        Raises:
            UsageError: there is no stream.
        """
        if not streams:
            raise UsageError("a mixture of nothing", hint="write a group in build() in prepare.py")
        self._streams = dict(streams)
        self._weights = weights
        starts = np.random.default_rng(seed).random(len(self._streams))
        self._owed = dict(zip(self._streams, starts.tolist(), strict=True))

    @property
    def epoch(self) -> int:
        """The epoch, from 1, of the group that was repeated most."""
        return max(stream.epoch for stream in self._streams.values())

    def take(self, num_rows: int, progress: float) -> Rows:
        """The next rows [num_rows, row_len], for the moment when that part of the budget is spent.

        Raises:
            UsageError: a weight of a group that is not there, negative or not finite, or none above 0.
        """
        weights = self._weights(progress)
        if unknown := weights.keys() - self._streams.keys():
            known = ", ".join(self._streams)
            raise UsageError(f"a weight for {min(unknown)!r}; the groups are {known}", hint=_HINT)
        wanted = _normalized({group: _weight(group, weight) for group, weight in weights.items()})
        order = [self._next_group(wanted) for _ in range(num_rows)]
        rows: Rows | None = None
        for group, stream in self._streams.items():
            places = [place for place, chosen in enumerate(order) if chosen == group]
            if not places:
                continue
            taken = stream.take(len(places))
            if len(places) == num_rows:
                return taken
            if rows is None:
                rows = np.empty((num_rows, taken.shape[1]), dtype=taken.dtype)
            rows[places] = taken
        assert rows is not None, "take() is asked for 1 row or more"
        return rows

    def _next_group(self, shares: Mapping[str, float]) -> str:
        for group, share in shares.items():
            self._owed[group] += share
        # a group of share 0 may still be owed a fraction from before: it does not take a turn for it
        chosen = max((group for group, share in shares.items() if share > 0), key=self._owed.__getitem__)
        self._owed[chosen] -= 1
        return chosen


def _weight(name: str, value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"a weight of {value} for {name!r}; weights are 0 or more", hint=_HINT)
    return float(value)


def _normalized(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise UsageError("no group has a weight above 0", hint=_HINT)
    return {group: weight / total for group, weight in weights.items()}
