import json
import os
import subprocess

import pytest
from hostile_words import HORROR, HOSTILE, hidden
from hypothesis import example, given
from hypothesis import strategies as st

from autoresearch import workspace as module
from autoresearch.vocabulary import Proposal, ScopeError, UsageError, WorkspaceError
from autoresearch.workspace import (
    SCOPES,
    WORKSPACE_FILES,
    admitted,
    banner_for,
    check_scope,
    create_workspace,
    open_workspace,
    refusal_of,
)


def git(root, *arguments):
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "my lab ü"
    folder.mkdir()
    (folder / "train.py").write_text("LR = 1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")
    return folder


# -- scope --------------------------------------------------------------------------------------------------------------


def test_each_program_edits_two_files_and_none_of_the_others():
    assert dict(SCOPES) == {"model": ("train.py", "train_mlx.py"), "data": ("prepare.py", "data_sources.py")}


@pytest.mark.parametrize(("program", "other"), [("model", "data"), ("data", "model")])
def test_a_program_may_edit_its_own_files_and_not_the_others(program, other):
    check_scope(program, list(SCOPES[program]))
    check_scope(program, [])
    for name in SCOPES[other]:
        with pytest.raises(ScopeError, match=repr(name)) as caught:
            check_scope(program, [SCOPES[program][0], name])
        assert caught.value.hint == f"git checkout -- {name}"


@pytest.mark.parametrize(
    "name",
    ["./train.py", "sub/train.py", "../train.py", "TRAIN.PY", "train.py ", "train.py\n", "json.py", "sitecustomize.py"],
)
def test_only_the_exact_name_is_in_scope(name):
    with pytest.raises(ScopeError):
        check_scope("model", [name])


def test_a_banner_names_the_program_and_its_page():
    assert banner_for("model") == (
        "# Edited by the model program (program.md). Everything in this file may change; no other file may."
    )
    assert "program_data.md" in banner_for("data")


# -- opening ------------------------------------------------------------------------------------------------------------


def test_a_workspace_is_found_from_any_folder_below_it(root):
    below = root / "notes" / "deep"
    below.mkdir(parents=True)
    workspace = open_workspace(below)
    assert workspace.root == root
    assert workspace.read_surface(workspace.repository.head(), "train.py") == "LR = 1\n"


