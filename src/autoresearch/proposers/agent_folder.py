"""The folder that a coding agent works in: what it is given, and what is found there afterwards."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch.hostile_text import why_not_a_file
from autoresearch.proposers.agent_clients import IDEA_FILE, TASK_FILE
from autoresearch.repository import MAX_SURFACE_BYTES
from autoresearch.sandbox.cell import remove_folder
from autoresearch.vocabulary import UsageError

_MAX_IDEA_BYTES = 16_384
_MAX_ENTRIES = 2000  # looked at
_MAX_OUTSIDE = 8  # named
# What programs leave where they run. Entries that begin with a dot are the agent's own state.
_LITTER = ("__pycache__",)


@dataclass(frozen=True)
class Found:
    """What an agent left. files: texts of those that it may edit; "" for one of which `odd` says why it has none. outside:
    other files that it changed or added, as it named them. idea: what it wrote down of its idea."""

    files: dict[str, str]
    odd: str
    outside: tuple[str, ...]
    idea: str


class AgentFolder:
    """A private folder outside of every workspace, removed at the end of the `with` block, whatever is in it by then."""

    def __init__(self, root: Path, files: Mapping[str, str], readable: Mapping[str, str]) -> None:
        """`root` is the workspace, which the folder must not be part of; `files` are texts to edit and `readable` texts to look
        at, by file name.

        Raises:
            UsageError: the folder for temporary files lies in the workspace.
        """
        self._editable = tuple(files)
        self._given = dict(readable)
        parent = Path(tempfile.gettempdir()).resolve()
        if parent.is_relative_to(root.resolve()):
            raise UsageError(f"temporary files go to {parent}, inside the workspace", hint="unset TMPDIR")
        self._outer = Path(tempfile.mkdtemp(prefix="autoresearch-agent-", dir=parent))  # mode 0700
        self.path = self._outer / "desk"
        self.path.mkdir()
        # The agent can rename what the descriptor stands for, and cannot put another folder in its place.
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for name, content in files.items():
            self._put(name, content, 0o644)
        for name, content in self._given.items():
            self._put(name, content, 0o444)

    def __enter__(self) -> AgentFolder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        remove_folder(self._outer)

    @property
    def fixed(self) -> tuple[Path, ...]:
        """What in it the agent may only read."""
        return tuple(self.path / name for name in self._given)

    def give(self, name: str, text: str) -> None:
        """Lay one more file there to be read. Before the agent runs: afterwards links may stand anywhere in here."""
        self._given[name] = text
        self._put(name, text, 0o444)

    def _put(self, name: str, text: str, mode: int) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        path.chmod(mode)

    def look(self) -> Found:
        """What is there now. Links are not followed, nothing but plain files is opened, and all reading is bounded."""
        read = {name: self._read(name, MAX_SURFACE_BYTES) for name in self._editable}
        odd = next((f"{name} {why}" for name, (_, why) in read.items() if why), "")
        idea, _ = self._read(IDEA_FILE, _MAX_IDEA_BYTES)
        return Found({name: text for name, (text, _) in read.items()}, odd, tuple(self._outside()), idea)

    def _outside(self) -> Iterator[str]:
        """Names of files that it had no business to change or add, each once."""
        named = 0
        for name, content in self._given.items():
            if not name.startswith(".") and self._read(name, MAX_SURFACE_BYTES)[0] != content:
                named += 1
                yield name
        for name in self._files():
            if named == _MAX_OUTSIDE:
                return
            if name not in (*self._editable, IDEA_FILE, *self._given):
                named += 1
                yield name

    def _files(self) -> Iterator[str]:
        """Relative names of everything but folders, the agent's own state and litter aside."""
        waiting = [""]
        left = _MAX_ENTRIES
        while waiting:
            below = waiting.pop()
            try:
                inner = self._open_folder(below)
            except OSError:
                yield below
                continue
            try:
                with os.scandir(inner) as entries:
                    for entry in entries:
                        left -= 1
                        if left < 0:
                            return
                        if entry.name.startswith(".") or entry.name in _LITTER:
                            continue
                        name = f"{below}/{entry.name}" if below else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(name)
                        else:
                            yield name
            finally:
                os.close(inner)

    def _open_folder(self, below: str) -> int:
        """A descriptor of a folder in here, no link on the way."""
        opened = os.dup(self._descriptor)
        for part in below.split("/") if below else []:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                deeper = os.open(part, flags, dir_fd=opened)
            finally:
                os.close(opened)
            opened = deeper
        return opened

    def _read(self, name: str, most: int) -> tuple[str, str]:
        """(text, "") of a plain file, or ("", why there is none)."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO would block without O_NONBLOCK
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return "", "was removed"
            return "", "became a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return "", "is no plain file any more"
            data = b""
            while len(data) <= most and (piece := os.read(descriptor, most + 1 - len(data))):
                data += piece
        finally:
            os.close(descriptor)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            # a character may be cut in two by the bound
            return "", f"is larger than {most:,} bytes" if len(data) > most else "is not UTF-8 text"
        why = why_not_a_file(text, most)
        return ("", why) if why else (text, "")


def readable_copies(places: Mapping[str, Path], task: str) -> dict[str, str]:
    """Texts that an agent may look at, by their names in its folder, and its task. A file that is missing or odd is left out."""
    found = {TASK_FILE: task}
    for name, path in places.items():
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_SURFACE_BYTES:
            text = path.read_bytes().decode("utf-8", "replace")
            found[name] = text
    return found
