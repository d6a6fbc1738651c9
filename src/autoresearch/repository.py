"""The one door to git: plumbing only, so that no checkout, index or branch of the user is ever touched.

Commits are made from blobs and trees in a private index. Hooks, filters, fsmonitor and attribute files of the repository
are switched off for every call, because a candidate's commit is hostile input.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch.vocabulary import UsageError, WorkspaceError

_SAFE_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.untrackedCache=false",
    "protocol.allow=never",
    "commit.gpgSign=false",
    "gc.auto=0",
    "advice.detachedHead=false",
)
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INSTALL_GIT = "install git (apt-get install git, or xcode-select --install)"
MAX_SURFACE_BYTES = 1_000_000  # a training file is 30 kB; text smuggled into code has to fit under this


@dataclass(frozen=True)
class Identity:
    """Who commits. Kept with the session, so that a resumed commit is byte for byte the one that was planned."""

    name: str
    email: str


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
        WorkspaceError: git failed; the message carries what git said.
    """

    def __init__(self, start: Path) -> None:
        """Find the repository that holds `start`.

        Raises:
            WorkspaceError: there is none, or git is not installed.
        """
        try:
            found = subprocess.run(
                ["git", "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir"],
                cwd=start,
                capture_output=True,
                text=True,
                check=False,
                env=_environment(),
            )
        except FileNotFoundError as error:
            raise WorkspaceError("git is not installed", hint=_INSTALL_GIT) from error
        if found.returncode != 0:
            said = found.stderr.strip().splitlines()
            detail = f" ({said[-1]})" if said and "not a git repository" not in said[-1] else ""
            raise WorkspaceError(
                f"{start} is not inside a git repository{detail}",
                hint="autoresearch init mylab && cd mylab   (or: git init && git add -A && git commit -m start)",
            )
        toplevel, common = found.stdout.rstrip("\n").split("\n")
        self.toplevel = Path(toplevel)
        self.common_dir = Path(common)

    def git(self, *arguments: str, stdin: bytes | None = None, extra: Mapping[str, str] | None = None) -> bytes:
        """Run one git command with our safe configuration and return its standard output."""
        done = self._run(arguments, stdin, extra)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise WorkspaceError(
                f"git {arguments[0]} failed: {said[-500:]}", hint="git status   (then run the same command again)"
            )
        return done.stdout

    def _run(
        self, arguments: tuple[str, ...], stdin: bytes | None, extra: Mapping[str, str] | None
    ) -> subprocess.CompletedProcess[bytes]:
        options = [part for setting in _SAFE_CONFIG for part in ("-c", setting)]
        return subprocess.run(
            ["git", *options, *arguments],
            cwd=self.toplevel,  # ls-tree reads paths from where it runs
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            env=_environment(extra),
        )

    def identity(self) -> Identity:
        """The user's name and e-mail as git knows them.

        Raises:
            WorkspaceError: git does not know them.
        """
        name = os.environ.get("GIT_AUTHOR_NAME") or self._config("user.name")
        email = os.environ.get("GIT_AUTHOR_EMAIL") or self._config("user.email")
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

    def read_blob(self, commit: str, path: str) -> str | None:
        """Text of one file in a commit (UTF-8), or None when it is not there as a plain file.

        Raises:
            WorkspaceError: it is larger than MAX_SURFACE_BYTES or not UTF-8.
        """
        listing = self.git("ls-tree", "-z", commit, "--", path).decode(errors="replace")
        if not listing:
            return None
        mode, kind, rest = listing.split(" ", 2)
        blob = rest.split("\t", 1)[0]
        if kind != "blob" or mode == "120000":
            return None
        size = int(self.git("cat-file", "-s", blob))
        if size > MAX_SURFACE_BYTES:
            raise WorkspaceError(
                f"{path} is {size:,} bytes; a surface file may have {MAX_SURFACE_BYTES:,}",
                hint=f"git show {commit[:10]}:{path}",
            )
        data = self.git("cat-file", "blob", blob)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise WorkspaceError(
                f"{path} in {commit[:10]} is not UTF-8 text", hint=f"git show {commit[:10]}:{path} | file -"
            ) from error

    def commit_files(
        self, parent: str, files: Mapping[str, str], message: str, *, identity: Identity, when: int
    ) -> str:
        """A commit on top of `parent` with these files replaced; returns its hash. No ref, index or checkout moves.

        The same arguments give the same hash, so that a kill between this and the ledger can be repeated.
        `when` is in seconds since 1970 (UTC).
        """
        with tempfile.TemporaryDirectory(prefix="autoresearch-index-") as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self.git("read-tree", parent, extra=index)
            for path, text in sorted(files.items()):
                # no --path: attributes and filters of the repository are not applied
                blob = self.git("hash-object", "-w", "--no-filters", "--stdin", stdin=text.encode()).decode().strip()
                self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", extra=index)
            tree = self.git("write-tree", extra=index).decode().strip()
        who = {
            "GIT_AUTHOR_NAME": identity.name,
            "GIT_AUTHOR_EMAIL": identity.email,
            "GIT_AUTHOR_DATE": f"{when} +0000",
            "GIT_COMMITTER_NAME": identity.name,
            "GIT_COMMITTER_EMAIL": identity.email,
            "GIT_COMMITTER_DATE": f"{when} +0000",
        }
        arguments = ("commit-tree", tree, "-p", parent, "-F", "-")
        return self.git(*arguments, stdin=message.encode(), extra=who).decode().strip()

    def set_ref(self, ref: str, commit: str, *, expect: str | None = None) -> None:
        """Point `ref` at `commit`. With `expect`, only when it stands there now ("" means: it must not exist)."""
        if expect is None:
            self.git("update-ref", ref, commit)
        else:
            self.git("update-ref", ref, commit, expect or "0" * 40)

    def refresh_index(self, commit: str, paths: list[str]) -> None:
        """Give the checkout's index these files as they are in `commit`; nothing else of it changes."""
        for path in paths:
            mode, _, rest = self.git("ls-tree", commit, "--", path).decode().split(" ", 2)
            self.git("update-index", "--add", "--cacheinfo", f"{mode},{rest.split(chr(9), 1)[0]},{path}")

    def branch_checked_out_at(self, branch: str) -> Path | None:
        """Where some worktree has this branch checked out, or None."""
        here: Path | None = None
        for line in self.git("worktree", "list", "--porcelain").decode(errors="replace").splitlines():
            if line.startswith("worktree "):
                here = Path(line[len("worktree ") :])
            elif line == f"branch refs/heads/{branch}":
                return here
        return None

    def diff(self, old: str, new: str) -> str:
        """Unified diff between two commits, as text."""
        arguments = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", old, new)
        return self.git(*arguments).decode(errors="replace")

    def changed_paths(self, old: str, new: str) -> list[str]:
        """Paths that differ between two commits."""
        out = self.git("diff-tree", "-r", "-z", "--no-renames", "--name-only", old, new).decode(errors="replace")
        return [path for path in out.split("\0") if path]

    def dirty_paths(self) -> list[str]:
        """Tracked files of the checkout that differ from its commit, and new files that git does not ignore."""
        arguments = ("--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=dirty")
        out = self.git("status", *arguments, extra=self._without_filters()).decode(errors="replace")
        return [entry[3:] for entry in out.split("\0") if len(entry) > 3]

    def _without_filters(self) -> dict[str, str]:
        """Environment that empties every configured clean filter: `status` would run them on changed files."""
        pattern = r"^filter\..*\.(clean|process|required)$"
        found = self._run(("config", "--null", "--name-only", "--get-regexp", pattern), None, None)
        names = [name for name in found.stdout.decode(errors="replace").split("\0") if name]
        switched = {"GIT_CONFIG_COUNT": str(len(names))}
        for number, name in enumerate(names):
            switched[f"GIT_CONFIG_KEY_{number}"] = name
            switched[f"GIT_CONFIG_VALUE_{number}"] = "false" if name.endswith(".required") else ""
        return switched


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The user's environment without the variables that would redirect git."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in ("GIT_SSL_CAINFO", "GIT_CONFIG_GLOBAL")
    }
    kept.update({"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"})
    return kept | dict(extra or {})


def start_repository(folder: Path, files: list[str]) -> None:
    """`git init` in a folder, and one commit of these files by the user.

    Raises:
        WorkspaceError: git does not know the user, or failed.
    """
    command = ["git", "init", "--quiet", "-b", "main"]
    try:
        subprocess.run(command, cwd=folder, check=True, env=_environment(), capture_output=True)
    except FileNotFoundError as error:
        raise WorkspaceError("git is not installed", hint=_INSTALL_GIT) from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise WorkspaceError(
            f"git init failed: {said[-500:]}", hint="git --version   (2.31 or newer is needed)"
        ) from error
    repository = Repository(folder)
    identity = repository.identity()
    repository.git("add", "--", *files)
    who = ("-c", f"user.name={identity.name}", "-c", f"user.email={identity.email}")
    repository.git(*who, "commit", "--quiet", "-m", "Start a workspace")
