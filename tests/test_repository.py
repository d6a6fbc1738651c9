import subprocess

import pytest

from autoresearch.repository import MAX_SURFACE_BYTES, Identity, Repository, check_tag
from autoresearch.vocabulary import UsageError, WorkspaceError

ME = Identity("Test Person", "test@example.org")
WHEN = 1_763_766_000


def git(root, *arguments, text=True):
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=text, check=True)
    return done.stdout


@pytest.fixture
def root(tmp_path):
    """A repository with one commit: train.py, a folder, an executable and a symbolic link."""
    folder = tmp_path / "the lab ü 幅"
    (folder / "notes").mkdir(parents=True)
    (folder / "train.py").write_text("LR = 1\n")
    (folder / "notes" / "größe one.md").write_text("a\n")
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o755)
    (folder / "link.py").symlink_to("/etc/passwd")
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")
    return folder


@pytest.fixture
def repository(root):
    return Repository(root)


def state_of(root):
    """Everything of the user's that must not move: HEAD, branches, index and working tree."""
    files = {
        str(path.relative_to(root)): path.lstat().st_mtime_ns for path in root.rglob("*") if ".git" not in path.parts
    }
    return (
        (root / ".git" / "HEAD").read_bytes(),
        (root / ".git" / "index").read_bytes(),
        git(root, "for-each-ref", "refs/heads", "refs/tags"),
        git(root, "status", "--porcelain"),
        files,
    )


def commit(repository, files, message="idea", **changes):
    arguments = {"identity": ME, "when": WHEN, **changes}
    return repository.commit_files(repository.head(), files, message, **arguments)


# -- commits ------------------------------------------------------------------------------------------------------------


def test_a_commit_holds_the_files_and_everything_else_of_its_parent(repository, root):
    text = "LR = 2  # größer\r\nend without newline"
    new = commit(repository, {"train.py": text, "new/file with space.py": "x = 1\n"}, "LR 1 -> 2\n\nbody ü")
    assert repository.read_blob(new, "train.py") == text
    assert repository.changed_paths(repository.head(), new) == ["new/file with space.py", "train.py"]
    assert git(root, "log", "-1", "--format=%an|%ae|%at|%cn|%ce|%ct|%P|%B", new).strip() == (
        f"Test Person|test@example.org|{WHEN}|Test Person|test@example.org|{WHEN}|{repository.head()}|LR 1 -> 2\n\nbody ü"
    )


@pytest.mark.slow
def test_the_same_arguments_give_the_same_commit(repository):
    first = commit(repository, {"train.py": "LR = 2\n", "train_mlx.py": "LR = 3\n"})
    assert commit(repository, {"train_mlx.py": "LR = 3\n", "train.py": "LR = 2\n"}) == first
    others = [
        commit(repository, {"train.py": "LR = 2\n"}),
        commit(repository, {"train.py": "LR = 2\n", "train_mlx.py": "LR = 3\n"}, "another"),
        commit(repository, {"train.py": "LR = 2\n", "train_mlx.py": "LR = 3\n"}, when=WHEN + 1),
        commit(repository, {"train.py": "LR = 2\n", "train_mlx.py": "LR = 3\n"}, identity=Identity("a", "b@c")),
    ]
    assert len({first, *others}) == 5


def test_the_hash_of_a_commit_is_not_of_this_machine(tmp_path, monkeypatch):
    # time zone, locale and user of the machine are not in it
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    git(tmp_path, "init", "--quiet")
    repository = Repository(tmp_path)
    tree = repository.git("hash-object", "-t", "tree", "-w", "--stdin", stdin=b"").decode().strip()
    who = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", "T"), ("EMAIL", "t@x"), ("DATE", f"{WHEN} +0000"))
    }
    parent = repository.git("commit-tree", tree, "-m", "root", extra=who).decode().strip()
    new = repository.commit_files(parent, {"train.py": "LR = 2\n"}, "idea", identity=ME, when=WHEN)
    body = git(tmp_path, "cat-file", "commit", new)
    stamp = f"Test Person <test@example.org> {WHEN} +0000"
    blob_tree = git(tmp_path, "rev-parse", f"{new}^{{tree}}").strip()
    assert body == f"tree {blob_tree}\nparent {parent}\nauthor {stamp}\ncommitter {stamp}\n\nidea"


