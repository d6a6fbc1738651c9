"""Kill -9 at random times: `python benchmarks/resume.py [--kills 50]`.

A session of short trials (an experiment of 0.2 s, the `smoke` contract, whose step clock is reproducible) is started and
killed with SIGKILL after a random time, again and again with --resume, until the kills are used up; then it runs to its
end. The reference is the same session, undisturbed, in the same run: every verdict, score and table row must be equal,
and no accepted trial may be there twice.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from lab import COUNTING, autoresearch, environment, make_workspace, report

from autoresearch.records.ledger import Ledger
from autoresearch.vocabulary import Outcome


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    experiments = str(max(6, options.kills // 2))
    with tempfile.TemporaryDirectory() as folder:
        whole = make_workspace(Path(folder) / "undisturbed", COUNTING, "smoke")
        run(whole, experiments, resume=False, seconds=None)
        killed = make_workspace(Path(folder) / "killed", COUNTING, "smoke")
        kills = 0
        begun = False
        while kills < options.kills:
            # between 0.3 s (the interpreter is hardly up) and 3 s (several trials on)
            kills += run(killed, experiments, resume=begun, seconds=chance.uniform(0.3, 3.0))
            begun = has_session(killed)
            if begun and is_over(killed, int(experiments)):
                break
        run(killed, experiments, resume=begun, seconds=None)
        expected, found = state_of(whole), state_of(killed)
    doubled = sum(count - 1 for count in found["accepted"].values() if count > 1)
    lost = [name for name in ("verdicts", "rows", "history") if expected[name] != found[name]]
    report(
        {
            "kills": kills,
            "experiments": len(found["verdicts"]),
            "abandoned_trials": found["abandoned"],
            "doubled_trials": doubled,
            "tables_or_verdicts_that_differ_from_the_undisturbed_session": lost,
        }
    )
    assert not doubled and not lost


def run(root: Path, experiments: str, *, resume: bool, seconds: float | None) -> int:
    """Start the session; 1 when it was killed before it ended by itself."""
    # --calibration 2: more verdicts in the time
    command = autoresearch("research", "k", "--experiments", experiments, "--calibration", "2")
    running = subprocess.Popen(
        [*command, "--resume"] if resume else command,
        cwd=root,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, said = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()
        return 1
    assert running.returncode == 0, said.decode()
    return 0


def has_session(root: Path) -> bool:
    path = root / ".git" / "autoresearch" / "ledger.sqlite3"
    return path.exists() and Ledger(path).session("k") is not None


def is_over(root: Path, experiments: int) -> bool:
    found = Ledger(root / ".git" / "autoresearch" / "ledger.sqlite3").experiments("k")
    return len(found) == experiments + 1 and all(e.status for e in found)


def state_of(root: Path) -> dict:
    ledger = Ledger(root / ".git" / "autoresearch" / "ledger.sqlite3")
    trials = [row for row in ledger.trials("k") if row.trial]
    columns = [line.split("\t") for line in (root / "results.tsv").read_text().splitlines()]
    history = (root / "results_history.tsv").read_text().splitlines()
    return {
        "verdicts": [
            (e.number, e.status, e.proposal.description, e.verdict.estimate, e.state) for e in ledger.experiments("k")
        ],
        # without commit (its date differs), memory, speed and seconds
        "rows": [[cell for place, cell in enumerate(line) if place not in (0, 2, 3, 12)] for line in columns],
        "history": len(history),
        "abandoned": sum(row.trial.outcome is Outcome.ABANDONED for row in trials),
        "accepted": Counter(
            (r.number, r.purpose, r.seed, r.commit_hash) for r in trials if r.trial.outcome is Outcome.FINISHED
        ),
    }


if __name__ == "__main__":
    main()
