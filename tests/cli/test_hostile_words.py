"""Words of a machine, and repositories that somebody tampered with, as they meet the person at the terminal."""

from __future__ import annotations

import json
import subprocess

import pytest
from calling import call, git, refused
from hostile_words import HORROR, hidden

from autoresearch.cli import main
from autoresearch.contract.rules import rules_for
from autoresearch.records.ledger import Ledger, Purpose, Session
from autoresearch.repository import Identity, Repository
from autoresearch.vocabulary import Outcome, Proposal, Slice, Status, Trial, Verdict
from autoresearch.workspace import open_workspace

STORED = HORROR.replace("\ud800", "")  # what an older version may have left in a ledger: raw, but for the surrogate


@pytest.fixture
def haunted(tmp_path, monkeypatch):
    """A workspace, and we in it, whose ledger, status files and commits hold hostile words wherever a machine may put them."""
    root = tmp_path / "lab"
    git(tmp_path, "init", "--quiet", "lab")
    (root / "train.py").write_text("x = 0\n")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "110")
    repository = Repository(root)
    start = repository.head()
    evil = f"# {STORED.replace(chr(0), '')}\nx = 1\n"
    commit = repository.commit_files(
        start, {"train.py": evil}, STORED, identity=Identity("a", "b@c"), when=1_763_766_000
    )
    workspace = open_workspace(root)
    ledger = Ledger(workspace.ledger_path)
    ledger.add_session(
        Session(
            "a", "model", "train.py", rules_for("smoke").preset, "f" * 12, {}, {}, {"chip": STORED}, "autoresearch/a", start,
            {"name": "a", "email": "b@c"}, "2025-11-21T22:00:00.000Z",
        )
    )  # fmt: skip
    repository.set_ref("refs/heads/autoresearch/a", start)
    verdicts = (
        Verdict(Status.KEEP, STORED, estimate=2.0, gain=0.0),
        Verdict(Status.CRASH, STORED),
        Verdict(Status.DISCARD, STORED),
    )
    for number, verdict in enumerate(verdicts):
        crashed = verdict.status is Status.CRASH
        ledger.propose("a", number, start, Proposal(STORED, {"train.py": evil}, STORED, {"x": STORED}), commit=commit)
        trial_id = ledger.start_trial("a", number, commit, Purpose.FIRST, 7, Slice.SEARCH, "f" * 12)
        trial = Trial(
            Outcome.CRASHED if crashed else Outcome.FINISHED, val_bpb=None if crashed else 2.0, reason=HORROR,
            disturbed=HORROR, sealed=HORROR, log_tail=f"{HORROR}\nTraceback\n{HORROR}",
        )  # fmt: skip
        ledger.end_trial(trial_id, trial, STORED)
        ledger.judged("a", number, verdict)
        ledger.settled("a", number)
    ledger.close()
    workspace.session_dir("a").mkdir(parents=True)
    for name in ("agent", "train"):
        poison = f"phase=\x1b[2J{HORROR}\nmessage={HORROR}\npid=²\nloss=\x9b2J\nprogress=\x07\n"
        workspace.status_path(name, "a").write_bytes(poison.encode(errors="surrogatepass"))
    return root


VERBS = [
    ("status",),
    ("history",),
    ("history", "a", "--write"),
    ("show", "0"),
    ("show", "1"),
    ("show", "2"),
    ("diff", "1"),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_no_control_character_reaches_the_terminal(haunted, capsys, verb):
    assert main([*verb]) == 0
    shown = capsys.readouterr()
    assert not hidden(shown.out + shown.err, "\n", "\t")
    assert len(shown.out) > 100


@pytest.mark.parametrize("verb", [("status",), ("history",), ("show", "1")], ids=" ".join)
def test_json_is_one_printable_object_a_line(haunted, capsys, verb):
    assert main([*verb, "--json"]) == 0
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert not hidden(shown, "\n")
    for line in shown.splitlines():
        json.loads(line)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [("history",), ("show", "1")], ids=" ".join)
