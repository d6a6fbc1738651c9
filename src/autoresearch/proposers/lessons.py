"""What earlier models said they had learned: the newest of it, each once, bounded."""

from __future__ import annotations

import re

from autoresearch.hostile_text import one_line
from autoresearch.proposers.idea import MAX_LESSON
from autoresearch.proposers.situation import Situation

_ALIKE = 0.6  # share of common words from which two lessons are one: rewordings measured 0.6 to 1, others below 0.4
_MAX_READ = 2000  # experiments looked at, newest first


def lessons_of(situation: Situation, most: int = 20) -> list[str]:
    """At most `most` lessons, newest first, then those of other sessions' keeps; one line of at most 160 characters each.

    Of lessons that say nearly the same (shared words over all words, Jaccard 1912) only the newest stays. They are a
    model's words: quote them.
    """
    found: list[str] = []
    seen: list[frozenset[str]] = []
    for past in [*reversed(situation.history), *reversed(situation.elsewhere)][:_MAX_READ]:
        if len(found) >= most:
            break
        said = past.details.get("lesson")
        lesson = one_line(said, MAX_LESSON) if isinstance(said, str) else ""
        words = _words(lesson)
        if not words or any(_alike(words, other) for other in seen):
            continue
        found.append(lesson)
        seen.append(words)
    return found


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= _ALIKE * len(one | other)