def test_nothing_of_the_users_checkout_moves(repository, root):
    (root / "train.py").write_text("LR = 9  # the user's own, not committed\n")
    (root / "staged.py").write_text("staged\n")
    git(root, "add", "staged.py")
    (root / "untracked.txt").write_text("mine\n")
    git(root, "status")  # lets git refresh its index once
    before = state_of(root)
    new = commit(repository, {"train.py": "LR = 2\n"})
    repository.set_ref("refs/autoresearch/t/1", new)
    repository.diff(repository.head(), new)
    repository.changed_paths(repository.head(), new)
    repository.read_blob(new, "train.py")
    repository.branch_checked_out_at("main")
    assert repository.dirty_paths() == ["staged.py", "train.py", "untracked.txt"]
    assert state_of(root) == before


def test_a_commit_works_while_the_user_holds_the_index_lock(repository, root):
    (root / ".git" / "index.lock").touch()
    assert repository.read_blob(commit(repository, {"train.py": "LR = 2\n"}), "train.py") == "LR = 2\n"


def test_refresh_index_takes_these_files_and_leaves_the_rest_of_the_index(repository, root):
    (root / "staged.py").write_text("staged\n")
    git(root, "add", "staged.py")
    new = commit(repository, {"train.py": "LR = 2\n", "tool.sh": "changed\n"})
    repository.refresh_index(new, ["train.py"])
    assert git(root, "show", ":train.py") == "LR = 2\n"
    assert git(root, "show", ":staged.py") == "staged\n"
    assert git(root, "show", ":tool.sh") == "#!/bin/sh\n"
    assert (root / "train.py").read_text() == "LR = 1\n"


# -- reading ------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_none_and_an_executable_one_is_read(repository):
    assert repository.read_blob(repository.head(), "absent.py") is None
    assert repository.read_blob(repository.head(), "tool.sh") == "#!/bin/sh\n"


def test_files_are_found_by_their_path_from_the_top_wherever_we_stand(root):
    repository = Repository(root / "notes")
    assert repository.toplevel == root
    head = repository.head()
    assert repository.read_blob(head, "train.py") == "LR = 1\n"
    assert repository.read_blob(head, "notes/größe one.md") == "a\n"
    new = commit(repository, {"train.py": "LR = 2\n"})
    assert repository.changed_paths(head, new) == ["train.py"]
    repository.refresh_index(new, ["train.py"])
    assert git(root, "show", ":train.py") == "LR = 2\n"
    assert repository.dirty_paths() == ["train.py"]


def test_a_file_over_the_limit_is_refused_and_one_at_the_limit_read(repository):
    at_limit = commit(repository, {"train.py": "x" * MAX_SURFACE_BYTES})
    assert len(repository.read_blob(at_limit, "train.py")) == MAX_SURFACE_BYTES
    with pytest.raises(WorkspaceError, match="larger than 1,000,000 bytes"):
        commit(repository, {"train.py": "x" * (MAX_SURFACE_BYTES + 1)})
    (repository.toplevel / "train.py").write_text("x" * (MAX_SURFACE_BYTES + 1))
    git(repository.toplevel, "commit", "--quiet", "-am", "large")
    over = repository.head()
    with pytest.raises(WorkspaceError, match="1,000,001 bytes") as caught:
        repository.read_blob(over, "train.py")
    assert caught.value.hint.startswith(f"git show {over[:10]}:train.py")


def test_a_file_that_is_not_utf8_is_refused(repository, root):
    (root / "train.py").write_bytes(b"LR = 1 # \xff\xfe\n")
    git(root, "commit", "--quiet", "-am", "latin")
    with pytest.raises(WorkspaceError, match="not UTF-8"):
        repository.read_blob(repository.head(), "train.py")


def test_paths_with_spaces_and_other_scripts_are_told_as_they_are(repository, root):
    (root / "notes" / "größe one.md").write_text("b\n")
    (root / "幅 two.txt").write_text("new\n")
    assert repository.dirty_paths() == ["notes/größe one.md", "幅 two.txt"]
    new = commit(repository, {"notes/größe one.md": "c\n"})
    assert repository.changed_paths(repository.head(), new) == ["notes/größe one.md"]