def test_a_terminal_that_speaks_only_ascii_gets_every_answer(haunted, verb):
    result = call(haunted, *verb, environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()


@pytest.mark.slow
def test_everything_written_again_is_free_of_control_characters(haunted):
    assert main(["history", "a", "--write", "--chart", "night.png"]) == 0
    assert (haunted / "night.png").read_bytes().startswith(b"\x89PNG")
    written = [haunted / name for name in ("results.tsv", "results_history.tsv", "EXPERIMENT_LOG.md")]
    written += sorted((haunted / "logs" / "a").glob("[0-9]/*.json"))
    assert len(written) == 3 + 9
    for path in written:
        assert not hidden(path.read_text(), "\n", "\t"), path
    rows = (haunted / "results.tsv").read_text().splitlines()
    assert [row.count("\t") for row in rows] == [rows[0].count("\t")] * 4


def test_the_diff_shows_what_is_hidden_in_the_text(haunted, capsys):
    assert main(["diff", "1"]) == 0
    shown = capsys.readouterr().out
    assert r"\u202eright-to-left\u200b" in shown
    assert r"\x1b[31mred" in shown


# -- tampered repositories ----------------------------------------------------------------------------------------------


def commit_odd(root, kind: str) -> None:
    """Make the branch's commit hold an odd train.py, as plumbing can."""
    path = root / "train.py"
    if kind == "large":
        path.write_text("x = 1\n" * 400_000)
        git(root, "commit", "--quiet", "-am", "odd")
        return
    target = (
        subprocess.run(
            ["git", "-C", str(root), "hash-object", "-w", "--stdin"],
            input=b"/etc/passwd",
            capture_output=True,
            check=True,
        )
        .stdout.decode()
        .strip()
    )
    mode, digest = {"link": ("120000", target), "submodule": ("160000", "1" * 40)}[kind]
    git(root, "update-index", "--cacheinfo", f"{mode},{digest},train.py")
    git(root, "commit", "--quiet", "-m", "odd")
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "said"), [("link", "a symbolic link"), ("submodule", "a submodule"), ("large", "2,400,000 bytes")]
)
@pytest.mark.parametrize("verb", [("research", "a"), ("try", "-m", "x")], ids=["research", "try"])
def test_a_branch_with_an_odd_train_py_is_refused_with_the_next_thing_to_type(make_workspace, kind, said, verb):
    root = make_workspace()
    commit_odd(root, kind)
    hint = refused(call(root, *verb), 1, "train.py", said)
    assert hint.startswith("git rm --cached train.py" if kind != "large" else "git show")
    assert not git(root, "for-each-ref", "refs/autoresearch", "refs/heads/autoresearch")


def test_an_executable_train_py_is_as_good_as_any(make_workspace):
    root = make_workspace()
    (root / "train.py").chmod(0o755)
    git(root, "commit", "--quiet", "-am", "executable")
    workspace = open_workspace(root)
    assert workspace.read_surface(workspace.repository.head(), "train.py") == (root / "train.py").read_text()


@pytest.mark.slow
def test_verbs_that_look_run_nothing_that_the_repository_configures(haunted, tmp_path):
    sprung = tmp_path / "sprung"
    sprung.mkdir()
    for key in ("core.fsmonitor", "diff.external", "core.pager", "diff.x.textconv", "diff.x.command", "filter.x.clean"):
        path = tmp_path / key
        path.write_text(f"#!/bin/sh\ntouch '{sprung}/{key}'\ncat\n")
        path.chmod(0o755)
        git(haunted, "config", key, str(path))
    (haunted / ".git" / "info").mkdir(exist_ok=True)
    (haunted / ".git" / "info" / "attributes").write_text("* diff=x filter=x\n")
    for verb in VERBS:
        assert main([*verb]) == 0
    assert list(sprung.iterdir()) == []
    (haunted / "train.py").write_text("x = 5\n")
    git(haunted, "diff")
    assert list(sprung.iterdir()) != [], "plain git falls into this trap"
