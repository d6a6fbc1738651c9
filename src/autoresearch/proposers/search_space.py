"""What the search may change: one dimension per constant, with a range inferred from its name and value.

Of a data recipe the constants are known (`data_space`); whatever else stands in it is inferred as in any file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from autoresearch.proposers import data_space
from autoresearch.proposers.constants import OVERRIDES, Constants, Scalar, owner_of
from autoresearch.proposers.dimension import (
    PATTERN,
    Dimension,
    Scale,
    doublings,
    is_number,
    ladder,
    round_to,
    rung_order,
)
from autoresearch.proposers.novelty import is_seed_name

TOTAL_BATCH, DEVICE_BATCH = "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE"

# Names that come from `prepare` or from the preset: the contract's, not the experiment's.
_CONTRACT_NAMES = frozenset(
    {
        "MAX_SEQ_LEN",
        "SEQ_LEN",
        "SEQUENCE_LEN",
        "TIME_BUDGET",
        "PRESET",
        "VOCAB_SIZE",
        "MAX_DEVICE_BATCH_SIZE",
        OVERRIDES,
    }
)
# A word that marks a setting of the machine, the clock, the log or a safety stop: changing it is not research.
_SETTING_WORDS = frozenset(
    {
        "BACKEND",
        "BUDGET",
        "CHECKPOINT",
        "CHIP",
        "COMPILE",
        "DEADLINE",
        "DEBUG",
        "DEVICE",
        "DIR",
        "DTYPE",
        "EVAL",
        "EVERY",
    }
    | {
        "FAIL",
        "FILE",
        "FLOPS",
        "GC",
        "LIMIT",
        "LOG",
        "LOSS",
        "NAME",
        "PATH",
        "PEAK",
        "PORT",
        "PRESET",
        "PRINT",
        "SLICE",
    }
    | {"THREADS", "TIMEOUT", "VAL", "VERBOSE", "VERSION", "VOCAB", "WORKERS"}
)
_BETA_WORDS = frozenset({"BETA", "BETAS", "BETA1", "BETA2", "MOMENTUM"})
_FRACTION_WORDS = frozenset({"RATIO", "FRAC", "FRACTION", "DROPOUT", "PROB"})
# Ordered by the share of layers that see the whole row; the published pattern is SSSL, the best found SSSSL.
_PATTERNS = ("SSSSL", "SSSL", "SSL", "SL", "L")
_SMALL_RATES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2)
_SMALL_FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class SearchSpace:
    """The dimensions of one file under one preset, the values in force, and why other names were left out."""

    constants: Constants
    dimensions: dict[str, Dimension]
    skipped: dict[str, str]
    seq_len: int
    program: str = "model"

    @property
    def values(self) -> dict[str, Scalar]:
        """Value in force of every literal, searched or not."""
        return {name: literal.value for name, literal in self.constants.literals.items()}

    def changes_for(self, name: str, value: Scalar) -> dict[str, Scalar] | None:
        """The literals to write so that `name` has `value` and the file's own rules hold; None when it cannot be.

        A total batch that no longer divides into micro-batches takes the largest device batch that does along with it.
        None too for a change without effect (a window pattern or aspect ratio that builds the same layers). In a data recipe
        weights come along where a constant has no effect without them.
        """
        now = self.values
        if value == now[name] and type(value) is type(now[name]):
            return None
        if self.program == "data":
            changes = data_space.changes_for(now, name, value)
            return changes if changes is not None and self._can_be_written(changes) else None
        changes = {name: value}
        if name == TOTAL_BATCH and DEVICE_BATCH in now and _batches_divide(now, self.seq_len):
            device = _largest_device_batch(value, now[DEVICE_BATCH], self.seq_len)
            if device is None:
                return None
            if device != now[DEVICE_BATCH]:
                changes[DEVICE_BATCH] = device
        after = {**now, **changes}
        for rule in (_batches_divide, _schedule_fits, _channels_fit):
            if rule(now, self.seq_len) and not rule(after, self.seq_len):
                return None
        if name in ("ASPECT_RATIO", "WINDOW_PATTERN") and _layers(now) is not None and _layers(now) == _layers(after):
            return None
        if name.startswith("SHORT_WINDOW") and _has_no_short_window(now):
            return None
        if name == "HEAD_DIM" and _width(now) != _width(after):  # rounding up would make a wider model: two ideas
            return None
        return changes

    def _can_be_written(self, changes: Mapping[str, Scalar]) -> bool:
        """Whether each value can stand in the old one's place: where `2**11` is written, another power of two."""
        powers = [value for name, value in changes.items() if self.constants.literals[name].is_power]
        return all(isinstance(value, int) and value > 0 and value & (value - 1) == 0 for value in powers)


