"""Choosing documents: what is filtered out, what is a duplicate, and which tier the rest belongs to.

The text is read several times (to choose, to learn and rank where there are tiers, to train the tokenizer, to encode)
and never held: what is remembered of a document is one byte, and while choosing also its length and the duplicates'
numbers. Reading again costs little beside encoding (benchmarks/recipe.py).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoresearch.recipes import duplicates as finding
from autoresearch.recipes.filters import Filter, anything
from autoresearch.recipes.quality import Scorer
from autoresearch.vocabulary import DataMissing, UsageError

DROPPED = 255  # what is remembered of a document: its tier, or this
MAX_TIERS = 64
_DUPLICATES = "duplicates"
_EMPTY = "empty"


class Text(Protocol):
    """What choosing needs of the training text: `recipes.text.TrainingText`, or a test's own."""

    def documents(self, name: str, /) -> Iterator[str]:
        """Every document of a dataset, the same ones in the same order each time."""


class Selection:
    """The chosen documents. Iterating gives them cleaned, in the order of the text, as often as is wanted."""

    def __init__(
        self, text: Text, clean: Callable[[str], str], tiers: Mapping[str, NDArray[np.uint8]], removed: dict[str, int]
    ) -> None:
        """Use `select`. tiers: uint8 [documents] of each dataset, `DROPPED` or the tier."""
        self._text = text
        self._clean = clean
        self._tiers = dict(tiers)
        self.removed = removed  # documents by what removed them; of several filters the first counts

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that hold a document, "DATASET/TIER": datasets in the order asked for, best tiers first."""
        return tuple(
            f"{dataset}/{tier}" for dataset, tiers in self._tiers.items() for tier in np.unique(tiers[tiers != DROPPED])
        )

    def documents(self, group: str | None = None) -> Iterator[str]:
        """The chosen documents of one group, or of all.

        Raises:
            UsageError: no group of that name.
        """
        if group is not None and group not in self.groups:
            raise UsageError(f"no group {group!r}; there are {', '.join(self.groups)}", hint="mend build in prepare.py")
        only, _, tier = (group or "").rpartition("/")
        for dataset, tiers in self._tiers.items():
            if group is not None and dataset != only:
                continue
            wanted = tiers != DROPPED if group is None else tiers == int(tier)
            # strict: a text that is not the same twice would be cut silently
            for document, is_wanted in zip(self._text.documents(dataset), wanted.tolist(), strict=True):
                if is_wanted:
                    yield self._clean(document)

    def rank(self, scorer: Scorer, num_tiers: int) -> None:
        """Cut the chosen documents into tiers with equally many characters, those that score highest in tier 0.

        All datasets are ranked together. Of documents that score the same, the one that comes first is the better. NaN
        scores lowest.

        Raises:
            UsageError: fewer than 1 or more than `MAX_TIERS` tiers.
        """
        if not 1 <= num_tiers <= MAX_TIERS:
            raise UsageError(f"{num_tiers} tiers; possible: 1 to {MAX_TIERS}", hint="mend NUM_TIERS in data_sources.py")
        scorer.learn(self.documents())
        scores, lengths = array("d"), array("q")
        for text in self.documents():
            scores.append(scorer.score(text))
            lengths.append(len(text))
        tiers = tiers_of(np.array(scores), np.array(lengths), num_tiers)
        start = 0
        for assigned in self._tiers.values():
            chosen = assigned != DROPPED
            stop = start + int(chosen.sum())
            assigned[chosen] = tiers[start:stop]
            start = stop


def select(
    text: Text,
    names: Sequence[str],
    *,
    clean: Callable[[str], str] = str,
    filters: Mapping[str, Filter] | None = None,
    duplicates: str = finding.KEEP,
    near_duplicate: float = 0.8,
) -> Selection:
    """The documents of these datasets that pass every filter, without duplicates where so asked.

    Each document is cleaned first; what is then empty is dropped. Filters are asked in their order. Duplicates are looked
    for across all the datasets, and the first document of a family stays: name the better dataset first. "near" drops
    exact duplicates too.

    Raises:
        UsageError: no dataset, an unknown kind of duplicates, or a threshold that is no similarity.
        DataMissing: nothing is left.
    """
    if duplicates not in finding.KINDS:
        raise UsageError(
            f"unknown kind of duplicates {duplicates!r}; known: {', '.join(finding.KINDS)}",
            hint="mend DUPLICATES in data_sources.py",
        )
    asked = {why: passes for why, passes in (filters or {}).items() if passes is not anything}
    finder: finding.ExactDuplicates | finding.NearDuplicates | None = None
    if duplicates == finding.EXACT:
        finder = finding.ExactDuplicates()
    elif duplicates == finding.NEAR:
        finder = finding.NearDuplicates(near_duplicate)
    removed: Counter[str] = Counter()
    tiers: dict[str, NDArray[np.uint8]] = {}
    for name in names:
        fates = bytearray()
        for original in text.documents(name):
            document = clean(original)
            why = _EMPTY if not document else next((why for why, passes in asked.items() if not passes(document)), None)
            if why is not None:
                removed[why] += 1
                fates.append(DROPPED)
                continue
            fates.append(0)
            if finder:
                finder.add(document)
        tiers[name] = np.frombuffer(fates, dtype=np.uint8)  # of a bytearray: writable
    if finder:
        removed[_DUPLICATES] = _drop(finder.found(), list(tiers.values()))
    if not any((fates != DROPPED).any() for fates in tiers.values()):
        lost = ", ".join(f"{count} by {why}" for why, count in removed.items()) or "there was no text"
        raise DataMissing(f"the recipe keeps no document ({lost})", hint="loosen the filters in data_sources.py")
    return Selection(text, clean, tiers, dict(removed))


def _drop(duplicate: NDArray[np.bool_], tiers: list[NDArray[np.uint8]]) -> int:
    """Mark the duplicates among the documents that are not dropped yet; how many there are."""
    start = 0
    for fates in tiers:
        chosen = np.flatnonzero(fates != DROPPED)
        fates[chosen[duplicate[start : start + len(chosen)]]] = DROPPED
        start += len(chosen)
    return int(duplicate.sum())


def tiers_of(scores: NDArray[np.float64], lengths: NDArray[np.int64], num_tiers: int) -> NDArray[np.uint8]:
    """uint8 [n]: each document's tier, by the middle of its stretch when all are laid end to end, best first."""
    comparable = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-comparable, kind="stable")
    ends = np.cumsum(lengths[order])
    middles = ends - lengths[order] / 2
    tiers = np.empty(len(scores), dtype=np.uint8)
    tiers[order] = np.minimum(num_tiers - 1, middles * num_tiers // max(1, ends[-1])).astype(np.uint8)
    return tiers
