"""Where a workspace keeps its files, and the one truth about who may edit what."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch.files import write_whole
from autoresearch.hostile_text import one_line, why_not_a_file
from autoresearch.repository import MAX_SURFACE_BYTES, Repository, start_repository
from autoresearch.vocabulary import Proposal, ScopeError, UsageError, WorkspaceError

# The one truth: which files each program may edit. Banners, programs, plugin and sandbox are tested against it.
SCOPES: Mapping[str, tuple[str, ...]] = {
    "model": ("train.py", "train_mlx.py"),
    "data": ("prepare.py", "data_sources.py"),
}
FROZEN = ("train_optimal.py",)  # surface files that no program edits
BRANCH_PREFIX: Mapping[str, str] = {"model": "autoresearch", "data": "autoresearch-data"}


def surface_of(program: str, entry: str) -> tuple[str, ...]:
    """The files that make up one candidate, `entry` first: in the data program all of its scope, else that file alone."""
    if program != "data":
        return (entry,)
    return (entry, *(name for name in SCOPES[program] if name != entry))


def banner_for(program: str) -> str:
    """Line 1 of every surface file that this program edits."""
    page = {"model": "program.md", "data": "program_data.md"}[program]
    return f"# Edited by the {program} program ({page}). Everything in this file may change; no other file may."


def check_scope(program: str, paths: list[str]) -> None:
    """Pass when every path is one that the program may edit.

    Raises:
        ScopeError: names the first that is not.
    """
    allowed = SCOPES[program]
    outside = [path for path in paths if path not in allowed]
    if outside:
        raise ScopeError(
            f"the {program} program may edit {' and '.join(allowed)}, and this edit touches {outside[0]!r}",
            hint=f"git checkout -- {outside[0]}",
        )


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,7}")
_MAX_FILES = 8
_REFUSED = "refused"  # key in `Proposal.details`


def admitted(proposal: Proposal, program: str | None = None) -> Proposal:
    """The proposal as ledger, git, tables and file system can all hold it. Call it before anything is recorded.

    The description becomes one bounded line. A proposal with a file that cannot be one (its name is not plain, its text is
    not UTF-8, holds a null byte or is larger than MAX_SURFACE_BYTES) loses its files and carries why it is refused; see
    `refusal_of`. With `program`, so does one that names a file that this program may not edit: nothing of it reaches git.
    """
    described = replace(proposal, description=one_line(proposal.description) or "(no description)")
    why = refusal_of(proposal) or _why_inadmissible(proposal.files, program)
    return replace(described, files={}, details={**proposal.details, _REFUSED: why}) if why else described


def refusal_of(proposal: Proposal) -> str:
    """Why `admitted` refused it, or "" when it did not."""
    return str(proposal.details.get(_REFUSED, ""))


def _why_inadmissible(files: Mapping[str, str], program: str | None) -> str:
    if not files:
        return "the proposal edits no file"
    if len(files) > _MAX_FILES:
        return f"the proposal edits {len(files)} files, and {_MAX_FILES} is the most"
    for name, text in files.items():
        if not _PLAIN_NAME.fullmatch(name):
            return f"{one_line(name, 80)!r} is not a plain file name"
        if why := why_not_a_file(text, MAX_SURFACE_BYTES):
            return f"the new text of {name} {why}"
        if program is not None and name not in SCOPES[program]:
            return f"it touches {name}, and the {program} program may edit {', '.join(SCOPES[program])}"
    return ""


@dataclass(frozen=True)
class Workspace:
    """A git repository with surface files, and every path that a session writes in it."""

    root: Path
    repository: Repository

    @property
    def state_dir(self) -> Path:
        """Our folder inside the common git directory: no checkout, reset or clean reaches it."""
        return self.repository.common_dir / "autoresearch"

    @property
    def ledger_path(self) -> Path:
        return self.state_dir / "ledger.sqlite3"

    def checkpoints_dir(self, tag: str) -> Path:
        return self.state_dir / "checkpoints" / tag

    def lock_path(self, tag: str) -> Path:
        return self.state_dir / f"{tag}.lock"

    @property
    def results_path(self) -> Path:
        return self.root / "results.tsv"

    @property
    def history_path(self) -> Path:
        return self.root / "results_history.tsv"

    @property
    def log_path(self) -> Path:
        return self.root / "EXPERIMENT_LOG.md"

    @property
    def run_log_path(self) -> Path:
        return self.root / "run.log"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def chart_path(self) -> Path:
        return self.root / "progress.png"

    def session_dir(self, tag: str) -> Path:
        return self.root / "logs" / tag

    def snapshot_dir(self, tag: str, number: int) -> Path:
        return self.session_dir(tag) / str(number)

    def status_path(self, name: str, tag: str | None = None) -> Path:
        """`train_status.txt` and its like: the newest at the root, each session's own under logs/."""
        folder = self.root if tag is None else self.session_dir(tag)
        return folder / f"{name}_status.txt"

    def settings(self) -> dict[str, Any]:
        """The table [tool.autoresearch] of the workspace's pyproject.toml; empty when there is none.

        Raises:
            WorkspaceError: the file is not valid TOML, or the name is not a table in it.
        """
        path = self.root / "pyproject.toml"
        if not path.is_file():
            return {}
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise WorkspaceError(
                f"{path} cannot be read: {error}", hint=f"mend {path.name}, or git checkout -- {path.name}"
            ) from error
        tools = table.get("tool", {})
        settings = tools.get("autoresearch", {}) if isinstance(tools, dict) else tools
        if not isinstance(settings, dict):
            raise WorkspaceError(
                f"{path}: tool.autoresearch is not a table", hint=f"write [tool.autoresearch] in {path.name}"
            )
        return settings

    def check_writable(self) -> None:
        """Pass when records can be written here.

        Raises:
            WorkspaceError: the workspace or its git directory is read-only.
        """
        for folder in (self.root, self.repository.common_dir):
            if not os.access(folder, os.W_OK) or _read_only_filesystem(folder):
                raise WorkspaceError(
                    f"{folder} is read-only, and a session writes its record there",
                    hint=f"chmod u+w {folder}   (or clone the workspace to a folder of your own)",
                )

    def read_surface(self, commit: str, name: str) -> str:
        """Text of one surface file at a commit.

        Raises:
            UsageError: no such file there.
            WorkspaceError: it is there as a link, submodule or folder, too large, or not text.
        """
        text = self.repository.read_blob(commit, self._path_in_repository(name))
        if text is None:
            raise UsageError(
                f"{name} is not in commit {commit[:10]}", hint=f"git add {name} && git commit -m 'add {name}'"
            )
        return text

    def read_checkout(self, name: str) -> str:
        """Text of one surface file as it lies in the checkout, byte for byte; links are not followed.

        Raises:
            WorkspaceError: it is missing, not a plain file, larger than MAX_SURFACE_BYTES, or not text.
        """
        path = self.root / name
        restore = f"git checkout -- {name}"
        try:
            # without O_NONBLOCK a FIFO of that name would block here for ever
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise WorkspaceError(f"{path} cannot be read: {why}", hint=f"rm -f {name} && {restore}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                odd = f"mv {name} {name}.odd && {restore}"
                raise WorkspaceError(f"{path} cannot be read: it is not a plain file", hint=odd)
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                data = stream.read(MAX_SURFACE_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(data) > MAX_SURFACE_BYTES:
            raise WorkspaceError(
                f"{path} is larger than {MAX_SURFACE_BYTES:,} bytes, the most a surface file may have", hint=restore
            )
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise WorkspaceError(
                f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", hint=restore
            ) from error
        if "\0" in text:
            raise WorkspaceError(f"{path} holds a null byte", hint=restore)
        return text

    def write_checkout(self, name: str, text: str) -> None:
        """Put `text` into the checkout as that surface file, whole, keeping its permissions; a link there is replaced.

        Raises:
            DiskError: the disk is full, or the workspace cannot be written.
        """
        path = self.root / name
        mode = path.lstat().st_mode if os.path.lexists(path) else 0
        write_whole(path, text)
        if stat.S_ISREG(mode):
            path.chmod(stat.S_IMODE(mode))

    def _path_in_repository(self, name: str) -> str:
        return (self.root.resolve() / name).relative_to(self.repository.toplevel.resolve()).as_posix()

    def in_repository(self, files: Mapping[str, str]) -> dict[str, str]:
        """The same files under their paths from the repository's top."""
        return {self._path_in_repository(name): text for name, text in files.items()}

    def dirty_surface(self, names: tuple[str, ...]) -> list[str]:
        """Which of these surface files the user has changed without committing."""
        dirty = set(self.repository.dirty_paths())
        return [name for name in names if self._path_in_repository(name) in dirty]


def open_workspace(start: Path | None = None) -> Workspace:
    """The workspace that holds `start` (default: the current folder): the nearest folder upward with a train.py.

    Raises:
        WorkspaceError: no git repository here, or no train.py in it.
    """
    here = (start or Path.cwd()).absolute()
    repository = Repository(here)
    top = repository.toplevel.resolve()
    folder = here.resolve()
    while True:
        # a dangling link or a folder of that name counts too: reading it says what is wrong
        if any(os.path.lexists(folder / name) for name in SCOPES["model"]):
            return Workspace(folder, repository)
        if folder == top or folder.parent == folder:
            break
        folder = folder.parent
    raise WorkspaceError(
        f"no train.py in {here} or above it: this is not a workspace", hint="autoresearch init mylab && cd mylab"
    )


def _read_only_filesystem(folder: Path) -> bool:
    """True where the file system is mounted read-only (root passes os.access there)."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


# -- making a workspace -------------------------------------------------------------------------------------------------

# Files a new workspace starts with; the wheel carries the same ones (a test compares this with pyproject.toml).
WORKSPACE_FILES = (
    *SCOPES["model"],
    *FROZEN,
    *SCOPES["data"],
    "program.md",
    "program_data.md",
    ".gitignore",
)

_PYPROJECT = """\
[project]
name = "{name}"
version = "0"
requires-python = ">=3.11"
dependencies = ["{requirement}"]

[tool.uv]
package = false

[tool.autoresearch]
"""


def template_path(name: str) -> Path:
    """Where this installation keeps one workspace file: in the wheel, or at the root of its checkout.

    Raises:
        WorkspaceError: the installation has lost it.
    """
    package = Path(__file__).resolve().parent
    for path in (package / "_workspace" / name, package.parents[1] / name):
        if path.is_file():
            return path
    raise WorkspaceError(f"this installation has no {name}", hint="pip install --force-reinstall autoresearch")


def create_workspace(folder: Path, *, requirement: str) -> list[str]:
    """Make `folder` a workspace in a git repository of its own, with a first commit. Returns what it holds.

    Raises:
        WorkspaceError: the folder is not empty, or git does not know the user.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WorkspaceError(f"{folder} exists and is not empty", hint=f"autoresearch init {folder.name}-2")
    folder.mkdir(parents=True, exist_ok=True)
    for name in WORKSPACE_FILES:
        (folder / name).write_bytes(template_path(name).read_bytes())
    text = _PYPROJECT.format(
        name=re.sub(r"[^a-z0-9-]+", "-", folder.name.lower()).strip("-") or "lab", requirement=requirement
    )
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    made = [*WORKSPACE_FILES, "pyproject.toml"]
    try:
        start_repository(folder, made)
    except WorkspaceError:
        shutil.rmtree(folder)  # all of it is ours, and the same command must work once git is set up
        raise
    return made
