"""Filters: one document in, kept or not. Each is made from its limit and does no work at the limit that drops nothing."""

from __future__ import annotations

import re
from collections.abc import Callable

from autoresearch.vocabulary import UsageError

Filter = Callable[[str], bool]

NGRAM = 5  # words; the shortest of the runs (5 to 10) whose duplicates Gopher counts
_WORD = re.compile(r"\S+")
_HINT = "mend the limits in data_sources.py"


def anything(text: str) -> bool:
    """Keeps every document: what a filter at its widest limit is, so that `select` can pass it over."""
    return True


def length_within(shortest: int, longest: int) -> Filter:
    """Keeps documents of `shortest` to `longest` characters, both included; `longest` 0 means no limit.

    Raises:
        UsageError: a limit is negative, or the longest is shorter than the shortest.
    """
    if shortest < 0 or longest < 0 or 0 < longest < shortest:
        raise UsageError(f"documents of {shortest} to {longest} characters", hint=_HINT)
    if shortest == 0 and longest == 0:
        return anything
    return lambda text: shortest <= len(text) and (longest == 0 or len(text) <= longest)


def repeated_lines(text: str) -> float:
    """Share (0..1) of the document's lines that stand earlier in it; blank lines and the space around a line aside.

    The duplicate-line fraction of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1), which drops documents above 0.3.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def repeated_ngrams(text: str, n: int = NGRAM) -> float:
    """Share (0..1) of the document's runs of n words that stand earlier in it, case aside; 0 below n words.

    After Gopher's duplicate n-gram fractions (as above), which count the characters inside such runs instead of the runs,
    and drop documents above 0.15 (n = 5) to 0.10 (n = 10).
    """
    words = _WORD.findall(text.lower())
    total = len(words) - n + 1
    if total < 1:
        return 0.0
    return 1 - len(set(zip(*(words[start:] for start in range(n)), strict=False))) / total


def repeated_lines_within(limit: float) -> Filter:
    """Keeps documents with at most this share of repeated lines.

    Raises:
        UsageError: the limit is no share.
    """
    return _share_within(repeated_lines, limit)


def repeated_ngrams_within(limit: float) -> Filter:
    """Keeps documents with at most this share of repeated runs of `NGRAM` words. Raises as `repeated_lines_within`."""
    return _share_within(repeated_ngrams, limit)


def _share_within(share: Callable[[str], float], limit: float) -> Filter:
    if not 0 <= limit <= 1:  # NaN too
        raise UsageError(f"a share of at most {limit}; shares are 0 to 1", hint=_HINT)
    if limit == 1:
        return anything
    return lambda text: share(text) <= limit