def test_a_workspace_may_be_a_folder_of_a_larger_repository(tmp_path):
    lab = tmp_path / "labs" / "one"
    lab.mkdir(parents=True)
    (lab / "train.py").write_text("LR = 5\n")
    (tmp_path / "README.md").write_text("all labs\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "--quiet", "-m", "start")
    workspace = open_workspace(lab)
    assert workspace.root == lab
    assert workspace.read_surface(workspace.repository.head(), "train.py") == "LR = 5\n"
    assert workspace.in_repository({"train.py": "x"}) == {"labs/one/train.py": "x"}
    (lab / "train.py").write_text("LR = 6\n")
    assert workspace.dirty_surface(SCOPES["model"]) == ["train.py"]
    assert workspace.state_dir == tmp_path / ".git" / "autoresearch"


def test_an_mlx_only_workspace_is_one_too(root):
    git(root, "mv", "train.py", "train_mlx.py")
    assert open_workspace(root).root == root


def test_a_repository_without_train_py_is_refused(root):
    (root / "train.py").unlink()
    with pytest.raises(WorkspaceError, match=r"no train\.py") as caught:
        open_workspace(root)
    assert caught.value.hint == "autoresearch init mylab && cd mylab"


def test_a_train_py_above_the_repository_is_not_ours(root):
    inner = root / "vendored"
    inner.mkdir()
    git(inner, "init", "--quiet")
    with pytest.raises(WorkspaceError, match=r"no train\.py"):
        open_workspace(inner)


def test_a_surface_file_that_is_not_committed_or_a_link_is_refused(root):
    workspace = open_workspace(root)
    with pytest.raises(UsageError, match=r"train_mlx\.py is not in commit") as caught:
        workspace.read_surface(workspace.repository.head(), "train_mlx.py")
    assert "git add train_mlx.py" in caught.value.hint
    (root / "train.py").unlink()
    (root / "train.py").symlink_to("/etc/hostname")
    git(root, "commit", "--quiet", "-am", "link")
    with pytest.raises(WorkspaceError, match=r"train\.py in commit \w+ is a symbolic link") as refused:
        workspace.read_surface(workspace.repository.head(), "train.py")
    assert refused.value.hint.startswith("git rm --cached train.py")


def test_only_changed_surface_files_count_as_dirty(root):
    workspace = open_workspace(root)
    (root / "notes.txt").write_text("mine\n")
    assert workspace.dirty_surface(SCOPES["model"]) == []
    (root / "train.py").write_text("LR = 2\n")
    (root / "train_mlx.py").write_text("new\n")
    assert workspace.dirty_surface(SCOPES["model"]) == ["train.py", "train_mlx.py"]


def test_every_record_has_its_place_and_the_ledger_is_out_of_reach_of_git_clean(root):
    workspace = open_workspace(root)
    found = {
        name: str(getattr(workspace, name).relative_to(root))
        for name in (
            "results_path", "history_path", "log_path", "run_log_path", "data_dir", "chart_path", "ledger_path",
        )
    }  # fmt: skip
    assert found == {
        "results_path": "results.tsv",
        "history_path": "results_history.tsv",
        "log_path": "EXPERIMENT_LOG.md",
        "run_log_path": "run.log",
        "data_dir": "data",
        "chart_path": "progress.png",
        "ledger_path": ".git/autoresearch/ledger.sqlite3",
    }
    assert workspace.checkpoints_dir("t") == root / ".git" / "autoresearch" / "checkpoints" / "t"
    assert workspace.lock_path("t") == root / ".git" / "autoresearch" / "t.lock"
    assert workspace.snapshot_dir("t", 3) == root / "logs" / "t" / "3"
    assert workspace.status_path("train") == root / "train_status.txt"
    assert workspace.status_path("agent", "t") == root / "logs" / "t" / "agent_status.txt"


# -- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[tool.ruff]\nline-length = 1\n", "[project]\nname = 'x'\n"])
def test_settings_are_empty_without_a_table_of_ours(root, text):
    (root / "pyproject.toml").write_text(text)
    assert open_workspace(root).settings() == {}


def test_settings_are_empty_without_a_pyproject(root):
    assert open_workspace(root).settings() == {}


def test_settings_are_the_table_as_written(root):
    (root / "pyproject.toml").write_text('[tool.autoresearch]\ncontract = "tiny"\nhours = 8\nodd = [1]\n')
    assert open_workspace(root).settings() == {"contract": "tiny", "hours": 8, "odd": [1]}


@pytest.mark.parametrize(
    "text", [b"[tool.autoresearch\n", b"a = 1\na = 2\n", b"name = '\xff'\n", b"[tool]\nautoresearch = = 3\n"]
)
def test_a_broken_pyproject_is_named_with_how_to_mend_it(root, text):
    (root / "pyproject.toml").write_bytes(text)
    with pytest.raises(WorkspaceError, match=r"pyproject\.toml cannot be read") as caught:
        open_workspace(root).settings()
    assert "git checkout -- pyproject.toml" in caught.value.hint


@pytest.mark.parametrize("text", ["[tool]\nautoresearch = 3\n", "tool = 'none'\n", "[[tool.autoresearch]]\nseed = 1\n"])
def test_settings_that_are_no_table_are_refused_not_overlooked(root, text):
    (root / "pyproject.toml").write_text(text)
    with pytest.raises(WorkspaceError, match="not a table"):
        open_workspace(root).settings()


# -- writing ------------------------------------------------------------------------------------------------------------


def test_a_writable_workspace_passes_and_a_read_only_one_is_refused(root, monkeypatch):
    workspace = open_workspace(root)
    workspace.check_writable()
    for refused in (root, root / ".git"):
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "access", lambda path, _mode, refused=refused: path != refused)
            with pytest.raises(WorkspaceError, match="read-only") as caught:
                workspace.check_writable()
            assert f"chmod u+w {refused}" in caught.value.hint


def test_a_file_system_mounted_read_only_is_refused_even_to_root(root, monkeypatch):
    class Mounted:
        f_flag = module.os.ST_RDONLY

    monkeypatch.setattr(module.os, "statvfs", lambda _path: Mounted)
    with pytest.raises(WorkspaceError, match="read-only"):
        open_workspace(root).check_writable()


# -- making -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def templates(tmp_path, monkeypatch):
    """Templates of our own, so that these tests do not depend on what the surface files say."""
    folder = tmp_path / "templates"
    folder.mkdir()
    for name in WORKSPACE_FILES:
        (folder / name).write_text("results.tsv\n" if name == ".gitignore" else f"# {name} ü\r\n", newline="")
    monkeypatch.setattr(module, "template_path", lambda name: folder / name)
    return folder