def test_a_diff_is_plain_text_whatever_the_users_colours(repository, root):
    git(root, "config", "color.ui", "always")
    new = commit(repository, {"train.py": "LR = 2\n"})
    lines = repository.diff(repository.head(), new).splitlines()
    assert lines[0] == "diff --git a/train.py b/train.py"
    assert lines[-3:] == ["@@ -1 +1 @@", "-LR = 1", "+LR = 2"]


# -- refs ---------------------------------------------------------------------------------------------------------------


def test_a_ref_moves_only_from_where_it_is_expected(repository):
    start = repository.head()
    new, newer = commit(repository, {"train.py": "LR = 2\n"}), commit(repository, {"train.py": "LR = 3\n"})
    ref = "refs/heads/autoresearch/t"
    repository.set_ref(ref, new, expect="")
    for expected in ("", start):
        with pytest.raises(WorkspaceError, match="update-ref failed"):
            repository.set_ref(ref, newer, expect=expected)
        assert repository.resolve(ref) == new
    repository.set_ref(ref, newer, expect=new)
    assert repository.resolve(ref) == newer
    repository.set_ref(ref, start)
    assert repository.resolve(ref) == start


def test_a_name_that_is_nothing_resolves_to_none(repository):
    assert repository.resolve("refs/heads/absent") is None
    assert repository.resolve("HEAD") == repository.head()


def test_the_worktree_of_a_branch_is_found(repository, root, tmp_path):
    git(root, "branch", "autoresearch/t")
    assert repository.branch_checked_out_at("autoresearch/t") is None
    git(root, "worktree", "add", "--quiet", str(tmp_path / "other tree"), "autoresearch/t")
    assert repository.branch_checked_out_at("autoresearch/t") == tmp_path / "other tree"
    assert repository.branch_checked_out_at("main") == root
    other = Repository(tmp_path / "other tree")
    assert (other.common_dir, other.toplevel) == (root / ".git", tmp_path / "other tree")


# -- refusals -----------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_repository_is_refused(tmp_path):
    with pytest.raises(WorkspaceError, match="not inside a git repository") as caught:
        Repository(tmp_path)
    assert "autoresearch init" in caught.value.hint


def test_a_repository_without_a_commit_is_refused(tmp_path):
    git(tmp_path, "init", "--quiet")
    with pytest.raises(WorkspaceError, match="no commit yet") as caught:
        Repository(tmp_path).head()
    assert "git commit" in caught.value.hint


def test_missing_git_is_told_with_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError, match="git is not installed") as caught:
        Repository(tmp_path)
    assert "install git" in caught.value.hint


def test_a_user_whom_git_does_not_know_is_refused(repository, tmp_path, monkeypatch):
    assert repository.identity() == ME
    (tmp_path / "empty").touch()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "empty"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WorkspaceError, match="does not know who you are") as caught:
        repository.identity()
    assert "git config --global user.name" in caught.value.hint
    monkeypatch.setenv("GIT_AUTHOR_NAME", "A")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "a@b")
    assert repository.identity() == Identity("A", "a@b")


def test_variables_that_would_redirect_git_are_ignored(repository, root, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert Repository(root).head() == repository.head()
    assert repository.dirty_paths() == []


def test_what_git_said_is_in_our_error(repository):
    with pytest.raises(WorkspaceError, match=r"cat-file failed: .*Not a valid object name"):
        repository.git("cat-file", "-t", "0" * 7)


@pytest.mark.parametrize("tag", ["nov21", "a", "2025-11-21_run.2", "x" * 64])
def test_a_tag_that_branch_folder_and_row_can_carry_is_taken(tag):
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "x" * 65,
        "a b",
        "a/b",
        "../up",
        "a..b",
        "end.",
        "end.lock",
        "-flag",
        ".hidden",
        "tab\t",
        "nov21\n",
        "ü",
        "a~1",
        "@{",
    ],
)
def test_a_tag_that_they_cannot_is_refused(tag):
    with pytest.raises(UsageError, match="cannot be a run tag"):
        check_tag(tag)
