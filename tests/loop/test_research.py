"""Whole sessions with real candidates: real commits, real sealed trials, real decisions."""

from __future__ import annotations

import re
import subprocess
import threading

import pytest

from autoresearch.loop import attempt, opening
from autoresearch.loop import research as loop
from autoresearch.loop import session as session_module
from autoresearch.loop.peers import beside_its_peers
from autoresearch.loop.session import Stopped
from autoresearch.loop.settings import load_settings
from autoresearch.proposers.registry import ProposerOptions, make_proposer
from autoresearch.records.ledger import Ledger, Purpose
from autoresearch.vocabulary import (
    Outcome,
    Proposal,
    ProposerExhausted,
    SessionBusy,
    SessionStopped,
    Status,
    WorkspaceError,
)
from autoresearch.workspace import open_workspace


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.glimpses = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def glimpse(self, values) -> None:
        self.glimpses += 1


class Planned:
    """A proposer that edits the incumbent by a fixed list of (pattern, replacement)."""

    name = "planned"

    def __init__(self, *edits: tuple[str, str]) -> None:
        self.edits = edits

    def propose(self, situation) -> Proposal:
        incumbent, history = situation.incumbent, situation.history
        if len(history) >= len(self.edits):
            raise ProposerExhausted("the plan is at its end")
        pattern, replacement = self.edits[len(history)]
        text, count = re.subn(pattern, replacement, incumbent["train.py"], count=1)
        assert count == 1, f"{pattern} is not in the incumbent"
        return Proposal(f"{pattern} to {replacement}", {"train.py": text}, self.name)


BETTER = (r"SHARPNESS = 0\.5", "SHARPNESS = 1.0")
WORSE = (r"SHARPNESS = [0-9.]+", "SHARPNESS = 0.1")
BROKEN = (r"def main\(\):", "def main():\n    raise RuntimeError('no')\n\n\ndef unused():")


def begun(root, tag="t", **settings):
    """A new session in a workspace, with everything it stands on."""
    workspace = open_workspace(root)
    chosen = load_settings(workspace.settings(), {}, settings)
    ledger = Ledger(workspace.ledger_path)
    ground = opening.find_ground(chosen)
    row = opening.begin(workspace, ledger, chosen, ground, tag, committed=False)
    return opening.session_on(workspace, ledger, row, ground, chosen, Told())


def resumed(root, tag="t", stop=None, **settings):
    workspace = open_workspace(root)
    chosen = load_settings(workspace.settings(), {}, settings)
    ledger = Ledger(workspace.ledger_path)
    row, ground = opening.resume(workspace, ledger, chosen, tag)
    return opening.session_on(workspace, ledger, row, ground, chosen, Told(), stop)


