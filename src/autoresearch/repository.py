"""The one door to git: plumbing only, so that no checkout, index or branch of the user is ever touched.

A repository is hostile input: candidates, coding agents and whoever sent it may have written anything into it. So there are
two ways to call git. *Objects* (reading blobs, listing trees, diffs, making commits) are handled from an empty git
directory of our own that only borrows the object store: the repository's configuration, attributes, hooks, replace refs,
grafts and aliases do not exist there, and the user's own configuration cannot change what a diff looks like. *Places*
(refs, status, index, identity) need the repository itself; for them everything that could run a program or bend an answer
is switched off by name, while identity and safe.directory go on working.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autoresearch.files import disk_error
from autoresearch.hostile_text import message_text, one_line, why_not_a_file
from autoresearch.vocabulary import UsageError, WorkspaceError

MAX_SURFACE_BYTES = 1_000_000  # a training file is 30 kB; text smuggled into code has to fit under this
_SAFE_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.untrackedCache=false",
    "core.useReplaceRefs=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.quotePath=false",
    "core.pager=cat",
    "core.editor=false",
    "core.sshCommand=false",
    "core.gitProxy=false",
    "core.askPass=false",
    f"core.bigFileThreshold={2 * MAX_SURFACE_BYTES}",  # what is larger is not diffed line by line
    "credential.helper=",
    "protocol.allow=never",
    "gpg.program=false",
    "commit.gpgSign=false",
    "submodule.recurse=false",
    "color.ui=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
)
_GIT_SECONDS = 120.0  # status of 100,000 touched files takes 1 s; a FIFO among git's files blocks for ever
_PLAIN_MODES = {b"100644", b"100755"}  # all that git makes of a file's permissions when it lists a tree
_ODD_ENTRIES = {b"120000": "a symbolic link", b"160000": "a submodule", b"040000": "a folder"}
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INSTALL_GIT = "install git (apt-get install git, or xcode-select --install)"


@dataclass(frozen=True)
class Identity:
    """Who commits. Kept with the session, so that a resumed commit is byte for byte the one that was planned."""

    name: str
    email: str


@dataclass(frozen=True)
class TreeEntry:
    """One line of a tree: mode and object id as git prints them, name in raw bytes."""

    mode: bytes
    kind: bytes
    object_id: str
    name: bytes

    @property
    def is_plain_file(self) -> bool:
        return self.kind == b"blob" and self.mode in _PLAIN_MODES

    @property
    def described(self) -> str:
        """What it is, for a message: "a symbolic link"."""
        return _ODD_ENTRIES.get(self.mode, f"an entry of mode {self.mode.decode('ascii', 'replace')}")


def check_tag(tag: str) -> str:
    """The tag itself, when it can be a branch and a folder.

    Raises:
        UsageError: it has characters that a branch, a folder and a table row cannot all carry.
    """
    if not _TAG.fullmatch(tag) or tag.endswith((".lock", ".")) or ".." in tag:
        raise UsageError(
            f"{tag!r} cannot be a run tag: letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit",
            hint="autoresearch research nov21",
        )
    return tag


class Repository:
    """A git repository seen through plumbing commands.

    Raises (every method):
        WorkspaceError: git failed or took too long; the message carries what git said.
    """

    def __init__(self, start: Path) -> None:
        """Find the repository that holds `start`.

        Raises:
            WorkspaceError: there is none, it belongs to someone else, or git is not installed.
        """
        self.toplevel = start  # where git runs, until it has told us the top
        self.toplevel = self._place(start, "--show-toplevel")
        if not start.resolve().is_relative_to(self.toplevel.resolve()):
            raise WorkspaceError(
                f"git takes {self.toplevel} for the checkout of {start}: core.worktree points elsewhere",
                hint=f"git -C {start} config --unset core.worktree",
            )
        self.common_dir = self._place(start, "--git-common-dir")
        self._sharing = self._config("core.sharedRepository")
        self._hash_name = self._config("extensions.objectFormat") or "sha1"

    def _place(self, start: Path, which: str) -> Path:
        # one question a call: a path may hold a line feed
        found = self._run(("rev-parse", "--path-format=absolute", which), None, None)
        if found.returncode == 0:
            return Path(os.fsdecode(found.stdout.removesuffix(b"\n")))
        said = found.stderr.decode(errors="replace").strip()
        if "dubious ownership" in said:
            advice = (line.strip() for line in said.splitlines() if line.strip().startswith("git config"))
            raise WorkspaceError(
                f"the repository of {start} belongs to another user, so git does not trust it",
                hint=one_line(next(advice, f"git config --global --add safe.directory '{start}'"), 1000),
            )
        last = one_line(said.splitlines()[-1]) if said else ""
        detail = f" ({last})" if last and "not a git repository" not in last else ""
        raise WorkspaceError(
            f"{start} is not inside a git repository{detail}",
            hint="autoresearch init mylab && cd mylab   (or: git init && git add -A && git commit -m start)",
        )

    # -- calling git --------------------------------------------------------------------------------------------------

    def git(self, *arguments: str, stdin: bytes | None = None, extra: Mapping[str, str] | None = None) -> bytes:
        """Run one git command on the repository itself, with our safe configuration; returns its standard output."""
        return _output(arguments, self._run(arguments, stdin, extra))

    def _run(
        self, arguments: tuple[str, ...], stdin: bytes | None, extra: Mapping[str, str] | None
    ) -> subprocess.CompletedProcess[bytes]:
        return _call_git(arguments, self.toplevel, stdin, _environment(extra))

    def _objects(self, *arguments: str, stdin: bytes | None = None, extra: Mapping[str, str] | None = None) -> bytes:
        """Run one git command on objects alone, away from everything else in the repository."""
        with _bare_folder(self._hash_name) as folder:
            alone = {
                "GIT_DIR": str(folder),
                "GIT_OBJECT_DIRECTORY": str(self.common_dir / "objects"),
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_NOSYSTEM": "1",
                "HOME": str(folder),  # git before 2.32 does not know GIT_CONFIG_GLOBAL
                "XDG_CONFIG_HOME": str(folder),
            }
            shared = ("-c", f"core.sharedRepository={self._sharing}") if self._sharing else ()
            return _output(
                arguments, _call_git((*shared, *arguments), folder, stdin, _environment({**alone, **(extra or {})}))
            )

    # -- places -------------------------------------------------------------------------------------------------------

    def identity(self) -> Identity:
        """The user's name and e-mail as git knows them.

        Raises:
            WorkspaceError: git does not know them.
        """
        name = one_line(os.environ.get("GIT_AUTHOR_NAME") or self._config("user.name"))
        email = one_line(os.environ.get("GIT_AUTHOR_EMAIL") or self._config("user.email"))
        if not name or not email:
            raise WorkspaceError(
                "git does not know who you are, and every experiment is a commit",
                hint='git config --global user.name "Your Name" && git config --global user.email you@example.org',
            )
        return Identity(name, email)

    def _config(self, key: str) -> str:
        done = self._run(("config", "--get", key), None, None)
        return done.stdout.decode(errors="replace").strip()

    def resolve(self, name: str) -> str | None:
        """Full hash of the commit a name points to, or None when there is none."""
        done = self._run(("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"), None, None)
        return done.stdout.decode().strip() or None

    def head(self) -> str:
        """Hash of the checkout's commit.

        Raises:
            WorkspaceError: the repository has no commit yet.
        """
        commit = self.resolve("HEAD")
        if commit is None:
            raise WorkspaceError("this repository has no commit yet", hint="git add -A && git commit -m start")
        return commit

    def set_ref(self, ref: str, commit: str, *, expect: str | None = None) -> None:
        """Point `ref` at `commit`. With `expect`, only when it stands there now ("" means: it must not exist).

        A ref that someone made a symbolic one is replaced; the branch it named does not move.
        """
        expected = () if expect is None else (expect or "0" * len(commit),)
        self.git("update-ref", "--no-deref", ref, commit, *expected)

    def branch_checked_out_at(self, branch: str) -> Path | None:
        """Where some worktree has this branch checked out, or None."""
        ref = f"refs/heads/{branch}"
        # null bytes, because a folder's name may hold a line feed; it lists branches below that name too
        out = self.git("for-each-ref", "--format=%(refname)%00%(worktreepath)%00", ref)
        fields = out.split(b"\0")
        for name, place in zip(fields[::2], fields[1::2], strict=False):
            if name.lstrip(b"\n") == ref.encode() and place:
                return Path(os.fsdecode(place))
        return None

    def refresh_index(self, commit: str, paths: list[str]) -> None:
        """Give the checkout's index these files as they are in `commit`; nothing else of it changes."""
        for path in paths:
            entry = self._file_entry(commit, path)
            if entry is not None:
                cached = f"{entry.mode.decode()},{entry.object_id},{path}"
                self.git("update-index", "--add", "--replace", "--cacheinfo", cached, extra=self._without_filters())

    def dirty_paths(self) -> list[str]:
        """Tracked files of the checkout that differ from its commit, and new files that git does not ignore."""
        arguments = ("--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=all")
        out = self.git("status", *arguments, extra=self._without_filters()).decode(errors="replace")
        return [entry[3:] for entry in out.split("\0") if len(entry) > 3]

    def _without_filters(self) -> dict[str, str]:
        """Environment that empties every configured clean filter: `status` would run them on changed files."""
        pattern = r"^filter\..*\.(clean|process|required)$"
        found = self._run(("config", "--null", "--name-only", "--get-regexp", pattern), None, None)
        names = [name for name in os.fsdecode(found.stdout).split("\0") if name]
        switched = {"GIT_CONFIG_COUNT": str(len(names))}
        for number, name in enumerate(names):
            switched[f"GIT_CONFIG_KEY_{number}"] = name
            switched[f"GIT_CONFIG_VALUE_{number}"] = "false" if name.endswith(".required") else ""
        return switched

    # -- objects ------------------------------------------------------------------------------------------------------

    def read_blob(self, commit: str, path: str) -> str | None:
        """Text of one file in a commit (UTF-8), or None when nothing is there.

        Raises:
            WorkspaceError: it is a link, a submodule, a folder or of an odd mode, larger than MAX_SURFACE_BYTES, not
                UTF-8 text, or not what its hash says.
        """
        entry = self._file_entry(commit, path)
        if entry is None:
            return None
        shown = f"git show {commit[:10]}:{path}"
        size = int(self._objects("cat-file", "-s", entry.object_id))
        if size > MAX_SURFACE_BYTES:
            raise WorkspaceError(
                f"{path} in {commit[:10]} is {size:,} bytes; a surface file may have {MAX_SURFACE_BYTES:,}",
                hint=f"{shown} | head   (then commit a smaller one)",
            )
        data = self._objects("cat-file", "blob", entry.object_id)
        if hashlib.new(self._hash_name, b"blob %d\0" % len(data) + data).hexdigest() != entry.object_id:
            raise WorkspaceError(f"object {entry.object_id[:10]} ({path}) is damaged or forged", hint="git fsck")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise WorkspaceError(
                f"{path} in {commit[:10]} is not UTF-8 text", hint=f"{shown} | file -   (then commit it as UTF-8)"
            ) from error
        if "\0" in text:
            raise WorkspaceError(
                f"{path} in {commit[:10]} holds a null byte", hint=f"{shown} | file -   (then commit it as text)"
            )
        return text

    def commit_files(
        self, parent: str, files: Mapping[str, str], message: str, *, identity: Identity, when: int
    ) -> str:
        """A commit on top of `parent` with these files replaced; returns its hash. No ref, index or checkout moves.

        Only the trees on the way to the files are written anew; whatever else the parent holds (links, submodules, odd
        names) is carried by its hash, unread. The same arguments give the same hash, so that a kill between this and the
        ledger can be repeated. `when` is in seconds since 1970 (UTC).

        Raises:
            WorkspaceError: a path leaves the checkout or enters git's own folder, a text cannot be a file of
                MAX_SURFACE_BYTES, or a folder on the way is something else in the parent.
        """
        for path, text in files.items():
            if any(_is_forbidden(name) for name in path.split("/")):
                raise WorkspaceError(f"{one_line(path)!r} cannot be a file of a commit", hint="git ls-files")
            if why := why_not_a_file(text, MAX_SURFACE_BYTES):
                raise WorkspaceError(f"the new text of {path} {why}", hint="git diff --stat   (then a smaller edit)")
        tree = self._objects("rev-parse", "--verify", f"{parent}^{{tree}}").decode().strip()
        for path, text in sorted(files.items()):
            # no --path: nothing is filtered or converted
            blob = self._objects("hash-object", "-w", "--no-filters", "--stdin", stdin=text.encode()).decode().strip()
            tree = self._tree_with(tree, os.fsencode(path).split(b"/"), blob)
        who = {
            "GIT_AUTHOR_NAME": identity.name,
            "GIT_AUTHOR_EMAIL": identity.email,
            "GIT_AUTHOR_DATE": f"{when} +0000",
            "GIT_COMMITTER_NAME": identity.name,
            "GIT_COMMITTER_EMAIL": identity.email,
            "GIT_COMMITTER_DATE": f"{when} +0000",
        }
        arguments = ("commit-tree", tree, "-p", parent, "-F", "-")
        return self._objects(*arguments, stdin=message_text(message).encode(), extra=who).decode().strip()

    def _tree_with(self, tree: str | None, path: list[bytes], blob: str) -> str:
        """Hash of `tree` (None: an empty one) with the file at `path`, a list of names, replaced."""
        name, *below = path
        entries = [] if tree is None else self._list(tree)
        present = next((entry for entry in entries if entry.name == name), None)
        if below:
            if present is not None and present.kind != b"tree":
                raise WorkspaceError(
                    f"{one_line(os.fsdecode(name))} is {present.described} in the commit, not a folder",
                    hint="git ls-tree HEAD",
                )
            inner = self._tree_with(present.object_id if present else None, below, blob)
            entry = TreeEntry(b"040000", b"tree", inner, name)
        else:
            entry = TreeEntry(b"100644", b"blob", blob, name)
        kept = [other for other in entries if other.name != name]
        lines = [b"%s %s %s\t%s\0" % (e.mode, e.kind, e.object_id.encode(), e.name) for e in (*kept, entry)]
        return self._objects("mktree", "-z", "--missing", stdin=b"".join(lines)).decode().strip()

    def _list(self, tree: str, *paths: str) -> list[TreeEntry]:
        out = self._objects("ls-tree", "-z", "--full-tree", tree, *(("--", *paths) if paths else ()))
        found = []
        for line in out.split(b"\0"):
            if line:
                facts, name = line.split(b"\t", 1)
                mode, kind, object_id = facts.split(b" ")
                found.append(TreeEntry(mode, kind, object_id.decode(), name))
        return found

    def _file_entry(self, commit: str, path: str) -> TreeEntry | None:
        """The plain file at `path`, or None when nothing is there.

        Raises:
            WorkspaceError: something else is there, or the tree names it twice.
        """
        entries = [entry for entry in self._list(commit, path) if entry.name == os.fsencode(path)]
        if not entries:
            return None
        what = "there more than once" if len(entries) > 1 else entries[0].described
        if len(entries) > 1 or not entries[0].is_plain_file:
            name = PurePosixPath(path).name
            raise WorkspaceError(
                f"{path} in commit {commit[:10]} is {what}; it must be a plain file",
                hint=f"git rm --cached {name}, put a plain file there, git add {name} && git commit -m 'plain {name}'",
            )
        return entries[0]

    def diff(self, old: str, new: str) -> str:
        """Unified diff between two commits, as text: the same whatever anybody's configuration says."""
        arguments = (
            "--patch", "--unified=3", "--src-prefix=a/", "--dst-prefix=b/", "--no-renames", "--no-color", "--no-ext-diff",
            "--no-textconv", "--diff-algorithm=myers", "--no-indent-heuristic", "--submodule=short", "--no-relative",
        )  # fmt: skip
        return self._objects("diff-tree", "-r", *arguments, old, new).decode(errors="replace")

    def changed_paths(self, old: str, new: str) -> list[str]:
        """Paths that differ between two commits."""
        out = self._objects("diff-tree", "-r", "-z", "--no-renames", "--name-only", old, new)
        return [path for path in out.decode(errors="replace").split("\0") if path]


