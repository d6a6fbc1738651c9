"""What a session has tried, as a model reads it: bounded, quoted, the telling experiments one by one, the rest as counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch.hostile_text import one_line, quoted_for_model
from autoresearch.proposers.situation import PastExperiment, Situation
from autoresearch.proposers.topics import topics_of
from autoresearch.providers.tokens import estimated_tokens
from autoresearch.vocabulary import Outcome, Status

RETIRED_AFTER = (
    3  # a nudge, no proof: where one idea in six is kept, a good direction misses three times in 0.58 of cases
)
_NO_SCORE = 1e6  # bits per byte; a trial is ended as diverged long before
_NUM_KEEPS, _NUM_NEWEST, _NUM_NEAR, _NUM_ELSEWHERE, _NUM_TOPICS = 40, 30, 10, 10, 30
_DESCRIPTION, _MECHANISM = 110, 120  # characters
# Parts of the above that are tried in turn until the text fits.
_SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2, 0.12, 0.06, 0.0)
_QUOTE_LIMIT = 200_000  # characters: never what bounds a lineage, its own counts do
_WHAT = "the record of the session, with descriptions that models wrote"


@dataclass(frozen=True)
class Retired:
    """A direction with at least three tries and no keep among them. best_gain: of these tries, None if none has a score."""

    topic: str
    tries: int  # since the last keep of that topic
    keeps: int  # ever
    best_gain: float | None


def lineage_of(situation: Situation, budget_tokens: int) -> str:
    """The experiments of the session as one quotation of at most `budget_tokens`; "" where there is none or no room.

    One line each for the newest 40 keeps, the newest 30 experiments and the 10 discards with the highest estimated gain; the
    rest as counts per topic; then keeps of other sessions under the same rules. With less room, fewer of each.
    """
    decided = [past for past in situation.history if past.status is not None]
    if not decided and not situation.elsewhere:
        return ""
    topics = topics_of(situation)
    for share in _SHARES:
        lines = _lines(decided, situation.elsewhere, topics, share)
        text = quoted_for_model("\n".join(lines), _QUOTE_LIMIT, what=_WHAT)
        if lines and estimated_tokens(text) <= budget_tokens:
            return text
    return ""


def retired_of(situation: Situation) -> list[Retired]:
    """Directions that were tried three times or more since their last keep, without one; the most tried first.

    An experiment that was refused without a run, or rejected by the referee, says nothing of its direction.
    """
    tries: dict[str, list[PastExperiment]] = {}
    keeps: Counter[str] = Counter()
    topics = topics_of(situation)
    for past in situation.history:
        topic = topics[past.number]
        if past.status is None or past.outcome is Outcome.REJECTED:
            continue
        if past.status is Status.KEEP:
            keeps[topic] += 1
            tries[topic] = []
        else:
            tries.setdefault(topic, []).append(past)
    found = [
        Retired(topic, len(missed), keeps[topic], max((g for p in missed if (g := _gain(p)) is not None), default=None))
        for topic, missed in tries.items()
        if len(missed) >= RETIRED_AFTER
    ]
    return sorted(found, key=lambda retired: (-retired.tries, retired.topic))


def gain_text(past: PastExperiment) -> str:
    """`+0.0031 [+0.0010, +0.0052]`: the estimated gain with its 95 % interval, or how it ended without one."""
    gain = _gain(past)
    if gain is None:
        return str(past.outcome) if past.outcome else "no score"
    if past.interval is None or not all(map(math.isfinite, past.interval)):
        return in_bits(gain, "+")
    return f"{in_bits(gain, '+')} [{in_bits(past.interval[0], '+')}, {in_bits(past.interval[1], '+')}]"


def in_bits(value: float, sign: str = "") -> str:
    """A score or a difference of two, to four places; one that can be neither (1e300) takes no more room for it."""
    return format(value, f"{sign}.4f" if abs(value) < _NO_SCORE else f"{sign}.3g")


def _gain(past: PastExperiment) -> float | None:
    return past.gain if past.gain is not None and math.isfinite(past.gain) else None


def _lines(
    decided: Sequence[PastExperiment], elsewhere: Sequence[PastExperiment], topics: Mapping[int, str], share: float
) -> list[str]:
    shown = _chosen(decided, share)
    width, why = (_DESCRIPTION, _MECHANISM) if share > 0.5 else (80, 60 if share > 0.2 else 0)
    lines: list[str] = []
    if shown:
        lines.append(
            "number | verdict | estimated gain, positive is better [95 % interval] | topic | description; mechanism"
        )
        lines += [f"#{past.number} | {_row(past, topics[past.number], width, why)}" for past in shown]
    numbers = {past.number for past in shown}
    rest = [past for past in decided if past.number not in numbers]
    if rest:
        lines += _counts(rest, topics, max(3, int(_NUM_TOPICS * share)))
    others = list(elsewhere)[len(elsewhere) - int(_NUM_ELSEWHERE * share) :] if int(_NUM_ELSEWHERE * share) else []
    if others:
        lines.append("Kept in other sessions under the same rules, each against its own incumbent:")
        lines += [f"{one_line(past.tag, 40)} #{past.number} | {_row(past, '', width, why)}" for past in others]
    return lines


def _chosen(decided: Sequence[PastExperiment], share: float) -> list[PastExperiment]:
    """Those that get a line, in order."""
    keeps = [past for past in decided if past.status is Status.KEEP]
    near = [past for past in decided if past.status is Status.DISCARD and (_gain(past) or 0.0) > 0.0]
    near.sort(key=lambda past: (-(_gain(past) or 0.0), past.number))
    picked = [*_last(keeps, _NUM_KEEPS * share), *_last(decided, _NUM_NEWEST * share), *near[: int(_NUM_NEAR * share)]]
    return sorted({past.number: past for past in picked}.values(), key=lambda past: past.number)


def _last(items: Sequence[PastExperiment], most: float) -> Sequence[PastExperiment]:
    return items[-int(most) :] if int(most) else []


def _row(past: PastExperiment, topic: str, width: int, why: int) -> str:
    mechanism = past.details.get("mechanism")
    said = one_line(past.description, width)
    if why and isinstance(mechanism, str) and (because := one_line(mechanism, why)):
        said = f"{said}; {because}"
    said = said.replace("|", "¦")  # the columns are ours
    refused = past.outcome is Outcome.REJECTED
    result = one_line(past.reason, 80).replace("|", "¦") if refused else gain_text(past)
    return " | ".join(part for part in ("refused" if refused else str(past.status), result, topic, said) if part)


def _counts(rest: Sequence[PastExperiment], topics: Mapping[int, str], most: int) -> list[str]:
    """The experiments without a line of their own, by topic, the most tried first."""
    groups: dict[str, list[PastExperiment]] = {}
    for past in rest:
        groups.setdefault(topics[past.number], []).append(past)
    order = sorted(groups, key=lambda topic: (-len(groups[topic]), topic))
    lines = [f"{len(rest)} earlier experiments by topic:"]
    for topic in order[:most]:
        of = Counter(past.status for past in groups[topic])
        best = max((g for past in groups[topic] if (g := _gain(past)) is not None), default=None)
        counts = [f"{of[status]} {status}" for status in Status if of[status]]
        lines.append(f"{topic}: {', '.join(counts)}" + (f", best {in_bits(best, '+')}" if best is not None else ""))
    hidden = sum(len(groups[topic]) for topic in order[most:])
    if hidden:
        lines.append(f"{len(order) - most} more topics: {hidden} experiments")
    return lines
