"""The response surface: val_bpb under `tiny` as a function of train.py's constants, fitted to recorded trials.

Two Gaussian processes (`process.py`), fitted anew at every start from trials.jsonl, deterministically, in seconds: the
speed, of the constants that shape the model and its batches; and the score, of all constants and the speed. The
budget is CPU seconds, and busy neighbours slow them: the baseline scored 1.840 at 22,200 tokens per CPU second, 1.887 at
18,400 and 1.900 at 16,900. The surface is the score at the expected speed, and the noise what repeats differ by
beyond their speeds. With the first 70 trials and ten folds, the error of single trials fell from 0.070 without the
speed to 0.046 with it.

Not covered: what code does. Two files with the same constants have the same score here.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from search_surface.process import Array, Process, fit_process

from autoresearch.proposers.constants import Scalar, read_constants
from autoresearch.proposers.dimension import Scale
from autoresearch.proposers.search_space import SearchSpace, space_of

PRESET, SEQ_LEN = "tiny", 256
RECORDING = Path(__file__).with_name("trials.jsonl")
# The constants of the train.py that was recorded: what sessions on the surface begin with, whatever train.py is now.
BASELINE_FILE = Path(__file__).with_name("baseline.txt")
# Scores further above the baseline than this are all one score: a clear loser, whatever the number. Every search
# discards them after one trial, and their spread says nothing about the valley.
CEILING_ABOVE_BASELINE = 0.5
_MADE_OF_SHAPES = ("ASPECT_RATIO", "WINDOW_PATTERN", "SHORT_WINDOW_DIVISOR")  # replaced by width and visible keys
_MAKES_SPEED = ("DEPTH", "HEAD_DIM", "TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE", "width", "visible keys")
_SPEED_STEP = 0.25  # doublings that count as one step of a constant; a half and a double of it fit as well


class OutOfSurface(Exception):
    """A candidate that the surface cannot score: it lacks constants, or the file itself would refuse them."""


def numbers_of(source: str) -> str:
    """The constants of an experiment file alone, as it writes them: its first line and every UPPER_CASE assignment.

    The surface knows nothing else, and a proposer reads 40 lines sixteen times faster than 800.
    """
    lines = source.splitlines()
    kept = [lines[0], ""]
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id.isupper() for target in targets):
            kept += lines[statement.lineno - 1 : statement.end_lineno]
    return "\n".join(kept) + "\n"


def space_from(source: str) -> SearchSpace:
    """The search space of the baseline file: the surface's coordinates."""
    return space_of(read_constants(source, PRESET), seq_len=SEQ_LEN, anchors={}, seen={})


