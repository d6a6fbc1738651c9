"""What a session costs besides training: `python benchmarks/session_cost.py [--contract tiny] [--experiments 4]`.

Runs a real session of the search proposer on this checkout's train.py in a throw-away workspace, and takes apart its
wall time: candidate's start-up, budget, examination, and everything else (proposing, git, ledger, tables, snapshots,
starting and ending processes). The reference in the same run is the time the candidates themselves took.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from lab import ROOT, PeakMemory, autoresearch, environment, make_workspace, report

from autoresearch.records.ledger import Ledger
from autoresearch.vocabulary import Outcome


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--contract", default="tiny")
    parser.add_argument("--experiments", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = make_workspace(Path(folder) / "lab", ROOT / "train.py", options.contract)
        began = time.monotonic()
        command = autoresearch("research", "cost", "--experiments", str(options.experiments))
        running = subprocess.Popen(command, cwd=root, env=environment(), stdout=subprocess.DEVNULL)
        with PeakMemory(running.pid) as memory:
            code = running.wait()
        wall = time.monotonic() - began
        assert code == 0, f"the session ended with {code}"
        ledger = Ledger(root / ".git" / "autoresearch" / "ledger.sqlite3")
        trials = [row.trial for row in ledger.trials("cost") if row.trial and row.trial.outcome is Outcome.FINISHED]
    candidates = sum(t.startup_seconds + t.training_seconds + t.exam_seconds for t in trials)
    report(
        {
            "contract": options.contract,
            "trials": len(trials),
            "session_wall_seconds": round(wall, 2),
            "seconds_per_trial_outside_startup_budget_exam": round((wall - candidates) / len(trials), 3),
            "startup_seconds_median": round(statistics.median(t.startup_seconds for t in trials), 3),
            "training_wall_seconds_median": round(statistics.median(t.training_seconds for t in trials), 2),
            "exam_seconds_median": round(statistics.median(t.exam_seconds for t in trials), 3),
            "feeder_wait_share_of_training": round(
                sum(t.feeder_wait_seconds for t in trials) / sum(t.training_seconds for t in trials), 6
            ),
            "tokens_per_second_median": round(statistics.median(t.tok_sec for t in trials)),
            "peak_memory_mb_of_everything": round(memory.peak_mb),
        }
    )


if __name__ == "__main__":
    main()
