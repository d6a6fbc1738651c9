"""A candidate of two files: what `try` reads, compares, refuses and puts back, and what a proposer is shown."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from autoresearch.loop import opening
from autoresearch.loop.attempt import read_edit, try_edit
from autoresearch.loop.outlook import situation_of
from autoresearch.loop.program_files import files_at, files_of, names_in
from autoresearch.loop.research import why_refused
from autoresearch.loop.settings import load_settings
from autoresearch.records.ledger import Ledger
from autoresearch.vocabulary import Proposal, Status, UsageError, Verdict
from autoresearch.workspace import banner_for, open_workspace, surface_of

SOURCES, PREPARE = "data_sources.py", "prepare.py"
TEXTS = {
    SOURCES: banner_for("data") + "\nMIN_CHARACTERS = 0\n",
    PREPARE: banner_for("data") + "\nimport data_sources\n\n\ndef build(text, out):\n    return 1\n",
}


class Silent:
    def note(self, text: str) -> None:
        pass

    def glimpse(self, values) -> None:
        pass


@pytest.fixture
def session(make_workspace, monkeypatch):
    """A session of the data program whose baseline needs no trial."""
    root = make_workspace()
    for name, text in TEXTS.items():
        (root / name).write_text(text)
    subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(root), "commit", "--quiet", "-m", "a recipe"], check=True)
    workspace = open_workspace(root)
    chosen = load_settings(workspace.settings(), {}, {"program": "data", "file": SOURCES})
    monkeypatch.setattr(opening, "_program", lambda settings: settings.program, raising=False)
    ledger = Ledger(workspace.ledger_path)
    ground = opening.find_ground(chosen)
    row = opening.begin(workspace, ledger, chosen, ground, "t", committed=True)
    made = opening.session_on(workspace, ledger, row, ground, chosen, Silent())
    monkeypatch.setattr(made, "establish_baseline", lambda: None)
    monkeypatch.setattr(made, "refresh_if_due", lambda: None)
    return made


def put(session, **texts: str) -> None:
    for name, text in texts.items():
        (session.workspace.root / f"{name}.py").write_text(text)


def in_checkout(session) -> dict[str, str]:
    return {name: (session.workspace.root / name).read_text() for name in TEXTS}


def edit_of(session, text: str | None = None):
    return read_edit(session.workspace, session.ledger, session.session, session.settings, text)


def committed(session, files: dict[str, str], number_of: str = "idea"):
    return session.commit(session.propose(Proposal(number_of, files, "try")))


def test_a_candidate_of_the_data_program_has_all_files_of_its_scope_the_main_one_first():
    assert surface_of("data", SOURCES) == (SOURCES, PREPARE)
    assert surface_of("data", PREPARE) == (PREPARE, SOURCES)
    assert surface_of("model", "train.py") == ("train.py",)
    assert surface_of("model", "train_mlx.py") == ("train_mlx.py",)


def test_files_that_a_proposal_left_out_are_those_of_its_commit(session):
    half = committed(session, {PREPARE: TEXTS[PREPARE] + "X = 1\n"})
    assert names_in(session.session) == (SOURCES, PREPARE)
    assert files_of(session.workspace, session.session, half) == {**TEXTS, PREPARE: TEXTS[PREPARE] + "X = 1\n"}
    assert files_at(session.workspace, session.session, half.incumbent) == TEXTS


def test_the_edit_is_both_files_as_they_lie_in_the_checkout(session):
    with pytest.raises(UsageError, match=r"data_sources.py and prepare.py are the incumbent's"):
        edit_of(session)
    put(session, prepare=TEXTS[PREPARE] + "X = 1\n")
    assert edit_of(session).files == {**TEXTS, PREPARE: TEXTS[PREPARE] + "X = 1\n"}
    assert edit_of(session).outside == ()
    put(session, train="x = 1\n")
    assert edit_of(session).outside == ("train.py",)


def test_a_text_that_came_with_the_call_stands_beside_the_incumbents_other_file(session):
    put(session, prepare="somebody is at work here\n")
    edit = edit_of(session, TEXTS[SOURCES] + "Y = 2\n")
    assert edit.files == {SOURCES: TEXTS[SOURCES] + "Y = 2\n", PREPARE: TEXTS[PREPARE]}
    assert edit.is_given


def test_before_a_session_is_begun_the_settings_say_which_files_are_read(session):
    put(session, data_sources=TEXTS[SOURCES] + "Y = 2\n")
    edit = read_edit(session.workspace, session.ledger, None, session.settings, None)
    assert edit.files == {**TEXTS, SOURCES: TEXTS[SOURCES] + "Y = 2\n"}


@pytest.mark.slow
def test_a_refused_edit_of_both_files_is_taken_back_in_both(session):
    put(session, data_sources=TEXTS[SOURCES] + "# a\n", prepare=TEXTS[PREPARE] + "# b\n")
    done = try_edit(session, "layout", note="a smaller\nbatch")
    assert done.experiment.status is Status.DISCARD
    assert done.experiment.verdict.reason.endswith("the edit changes nothing but layout or comments")
    assert in_checkout(session) == TEXTS
    assert done.checkout == "incumbent's files restored"
    assert done.experiment.proposal.files == {SOURCES: TEXTS[SOURCES] + "# a\n", PREPARE: TEXTS[PREPARE] + "# b\n"}
    assert done.experiment.proposal.details["for_human"] == "a smaller batch"


@pytest.mark.slow
def test_where_one_file_was_edited_on_both_are_left_alone(session, monkeypatch):
    put(session, data_sources=TEXTS[SOURCES] + "# a\n", prepare=TEXTS[PREPARE] + "# b\n")
    edit = edit_of(session)
    put(session, prepare="the next idea\n")
    done = try_edit(session, "layout", edit)
    assert done.checkout == "left as it was: prepare.py was edited again since this call"
    assert in_checkout(session) == {SOURCES: TEXTS[SOURCES] + "# a\n", PREPARE: "the next idea\n"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({SOURCES: TEXTS[SOURCES] + "# words\n", PREPARE: TEXTS[PREPARE]}, "nothing but layout"),
        ({PREPARE: TEXTS[PREPARE].replace("return 1", "seed = 3\n    return 1")}, "only changes the random seed"),
        ({**TEXTS, PREPARE: TEXTS[PREPARE] + "X = 1  # again\n"}, "tried as experiment 1"),
        ({PREPARE: TEXTS[PREPARE] + "X = 1\n", SOURCES: TEXTS[SOURCES] + "Y = 1\n"}, ""),
        ({"train.py": "x = 1\n"}, "the data program may edit"),
    ],
)
def test_what_is_no_new_program_is_refused_by_both_files(session, files, why):
    first = committed(session, {PREPARE: TEXTS[PREPARE] + "X = 1\n"})
    session.conclude(first, Verdict(Status.DISCARD, "worse"))
    refusal = why_refused(session, committed(session, files))
    assert why in refusal
    assert bool(why) is bool(refusal)


def test_a_proposer_is_shown_whole_programs_and_keeps_of_its_own_program_only(session, monkeypatch):
    monkeypatch.setattr(session, "incumbent_estimate", lambda: SimpleNamespace(mean=1.5, error=0.1))
    first = committed(session, {PREPARE: TEXTS[PREPARE] + "X = 1\n"})
    session.conclude(first, Verdict(Status.KEEP, "better", estimate=1.5, gain=0.1))
    elsewhere = [("m", "model", "train.py"), ("d", "data", SOURCES)]
    for tag, program, entry in elsewhere:
        row = replace(session.session, tag=tag, program=program, entry=entry)
        session.ledger.add_session(row)
        for number, name in enumerate(("baseline", f"kept in {tag}")):
            session.ledger.propose(
                tag, number, row.base_commit, Proposal(name, {entry: f"# {tag}\n"}, "x"), commit=row.base_commit
            )
        session.ledger.judged(tag, 1, Verdict(Status.KEEP, "better", estimate=1.4, gain=0.1))
    shown = situation_of(session)
    assert (list(shown.incumbent), shown.program) == ([SOURCES, PREPARE], "data")
    assert shown.incumbent[PREPARE].endswith("X = 1\n")
    assert shown.baseline == TEXTS
    assert shown.machine.preparation == "600 seconds and 512 MB of disk"
    assert shown.history[0].files == {**TEXTS, PREPARE: TEXTS[PREPARE] + "X = 1\n"}
    assert [past.description for past in shown.elsewhere] == ["kept in d"]
    assert shown.elsewhere[0].files == {SOURCES: "# d\n", PREPARE: TEXTS[PREPARE]}
