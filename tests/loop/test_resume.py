"""A kill at any instruction: nothing is lost, nothing is doubled, and the next start goes on to the same end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zlib
from contextlib import contextmanager

import pytest

from autoresearch.loop import opening
from autoresearch.loop import research as loop
from autoresearch.loop import session as session_module
from autoresearch.loop.referee import TrialRun
from autoresearch.loop.settings import load_settings
from autoresearch.records.ledger import Ledger
from autoresearch.repository import Repository
from autoresearch.vocabulary import Outcome, Proposal, ProposerExhausted, Trial
from autoresearch.workspace import open_workspace

SHARPNESS = ("0.9", "0.2", "1.0", "1.1")


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs but what unwinds without us."""


class Quiet:
    def note(self, text: str) -> None:
        """Nobody watches."""

    def glimpse(self, values) -> None:
        """Nobody watches."""


class Planned:
    name = "planned"

    def propose(self, situation) -> Proposal:
        incumbent, history = situation.incumbent, situation.history
        if len(history) == len(SHARPNESS):
            raise ProposerExhausted("done")
        value = SHARPNESS[len(history)]
        text = re.sub(r"SHARPNESS = [0-9.]+", f"SHARPNESS = {value}", incumbent["train.py"])
        return Proposal(f"SHARPNESS {value}", {"train.py": text}, self.name)


def score_of(text: str, seed: int) -> float:
    """A made-up val_bpb: best at SHARPNESS 1, with a little noise from the seed."""
    sharpness = float(re.search(r"SHARPNESS = ([0-9.]+)", text)[1])
    return 3.0 + (sharpness - 1) ** 2 + (zlib.crc32(str(seed).encode()) % 1000) * 1e-6


def quick_trial(arena, order, log_path, *, on_start, **_) -> TrialRun:
    """A referee that answers at once."""
    on_start(2**22 + 1, 0.0)
    val_bpb = score_of(order.files["train.py"], order.seed)
    weights = f"{val_bpb}".encode()
    trial = Trial(Outcome.FINISHED, val_bpb, seed=order.seed, slice=order.slice, tok_sec=1000.0, peak_memory_mb=1.0)
    return TrialRun(trial, "a log\n", weights)


def run_session(root, *, resume: bool) -> None:
    """What `autoresearch research` does, in this process."""
    workspace = open_workspace(root)
    settings = load_settings(workspace.settings(), {}, {"refresh_every": 2})
    ledger = Ledger(workspace.ledger_path)
    try:
        with opening.session_lock(workspace, "t"):
            if resume:
                row, ground = opening.resume(workspace, ledger, settings, "t")
            else:
                ground = opening.find_ground(settings)
                row = opening.begin(workspace, ledger, settings, ground, "t", committed=False)
            session = opening.session_on(workspace, ledger, row, ground, settings, Quiet())
            session.recover()
            loop.research(session, Planned(), session.reporter)
    finally:
        ledger.close()


def outcome_of(root) -> dict:
    """Everything a session is believed by, without times and random names."""
    workspace = open_workspace(root)
    ledger = Ledger(workspace.ledger_path)
    found = ledger.experiments("t")
    finished = [row for row in ledger.trials("t") if row.trial and row.trial.outcome is Outcome.FINISHED]
    refs = workspace.repository.git("for-each-ref", "--format=%(refname)").decode().split()
    tables = workspace.results_path.read_text()
    history = workspace.history_path.read_text()
    entries = workspace.log_path.read_text().count("\n## t #")
    snapshots = sorted(path.name for path in workspace.session_dir("t").iterdir() if path.is_dir())
    checkpoints = sorted(path.name for path in workspace.checkpoints_dir("t").iterdir())
    ledger.close()
    half_written = [str(path.relative_to(root)) for path in root.rglob(".*.tmp")]
    return {
        "half_written": half_written,
        "experiments": [(e.number, e.state, e.status, e.proposal.description, e.verdict.estimate) for e in found],
        "trials": [(row.number, row.purpose, row.seed, row.trial.val_bpb) for row in finished],
        "refs": refs,
        "rows": [re.sub(r"^[0-9a-f]{7}|\t[0-9.]+\t0\.0000$", "", line) for line in tables.splitlines()],
        "history_rows": len(history.splitlines()),
        "log_entries": entries,
        "snapshots": snapshots,
        "checkpoints": checkpoints,
        "tip": workspace.repository.git("show", "autoresearch/t:train.py").decode(),
    }


