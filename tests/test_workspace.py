import subprocess

import pytest

from autoresearch import workspace as module
from autoresearch.vocabulary import ScopeError, UsageError, WorkspaceError
from autoresearch.workspace import SCOPES, WORKSPACE_FILES, banner_for, check_scope, create_workspace, open_workspace


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
    with pytest.raises(UsageError, match=r"train\.py is not in commit"):
        workspace.read_surface(workspace.repository.head(), "train.py")


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
