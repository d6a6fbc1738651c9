"""What the search may change in a data recipe: the constants of data_sources.py, by name.

Weights say how early a value is worth a try, in the order in which reports on training text list what paid: duplicates
(Lee et al., arXiv:2107.06499) and the vocabulary, then tiers by quality and filters (Rae et al., arXiv:2112.11446), a late
phase on the best text (Hu et al., arXiv:2404.06395), then order and packing. How far apart they lie is a guess; a value
that is no use is not asked for twice, so a wrong guess costs its place in the queue.

Some constants do nothing by themselves: tiers without weights, a second phase with the first one's weights. Such a step
takes the weights along, and constants that nothing reads at the moment are left out until something does.
"""

from __future__ import annotations

from collections.abc import Mapping

from autoresearch.proposers.constants import Scalar, owner_of
from autoresearch.proposers.dimension import Dimension, Scale, ladder

# Constants that are no number to move: a person's choice, or a table.
LEFT_OUT: Mapping[str, str] = {
    "DATASET": "which text there is, is the session's choice",
    "SOURCE_WEIGHTS": "a table of datasets: which there are is not known here",
}
_MOST_TIERS = 4
_TIER_SHARES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
_VOCABULARIES = (260, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_VOCABULARY_REACH = 8  # times smaller or larger than the contract's
_LATE_FROM = (0.4, 0.6, 0.8, 1.0)


def infer(name: str, *, seq_len: int, vocab_size: int) -> Dimension | str | None:
    """The dimension of a constant of data_sources.py, why it is left alone, or None for a name that is not known here.

    `seq_len` and `vocab_size` are the contract's: the length of a row in tokens, and the ids of its own tokenizer.
    """
    owner = owner_of(name)
    if owner in LEFT_OUT:
        return LEFT_OUT[owner]
    if owner in ("TIER_WEIGHTS", "LATE_TIER_WEIGHTS"):
        if name.endswith("[0]"):
            return "only ratios count: the other tiers are weighed against the best"
        return ladder(name, _TIER_SHARES, 0.5 if owner == "TIER_WEIGHTS" else 0.45, -1)
    if name == "VOCAB_SIZE":
        return _vocabulary(vocab_size)
    known: dict[str, Dimension] = {
        "DUPLICATES": _choice("DUPLICATES", {"keep": 0.2, "exact": 1.0, "near": 0.9}),
        "NEAR_DUPLICATE": ladder("NEAR_DUPLICATE", (0.5, 0.6, 0.7, 0.8, 0.9), 0.45, -1),
        "MIN_CHARACTERS": ladder("MIN_CHARACTERS", (0, 500, 1000, 2000), 0.7, 1),
        # four characters to a token is usual: two, four and eight rows
        "MAX_CHARACTERS": _choice("MAX_CHARACTERS", {0: 0.2, 8 * seq_len: 0.55, 16 * seq_len: 0.4, 32 * seq_len: 0.3}),
        # first the thresholds of the Gopher rules; five words in place of their shares of characters
        "MAX_REPEATED_LINES": ladder("MAX_REPEATED_LINES", (0.1, 0.2, 0.3, 1.0), 0.6, -1),
        "MAX_REPEATED_NGRAMS": ladder("MAX_REPEATED_NGRAMS", (0.05, 0.1, 0.15, 1.0), 0.65, -1),
        "NUM_TIERS": _choice("NUM_TIERS", {1: 0.2, 2: 0.6, 3: 0.35, 4: 0.85}),
        "QUALITY": _choice("QUALITY", {"words": 0.45, "pairs": 0.45, "compression": 0.5, "own": 0.3}),
        "LATE_FROM": ladder("LATE_FROM", _LATE_FROM, 0.8, -1),
        "ORDER": _choice("ORDER", {"shuffled": 0.2, "short_first": 0.7, "as_is": 0.35, "long_first": 0.3}),
        "BUFFER_SIZE": ladder("BUFFER_SIZE", (60, 250, 1000, 4000, 16000), 0.4, 1),
    }
    return known.get(name)


def why_dead(name: str, values: Mapping[str, Scalar]) -> str:
    """Why moving a constant alone would change nothing as the others are, or "" when it would change something."""
    tiers = _num_tiers(values)
    owner = owner_of(name)
    if name == "NEAR_DUPLICATE" and values.get("DUPLICATES", "near") != "near":
        return 'read only with DUPLICATES = "near"'
    if owner == "QUALITY" and tiers < 2:
        return "read only with more than one tier"
    if owner in ("TIER_WEIGHTS", "LATE_TIER_WEIGHTS") and _index(name) >= tiers:
        return f"there is no such tier with NUM_TIERS = {tiers}"
    if owner in ("TIER_WEIGHTS", "LATE_TIER_WEIGHTS") and tiers < 2:
        return "read only with more than one tier"
    if owner == "LATE_TIER_WEIGHTS" and not _has_late_phase(values):
        return "read only with LATE_FROM below 1"
    return ""


def changes_for(values: Mapping[str, Scalar], name: str, value: Scalar) -> dict[str, Scalar] | None:
    """The constants to write so that `name` has `value` and makes a difference; None when it makes none, or breaks a rule.

    More than one tier takes a smaller weight of the last one along where all weighed the same; a late phase takes four
    tiers along where there was one, and leaves the worse half out where it would repeat the first phase.
    """
    changes: dict[str, Scalar] = {name: value}
    after = {**values, **changes}
    if name == "NUM_TIERS" and _num_tiers(after) >= 2:
        changes |= _with_uneven(after)
    elif name == "LATE_FROM" and _has_late_phase(after):
        changes |= _with_late(after)
    after = {**values, **changes}
    return changes if _rules_hold(after) and not why_dead(name, after) else None


def _with_uneven(after: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The last tier's weight where all weights are equal: half of the others for two tiers, nothing for more."""
    tiers = _num_tiers(after)
    last = f"TIER_WEIGHTS[{tiers - 1}]"
    weights = _weights("TIER_WEIGHTS", after)
    if last not in after or len(set(weights)) > 1:
        return {}
    return {last: weights[0] / 2 if tiers == 2 else 0.0}


def _with_late(after: Mapping[str, Scalar]) -> dict[str, Scalar]:
    changes: dict[str, Scalar] = {}
    if _num_tiers(after) < 2 and "NUM_TIERS" in after:
        changes["NUM_TIERS"] = _MOST_TIERS
    tiers = _num_tiers({**after, **changes})
    now = {**after, **changes}
    if _weights("LATE_TIER_WEIGHTS", now) == _weights("TIER_WEIGHTS", now):
        worse = (f"LATE_TIER_WEIGHTS[{tier}]" for tier in range((tiers + 1) // 2, tiers))
        changes |= {name: 0.0 for name in worse if name in after}
    return changes


def _rules_hold(values: Mapping[str, Scalar]) -> bool:
    shortest, longest = _number(values, "MIN_CHARACTERS"), _number(values, "MAX_CHARACTERS")
    if longest and shortest >= longest:
        return False
    tiers = [_weights(owner, values) for owner in ("TIER_WEIGHTS", "LATE_TIER_WEIGHTS")]
    return all(sum(weights) > 0 for weights in tiers if weights)


def _vocabulary(own: int) -> Dimension:
    """Powers of two around the contract's own size, which is written 0, and bytes with the four specials."""
    near = [
        size for size in _VOCABULARIES if own / _VOCABULARY_REACH <= size <= own * _VOCABULARY_REACH and size != own
    ]
    rungs = sorted([*near, 0], key=lambda size: size or own)
    return Dimension("VOCAB_SIZE", Scale.LADDER, 0.0, float(len(rungs) - 1), tuple(rungs), 0.95, -1, zero=float(own))


def _choice(name: str, rungs: Mapping[Scalar, float]) -> Dimension:
    values = tuple(rungs)
    return Dimension(
        name, Scale.CHOICE, 0.0, float(len(values) - 1), values, max(rungs.values()), 1, tuple(rungs.values())
    )


def _index(name: str) -> int:
    return int(name.partition("[")[2].rstrip("]") or 0)


def _number(values: Mapping[str, Scalar], name: str) -> float:
    value = values.get(name, 0)
    return 0.0 if isinstance(value, str) else float(value)


def _num_tiers(values: Mapping[str, Scalar]) -> int:
    return int(_number(values, "NUM_TIERS")) or 1


def _has_late_phase(values: Mapping[str, Scalar]) -> bool:
    return "LATE_FROM" in values and _number(values, "LATE_FROM") < 1.0


def _weights(owner: str, values: Mapping[str, Scalar]) -> list[float]:
    """Weights of the tiers that there are."""
    found = [name for name in values if owner_of(name) == owner and name != owner and _index(name) < _num_tiers(values)]
    return [_number(values, name) for name in sorted(found, key=_index)]
