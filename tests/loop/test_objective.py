"""Sessions that judge on another score than val_bpb: what is decided, recorded, resumed and compared."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_experiment
from safetensors.numpy import load, save

import autoresearch.loop
from autoresearch.loop import opening
from autoresearch.loop import research as loop
from autoresearch.loop.objective import PLAIN, fingerprint_under, judged_on, noise_in
from autoresearch.loop.settings import load_settings
from autoresearch.records.ledger import Ledger, Purpose
from autoresearch.report.comparison import Entry, compare
from autoresearch.vocabulary import Outcome, Proposal, ProposerExhausted, Status, UsageError
from autoresearch.workspace import open_workspace

SHARPER = (r"SHARPNESS = 0\.5", "SHARPNESS = 1.0")
BLUNTER = (r"SHARPNESS = [0-9.]+", "SHARPNESS = 0.1")


class Coarse:
    """Counts to a power of four: stands in for quantization, and remembers what it was given."""

    name = "bpb@2bit"

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def transform(self, weights: bytes) -> bytes:
        self.seen.append(weights)
        return save({name: 4.0 ** np.round(np.log(values) / np.log(4)) for name, values in load(weights).items()})


class Told:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: set[str] = set()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def glimpse(self, values) -> None:
        self.phases.add(values["glimpse"].phase)


class Planned:
    name = "planned"

    def __init__(self, *edits: tuple[str, str]) -> None:
        self.edits = edits

    def propose(self, situation) -> Proposal:
        if len(situation.history) >= len(self.edits):
            raise ProposerExhausted("the plan is at its end")
        pattern, replacement = self.edits[len(situation.history)]
        text, count = re.subn(pattern, replacement, situation.incumbent["train.py"], count=1)
        assert count == 1
        return Proposal(f"{replacement}, scores are {situation.objective}", {"train.py": text}, self.name)


def chosen_in(root, **settings):
    workspace = open_workspace(root)
    return workspace, load_settings(workspace.settings(), {}, settings), Ledger(workspace.ledger_path)


def begun(root, objective, tag="t", **settings):
    workspace, chosen, ledger = chosen_in(root, objective=objective.name if objective else PLAIN, **settings)
    ground = opening.find_ground(chosen)
    row = opening.begin(workspace, ledger, chosen, ground, tag, committed=False)
    return opening.session_on(workspace, ledger, row, ground, chosen, Told(), None, objective)


@pytest.mark.slow
def test_a_session_keeps_and_discards_by_the_score_of_the_transformed_weights(make_workspace):
    root = make_workspace()
    objective = Coarse()
    session = begun(root, objective)
    loop.research(session, Planned(SHARPER, BLUNTER), session.reporter)
    experiments = session.ledger.experiments("t")
    assert [found.status for found in experiments] == [Status.KEEP, Status.KEEP, Status.DISCARD]
    trials = [row.trial for row in session.ledger.trials("t")]
    assert all(trial.outcome is Outcome.FINISHED and trial.objective == "bpb@2bit" for trial in trials)
    assert all(trial.objective_bpb != trial.val_bpb for trial in trials)
    assert len(objective.seen) == len(trials)

    baseline = [row.trial for row in session.ledger.trials("t", 0) if row.purpose is Purpose.CALIBRATE]
    mean = sum(trial.objective_bpb for trial in baseline) / len(baseline)
    assert experiments[0].verdict.estimate == pytest.approx(mean, rel=1e-12)
    first = next(row.trial for row in session.ledger.trials("t", 2) if row.purpose is Purpose.FIRST)
    assert experiments[2].verdict.estimate == pytest.approx(first.objective_bpb)
    assert experiments[1].proposal.description.endswith("scores are bpb@2bit")
    assert "objective" in session.reporter.phases

    head, _, kept, *_ = (root / "results.tsv").read_text().splitlines()
    cells = dict(zip(head.split("\t"), kept.split("\t"), strict=True))
    assert cells["objective"] == "bpb@2bit"
    assert cells["objective_bpb"] != cells["val_bpb"] != "0.000000"
    assert any("bpb@2bit" in note for note in session.reporter.notes)


@pytest.mark.slow
def test_a_keep_under_an_objective_was_examined_deeply_on_that_score(make_workspace):
    session = begun(make_workspace(), Coarse())
    loop.research(session, Planned(SHARPER), session.reporter)
    pair = next(row.trial for row in session.ledger.trials("t", 1) if row.purpose is Purpose.PAIR)
    assert str(pair.examined) == "deep"
    assert pair.leak_bound_bpb > 0


@pytest.mark.slow
def test_a_resume_goes_on_under_the_same_objective_and_refuses_another(make_workspace):
    root = make_workspace()
    session = begun(root, Coarse(), experiments=1)
    loop.research(session, Planned(SHARPER), session.reporter)
    workspace, chosen, ledger = chosen_in(root)
    row, ground = opening.resume(workspace, ledger, chosen, "t")
    again = opening.session_on(workspace, ledger, row, ground, chosen, Told(), None, Coarse())
    assert again.incumbent_estimate().mean == session.incumbent_estimate().mean
    with pytest.raises(UsageError, match="judges on bpb@2bit, not bpb"):
        opening.session_on(workspace, ledger, row, ground, chosen, Told())
    with pytest.raises(UsageError, match="judges on bpb@2bit, not bpb@4bit"):
        opening.resume(workspace, ledger, dataclasses.replace(chosen, objective="bpb@4bit"), "t")


@pytest.mark.slow
def test_sessions_with_different_objectives_share_neither_fingerprint_nor_noise_nor_a_comparison(make_workspace):
    root = make_workspace()
    plain = begun(root, None, tag="plain")
    coarse = begun(root, Coarse(), tag="coarse")
    assert plain.session.fingerprint != coarse.session.fingerprint
    plain.establish_baseline()
    assert plain.noise().degrees == 1 and coarse.noise().degrees == 0
    entries = [Entry(s.tag, s.session.fingerprint, "smoke", "keep", "", None) for s in (plain, coarse)]
    assert len(compare(entries, {s.session.fingerprint: 0.01 for s in (plain, coarse)})) == 2
    assert (judged_on(plain.session), judged_on(coarse.session)) == ("val_bpb", "bpb@2bit")


def test_the_prior_of_the_noise_is_the_sessions_where_it_has_one(make_workspace):
    root = make_workspace()
    session = begun(root, Coarse(), noise_prior=0.5)
    assert noise_in(session.ledger, session.session).sd == 0.5


def test_a_file_that_cannot_be_rebuilt_cannot_be_judged_after_quantization(make_workspace):
    root = make_workspace(fake_experiment().replace("def load_model", "def load"))
    with pytest.raises(UsageError, match="defines no load_model"):
        begun(root, Coarse())
    assert Ledger(open_workspace(root).ledger_path).sessions() == []


@pytest.mark.parametrize("name", ["bpb@9bit", "bpb@0bit", "bpb4", "loss", "bpb@4bit:", "bpb@4bit:A B"])
def test_a_name_that_is_no_objective_is_refused(name):
    with pytest.raises(UsageError, match="objective"):
        load_settings({}, {}, {"objective": name})


def test_the_fingerprint_of_plain_val_bpb_is_the_contracts():
    assert fingerprint_under("0123456789abcdef", PLAIN) == "0123456789abcdef"
    others = {fingerprint_under("0123456789abcdef", f"bpb@{bits}bit") for bits in range(1, 9)}
    assert len(others) == 8 and all(re.fullmatch("[0-9a-f]{16}", other) for other in others)


def test_the_loop_imports_nothing_of_quantize():
    for path in sorted(Path(autoresearch.loop.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert not [name for name in named if "quantize" in name], path
        assert "quantize." not in path.read_text(encoding="utf-8"), path
