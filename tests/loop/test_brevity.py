from dataclasses import replace
from types import SimpleNamespace

import pytest

from autoresearch.loop import opening
from autoresearch.loop.brevity import brevity_of
from autoresearch.loop.settings import load_settings
from autoresearch.loop.verdict import Estimate
from autoresearch.records.ledger import Ledger, Purpose
from autoresearch.vocabulary import Outcome, Proposal, Status, Trial, Verdict
from autoresearch.workspace import open_workspace

SESSION = SimpleNamespace(program="model", entry="train.py")
LONG = "DEPTH = 4\nWIDTH = 64\nHEADS = 2\n"
KEPT = Verdict(Status.KEEP, "", gain=0.0, interval=(-0.0098, 0.0098), lines_saved=3)


@pytest.fixture
def workspace(make_workspace):
    return open_workspace(make_workspace(LONG))


def of(workspace, text: str, *verdicts: Verdict | None):
    who = SimpleNamespace(
        incumbent=workspace.repository.head(), commit_hash="0" * 40, proposal=Proposal("", {"train.py": text}, "try")
    )
    return brevity_of(workspace, SESSION, who, [SimpleNamespace(verdict=verdict) for verdict in verdicts])


@pytest.mark.parametrize(
    ("text", "saved"),
    [
        ("DEPTH = 4\n", 2),
        (LONG, 0),
        (LONG + "LR = 0.1\n", 0),
        ("DEPTH = 4; WIDTH = 64; HEADS = 2\n", 0),
        ('"""Words."""\nDEPTH = 4  # layers\n\n\nWIDTH = (\n    64\n)\n', 1),
    ],
)
def test_lines_are_saved_where_statements_are_gone(workspace, text, saved):
    assert of(workspace, text).lines_saved == saved


def test_the_session_has_paid_what_its_keeps_for_their_brevity_were_expected_to_lose(workspace):
    once = of(workspace, LONG, KEPT).paid
    assert once == pytest.approx(0.005 * 0.398942, rel=1e-3)  # a normal loss around zero, of standard error 0.005
    better = replace(KEPT, gain=0.02, interval=(0.0102, 0.0298), lines_saved=0)
    discarded = Verdict(Status.DISCARD, "", gain=-0.1, interval=(-0.12, -0.08))
    assert of(workspace, LONG, KEPT, better, None, discarded, KEPT).paid == pytest.approx(2 * once)


# -- in a session -------------------------------------------------------------------------------------------------------


@pytest.fixture
def session(workspace, monkeypatch):
    """A session in which every file scores 2.0, and one trial has a noise of 0.01."""
    chosen = load_settings(workspace.settings(), {}, {})
    ledger = Ledger(workspace.ledger_path)
    ground = opening.find_ground(chosen)
    row = opening.begin(workspace, ledger, chosen, ground, "t", committed=True)
    made = opening.session_on(workspace, ledger, row, ground, chosen, None)
    trial = Trial(Outcome.FINISHED, val_bpb=2.0)
    monkeypatch.setattr(made, "run", lambda *_: trial)
    monkeypatch.setattr(made, "incumbent_estimate", lambda: Estimate(2.0, 0.005))
    monkeypatch.setattr(made, "noise", lambda: SimpleNamespace(sd=0.01))
    return made


def tried(session, text: str) -> Verdict:
    return session.try_out(session.commit(session.propose(Proposal("an idea", {"train.py": text}, "try"))))


def test_of_two_files_that_score_the_same_the_shorter_one_is_kept(session):
    assert tried(session, LONG + "LR = 0.1\n").status is Status.DISCARD
    shorter = tried(session, LONG.replace("HEADS = 2\n", ""))
    assert (shorter.status, shorter.lines_saved, shorter.num_trials) == (Status.KEEP, 1, 4)
    assert "1 line less, P(at most 0.0050 worse) 0.7" in shorter.reason


def test_a_score_that_less_code_alone_could_be_kept_for_is_examined_deeply(session, monkeypatch):
    monkeypatch.setattr(session, "can_be_rebuilt", lambda: True)
    for text, is_promising in ((LONG + "LR = 0.1\n", False), (LONG.replace("HEADS = 2\n", ""), True)):
        idea = session.commit(session.propose(Proposal("an idea", {"train.py": text}, "try")))
        assert session._deep_wish(idea, Purpose.FIRST).wanted(2.0) is is_promising