def _is_forbidden(name: str) -> bool:
    """Whether git must never have a file or folder of that name: one that some file system takes for `.git`, `.` or `..`.

    Zero-width characters do not count on HFS+, and NTFS drops dots and spaces at the end, reads `:` as the start of a
    stream and knows `.git` as `git~1`.
    """
    folded = one_line(name).casefold().split(":")[0]
    short = folded.rstrip(". ")
    return not short or short == ".git" or re.fullmatch(r"git~\d+", short) is not None or "\0" in name


@contextmanager
def _bare_folder(hash_name: str) -> Iterator[Path]:
    """A git directory with nothing in it: three entries are all that git asks for. Making and removing it takes 0.5 ms."""
    try:
        made = tempfile.TemporaryDirectory(prefix="autoresearch-git-", ignore_cleanup_errors=True)
        folder = Path(made.name)
        (folder / "refs").mkdir()
        (folder / "objects").mkdir()
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
        if hash_name != "sha1":
            format_lines = f"[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = {hash_name}\n"
            (folder / "config").write_text(format_lines)
    except OSError as error:
        raise disk_error(error, Path(tempfile.gettempdir())) from error
    with made:
        yield folder


def _call_git(
    arguments: tuple[str, ...], folder: Path, stdin: bytes | None, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    options = [part for setting in _SAFE_CONFIG for part in ("-c", setting)]
    try:
        return subprocess.run(
            ["git", "--no-pager", *options, *arguments],
            cwd=folder,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            env=environment,
            timeout=_GIT_SECONDS,
        )
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise WorkspaceError(f"{folder} is not there", hint=f"ls {folder.parent}") from error
        raise WorkspaceError("git is not installed", hint=_INSTALL_GIT) from error
    except subprocess.TimeoutExpired as error:
        raise WorkspaceError(
            f"git {arguments[0]} did not end within {_GIT_SECONDS:.0f} seconds",
            hint="git fsck   (a FIFO or a lock among git's files?)",
        ) from error


def _output(arguments: tuple[str, ...], done: subprocess.CompletedProcess[bytes]) -> bytes:
    if done.returncode != 0:
        said = one_line(done.stderr.decode(errors="replace")[-500:], 500)
        raise WorkspaceError(
            f"git {arguments[0]} failed: {said}", hint="git status   (then run the same command again)"
        )
    return done.stdout


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The user's environment without the variables that would redirect git."""
    mine = ("GIT_SSL_CAINFO", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in mine}
    kept.update(
        {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "LC_ALL": "C",
        }
    )
    return kept | dict(extra or {})


def start_repository(folder: Path, files: list[str]) -> None:
    """`git init` in a folder, and one commit of these files by the user.

    Raises:
        WorkspaceError: git does not know the user, or failed.
    """
    command = ("init", "--quiet", "-b", "main")
    done = _call_git(command, folder, None, _environment())
    if done.returncode != 0:
        said = one_line(done.stderr.decode(errors="replace")[-500:], 500)
        raise WorkspaceError(f"git init failed: {said}", hint="git --version   (2.31 or newer is needed)")
    repository = Repository(folder)
    identity = repository.identity()
    repository.git("add", "--", *files)
    who = ("-c", f"user.name={identity.name}", "-c", f"user.email={identity.email}")
    repository.git(*who, "commit", "--quiet", "-m", "Start a workspace")
