"""A ledger with one session, and a short way to write experiments into it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from autoresearch.records.ledger import Experiment, Ledger, Purpose, Session
from autoresearch.vocabulary import Examination, Outcome, Proposal, Slice, Status, Trial, Verdict

HASH = "1234567890abcdef1234567890abcdef12345678"


def session_of(tag: str = "nov21", **changes) -> Session:
    values = {
        "tag": tag,
        "program": "model",
        "entry": "train.py",
        "preset": "smoke",
        "fingerprint": "f" * 12,
        "hashes": {"corpus": "c0", "validation": "v0", "tokenizer": "t0"},
        "settings": {"seed": 0, "hours": None},
        "machine": {"chip": "cpu"},
        "branch": f"autoresearch/{tag}",
        "base_commit": HASH,
        "author": {"name": "Test Person", "email": "test@example.org"},
        "created_at": "2025-11-21T22:00:00.000Z",
    }
    return Session(**{**values, **changes})


def trial_of(**changes) -> Trial:
    values = {
        "outcome": Outcome.FINISHED,
        "val_bpb": 1.9876543,
        "num_steps": 12,
        "num_tokens": 24576,
        "training_seconds": 20.0,
        "total_seconds": 27.25,
        "tok_sec": 61234.5,
        "peak_memory_mb": 1536.0,
        "sealed": "partial (no network isolation)",
        "weights_sha256": "a" * 64,
        "examined": Examination.DEEP,
        "deep_prefixes": 640,
        "leak_bound_bpb": 0.02349,
    }
    return Trial(**{**values, **changes})


KEPT = Verdict(
    Status.KEEP,
    "gain +0.0123, P(better) 0.91 after 2 trials",
    p_better=0.91,
    estimate=1.98,
    interval=(-0.001, 0.0256),
    gain=0.0123,
    noise=0.01,
    num_trials=2,
)
CRASHED = Verdict(Status.CRASH, "crashed: out of memory", num_trials=1)


def record(
    ledger: Ledger,
    number: int,
    trial: Trial,
    verdict: Verdict,
    *,
    tag: str = "nov21",
    description: str = "MATRIX_LR 0.04 -> 0.055",
    commit: str = HASH,
    log: str = "step 1\n",
) -> Experiment:
    """One experiment from proposal to settled."""
    ledger.propose(tag, number, HASH, Proposal(description, {"train.py": "LR = 1\n"}, "search", {"number": 3}))
    ledger.committed(tag, number, commit)
    trial_id = ledger.start_trial(tag, number, commit, Purpose.FIRST, 7, Slice.SEARCH, "f" * 12)
    ledger.end_trial(trial_id, trial, log)
    ledger.judged(tag, number, verdict)
    ledger.settled(tag, number)
    return ledger.experiment(tag, number)


def open_ledger(folder: Path) -> Ledger:
    """A new ledger with session nov21 in it."""
    opened = Ledger(folder / "state" / "ledger.sqlite3")
    opened.add_session(session_of())
    return opened


def run_on_small_disk(folder: Path, lines: str, *, options: str = "size=256k") -> str:
    """Run Python lines in a mount namespace of their own, where DISK is an empty file system of 256 KiB."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    head = (
        "import subprocess\nfrom pathlib import Path\n"
        f"DISK = Path({str(disk)!r})\n"
        f"subprocess.run(['mount', '-t', 'tmpfs', '-o', {options!r}, 'tmpfs', str(DISK)], check=True)\n"
    )
    command = [*_namespace(), sys.executable, "-c", head + textwrap.dedent(lines)]
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=paths)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _namespace() -> list[str]:
    for command in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        try:
            probe = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            break
    pytest.skip("this machine lets us mount no small file system")
