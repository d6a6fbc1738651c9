"""What earlier models said they had learned, or noted for the person: the newest of it, each once, bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable

from autoresearch.hostile_text import one_line
from autoresearch.proposers.idea import MAX_LESSON, MAX_NOTE
from autoresearch.proposers.situation import Situation

FOR_HUMAN = "for_human"  # key in `Proposal.details` of a note about what this program may not edit
_ALIKE = 0.6  # share of common words from which two lessons are one: rewordings measured 0.6 to 1, others below 0.4
_MAX_READ = 2000  # experiments looked at, newest first


def lessons_of(situation: Situation, most: int = 20) -> list[str]:
    """At most `most` lessons, newest first, then those of other sessions' keeps; one line of at most 160 characters each.

    Of lessons that say nearly the same (shared words over all words, Jaccard 1912) only the newest stays. They are a
    model's words: quote them.
    """
    newest = [*reversed(situation.history), *reversed(situation.elsewhere)]
    return _unlike((past.details.get("lesson") for past in newest[:_MAX_READ]), MAX_LESSON, most)


def notes_of(situation: Situation, most: int) -> list[str]:
    """At most `most` notes for the person, ideas that belong to another program, newest first; of those alike the newest."""
    newest = list(reversed(situation.history))
    return _unlike((past.details.get(FOR_HUMAN) for past in newest[:_MAX_READ]), MAX_NOTE, most)


def _unlike(texts: Iterable[object], width: int, most: int) -> list[str]:
    """The texts among them, one line each, without those that say nearly what an earlier one says."""
    found: list[str] = []
    seen: list[frozenset[str]] = []
    for said in texts:
        if len(found) >= most:
            break
        line = one_line(said, width) if isinstance(said, str) else ""
        words = _words(line)
        if not words or any(_alike(words, other) for other in seen):
            continue
        found.append(line)
        seen.append(words)
    return found


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= _ALIKE * len(one | other)
