"""How well the surface fits: `python benchmarks/search_surface/fit.py [--folds 10]`.

Cross-validated: every trial is predicted by a surface that was fitted, scales and all, without it and without the other
trials of its point. The error is that of a single noisy trial, so its floor is the noise; `error_of_the_surface` is
what is left when the noise is taken out. Compared are the kernel in use, its two parts alone, and the mean of all.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from search_surface.process import KERNELS
from search_surface.surface import (
    BASELINE_FILE,
    RECORDING,
    Array,
    Data,
    Model,
    data_of,
    fit,
    noise_of_repeats,
    read_trials,
    space_from,
)

VALLEY = 0.1  # bits above the baseline: where searches live


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recording", type=Path, default=RECORDING)
    parser.add_argument("--folds", type=int, default=10)
    options = parser.parse_args()
    space = space_from(BASELINE_FILE.read_text(encoding="utf-8"))
    rows = read_trials(options.recording)
    data = data_of(rows, space)
    began = time.monotonic()
    model = fit(data)
    seconds = time.monotonic() - began
    baseline = data.y[data.group == -1]
    speed = model.expected_speed(data.x)
    noise, degrees = noise_of_repeats(data, model)
    sizes = sorted(zip(effects(model, data), data.names, strict=True), reverse=True)
    found = {
        "trials": len(rows),
        "without_a_score": data.num_failed,
        "at_the_ceiling": int((data.y >= data.ceiling).sum()),
        "baseline": {
            "runs": len(baseline),
            "mean": round(float(baseline.mean()), 4),
            "surface": round(float(model.predict(data.x[data.group == -1][:1])[0]), 4),
        },
        "best_single_score": round(float(data.y.min()), 4),
        "spread_of_speed": round(float(2.0 ** np.std(data.speed - speed) - 1), 3),
        "score_of_twice_the_speed": round(
            float(np.median(model.predict(data.x, speed + 0.5) - model.predict(data.x, speed - 0.5))), 4
        ),
        "noise_of_repeats": {
            "raw": round(noise_of_repeats(data)[0], 4),
            "beyond_speed": round(noise, 4),
            "degrees_of_freedom": degrees,
        },
        "noise_of_the_fit": round(model.score.noise, 4),
        "fit_seconds": round(seconds, 1),
        "largest_effects": {name: round(float(size), 3) for size, name in sizes[:10]},
        "cross_validated": {
            **{name: errors(data, cross_validated(data, name, options.folds), noise) for name in KERNELS},
            "mean": errors(data, np.full(len(data.y), data.y.mean()), noise),
        },
    }
    print(json.dumps(found, indent=2))


def effects(model: Model, data: Data) -> Array:
    """Per feature, the range of the surface when it alone moves through its recorded values from the baseline's [features]."""
    baseline = data.x[data.group == -1][0]
    found = []
    for index in range(data.x.shape[1]):
        moved = np.tile(baseline, (9, 1))
        moved[:, index] = np.linspace(data.x[:, index].min(), data.x[:, index].max(), 9)
        found.append(float(np.ptp(model.predict(moved))))
    return np.array(found)


def cross_validated(data: Data, kernel: str, folds: int) -> Array:
    """Prediction of each trial by a surface fitted without its point [n]."""
    points = np.unique(data.group)
    fold_of = dict(zip(points, np.random.default_rng(0).permutation(len(points)) % folds, strict=True))
    fold = np.array([fold_of[group] for group in data.group])
    found = np.empty(len(data.y))
    whole = fit(data, kernel=kernel)
    for left_out in range(folds):
        chosen = fold != left_out
        found[~chosen] = fit(data, chosen, kernel=kernel, start=whole).predict(data.x[~chosen], data.speed[~chosen])
    return found


def errors(data: Data, predicted: Array, noise: float) -> dict[str, object]:
    """Root mean square errors in bits per byte, and how much of the variance is explained."""
    valley = data.y < float(data.y[data.group == -1].mean()) + VALLEY
    return {
        "rmse": round(_rms(predicted - data.y), 4),
        "rmse_in_the_valley": round(_rms((predicted - data.y)[valley]), 4),
        "trials_in_the_valley": int(valley.sum()),
        "error_of_the_surface_in_the_valley": round(
            math.sqrt(max(0.0, _rms((predicted - data.y)[valley]) ** 2 - noise**2)), 4
        ),
        "explained": round(1 - float(((predicted - data.y) ** 2).sum() / ((data.y - data.y.mean()) ** 2).sum()), 3),
        "rank_correlation": round(_rank_correlation(predicted, data.y), 3),
    }


def _rms(apart: Array) -> float:
    return float(np.sqrt(np.mean(apart**2)))


def _rank_correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


if __name__ == "__main__":
    main()
