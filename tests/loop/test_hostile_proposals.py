"""What a proposer says or sends cannot stop a session, reach git where it must not, or escape into a record."""

from __future__ import annotations

import subprocess
import threading

import pytest
from hostile_words import HORROR, hidden

from autoresearch.loop import attempt, opening
from autoresearch.loop import research as loop
from autoresearch.loop.settings import load_settings
from autoresearch.records.ledger import Ledger
from autoresearch.vocabulary import Proposal, ProposerExhausted, Status, WorkspaceError
from autoresearch.workspace import open_workspace


class Told:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def glimpse(self, values) -> None:
        pass


class Sends:
    """A proposer that sends these (description, files) one after the other; "=" stands for the incumbent's text."""

    name = "stranger"

    def __init__(self, *ideas) -> None:
        self.ideas = ideas

    def propose(self, situation) -> Proposal:
        incumbent, history = situation.incumbent, situation.history
        if len(history) >= len(self.ideas):
            raise ProposerExhausted("no more")
        description, files = self.ideas[len(history)]
        return Proposal(
            description, {name: text.replace("=", incumbent["train.py"]) for name, text in files.items()}, self.name
        )


def begun(root):
    workspace = open_workspace(root)
    chosen = load_settings(workspace.settings(), {}, {})
    ledger = Ledger(workspace.ledger_path)
    ground = opening.find_ground(chosen)
    row = opening.begin(workspace, ledger, chosen, ground, "t", committed=True)
    return opening.session_on(workspace, ledger, row, ground, chosen, Told(), threading.Event())


def git(root, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_every_proposal_that_cannot_be_stored_is_a_refused_row_and_the_session_goes_on(make_workspace):
    root = make_workspace()
    ideas = [
        ("lone surrogate", {"train.py": "=\n# \ud800"}),
        ("null byte", {"train.py": "=\n# \0"}),
        ("too large", {"train.py": "=" + "#" * 2_000_000}),
        ("no file", {}),
        ("another program's file", {"train.py": "=\nX = 1\n", "prepare.py": "x"}),
        ("below a file", {"train.py/evil.py": "x"}),
        ("out of the checkout", {"../evil.py": "x"}),
        ("into git", {".git/hooks/post-commit": "x"}),
        (HORROR, {"train.py": "="}),  # only its words are hostile
        (HORROR, {"train.py": "raise ValueError('\\x1b[2J\\u202ewhy')\n="}),
    ]
    session = begun(root)
    loop.research(session, Sends(*ideas), session.reporter)
    found = session.ledger.experiments("t")[1:]
    assert [e.status for e in found] == [Status.DISCARD] * 9 + [Status.CRASH]
    assert [e.commit_hash is None for e in found] == [True] * 8 + [False] * 2
    assert "lone surrogate" in found[0].verdict.reason
    assert "it touches prepare.py" in found[4].verdict.reason
    assert not git(root, "for-each-ref", *(f"refs/autoresearch/t/{number}" for number in range(1, 9)))
    for text in [*session.reporter.notes, *(e.proposal.description for e in found), *(e.verdict.reason for e in found)]:
        assert not hidden(text)
    assert not hidden(git(root, "log", "--format=%B", "refs/autoresearch/t/10"), "\n")
    rows = (root / "results.tsv").read_text().splitlines()
    assert len(rows) == 12
    assert {row.count("\t") for row in rows} == {rows[0].count("\t")}


@pytest.mark.slow
def test_a_refused_proposal_that_a_kill_left_open_is_concluded_by_the_next_start(make_workspace):
    root = make_workspace()
    session = begun(root)
    session.establish_baseline()
    left = session.propose(Proposal("cut off", {"train.py": "\0"}, "stranger"))
    assert session.open_experiment() == left
    loop.research(session, Sends(("not reached", {})), session.reporter)
    assert session.ledger.experiment("t", left.number).status is Status.DISCARD
    session.ledger.close()


@pytest.mark.parametrize(
    ("data", "said"), [(b"x\0", "null byte"), (b"\xff", "UTF-8"), (b"x" * 2_000_000, "larger than")]
)
def test_an_edit_in_the_checkout_that_is_no_source_is_refused_and_left_alone(make_workspace, data, said):
    root = make_workspace()
    session = begun(root)
    (root / "train.py").write_bytes(data)
    with pytest.raises(WorkspaceError, match=said):
        attempt.try_edit(session, "odd")
    assert (root / "train.py").read_bytes() == data
    assert len(session.ledger.experiments("t")) == 1


def test_a_link_in_the_checkout_is_neither_read_nor_written_through(make_workspace, tmp_path):
    root = make_workspace()
    session = begun(root)
    outside = tmp_path / "outside.py"
    outside.write_text("SECRET = 1\n")
    (root / "train.py").unlink()
    (root / "train.py").symlink_to(outside)
    with pytest.raises(WorkspaceError, match="symbolic link"):
        attempt.try_edit(session, "linked")
    assert outside.read_text() == "SECRET = 1\n"
    assert "SECRET" not in git(root, "log", "-p", "--all")