@contextmanager
def killing_at(monkeypatch_context, step: int):
    """Count every step through an outside door, before and after it happens, and die at the given one."""
    taken = {"count": 0}

    def tick() -> None:
        taken["count"] += 1
        if taken["count"] == step:
            raise Killed

    def guarded(function):
        def call(*arguments, **named):
            tick()
            result = function(*arguments, **named)
            tick()
            return result

        return call

    real_transaction = Ledger._transaction

    @contextmanager
    def transaction(self):
        tick()
        with real_transaction(self) as db:
            yield db
        tick()

    patch = monkeypatch_context
    patch.setattr(Ledger, "_transaction", transaction)
    patch.setattr(Repository, "_run", guarded(Repository._run))
    patch.setattr(os, "fsync", guarded(os.fsync))
    patch.setattr(os, "replace", guarded(os.replace))
    patch.setattr(session_module, "run_trial", guarded(quick_trial))
    yield taken


@pytest.fixture
def undisturbed(make_workspace, monkeypatch):
    root = make_workspace(folder="undisturbed")
    with monkeypatch.context() as patch, killing_at(patch, 0) as taken:
        run_session(root, resume=False)
    return outcome_of(root), taken["count"]


@pytest.mark.parametrize("part", [0, 1, *(pytest.param(part, marks=pytest.mark.slow) for part in (2, 3))])
def test_a_kill_at_any_step_loses_and_doubles_nothing(make_workspace, monkeypatch, undisturbed, part) -> None:
    expected, num_steps = undisturbed
    assert num_steps > 200, "the doors are not counted"
    # four interleaved parts of about 13 kills each, at other steps in each; benchmarks/resume.py takes them all
    for step in range(1 + 12 * part, num_steps, 49):
        root = make_workspace(folder=f"killed at {step}")
        with monkeypatch.context() as patch, killing_at(patch, step), pytest.raises(Killed):
            run_session(root, resume=False)
        with monkeypatch.context() as patch, killing_at(patch, 0):
            begun = Ledger(open_workspace(root).ledger_path).session("t") is not None
            run_session(root, resume=begun)
        found = outcome_of(root)
        for name, value in expected.items():
            assert found[name] == value, f"{name} after a kill at step {step} of {num_steps}"


@pytest.mark.slow
def test_a_second_kill_during_the_resume_changes_nothing(make_workspace, monkeypatch, undisturbed) -> None:
    expected, num_steps = undisturbed
    root = make_workspace(folder="twice")
    with monkeypatch.context() as patch, killing_at(patch, num_steps // 2), pytest.raises(Killed):
        run_session(root, resume=False)
    with monkeypatch.context() as patch, killing_at(patch, 40), pytest.raises(Killed):
        run_session(root, resume=True)
    with monkeypatch.context() as patch, killing_at(patch, 0):
        run_session(root, resume=True)
    assert outcome_of(root) == expected


@pytest.mark.slow
def test_a_real_sigkill_in_mid_trial_is_told_at_the_next_start_and_the_session_ends_whole(make_workspace) -> None:
    root = make_workspace()
    command = [sys.executable, "-m", "autoresearch", "research", "t", "--experiments", "2", "--json"]
    first = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    for line in first.stdout:
        if '"experiment": 1' in line:
            break
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    again = subprocess.run([*command, "--resume"], cwd=root, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "was cut off" in again.stdout
    ledger = Ledger(open_workspace(root).ledger_path)
    assert [e.number for e in ledger.experiments("t")] == [0, 1, 2]
    assert ledger.running_trials("t") == []
    accepted = [(r.number, r.purpose, r.seed) for r in ledger.trials("t") if r.trial.outcome is Outcome.FINISHED]
    assert len(accepted) == len(set(accepted))


@pytest.mark.slow
def test_resuming_a_session_that_never_was_names_the_known_ones(make_workspace) -> None:
    root = make_workspace()
    done = subprocess.run(
        [sys.executable, "-m", "autoresearch", "research", "nope", "--resume"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no session 'nope'" in done.stderr and "next: autoresearch research nope" in done.stderr
