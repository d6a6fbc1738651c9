"""Is the improvement of a session real? `python benchmarks/improvement.py [--experiments 24] [--pairs 6]`.

Runs a session of the search proposer on this checkout's train.py under `tiny`, then measures baseline and incumbent
again: fresh seeds that the session never used, alternating, on the confirm slice. The noise is the pooled standard
deviation of those repeats; the gain is the difference of the means. `--workspace DIR --tag TAG` measures a session that
was run before.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import tempfile
from pathlib import Path

from lab import ROOT, autoresearch, environment, make_workspace, report

from autoresearch.loop.opening import find_ground
from autoresearch.loop.referee import Order, run_trial
from autoresearch.loop.settings import Settings
from autoresearch.records.ledger import Experiment, Ledger, Purpose
from autoresearch.vocabulary import Outcome, Slice, Status

FRESH_SEED = 900_000  # the session's seeds are hashes; these were never asked for


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiments", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--contract", default="tiny")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--tag", default="gain")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.workspace or make_workspace(Path(folder) / "lab", ROOT / "train.py", options.contract)
        if options.workspace is None:
            command = autoresearch("research", options.tag, "--experiments", str(options.experiments))
            subprocess.run(command, cwd=root, env=environment(), check=True)
        ledger = Ledger(root / ".git" / "autoresearch" / "ledger.sqlite3")
        experiments = ledger.experiments(options.tag)
        baseline = experiments[0]
        incumbent = [e for e in experiments if e.status is Status.KEEP][-1]
        scores = measure_again(baseline, incumbent, options.pairs, options.contract, Path(folder) / "run.log")
        report(sums(ledger, options.tag, experiments, incumbent, *scores))


def measure_again(
    baseline: Experiment, incumbent: Experiment, pairs: int, contract: str, log_path: Path
) -> tuple[list[float], list[float]]:
    """Scores of both on the confirm slice, run alternately with the same fresh seeds."""
    arena = find_ground(Settings(contract=contract)).arena
    scores: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for experiment, found in zip((baseline, incumbent), scores, strict=True):
            order = Order(experiment.proposal.files, "train.py", FRESH_SEED + pair, Slice.CONFIRM)
            trial = run_trial(arena, order, log_path).trial
            assert trial.val_bpb is not None, f"{experiment.proposal.description}: {trial.outcome} {trial.reason}"
            found.append(trial.val_bpb)
            print(
                f"pair {pair + 1}: experiment {experiment.number}: {trial.val_bpb:.6f} at {trial.tok_sec:,.0f} tokens/s",
                flush=True,
            )
    return scores


def sums(
    ledger: Ledger,
    tag: str,
    experiments: list[Experiment],
    incumbent: Experiment,
    before: list[float],
    after: list[float],
) -> dict[str, object]:
    noise = math.sqrt((statistics.variance(before) + statistics.variance(after)) / 2)
    gain = statistics.mean(before) - statistics.mean(after)
    trials = [row for row in ledger.trials(tag) if row.trial and row.trial.outcome is not Outcome.ABANDONED]
    ideas = [e for e in experiments if e.number]
    return {
        "experiments": len(ideas),
        "keeps": sum(e.status is Status.KEEP for e in ideas),
        "crashes": sum(e.status is Status.CRASH for e in ideas),
        "trials": len(trials),
        "trials_that_were_repeats": sum(
            row.purpose in (Purpose.PAIR, Purpose.PAIRED_INCUMBENT, Purpose.REFRESH) for row in trials
        ),
        "kept": [e.proposal.description for e in ideas if e.status is Status.KEEP],
        "incumbent": incumbent.number,
        "baseline_confirm": [round(score, 4) for score in before],
        "incumbent_confirm": [round(score, 4) for score in after],
        "noise_of_one_run": round(noise, 4),
        "gain": round(gain, 4),
        "standard_error_of_the_gain": round(noise * math.sqrt(2 / len(before)), 4),
        "gain_over_noise": round(gain / noise, 2),
        "gain_estimated_by_the_session": round(experiments[0].verdict.estimate - incumbent.verdict.estimate, 4),
    }


if __name__ == "__main__":
    main()