def git(root, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_a_better_edit_moves_the_branch_and_a_worse_one_does_not(make_workspace) -> None:
    root = make_workspace()
    before = (git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain"), (root / ".git/index").read_bytes())
    session = begun(root)
    why = loop.research(session, Planned(BETTER, WORSE), session.reporter)
    assert "nothing new" in why
    statuses = [found.status for found in session.ledger.experiments("t")]
    assert statuses == [Status.KEEP, Status.KEEP, Status.DISCARD]
    kept = session.ledger.experiment("t", 1)
    assert git(root, "rev-parse", "autoresearch/t").strip() == kept.commit_hash
    assert "SHARPNESS = 1.0" in git(root, "show", "autoresearch/t:train.py")
    for number in range(3):
        assert (
            git(root, "rev-parse", f"refs/autoresearch/t/{number}").strip()
            == session.ledger.experiment("t", number).commit_hash
        )
    assert before == (
        git(root, "rev-parse", "HEAD"),
        git(root, "status", "--porcelain"),
        (root / ".git/index").read_bytes(),
    )


@pytest.mark.slow
def test_a_keep_was_repeated_beside_the_incumbent_on_the_confirm_slice_with_the_same_seed(make_workspace) -> None:
    session = begun(make_workspace())
    loop.research(session, Planned(BETTER), session.reporter)
    rows = session.ledger.trials("t", 1)
    pair = [row for row in rows if row.purpose is Purpose.PAIR]
    opponent = [row for row in rows if row.purpose is Purpose.PAIRED_INCUMBENT]
    assert len(pair) == len(opponent) == 1
    assert pair[0].seed == opponent[0].seed
    assert pair[0].slice == opponent[0].slice == "confirm"
    assert pair[0].commit_hash != opponent[0].commit_hash == session.ledger.experiment("t", 0).commit_hash


@pytest.mark.slow
def test_a_crashing_candidate_is_a_crash_row_and_the_session_goes_on(make_workspace) -> None:
    session = begun(make_workspace())
    loop.research(session, Planned(BROKEN, BETTER), session.reporter)
    crashed, kept = session.ledger.experiment("t", 1), session.ledger.experiment("t", 2)
    assert crashed.status is Status.CRASH and "RuntimeError: no" in crashed.verdict.reason
    assert kept.status is Status.KEEP
    line = session.workspace.results_path.read_text().splitlines()[2].split("\t")
    assert line[1:5] == ["0.000000", "0.0", "0", "crash"]


@pytest.mark.slow
def test_a_streak_of_crashes_stops_the_session_and_says_why(make_workspace) -> None:
    session = begun(make_workspace(), crash_streak=2)
    again = (r"raise RuntimeError\('no'\)", "raise RuntimeError('still no')")
    with pytest.raises(SessionStopped, match=r"last 2 experiments crashed.*RuntimeError"):
        loop.research(
            session, Planned(BROKEN, (BROKEN[0], BROKEN[1].replace("'no'", "'never'")), again), session.reporter
        )


@pytest.mark.slow
def test_a_baseline_that_does_not_run_stops_the_session_with_its_log(make_workspace) -> None:
    session = begun(make_workspace("from prepare import nothing_of_the_kind\n"))
    with pytest.raises(SessionStopped, match=r"baseline does not run.*ImportError"):
        loop.research(session, Planned(BETTER), session.reporter)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ((r"# 1 predicts by the counts", "# counts are used"), "changes nothing but layout or comments"),
        (WORSE, "the same program was tried as experiment 1"),
    ],
)
def test_an_edit_that_is_none_or_was_tried_is_refused_without_a_run(make_workspace, edit, reason) -> None:
    session = begun(make_workspace())
    loop.research(session, Planned(WORSE, edit), session.reporter)
    refused = session.ledger.experiment("t", 2)
    assert refused.status is Status.DISCARD and reason in refused.verdict.reason
    assert session.ledger.trials("t", 2) == []


@pytest.mark.slow
def test_a_candidate_that_touches_another_file_is_refused_before_a_process_starts(make_workspace) -> None:
    session = begun(make_workspace())
    session.establish_baseline()
    text = session.workspace.read_surface(session.incumbent().commit_hash, "train.py").replace("0.5", "1.0")
    experiment = session.commit(
        session.propose(Proposal("two files", {"train.py": text, "prepare.py": "x = 1\n"}, "test"))
    )
    assert "it touches prepare.py" in loop.why_refused(session, experiment)


@pytest.mark.slow
def test_stopping_abandons_the_trial_and_resuming_goes_on_with_the_same_experiment(make_workspace) -> None:
    root = make_workspace()
    session = begun(root)
    session.establish_baseline()
    session.stop.set()
    assert loop.research(session, Planned(BETTER), session.reporter) == "stopped"
    assert [row.trial.outcome for row in session.ledger.trials("t", 1)] == [Outcome.ABANDONED]
    again = resumed(root)
    loop.research(again, Planned(BETTER), again.reporter)
    assert [found.number for found in again.ledger.experiments("t")] == [0, 1]
    assert again.ledger.experiment("t", 1).status is Status.KEEP


@pytest.mark.slow
def test_a_limit_counts_the_experiments_of_the_whole_session(make_workspace) -> None:
    root = make_workspace()
    session = begun(root, experiments=1)
    assert loop.research(session, Planned(WORSE, BETTER), session.reporter) == "1 experiments done"
    again = resumed(root, experiments=1)
    assert loop.research(again, Planned(WORSE, BETTER), again.reporter) == "1 experiments done"
    more = resumed(root, experiments=2)
    loop.research(more, Planned(WORSE, BETTER), more.reporter)
    assert more.next_number() == 3