def read_trials(path: Path = RECORDING) -> list[dict[str, Any]]:
    """The recording, by number."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda row: row["number"])


def values_of(source: str, space: SearchSpace) -> dict[str, Scalar]:
    """The searched constants of a candidate.

    Raises:
        OutOfSurface: one is missing or of another kind, or train.py would refuse the combination.
    """
    try:
        literals = read_constants(source, PRESET).literals
    except SyntaxError as error:
        raise OutOfSurface(f"SyntaxError: {error.msg}") from error
    values: dict[str, Scalar] = {}
    for name, dimension in space.dimensions.items():
        if name not in literals or not dimension.holds(literals[name].value):
            raise OutOfSurface(f"{name} is missing or of another kind")
        values[name] = literals[name].value
    micro = int(values["DEVICE_BATCH_SIZE"]) * SEQ_LEN
    if micro < 1 or int(values["TOTAL_BATCH_SIZE"]) % micro:
        raise OutOfSurface("AssertionError: TOTAL_BATCH_SIZE must be a multiple of DEVICE_BATCH_SIZE * MAX_SEQ_LEN")
    if int(values["HEAD_DIM"]) % 2 or int(values["HEAD_DIM"]) < 2:
        raise OutOfSurface("AssertionError: HEAD_DIM: choose an even number")
    return values


def feature_names(space: SearchSpace) -> list[str]:
    return [*(name for name in space.dimensions if name not in _MADE_OF_SHAPES), "width", "visible keys"]


def features(values: Mapping[str, Scalar], space: SearchSpace) -> Array:
    """float64 [number of features], in steps of the search, within the space's ranges."""
    spots = [_spot(name, values[name], space) for name in space.dimensions if name not in _MADE_OF_SHAPES]
    depth, head = int(values["DEPTH"]), int(values["HEAD_DIM"])
    width = math.ceil(depth * int(values["ASPECT_RATIO"]) / head) * head
    pattern, short = str(values["WINDOW_PATTERN"]), max(1, SEQ_LEN // int(values["SHORT_WINDOW_DIVISOR"]))
    letters = (pattern * depth)[: depth - 1] + "L"
    keys = sum(short if letter == "S" else SEQ_LEN for letter in letters) / depth
    return np.array([*spots, 2.0 * math.log2(width), 2.0 * math.log2(keys)])


def _spot(name: str, value: Scalar, space: SearchSpace) -> float:
    """The coordinate, with a rung that is not on the ladder between its neighbours."""
    dimension = space.dimensions[name]
    if dimension.scale is Scale.LADDER and value not in dimension.rungs:
        rungs = [float(rung) for rung in dimension.rungs]
        return float(np.interp(float(value), rungs, np.arange(len(rungs))))
    return min(max(dimension.coordinate(value), dimension.low), dimension.high)


@dataclass(frozen=True)
class Data:
    """Finished trials of a recording. Row i of `x` is trial i; trials of one point share a group."""

    names: list[str]  # of the features
    x: Array  # [n, features]
    y: Array  # [n] val_bpb, at most the ceiling
    speed: Array  # [n] log2 of tokens per CPU second
    group: NDArray[np.int64]
    kind: list[str]
    ceiling: float
    num_failed: int


def data_of(rows: Sequence[Mapping[str, Any]], space: SearchSpace) -> Data:
    """What the surface is fitted to. Trials without a score are counted, and otherwise left out."""
    scored = [row for row in rows if row["val_bpb"] is not None]
    group = np.array([row["number"] if row["repeats"] is None else row["repeats"] for row in scored])
    score = np.array([row["val_bpb"] for row in scored])
    ceiling = float(np.median(score[group == -1])) + CEILING_ABOVE_BASELINE
    return Data(
        names=feature_names(space),
        x=np.array([features(row["values"], space) for row in scored]),
        y=np.minimum(score, ceiling),
        speed=np.log2([row["tok_sec"] for row in scored]),
        group=group,
        kind=[row["kind"] for row in scored],
        ceiling=ceiling,
        num_failed=len(rows) - len(scored),
    )


@dataclass(frozen=True)
class Model:
    """A fitted surface. `shaping` are the columns of the features that the speed depends on."""

    speed: Process
    score: Process
    shaping: NDArray[np.int64]
    ceiling: float

    def predict(self, x: Array, speed: Array | None = None) -> Array:
        """Mean val_bpb at each row of x [k, features] -> [k], at most the ceiling: at the expected speed, or at these [k]."""
        speed = self.expected_speed(x) if speed is None else speed
        return np.asarray(np.minimum(self.score.predict(_with_speed(x, speed)), self.ceiling))

    def expected_speed(self, x: Array) -> Array:
        """log2 of tokens per CPU second [k], on the machine as it usually was."""
        return self.speed.predict(x[:, self.shaping])


def _with_speed(x: Array, speed: Array) -> Array:
    return np.column_stack([x, speed / _SPEED_STEP])


# (median, spread of the logarithm) of the spreads of single trials about the two processes. Speed: a quiet machine
# repeats itself to 3 %, a busy one to 15 %. Score: the contract's own assumption for `tiny`.
_SPEED_NOISE, _SCORE_NOISE = (0.1, 0.7), (0.015, 0.5)
_SPEED_EFFECT, _SCORE_EFFECT = 0.3, 0.03  # of a constant over its range, where it has one: doublings; bits per byte


def fit(
    data: Data, rows: NDArray[np.bool_] | None = None, *, kernel: str = "both", start: Model | None = None
) -> Model:
    """The surface through the chosen rows of the data (all of them by default).

    `start` saves time: the search for the scales begins at those of another fit. Theirs are not kept.
    """
    chosen = np.ones(len(data.y), dtype=bool) if rows is None else rows
    x, speed = data.x[chosen], data.speed[chosen]
    shaping = np.array([data.names.index(name) for name in _MAKES_SPEED])
    of_speed = fit_process(
        x[:, shaping], speed, effect=_SPEED_EFFECT, noise=_SPEED_NOISE, start=start.speed if start else None
    )
    of_score = fit_process(
        _with_speed(x, speed),
        data.y[chosen],
        effect=_SCORE_EFFECT,
        noise=_SCORE_NOISE,
        kernel=kernel,
        start=start.score if start else None,
    )
    return Model(of_speed, of_score, shaping, data.ceiling)


def noise_of_repeats(data: Data, model: Model | None = None) -> tuple[float, int]:
    """Pooled standard deviation of the scores of repeated points, and its degrees of freedom.

    With a model, the part that the speed of each run explains is taken out first.
    """
    y = data.y if model is None else data.y - (model.predict(data.x, data.speed) - model.predict(data.x))
    repeated = [y[data.group == g] for g in np.unique(data.group) if (data.group == g).sum() > 1]
    degrees = sum(len(scores) - 1 for scores in repeated)
    squares = sum(float(((scores - scores.mean()) ** 2).sum()) for scores in repeated)
    return math.sqrt(squares / degrees), degrees


class Surface:
    """The fitted surface, asked with the text of a candidate."""

    def __init__(self, model: Model, space: SearchSpace) -> None:
        self.model, self.space = model, space

    def val_bpb(self, source: str) -> float:
        """The true score of a file here.

        Raises:
            OutOfSurface: it has none.
        """
        return float(self.model.predict(features(values_of(source, self.space), self.space)[None])[0])
