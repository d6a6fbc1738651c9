"""How fast do searches get better? `python benchmarks/search_efficiency.py [--seeds 10] [--trials 100] [--model SPEC]`.

Simulated sessions on a response surface that was fitted to real trials (search_surface/), with the measured noise added
back, under the session's own verdicts. Every run is one trial: calibration, first looks, both arms of every repeat. The
yardstick is the score that random search reaches with all its trials, by the surface's true value of the incumbent, in
the median of its seeds; per method: trials until the incumbent is truly that good (a session that never gets there
counts as more than all trials), and the true value at the end.

`--model SPEC` adds the hybrid with that language model and says by how much it differs from its classical optimizer
alone, paired by seed. Code has no effect here, only constants: an edit of code is a trial that gains nothing, and the
figure says nothing about what code could gain. `--courses FILE` keeps every finished session and goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from search_surface.simulation import Course, SurfaceSession, usual_speed
from search_surface.surface import (
    BASELINE_FILE,
    PRESET,
    RECORDING,
    Array,
    Surface,
    data_of,
    fit,
    noise_of_repeats,
    read_trials,
    space_from,
)

from autoresearch.proposers.registry import ProposerOptions, make_proposer, needs_model
from autoresearch.proposers.situation import Proposer

CLASSICAL = ("search:random", "search:tpe", "search:cmaes")
RANDOM = CLASSICAL[0]
_RESAMPLES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--methods", nargs="*", default=list(CLASSICAL))
    parser.add_argument("--model", help="chain of language models; adds the hybrid")
    parser.add_argument("--hybrid", default="hybrid", help="which hybrid: hybrid, hybrid:tpe, hybrid:cmaes, llm")
    parser.add_argument("--model-share", type=float, default=0.3)
    parser.add_argument("--prompt-tokens", type=int, default=24_000)
    parser.add_argument("--reply-tokens", type=int, default=2048)
    parser.add_argument("--model-seconds", type=float, default=600.0, help="patience with one call")
    parser.add_argument("--reference", default="search:tpe", help="what the others are compared with, seed by seed")
    parser.add_argument("--recording", type=Path, default=RECORDING)
    parser.add_argument(
        "--courses", type=Path, help="one JSON line per finished session; those in it are not run again"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    source = BASELINE_FILE.read_text(encoding="utf-8")
    space = space_from(source)
    rows = read_trials(options.recording)
    data = data_of(rows, space)
    began = time.monotonic()
    surface = Surface(fit(data), space)
    noise, _ = noise_of_repeats(data, surface.model)
    say(f"surface of {len(rows)} trials fitted in {time.monotonic() - began:.0f} s; noise {noise:.4f}")
    methods = [*options.methods, *([options.hybrid] if options.model else [])]
    recorded = hashlib.sha256(options.recording.read_bytes()).hexdigest()[:12]
    ground = f"{recorded} {options.trials}"
    with_model = f"{ground} {options.model} {options.model_share:g}"
    courses = [
        c for c in read_courses(options.courses) if c.ground == (with_model if needs_model(c.method) else ground)
    ]
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            for seed in range(options.seeds):
                if any(course.method == method and course.seed == seed for course in courses):
                    continue
                session = SurfaceSession(
                    surface,
                    noise,
                    source,
                    method=method,
                    seed=seed,
                    trials=options.trials,
                    tok_sec=usual_speed(rows),
                )
                course = session.run(make(method, seed, options, Path(folder), say))
                course.ground = with_model if needs_model(method) else ground
                courses.append(course)
                if options.courses:
                    append_course(options.courses, course)
                say(one_line_of(course))
    chosen = [course for course in courses if course.method in methods and course.seed < options.seeds]
    found = figures(chosen, trials=options.trials, reference=options.reference)
    found = {"recorded_trials": len(rows), "noise": round(noise, 4), **found}
    print(json.dumps(found, indent=2) if options.json else table_of(found))


def figures(courses: Sequence[Course], *, trials: int, reference: str) -> dict[str, object]:
    """The yardstick, and for each method how it did. Scores are true values, val_bpb."""
    by_method = {
        method: [c for c in courses if c.method == method] for method in dict.fromkeys(c.method for c in courses)
    }
    finals = {m: np.array([c.true_value_after(trials) for c in group]) for m, group in by_method.items()}
    yardstick = float(np.median(finals[RANDOM])) if RANDOM in finals else None
    baseline = courses[0].best[0][1]
    methods: dict[str, object] = {}
    for method, group in by_method.items():
        final = finals[method]
        entry: dict[str, object] = {
            "sessions": len(group),
            "final": quartiles(final),
            "gain": quartiles(baseline - final),
            "experiments": float(np.median([c.experiments for c in group])),
            "keeps": float(np.median([c.keeps for c in group])),
            "crashes": sum(c.crashes for c in group),
            "refused": sum(c.refused for c in group),
            "ended_early": sum(c.trials < trials for c in group),
            "seconds_per_proposal": round(
                sum(c.proposing_seconds for c in group) / sum(c.experiments for c in group), 3
            ),
        }
        if yardstick is not None:
            needed = [c.trials_to(yardstick) for c in group]
            entry["reached"] = sum(n is not None for n in needed)
            entry["trials_to_reach"] = quartiles(np.array([math.inf if n is None else n for n in needed]), digits=0)
        if reference in finals and method != reference and len(final) == len(finals[reference]):
            entry[f"worse_than_{reference}_by"] = interval(final - finals[reference])
        methods[method] = entry
    return {"trials": trials, "baseline": round(baseline, 4), "yardstick": yardstick, "methods": methods}


def quartiles(values: Array, digits: int = 4) -> list[float | None]:
    """Lower quartile, median, upper quartile, each a value that occurred; None where it was not reached."""
    found = np.quantile(np.sort(values), (0.25, 0.5, 0.75), method="inverted_cdf")
    return [round(float(value), digits) if math.isfinite(value) else None for value in found]


def interval(apart: Array) -> dict[str, object]:
    """Mean of paired differences and its 95 % bootstrap interval (percentiles; Efron & Tibshirani 1993, chapter 13)."""
    rng = np.random.default_rng(0)
    means = rng.choice(apart, size=(_RESAMPLES, len(apart))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": round(float(apart.mean()), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def make(method: str, seed: int, options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Proposer:
    """The proposer of that name as a session would make it."""
    chain = None
    if needs_model(method):
        from autoresearch.providers.chain import Caps, open_chain

        chain = open_chain(
            options.model,
            state_dir=folder,
            tag=f"surface-{seed}",
            caps=Caps(usd=None, tokens=None),
            seconds=options.model_seconds,
            environment=os.environ,
            wait=threading.Event().wait,
            say=say,
        )
    return make_proposer(
        method,
        ProposerOptions(
            preset=PRESET,
            seed=seed,
            chain=chain,
            share=options.model_share,
            prompt_tokens=options.prompt_tokens,
            reply_tokens=options.reply_tokens,
            say=say,
        ),
    )


def read_courses(path: Path | None) -> list[Course]:
    """Sessions that were finished before."""
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
    found = [Course(**json.loads(line)) for line in lines]
    for course in found:
        course.best = [(int(used), float(value)) for used, value in course.best]
    return found


def append_course(path: Path, course: Course) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(course)) + "\n")


def one_line_of(course: Course) -> str:
    return (
        f"{course.method} seed {course.seed}: {course.best[-1][1]:.4f} after {course.trials} trials, "
        f"{course.experiments} ideas, {course.keeps} keeps, {course.proposing_seconds:.0f} s of proposing ({course.ended})"
    )


def table_of(found: Mapping[str, Any]) -> str:
    """The figures for a reader."""
    lines = [
        f"{found['recorded_trials']} recorded trials, noise {found['noise']}; {found['trials']} trials a session, "
        f"baseline {found['baseline']}, yardstick {found['yardstick']:.4f}"
        if found["yardstick"] is not None
        else f"no yardstick without {RANDOM}",
        f"{'method':16} {'sessions':>8} {'reached':>7}  {'trials to reach':>22}  {'true val_bpb at the end':>26}  {'s/idea':>6}",
    ]
    for method, entry in found["methods"].items():
        lines.append(
            f"{method:16} {entry['sessions']:8} {entry.get('reached', '-'):>7}  {_spread(entry.get('trials_to_reach')):>22}  "
            f"{_spread(entry['final']):>26}  {entry['seconds_per_proposal']:6}"
        )
    for method, entry in found["methods"].items():
        for key, apart in entry.items():
            if key.startswith("worse_than_"):
                lines.append(
                    f"{method} {key.replace('_', ' ')} {apart['mean']:+.4f}, 95 % interval {apart['interval']}"
                )
    return "\n".join(lines)


def _spread(values: Sequence[float | None] | None) -> str:
    """ "41 [30, never]": median and quartiles."""
    if values is None:
        return "-"
    low, middle, high = ("never" if value is None else f"{value:g}" for value in values)
    return f"{middle} [{low}, {high}]"


if __name__ == "__main__":
    main()