def space_of(
    constants: Constants,
    *,
    seq_len: int,
    anchors: Mapping[str, Scalar],
    seen: Mapping[str, Iterable[Scalar]],
    program: str = "model",
    vocab_size: int = 0,
) -> SearchSpace:
    """The search space of a file. `seq_len` and `vocab_size` are the contract's.

    `anchors` are the baseline's values where they differ from those in force: ranges are centred there and stay put
    while the incumbent moves. `seen` are values from the session's history; ranges are widened to hold them.
    """
    dimensions: dict[str, Dimension] = {}
    skipped = dict(constants.skipped)
    for name, literal in constants.literals.items():
        anchor = anchors.get(name, literal.value)
        found = infer(name, anchor)
        if program == "data":
            found = data_space.infer(name, seq_len=seq_len, vocab_size=vocab_size) or found
        if isinstance(found, str):
            skipped[owner_of(name)] = found
        elif not found.holds(literal.value):
            skipped[owner_of(name)] = f"{literal.value!r} is not comparable with the baseline's {anchor!r}"
        else:
            dimensions[name] = found.widened([literal.value, *seen.get(name, ())])
    if program == "data":
        skipped |= {name: why for name, why in data_space.LEFT_OUT.items() if name in skipped}
        values = {name: literal.value for name, literal in constants.literals.items()}
        for name in [*dimensions]:
            if why := data_space.why_dead(name, values):
                skipped[name] = why
                del dimensions[name]
    return SearchSpace(constants, dimensions, skipped, seq_len, program)


def infer(name: str, value: Scalar) -> Dimension | str:
    """The dimension of a constant with this name and baseline value, or the reason why it is left alone.

    Ranges: a factor of 8 either way for rates, decays and batch sizes, 4 for what is only known to be a number; the 126
    published H100 experiments moved no constant further than a factor of 20 in all, most by less than 2.
    """
    owner = owner_of(name)
    words = set(owner.split("_"))
    if is_seed_name(owner):
        return "a random seed: luck is not an improvement"
    if owner in _CONTRACT_NAMES:
        return "belongs to the contract"
    if words & _SETTING_WORDS and "BATCH" not in words:
        return "a setting of the machine, the log or a safety stop"
    weight, first = _priority(owner, words, name)
    if isinstance(value, bool):
        return ladder(name, (False, True), weight, 1)
    if isinstance(value, str):
        if not PATTERN.match(value):
            return "a string that is not a window pattern"
        return ladder(name, sorted({*_PATTERNS, value}, key=rung_order), weight, first)
    if not math.isfinite(value) or value < 0:
        return "negative or not finite"
    found = _of_whole_number(name, words, value) if isinstance(value, int) else None
    found = found or _of_number(name, words, value)
    return found if isinstance(found, str) else replace(found, weight=weight, first=first)