def test_a_new_workspace_is_committed_clean_and_holds_the_templates(tmp_path, templates):
    folder = tmp_path / "My Lab ü 2"
    made = create_workspace(folder, requirement="autoresearch==1.0")
    assert made == [*WORKSPACE_FILES, "pyproject.toml"]
    for name in WORKSPACE_FILES:
        assert (folder / name).read_bytes() == (templates / name).read_bytes()
    workspace = open_workspace(folder)
    assert workspace.settings() == {}
    assert git(folder, "status", "--porcelain") == ""
    assert sorted(git(folder, "ls-files").split()) == sorted(made)
    assert git(folder, "log", "--format=%an|%s|%D") == "Test Person|Start a workspace|HEAD -> main\n"
    head = (folder / "pyproject.toml").read_text().splitlines()[:6]
    assert head[1:] == ['name = "my-lab-2"', 'version = "0"', 'requires-python = ">=3.11"', head[4], ""]
    assert head[4] == 'dependencies = ["autoresearch==1.0"]'


def test_an_empty_folder_is_taken_and_one_inside_a_repository_gets_its_own(root, templates):
    folder = root / "inner"
    folder.mkdir()
    create_workspace(folder, requirement="autoresearch")
    assert open_workspace(folder).repository.toplevel == folder
    assert git(root, "log", "--format=%s") == "start\n"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_something_that_is_already_there_is_left_alone(tmp_path, templates, kind):
    target = tmp_path / "lab"
    mine = target / "mine.txt" if kind == "folder" else target
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(WorkspaceError, match="exists and is not empty") as caught:
        create_workspace(target, requirement="autoresearch")
    assert caught.value.hint == "autoresearch init lab-2"
    assert mine.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.name == "train.py" and path.parent != templates] == []


def test_init_without_an_identity_leaves_nothing_behind_and_works_once_git_knows_us(tmp_path, templates, monkeypatch):
    (tmp_path / "empty").touch()
    with monkeypatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "empty"))
        patch.setenv("HOME", str(tmp_path))
        with pytest.raises(WorkspaceError, match="does not know who you are"):
            create_workspace(tmp_path / "lab", requirement="autoresearch")
    assert not (tmp_path / "lab").exists()
    create_workspace(tmp_path / "lab", requirement="autoresearch")
    assert open_workspace(tmp_path / "lab").root == tmp_path / "lab"


def test_init_without_git_says_so(tmp_path, templates, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError, match="git is not installed"):
        create_workspace(tmp_path / "lab", requirement="autoresearch")
    assert not (tmp_path / "lab").exists()


def test_an_installation_that_lost_a_template_says_how_to_mend_it():
    with pytest.raises(WorkspaceError, match=r"no such_file\.py") as caught:
        module.template_path("such_file.py")
    assert caught.value.hint.startswith("pip install --force-reinstall")


def test_every_template_is_in_this_installation():
    assert [module.template_path(name).name for name in WORKSPACE_FILES] == list(WORKSPACE_FILES)


# -- hostile proposals and checkouts ------------------------------------------------------------------------------------


def proposal(files=None, description="idea", **details):
    return Proposal(description, {"train.py": "LR = 2\n"} if files is None else files, "stranger", details)


def test_an_honest_proposal_is_admitted_as_it_is():
    honest = proposal({"train.py": "LR = 2  # größer\r\n", "labs/one/train_mlx.py": "x\n"}, "LR 1 -> 2", number=3)
    assert admitted(honest) == honest
    assert refusal_of(honest) == ""


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"train.py": "x = '\ud800'\n"}, "the new text of train.py is not UTF-8 text (it holds a lone surrogate)"),
        ({"train.py": "x\0\n"}, "the new text of train.py holds a null byte"),
        ({"train.py": "x" * 2_000_000}, "the new text of train.py is larger than 1,000,000 bytes"),
        ({"train.py": "é" * 600_000}, "the new text of train.py is larger than 1,000,000 bytes"),
        ({}, "the proposal edits no file"),
        ({f"{number}.py": "" for number in range(9)}, "the proposal edits 9 files, and 8 is the most"),
        ({"../train.py": "x"}, "'../train.py' is not a plain file name"),
        ({"train.py": "x", "/etc/cron.d/x": "x"}, "'/etc/cron.d/x' is not a plain file name"),
        ({".git/hooks/post-commit": "x"}, "'.git/hooks/post-commit' is not a plain file name"),
        ({"a\n\x1b[2Jb.py": "x"}, "'a b.py' is not a plain file name"),
        ({"-rf": "x"}, "'-rf' is not a plain file name"),
        ({"trаin.py": "x"}, "'trаin.py' is not a plain file name"),
        ({"": "x"}, "'' is not a plain file name"),
    ],
)
def test_a_proposal_that_cannot_be_stored_keeps_its_idea_and_says_why_it_is_refused(files, why):
    refused = admitted(proposal(files, number=3))
    assert refusal_of(refused) == why
    assert (refused.description, refused.files, refused.details["number"]) == ("idea", {}, 3)
    assert admitted(refused) == refused