@pytest.mark.slow
def test_the_search_proposer_finds_the_improvement(make_workspace) -> None:
    session = begun(make_workspace(), experiments=6)
    loop.research(session, make_proposer("search", ProposerOptions(preset="smoke")), session.reporter)
    assert session.incumbent().number > 0
    assert session.incumbent().verdict.estimate < session.ledger.experiment("t", 0).verdict.estimate - 0.03


@pytest.mark.slow
def test_the_incumbent_is_run_again_when_it_has_not_been_for_long(make_workspace) -> None:
    session = begun(make_workspace(), refresh_every=1)
    worse = [(r"SHARPNESS = [0-9.]+", f"SHARPNESS = 0.{k}") for k in (1, 2)]
    loop.research(session, Planned(*worse), session.reporter)
    refreshed = [row for row in session.ledger.trials("t") if row.purpose is Purpose.REFRESH]
    assert [row.number for row in refreshed] == [2, 3][: len(refreshed)] and refreshed
    assert all(row.commit_hash == session.ledger.experiment("t", 0).commit_hash for row in refreshed)


def test_one_tag_cannot_run_twice_at_once(make_workspace) -> None:
    workspace = open_workspace(make_workspace())
    with (
        opening.session_lock(workspace, "t"),
        pytest.raises(SessionBusy, match="running already"),
        opening.session_lock(workspace, "t"),
    ):
        pass
    with opening.session_lock(workspace, "t"):
        pass


def test_resuming_under_another_contract_is_refused(make_workspace, monkeypatch) -> None:
    root = make_workspace()
    begun(root)
    monkeypatch.setattr("autoresearch.loop.opening.device_kind", lambda _: "cpu:another chip")
    with pytest.raises(WorkspaceError, match="cannot be compared"):
        resumed(root)


@pytest.mark.slow
def test_a_branch_that_someone_moved_is_not_overwritten(make_workspace) -> None:
    root = make_workspace()
    session = begun(root)
    stranger = git(root, "commit-tree", "HEAD^{tree}", "-m", "mine").strip()
    git(root, "update-ref", "refs/heads/autoresearch/t", stranger)
    with pytest.raises(WorkspaceError, match="moved to"):
        loop.research(session, Planned(BETTER), session.reporter)


@pytest.mark.slow
def test_try_restores_the_incumbents_file_after_a_discard_and_leaves_a_keep(make_workspace) -> None:
    root = make_workspace()
    session = begun(root)
    original = (root / "train.py").read_text()
    (root / "train.py").write_text(original.replace("SHARPNESS = 0.5", "SHARPNESS = 0.1"))
    assert attempt.try_edit(session, "flatter").experiment.status is Status.DISCARD
    assert (root / "train.py").read_text() == original
    better = original.replace("SHARPNESS = 0.5", "SHARPNESS = 1.0")
    (root / "train.py").write_text(better)
    assert attempt.try_edit(session, "sharper").experiment.status is Status.KEEP
    assert (root / "train.py").read_text() == better


@pytest.mark.slow
def test_a_disturbed_run_is_repeated_and_not_judged(make_workspace, monkeypatch) -> None:
    session = begun(make_workspace())
    seen: list[int] = []

    def first_one_disturbed(*arguments):
        seen.append(1)
        trial = beside_its_peers(*arguments)
        return trial if len(seen) != 1 else type(trial)(**{**vars(trial), "disturbed": "neighbours"})

    monkeypatch.setattr(session_module, "beside_its_peers", first_one_disturbed)
    session.calibrate(2)
    rows = session.ledger.trials("t", 0)
    assert [bool(row.trial.disturbed) for row in rows] == [True, False, False]
    assert sum(len(group) for group in session.ledger.score_groups(session.session.fingerprint)) == 2


@pytest.mark.slow
def test_a_stop_during_calibration_keeps_the_runs_already_made(make_workspace) -> None:
    root = make_workspace()
    stop = threading.Event()
    session = begun(root)
    session.calibrate(2)
    stop.set()
    again = resumed(root, stop=stop)
    with pytest.raises(Stopped):
        again.calibrate(3)
    finally_done = resumed(root)
    finally_done.calibrate(3)
    scored = [row for row in finally_done.ledger.trials("t", 0) if row.trial and row.trial.val_bpb]
    assert len(scored) == 3