def _of_whole_number(name: str, words: set[str], value: int) -> Dimension | str | None:
    """Dimension of an int; None when its name says that it is a rate or a fraction all the same (`SCALAR_LR = 1`)."""
    if "LR" in words or "DECAY" in words or (words & _FRACTION_WORDS and value <= 1):
        return None
    if value < 1:
        return "zero: a switch or an index"
    if "BATCH" in words:
        return ladder(name, doublings(value, 3))
    if words & {"DEPTH", "LAYERS", "LAYER"}:
        return ladder(name, range(max(1, value // 2), 2 * value + 1))
    if name == "ASPECT_RATIO":
        grain = 8 if value >= 16 else 1
        rungs = {max(grain, grain * round(value * factor / grain)) for factor in (0.5, 0.75, 1.5, 2.0)}
        return ladder(name, sorted({*rungs, value}))
    if name == "HEAD_DIM":
        return ladder(name, [v for v in doublings(value, 2) if v == value or (v % 2 == 0 and 16 <= v <= 256)])
    if words & {"HEAD", "HEADS"}:
        return "its legal divisors are not known"
    if value == 1:
        return "one: a switch or an index"
    if value & (value - 1) == 0:
        return ladder(name, doublings(value, 2))
    factor = 2.0 if value >= 1000 else 1.5
    return ladder(name, sorted({max(1, int(round_to(value * factor**k, 2))) for k in (-3, -2, -1, 1, 2, 3)} | {value}))


def _of_number(name: str, words: set[str], value: float) -> Dimension | str:
    if words & _BETA_WORDS and 0.0 < value < 1.0:
        spot = -math.log2(1.0 - value)
        return Dimension(name, Scale.BETA, max(0.15, spot - 3.0), spot + 3.0)
    if words & _FRACTION_WORDS and value <= 1.0:
        if value == 0.0:
            return ladder(name, _SMALL_FRACTIONS)
        if value > 0.2:
            return Dimension(name, Scale.LINEAR, 0.0, 4.0)
        return Dimension(name, Scale.LOG, math.log2(value) - 3.0, min(0.0, math.log2(value) + 3.0))
    is_rate = bool(words & {"LR", "DECAY", "EPS"})
    if value == 0.0:
        return ladder(name, _SMALL_RATES) if is_rate else "zero, and no rate: its scale is not known"
    if value >= 1e6:
        return "too large for a hyperparameter"
    # the rotary base was best at 20 times its first value in the published history
    reach = 5.0 if "ROPE" in words else 3.0 if is_rate else 2.0
    return Dimension(name, Scale.LOG, math.log2(value) - reach, math.log2(value) + reach)


def _priority(owner: str, words: set[str], name: str) -> tuple[float, int]:
    """How early a constant is tried (0..1), and in which direction first.

    Source of the order: halving the batch was the largest single gain in the published H100 history (0.0119 of
    0.0282); embedding and unembedding rates, a longer warm-down and a small final rate came next; any warm-up hurt,
    and betas, epsilons and initial scales moved the score by less than the noise.
    """
    known: dict[str, tuple[float, int]] = {
        TOTAL_BATCH: (1.0, -1),
        "MATRIX_LR": (0.9, 1),
        "EMBEDDING_LR": (0.85, 1),
        "UNEMBEDDING_LR": (0.8, 1),
        "SCALAR_LR": (0.65, 1),
        "WARMDOWN_RATIO": (0.7, 1),
        "FINAL_LR_FRAC": (0.6, 1),
        "WARMUP_RATIO": (0.25, 1),
        "DEPTH": (0.6, 1),
        "ASPECT_RATIO": (0.55, 1),
        "HEAD_DIM": (0.45, -1),
        "WINDOW_PATTERN": (0.4, 1),
        DEVICE_BATCH: (0.1, -1),
    }
    if owner in known:
        return known[owner]
    if "LR" in words:
        return 0.75, 1
    if "EPS" in words:
        return 0.1, 1
    if "DECAY" in words:
        return 0.5, -1
    if words & _BETA_WORDS:
        return (0.35, 1) if name.endswith("[0]") else (0.4, 1)
    return 0.3, 1


def _batches_divide(values: Mapping[str, Scalar], seq_len: int) -> bool:
    """TOTAL_BATCH_SIZE (tokens) is a whole number of micro-batches (DEVICE_BATCH_SIZE rows of seq_len tokens)."""
    total, device = values.get(TOTAL_BATCH), values.get(DEVICE_BATCH)
    if not isinstance(total, int) or not isinstance(device, int) or device < 1:
        return True
    return total >= device * seq_len and total % (device * seq_len) == 0


def _largest_device_batch(total: Scalar, at_most: Scalar, seq_len: int) -> int | None:
    if not isinstance(total, int) or not isinstance(at_most, int):
        return None
    return next(
        (rows for rows in range(at_most, 0, -1) if total >= rows * seq_len and total % (rows * seq_len) == 0), None
    )


def _schedule_fits(values: Mapping[str, Scalar], seq_len: int) -> bool:
    """Warm-up and warm-down together take at most the whole budget."""
    parts = [values.get(name, 0.0) for name in ("WARMUP_RATIO", "WARMDOWN_RATIO")]
    return sum(float(part) for part in parts if is_number(part)) <= 1.0


def _layers(values: Mapping[str, Scalar]) -> tuple[object, ...] | None:
    """What the published model builds of its shape constants: width, and each layer's window (the last is full)."""
    depth, pattern = values.get("DEPTH"), values.get("WINDOW_PATTERN")
    if not isinstance(depth, int) or depth < 1:
        return None
    windows = (pattern * depth)[: depth - 1] + "L" if isinstance(pattern, str) else None
    return _width(values) or values.get("ASPECT_RATIO"), windows


def _has_no_short_window(values: Mapping[str, Scalar]) -> bool:
    """Whether every layer sees the whole row, so that the length of a short window is never used."""
    layers = _layers(values)
    return layers is not None and isinstance(layers[1], str) and "S" not in layers[1]


def _width(values: Mapping[str, Scalar]) -> int | None:
    """Channels of the published model: DEPTH * ASPECT_RATIO, rounded up to whole heads."""
    depth, aspect, head = (values.get(name) for name in ("DEPTH", "ASPECT_RATIO", "HEAD_DIM"))
    if isinstance(depth, int) and isinstance(aspect, int) and isinstance(head, int) and head > 0:
        return -(-depth * aspect // head) * head
    return None


def _channels_fit(values: Mapping[str, Scalar], seq_len: int) -> bool:
    """What reads the first N channels of a layer finds as many."""
    width = _width(values)
    counts = [v for name, v in values.items() if "CHANNELS" in name.split("_") and isinstance(v, int)]
    return width is None or all(count <= width for count in counts)