@pytest.mark.parametrize(
    "name", ["prepare.py", "train.py/evil.py", "sub/train.py", "Train.py", "json.py", "program.md"]
)
def test_a_proposal_that_names_a_file_of_nobody_or_of_another_program_never_reaches_git(name):
    refused = admitted(proposal({"train.py": "x\n", name: "x\n"}), "model")
    assert refusal_of(refused) == f"it touches {name}, and the model program may edit train.py, train_mlx.py"
    assert refused.files == {}
    assert refusal_of(admitted(proposal(), "model")) == ""


@given(HOSTILE, st.dictionaries(HOSTILE, HOSTILE, max_size=3))
@example(HORROR, {HORROR: HORROR})
def test_whatever_is_admitted_can_be_stored_committed_and_shown(description, files):
    stored = admitted(proposal(files, description))
    stored.description.encode()
    assert not hidden(stored.description) and stored.description
    assert len(stored.description) <= 200
    json.dumps([stored.files, stored.details]).encode()
    for name, text in stored.files.items():
        assert name.isascii() and not name.startswith((".", "-", "/"))
        text.encode()


def test_a_refused_proposal_goes_through_the_ledger_and_comes_back_refused(tmp_path):
    from autoresearch.records.ledger import Ledger, Session

    ledger = Ledger(tmp_path / "ledger.sqlite3")
    ledger.add_session(Session("t", "model", "train.py", "smoke", "f", {}, {}, {}, "b", "0" * 40, {}, ""))
    ledger.propose("t", 1, "0" * 40, admitted(proposal({"train.py": "\ud800"}, HORROR)))
    back = ledger.experiment("t", 1).proposal
    ledger.close()
    assert refusal_of(back).startswith("the new text of train.py")
    assert back.files == {}


def odd_train_py(path, kind):
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "large":
        path.write_text("x" * 2_000_000)
    elif kind == "not UTF-8":
        path.write_bytes(b"\xff\xfe")
    elif kind == "null":
        path.write_bytes(b"x\0")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("link", "symbolic link"), ("dangling link", "symbolic link"), ("folder", "not a plain file"),
        ("fifo", "not a plain file"), ("large", "larger than 1,000,000 bytes"), ("not UTF-8", "not UTF-8"),
        ("null", "null byte"), ("missing", "No such file"),
    ],
)  # fmt: skip
def test_an_odd_file_in_the_checkout_is_refused_at_once_and_the_hint_mends_it(root, kind, said):
    (root / "train_mlx.py").touch()  # the workspace is one although train.py is missing
    workspace = open_workspace(root)
    assert workspace.read_checkout("train.py") == (root / "train.py").read_text()
    odd_train_py(root / "train.py", kind)
    with pytest.raises(WorkspaceError, match=said) as caught:
        open_workspace(root).read_checkout("train.py")
    subprocess.run(caught.value.hint, shell=True, cwd=root, check=True, capture_output=True)
    assert workspace.read_checkout("train.py") == "LR = 1\n"


def test_a_file_in_the_checkout_is_read_byte_for_byte(root):
    (root / "train.py").write_bytes("LR = 1  # ü\r\n".encode())
    assert open_workspace(root).read_checkout("train.py") == "LR = 1  # ü\r\n"


def test_writing_into_the_checkout_replaces_a_link_and_keeps_permissions(root, tmp_path):
    workspace = open_workspace(root)
    (root / "train.py").chmod(0o755)
    workspace.write_checkout("train.py", "LR = 5\n")
    assert (root / "train.py").stat().st_mode & 0o777 == 0o755
    outside = tmp_path / "outside"
    outside.write_text("mine\n")
    (root / "train.py").unlink()
    (root / "train.py").symlink_to(outside)
    workspace.write_checkout("train.py", "LR = 6\n")
    assert outside.read_text() == "mine\n"
    assert not (root / "train.py").is_symlink()
    assert workspace.read_checkout("train.py") == "LR = 6\n"
