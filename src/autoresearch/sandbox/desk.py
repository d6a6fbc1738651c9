"""A coding agent's desk: bubblewrap around a program that must reach its model and log in, and nothing else of ours.

Other than a candidate's cell it has the network and the system's files to read. Hidden are the home (but for the agent's
own places), what runs here (/run, /tmp, /var/tmp), devices, other processes, and every folder that the caller names. It may
write its folder, its own places, and memory. A socket of the machine's network name space is in its reach.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch.sandbox.allowed import TEXT_PACKAGE

SEALED = "bubblewrap"  # what `Proposal.details["agent_sealed"]` says
OPEN = "none"

_TMP_MB = 512  # each of the file systems in memory that it may fill
_PROBE_SECONDS = 20.0  # measured: 0.02 s
_OTHER_THAN_ROOT = ("--uid", "1000", "--gid", "1000")
# Programs live beside other things in these folders of a home: of them only `bin` and `lib` show.
_MIXED_FOLDERS = (".local", ".cargo")


@dataclass(frozen=True)
class Desk:
    """What one agent sees. Paths are absolute.

    folder: where it works, read-write. fixed: files in there that it may only read. own: its configuration and login, files
    or folders, read-write; missing ones are left out. kept: what of these it may only read. emptied: folders of these that
    look empty. programs: folders and files that must show though a hidden place holds them. hidden: folders that do not show.
    """

    folder: Path
    home: Path
    fixed: tuple[Path, ...] = ()
    own: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    emptied: tuple[Path, ...] = ()
    programs: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()

    def command(self, bwrap: Path, command: Sequence[str]) -> list[str]:
        """`command` as bubblewrap starts it at this desk, its working directory the folder."""
        return [str(bwrap), *self._arguments(), "--", *command]

    def _arguments(self) -> list[str]:
        words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        # Not root inside: an agent that sandboxes its own commands (codex) then can, since only the number 0 needs a
        # capability to be mapped once more (measured with codex 0.169: "setting up uid map: Operation not permitted").
        words += _OTHER_THAN_ROOT if os.getuid() == 0 else ()
        words += ["--cap-drop", "ALL", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        masked = [path for path in _masked_by_default(self.home) if path.is_dir()]
        masked += [real for path in self.hidden if (real := path.resolve()).is_dir()]
        masked = _outermost(masked)
        for path in masked:
            words += ["--size", str(_TMP_MB * 2**20), "--perms", "0700", "--tmpfs", str(path)]
        for path in _outermost([real for path in self.programs if (real := path.resolve()).exists()]):
            if _beneath_one_of(path, masked):
                words += ["--ro-bind", str(path), str(path)]
        for path in [real for path in self.hidden if (real := path.resolve()).is_dir()]:
            if any(path.is_relative_to(shown.resolve()) for shown in self.programs):
                words += ["--tmpfs", str(path)]
        for place in _existing(self.own):
            words += ["--bind", place, place]
        for place in _existing(self.kept):
            words += ["--ro-bind", place, place]
        for place in _existing(self.emptied):
            words += ["--tmpfs", place]
        words += [*_name_service(masked), "--bind", str(self.folder), str(self.folder)]
        for place in _existing(self.fixed):
            words += ["--ro-bind", place, place]
        return [*words, "--chdir", str(self.folder)]


def _masked_by_default(home: Path) -> list[Path]:
    """Real paths of the home, of the folders for temporary files, and of the one with the sockets of running services."""
    names = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/run", "/dev/shm")
    return [home.resolve(), *(Path(name).resolve() for name in names)]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths in order, without those beneath another one."""
    unique = list(dict.fromkeys(paths))
    return [path for path in unique if not any(path != other and path.is_relative_to(other) for other in unique)]


def _beneath_one_of(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _existing(paths: Iterable[Path]) -> list[str]:
    return [str(path.resolve()) for path in paths if path.exists()]


def _name_service(masked: Sequence[Path]) -> list[str]:
    """Arguments that show the resolver's configuration, which some systems keep in /run."""
    real = Path("/etc/resolv.conf").resolve()
    return ["--ro-bind", str(real), str(real)] if real.exists() and _beneath_one_of(real, masked) else []


def program_places(command: Sequence[str], *, path_variable: str, guarded: Iterable[Path]) -> tuple[Path, ...]:
    """Folders and files that `command` needs to run: its program, scripts that it names, the installations on PATH.

    An installation is the folder around `bin`, unless that would show a guarded folder (the home, the workspace): then only
    `bin` is. What is hidden within an installation stays hidden.
    """
    kept_away = [path.resolve() for path in guarded]
    found: list[Path] = []

    def show(folder: Path, instead: Path) -> None:
        holds_guarded = any(path.is_relative_to(folder.resolve()) for path in kept_away)
        found.append(instead if holds_guarded else folder)

    for name in path_variable.split(os.pathsep):
        entry = Path(name)
        if not entry.is_absolute() or not entry.is_dir():
            continue
        if entry.parent.name in _MIXED_FOLDERS:
            found += [path for path in (entry, entry.parent / "lib") if path.is_dir()]
        elif entry.name in ("bin", "sbin", "shims", ".bin"):
            show(entry.parent, entry)
        else:
            found.append(entry)
    for word in command:
        path = Path(word)
        if not path.is_absolute() or not path.exists() or path.is_dir():
            continue
        for file in (path, path.resolve()):
            show(file.parent, file)
            modules = [parent for parent in file.parents if parent.name == "node_modules"]
            found += modules[-1:]
        for parent in path.resolve().parents:
            if parent.name == "bin":  # an interpreter of an environment: its packages are beside it
                show(parent.parent, parent)
                break
    return tuple(dict.fromkeys(found))


def installed_text() -> tuple[Path, ...]:
    """Folders of the embedded corpus, wherever it is installed: validation text is among it."""
    found = importlib.util.find_spec(TEXT_PACKAGE)
    places = found.submodule_search_locations if found is not None else None
    return tuple(Path(place) for place in places or ())


@functools.cache
def bubblewrap_for_desks() -> Path | None:
    """The bubblewrap program when a test run proves that a desk holds here, else None; tried once per process.

    The test run tries to read a file in a hidden folder and to write beside its own.
    """
    found = shutil.which("bwrap") if sys.platform == "linux" else None
    if found is None:
        return None
    with tempfile.TemporaryDirectory(prefix="autoresearch-desk-") as name:
        root = Path(name).resolve()
        folder, hidden = root / "folder", root / "hidden"
        for made in (folder, hidden):
            made.mkdir()
        (hidden / "canary").write_text("seen")
        desk = Desk(folder, home=hidden, hidden=(hidden,))
        script = 'echo works > works; cat "$1/canary" > canary; echo no > "$2/outside"; ls /proc > processes'
        shell = ["/bin/sh", "-c", script, "sh", str(hidden), str(root)]
        try:
            subprocess.run(
                desk.command(Path(found), shell), capture_output=True, timeout=_PROBE_SECONDS, check=False, cwd=folder
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        wrote = (folder / "works").is_file()
        leaked = (folder / "canary").is_file() and (folder / "canary").read_text() != ""
        escaped = (root / "outside").exists()
        listed = (folder / "processes").read_text().split() if (folder / "processes").is_file() else []
        alone = 0 < sum(entry.isdigit() for entry in listed) <= 4  # bubblewrap's first process, the shell and ls
    return Path(found) if wrote and alone and not leaked and not escaped else None
