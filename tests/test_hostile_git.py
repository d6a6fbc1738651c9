"""A repository is hostile input: whatever was planted in it has no effect on what the loop reads, writes and runs."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from autoresearch import repository as module
from autoresearch.repository import MAX_SURFACE_BYTES, Identity, Repository
from autoresearch.vocabulary import WorkspaceError

ME = Identity("Test Person", "test@example.org")
WHEN = 1_763_766_000
EDIT = "LR = 2\n$Id$\n"


def git(root, *arguments, stdin=None):
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, input=stdin, check=True)
    return done.stdout.decode()


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "train.py").write_text("LR = 1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "start")
    return folder


@pytest.fixture
def sprung(tmp_path):
    """A folder in which every program that was run leaves a file with its name."""
    folder = tmp_path / "sprung"
    folder.mkdir()
    return folder


def program(sprung, name: str) -> str:
    """An executable that leaves a file in `sprung` and passes its input on."""
    path = sprung.parent / f"program-{name}"
    path.write_text(f"#!/bin/sh\ntouch '{sprung}/{name}'\ncat\n")
    path.chmod(0o755)
    return str(path)


def traces(sprung) -> list[str]:
    return sorted(path.name for path in sprung.iterdir())


def commit(repository, files, message="idea", parent=None):
    return repository.commit_files(parent or repository.head(), files, message, identity=ME, when=WHEN)


def everything_the_loop_does(repository, root) -> str:
    """One round of every git operation of a session, asserted to be right; returns the diff."""
    start = repository.head()
    new = commit(repository, {"train.py": EDIT})
    repository.set_ref("refs/autoresearch/t/1", new)
    repository.set_ref("refs/heads/autoresearch/t", new)
    assert repository.read_blob(new, "train.py") == EDIT
    assert repository.changed_paths(start, new) == ["train.py"]
    assert repository.branch_checked_out_at("autoresearch/t") is None
    assert repository.resolve("refs/heads/autoresearch/t") == new
    assert repository.identity() == ME
    before = (root / "train.py").read_text()
    (root / "train.py").write_text("LR = 3\n")  # as long as it was: git must look into it, through its filters
    os.utime(root / "train.py", (WHEN, WHEN))
    assert "train.py" in repository.dirty_paths()
    (root / "train.py").write_text(before)
    repository.refresh_index(new, ["train.py"])
    assert git(root, "-c", "core.fsmonitor=false", "cat-file", "blob", ":train.py") == EDIT
    diff = repository.diff(start, new)
    assert diff.startswith("diff --git a/train.py b/train.py\n")
    assert "\n+LR = 2\n" in diff
    return diff


HONEST_DIFF = """diff --git a/train.py b/train.py
index c4ad3aa..38548dd 100644
--- a/train.py
+++ b/train.py
@@ -1 +1,2 @@
-LR = 1
+LR = 2
+$Id$
"""


def test_in_an_honest_repository_the_round_gives_the_expected_diff(root):
    assert everything_the_loop_does(Repository(root), root) == HONEST_DIFF


# -- programs -----------------------------------------------------------------------------------------------------------

HOOKS = (
    "post-commit", "pre-commit", "reference-transaction", "post-index-change", "post-checkout", "fsmonitor-watchman",
    "commit-msg", "prepare-commit-msg", "pre-auto-gc", "post-rewrite",
)  # fmt: skip


def plant_hooks(root, sprung):
    hooks = root / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in HOOKS:
        (hooks / name).write_text(f"#!/bin/sh\ntouch '{sprung}/hook-{name}'\n")
        (hooks / name).chmod(0o755)
    git(root, "config", "core.hooksPath", str(hooks))
    git(root, "-c", "user.name=x", "commit", "--allow-empty", "--quiet", "-m", "springs")


def plant_fsmonitor(root, sprung):
    git(root, "config", "core.fsmonitor", program(sprung, "fsmonitor"))
    git(root, "status")


def plant_filters(root, sprung):
    for driver in ("one", "two"):
        git(root, "config", f"filter.{driver}.clean", program(sprung, f"{driver}-clean"))
        git(root, "config", f"filter.{driver}.smudge", program(sprung, f"{driver}-smudge"))
        git(root, "config", f"filter.{driver}.required", "true")
    git(root, "config", "filter.two.process", program(sprung, "two-process"))
    (root / ".gitattributes").write_text("*.py filter=one\n")
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "attributes").write_text("train.py filter=two\n")
    (root / "train.py").write_text("LR = 9\n")
    subprocess.run(["git", "-C", str(root), "status"], capture_output=True, check=False)
    (root / "train.py").write_text("LR = 1\n")


def plant_diff_programs(root, sprung):
    git(root, "config", "diff.external", program(sprung, "external"))
    git(root, "config", "diff.evil.textconv", program(sprung, "textconv"))
    git(root, "config", "diff.evil.command", program(sprung, "command"))
    git(root, "config", "core.pager", program(sprung, "pager"))
    git(root, "config", "pager.diff-tree", program(sprung, "pager-of-diff-tree"))
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "attributes").write_text("*.py diff=evil\n")
    (root / "train.py").write_text("LR = 9\n")
    git(root, "diff")
    (root / "train.py").write_text("LR = 1\n")


def plant_gpg(root, sprung):
    git(root, "config", "gpg.program", program(sprung, "gpg"))
    git(root, "config", "commit.gpgSign", "true")
    subprocess.run(["git", "-C", str(root), "commit", "--allow-empty", "-m", "x"], capture_output=True, check=False)


def plant_conditional_include(root, sprung):
    (root / ".git" / "more").write_text(
        f"[core]\n\tfsmonitor = {program(sprung, 'included')}\n[diff]\n\tnoprefix = true\n\texternal = {program(sprung, 'included-diff')}\n"
    )
    git(root, "config", "includeIf.gitdir:/**.path", str(root / ".git" / "more"))
    git(root, "status")


def plant_aliases(root, sprung):
    for name in ("lookout", "diff-tree", "ls-tree", "cat-file", "status", "update-ref"):
        git(root, "config", f"alias.{name}", f"!{program(sprung, 'alias')}")
    git(root, "lookout")


def plant_nested_repository(root, sprung):
    git(root, "init", "--quiet", "vendored")
    git(root / "vendored", "commit", "--quiet", "--allow-empty", "-m", "inner")
    git(root / "vendored", "config", "core.fsmonitor", program(sprung, "nested-fsmonitor"))
    (root / ".gitmodules").write_text(
        '[submodule "vendored"]\n\tpath = vendored\n\turl = ext::sh -c touch% no\n\tignore = none\n'
    )
    git(root, "add", "vendored", ".gitmodules")
    git(root, "commit", "--quiet", "-m", "submodule")
    (root / "vendored" / "dirt").write_text("x")
    git(root, "status")
    with (root / ".gitmodules").open("a") as stream:
        stream.write("\tupdate = !touch no\n")  # from here on plain `git status` refuses to work at all


@pytest.mark.parametrize(
    "plant",
    [
        plant_hooks, plant_fsmonitor, plant_filters, plant_diff_programs, plant_gpg, plant_conditional_include,
        plant_aliases, plant_nested_repository,
    ],
)  # fmt: skip
def test_no_planted_program_runs(root, sprung, plant):
    plant(root, sprung)
    assert traces(sprung) != [], "plain git falls into this trap"
    for path in sprung.iterdir():
        path.unlink()
    assert everything_the_loop_does(Repository(root), root) == HONEST_DIFF
    assert traces(sprung) == []


def test_no_program_is_asked_for_over_a_network_or_for_a_password(root, sprung, monkeypatch):
    # a promisor remote makes plain git fetch an object that is missing
    (sprung.parent / "program-remote").write_text(f"#!/bin/sh\ntouch '{sprung}/remote'\n")
    (sprung.parent / "program-remote").chmod(0o755)
    url = f"ext::{sprung.parent}/program-remote"
    for key, value in {
        "core.repositoryFormatVersion": "1", "extensions.partialClone": "origin", "remote.origin.promisor": "true",
        "remote.origin.url": url, "protocol.allow": "always", "core.sshCommand": program(sprung, "ssh"),
        "credential.helper": f"!{program(sprung, 'credential')}", "core.askPass": program(sprung, "askpass"),
    }.items():  # fmt: skip
        git(root, "config", key, value)
    monkeypatch.setenv("GIT_ASKPASS", program(sprung, "git-askpass"))
    missing = "1" * 40
    subprocess.run(["git", "-C", str(root), "cat-file", "-p", missing], capture_output=True, check=False)
    assert traces(sprung) == ["remote"]
    (sprung / "remote").unlink()
    repository = Repository(root)
    with pytest.raises(WorkspaceError):
        repository.git("cat-file", "-p", missing)
    with pytest.raises(WorkspaceError):
        repository.diff(missing, repository.head())
    assert everything_the_loop_does(repository, root) == HONEST_DIFF
    assert traces(sprung) == []


# -- answers ------------------------------------------------------------------------------------------------------------


def test_a_diff_is_the_same_whatever_anybody_configured(root, tmp_path, monkeypatch):
    (tmp_path / "global").write_text(
        "[user]\n\tname = Test Person\n\temail = test@example.org\n[diff]\n\tnoprefix = true\n\tcontext = 0\n"
        "[color]\n\tui = always\n\tdiff = always\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "global"))
    monkeypatch.setenv("GIT_DIFF_OPTS", "--unified=0")
    (root / "order").write_text("zzz\n")
    for key, value in {
        "diff.mnemonicPrefix": "true", "diff.orderFile": str(root / "order"), "diff.algorithm": "patience", "diff.colorMoved": "zebra",
        "diff.interHunkContext": "9", "diff.renames": "copies", "diff.relative": "true", "diff.submodule": "log", "core.abbrev": "40",
        "diff.wsErrorHighlight": "all", "diff.suppressBlankEmpty": "true", "diff.evil.xfuncname": "((.*)*)*x", "diff.evil.binary": "true",
        "i18n.logOutputEncoding": "utf-16", "core.quotePath": "true", "core.ignoreCase": "true", "core.bigFileThreshold": "1",
    }.items():  # fmt: skip
        git(root, "config", key, value)
    assert everything_the_loop_does(Repository(root), root) == HONEST_DIFF


@pytest.mark.parametrize(
    "attributes",
    [
        "* text eol=crlf ident working-tree-encoding=UTF-16", "* binary", "* -diff", "* diff=evil export-subst export-ignore",
        "* merge=evil filter=absent", "[attr]x -diff\n* x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [".gitattributes", ".git/info/attributes", "committed"])
def test_attributes_change_neither_what_is_read_nor_what_is_shown(root, attributes, place):
    git(root, "config", "diff.evil.binary", "true")
    repository = Repository(root)
    if place == "committed":  # by the candidate itself, beside its edit
        start = commit(repository, {"attributes.txt": "no"})
        new = commit(repository, {".gitattributes": attributes + "\n", "train.py": EDIT}, parent=start)
        assert "\n+LR = 2\n" in repository.diff(start, new)
        assert repository.read_blob(new, "train.py") == EDIT
        return
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / place).write_text(attributes + "\n")
    new = commit(repository, {"train.py": EDIT})
    assert repository.diff(repository.head(), new) == HONEST_DIFF
    assert repository.read_blob(new, "train.py") == EDIT


def test_a_replaced_object_is_read_as_it_was_and_a_graft_has_no_effect(root):
    repository = Repository(root)
    start = repository.head()
    honest = git(root, "rev-parse", "HEAD:train.py").strip()
    forged = git(root, "hash-object", "-w", "--stdin", stdin=b"LR = 666\n").strip()
    git(root, "replace", honest, forged)
    other = commit(repository, {"train.py": "LR = 667\n"})
    git(root, "replace", start, other)
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "grafts").write_text(f"{start} {other}\n")
    assert git(root, "cat-file", "blob", honest) == "LR = 666\n"  # plain git is taken in
    assert Repository(root).read_blob(start, "train.py") == "LR = 1\n"
    new = commit(Repository(root), {"new.py": "x\n"}, parent=start)
    assert repository.changed_paths(start, new) == ["new.py"]
    assert repository.read_blob(new, "train.py") == "LR = 1\n"


def test_a_forged_object_is_found_by_its_hash(root):
    import zlib

    repository = Repository(root)
    honest = git(root, "rev-parse", "HEAD:train.py").strip()
    path = root / ".git" / "objects" / honest[:2] / honest[2:]
    path.chmod(0o644)
    path.write_bytes(zlib.compress(b"blob 9\0LR = 666\n"))
    assert git(root, "cat-file", "blob", honest) == "LR = 666\n"  # plain git does not look
    with pytest.raises(WorkspaceError, match="damaged or forged") as caught:
        repository.read_blob(repository.head(), "train.py")
    assert caught.value.hint == "git fsck"


def test_a_ref_that_was_made_symbolic_does_not_move_the_users_branch(root):
    repository = Repository(root)
    main = git(root, "symbolic-ref", "HEAD").strip()
    start = repository.head()
    git(root, "symbolic-ref", "refs/autoresearch/t/1", main)
    git(root, "symbolic-ref", "refs/heads/autoresearch/t", main)
    new = commit(repository, {"train.py": EDIT})
    repository.set_ref("refs/autoresearch/t/1", new)
    repository.set_ref("refs/heads/autoresearch/t", new, expect=start)
    assert git(root, "rev-parse", main).strip() == start
    assert repository.resolve("refs/autoresearch/t/1") == repository.resolve("refs/heads/autoresearch/t") == new


def test_a_worktree_in_a_folder_of_an_odd_name_cannot_pass_for_another(root, tmp_path):
    odd = tmp_path / "a\nbranch refs\nrefs"
    git(root, "branch", "autoresearch/t")
    git(root, "branch", "autoresearch/other")
    git(root, "worktree", "add", "--quiet", str(odd), "autoresearch/other")
    repository = Repository(root)
    assert repository.branch_checked_out_at("autoresearch/t") is None
    assert repository.branch_checked_out_at("autoresearch/other") == odd
    inside = Repository(odd)
    assert (inside.toplevel, inside.common_dir) == (odd, root / ".git")
    assert inside.read_blob(inside.head(), "train.py") == "LR = 1\n"


def test_a_checkout_that_is_said_to_be_elsewhere_is_refused(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    git(root, "config", "core.worktree", str(tmp_path / "elsewhere"))
    with pytest.raises(WorkspaceError, match=r"core\.worktree points elsewhere") as caught:
        Repository(root)
    subprocess.run(caught.value.hint.split(), check=True)
    assert Repository(root).toplevel == root


def test_borrowed_objects_shared_repositories_and_shallow_clones_go_on_working(root, tmp_path):
    git(tmp_path, "clone", "--quiet", "--shared", str(root), "borrower")  # objects/info/alternates
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{root}", "shallow")
    for name in ("borrower", "shallow"):
        git(tmp_path / name, "config", "core.sharedRepository", "group")
        assert everything_the_loop_does(Repository(tmp_path / name), tmp_path / name) == HONEST_DIFF
        (loose,) = (tmp_path / name / ".git" / "objects").glob("38/548dd*")
        assert loose.parent.stat().st_mode & 0o020, "the group may add objects beside ours"


def test_a_repository_of_sha256_works_too(tmp_path):
    root = tmp_path / "modern"
    git(tmp_path, "init", "--quiet", "--object-format=sha256", "modern")
    (root / "train.py").write_text("LR = 1\n")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    repository = Repository(root)
    repository.set_ref("refs/heads/autoresearch/new", repository.head(), expect="")
    everything_the_loop_does(repository, root)
    assert len(repository.head()) == 64


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_repository_of_another_user_is_refused_until_the_user_trusts_it(root, tmp_path, monkeypatch):
    os.chown(root, 12345, 12345)
    os.chown(root / ".git", 12345, 12345)
    with pytest.raises(WorkspaceError, match="belongs to another user") as caught:
        Repository(root)
    assert caught.value.hint == f"git config --global --add safe.directory {root}"
    config = tmp_path / "trusting"
    config.write_text("[user]\n\tname = Test Person\n\temail = test@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    subprocess.run(caught.value.hint.split(), check=True)
    assert everything_the_loop_does(Repository(root), root) == HONEST_DIFF


def test_an_identity_with_control_characters_becomes_a_name(root):
    git(root, "config", "user.name", "Test\x1b[2J \u202ePerson")
    assert Repository(root).identity() == ME


def test_git_that_does_not_end_is_an_error_of_ours(root, monkeypatch):
    repository = Repository(root)
    start = repository.head()
    (root / ".git" / "packed-refs").unlink(missing_ok=True)
    os.mkfifo(root / ".git" / "packed-refs")  # opening it waits for a writer for ever
    monkeypatch.setattr(module, "_GIT_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(WorkspaceError, match="did not end") as caught:
        repository.resolve("refs/heads/absent")
    assert time.monotonic() - began < 60
    assert "FIFO" in caught.value.hint
    monkeypatch.undo()
    assert repository.read_blob(start, "train.py") == "LR = 1\n"  # objects do not need refs


# -- trees --------------------------------------------------------------------------------------------------------------


def commit_of(root, *entries: tuple[bytes, bytes, bytes]) -> str:
    """A commit whose tree has exactly these (mode, name, 20 bytes of hash), however wrong."""
    raw = b"".join(mode + b" " + name + b"\0" + digest for mode, name, digest in entries)
    tree = git(root, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw).strip()
    return git(root, "commit-tree", tree, "-m", "odd").strip()


def blob(root, data: bytes) -> bytes:
    return bytes.fromhex(git(root, "hash-object", "-w", "--stdin", stdin=data).strip())


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        (b"120000", "a symbolic link"), (b"160000", "a submodule"), (b"40000", "a folder"),
        (b"0", "a submodule"), (b"10644", "a submodule"), (b"60644", "a submodule"),  # as git itself takes odd modes
    ],
)  # fmt: skip
def test_only_a_plain_file_is_read_and_everything_else_is_named(root, mode, what):
    digest = blob(root, b"/etc/passwd")
    if mode == b"40000":
        digest = bytes.fromhex(git(root, "mktree", stdin=b"").strip())
    odd = commit_of(root, (mode, b"train.py", digest))
    with pytest.raises(WorkspaceError, match=what) as caught:
        Repository(root).read_blob(odd, "train.py")
    assert caught.value.hint.startswith("git rm --cached train.py")
    # and an edit on top of it replaces the entry by a plain file
    new = commit(Repository(root), {"train.py": EDIT}, parent=odd)
    assert git(root, "ls-tree", new).split()[:2] == ["100644", "blob"]


@pytest.mark.parametrize("mode", [b"100644", b"100755", b"100664", b"100600", b"104777"])
def test_a_file_of_any_permissions_is_a_plain_file(root, mode):
    assert Repository(root).read_blob(commit_of(root, (mode, b"train.py", blob(root, b"x\n"))), "train.py") == "x\n"


def test_a_name_that_is_there_twice_is_refused(root):
    twice = commit_of(
        root, (b"100644", b"train.py", blob(root, b"a = 1\n")), (b"100644", b"train.py", blob(root, b"a = 2\n"))
    )
    with pytest.raises(WorkspaceError, match="more than once"):
        Repository(root).read_blob(twice, "train.py")


def test_names_that_look_alike_are_other_files(root):
    names = [
        b"Train.py",
        "trаin.py".encode(),
        "train.py\u200b".encode(),
        b"train.py ",
        b":(glob)*",
        b"./train.py"[2:] + b"\n",
    ]
    odd = commit_of(
        root, *sorted(((b"100644", name, blob(root, b"evil\n")) for name in names), key=lambda entry: entry[1])
    )
    repository = Repository(root)
    assert repository.read_blob(odd, "train.py") is None
    assert repository.read_blob(odd, ":(glob)train*") is None
    assert repository.read_blob(odd, "*") is None
    new = commit(repository, {"train.py": EDIT}, parent=odd)
    assert repository.read_blob(new, "train.py") == EDIT
    assert repository.changed_paths(odd, new) == ["train.py"]


def test_whatever_else_a_tree_holds_is_carried_unread(root, tmp_path):
    outside = tmp_path / "canary"
    outside.write_text("untouched")
    entries = [
        (b"100644", b"-rf", blob(root, b"")), (b"100644", b"a\tb\nc\x1b[2J", blob(root, b"x")),
        (b"120000", b"link", blob(root, str(outside).encode())), (b"100644", b"train.py", blob(root, b"LR = 1\n")),
        (b"160000", b"vendored", b"\x11" * 20), (b"100644", b"\xff\xfe.py", blob(root, b"y")),
    ]  # fmt: skip
    evil = commit_of(root, (b"100644", b"config", blob(root, b"[core]\n\tfsmonitor = touch x\n")))
    tree = bytes.fromhex(git(root, "rev-parse", f"{evil}^{{tree}}").strip())
    entries += [(b"40000", b".GIT", tree), (b"40000", b"..", tree)]
    odd = commit_of(root, *sorted(entries, key=lambda entry: entry[1]))
    repository = Repository(root)
    new = commit(repository, {"train.py": EDIT}, parent=odd)
    assert repository.changed_paths(odd, new) == ["train.py"]
    assert repository.read_blob(new, "train.py") == EDIT
    assert repository.diff(odd, new).count("diff --git") == 1
    assert outside.read_text() == "untouched"
    assert not (root / "config").exists()


def test_a_folder_that_is_a_link_or_a_submodule_is_not_entered(root):
    repository = Repository(root)
    for mode, what in ((b"120000", "symbolic link"), (b"160000", "submodule"), (b"100644", "mode 100644")):
        odd = commit_of(root, (mode, b"labs", blob(root, b"/tmp")))
        with pytest.raises(WorkspaceError, match=what):
            commit(repository, {"labs/train.py": EDIT}, parent=odd)
        assert repository.read_blob(odd, "labs/train.py") is None


def test_a_commit_goes_into_folders_at_any_depth(root):
    repository = Repository(root)
    first = commit(repository, {"a/b/c/train.py": "LR = 1\n", "a/b/other.py": "x\n"})
    second = commit(repository, {"a/b/c/train.py": "LR = 2\n"}, parent=first)
    assert repository.changed_paths(first, second) == ["a/b/c/train.py"]
    assert repository.read_blob(second, "a/b/other.py") == "x\n"
    assert git(root, "fsck", "--strict", "--no-dangling") == ""


@pytest.mark.parametrize(
    "path",
    [
        ".git/hooks/post-commit", "a/.GIT/config", ".git\u200c/config", "git~1/config", ".git./x", ".git::$INDEX_ALLOCATION/x",
        "../evil.py", "a/./b.py", "a//b.py", "/etc/passwd", "", "a\0b.py",
    ],
)  # fmt: skip
def test_a_path_that_leaves_the_checkout_or_enters_git_is_no_file_of_a_commit(root, path):
    with pytest.raises(WorkspaceError, match="cannot be a file of a commit"):
        commit(Repository(root), {path: "x\n"})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x" * (2 * MAX_SURFACE_BYTES), "2,000,000 bytes"), (b"x = '\xed\xa0\x80'\n", "not UTF-8"), (b"x\0y\n", "null byte"),
    ],
)  # fmt: skip
def test_a_blob_that_is_no_source_text_is_refused_with_the_next_thing_to_type(root, data, said):
    odd = commit_of(root, (b"100644", b"train.py", blob(root, data)))
    with pytest.raises(WorkspaceError, match=said) as caught:
        Repository(root).read_blob(odd, "train.py")
    assert caught.value.hint.startswith(f"git show {odd[:10]}:train.py")


@pytest.mark.parametrize("text", ["x = '\ud800'\n", "x\0\n", "x" * (MAX_SURFACE_BYTES + 1)])
def test_a_text_that_is_no_source_is_refused_before_anything_is_written(root, text):
    count = git(root, "count-objects")
    with pytest.raises(WorkspaceError, match=r"the new text of train\.py"):
        commit(Repository(root), {"a.py": "fine\n", "train.py": text})
    assert git(root, "count-objects") == count


def test_a_large_file_is_not_diffed_line_by_line(root):
    large = b"line\n" * 1_000_000
    old = commit_of(root, (b"100644", b"data.txt", blob(root, large)))
    new = commit_of(root, (b"100644", b"data.txt", blob(root, large + b"more\n")))
    assert len(Repository(root).diff(old, new)) < 1000


def test_a_message_with_control_characters_is_a_clean_message(root):
    repository = Repository(root)
    new = commit(repository, {"train.py": EDIT}, "a\x00b\x1b]0;owned\x07c\ud800\u202ed\n\nbody\x9b2J\n")
    assert git(root, "log", "-1", "--format=%B", new).rstrip("\n") == "abcd\n\nbody"


def test_what_git_says_of_a_hostile_name_is_one_clean_line(root):
    with pytest.raises(WorkspaceError) as caught:
        Repository(root).git("rev-parse", "--verify", "evil\x1b[2J\nname")
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message
