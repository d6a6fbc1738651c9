"""Which files of this machine a candidate may read: the interpreter, packages entry by entry, libraries and compilers.

An allow-list, at the same paths as outside: no home, no repository, no data. The embedded corpus never shows, wherever
it is installed; of an editable installation only the importable entries of its source folder do.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch.sandbox.environment import clean_environment
from autoresearch.vocabulary import InstallationError

TEXT_PACKAGE = "autoresearch_corpus"

# Libraries, compilers and their headers; what is missing on a machine is left out. /usr/sbin has ldconfig, which Triton asks
# for libcuda; /etc/alternatives has the links behind `c++`. No /usr/share but what the C library reads: it holds text.
LINUX_FOLDERS = (
    *("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin"),
    *("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/bin", "/usr/sbin", "/usr/include"),
    *("/usr/local/lib", "/usr/local/lib64", "/usr/local/bin", "/usr/local/include", "/nix/store"),
    *("/usr/share/zoneinfo", "/usr/share/locale", "/etc/alternatives", "/etc/localtime"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/OpenCL"),
)
LINUX_PATTERNS = (("/usr/local", "cuda*"), ("/opt", "rocm*"))
DARWIN_FOLDERS = (
    *("/usr/lib", "/usr/bin", "/usr/include", "/usr/libexec", "/usr/share/zoneinfo", "/usr/share/locale", "/bin"),
    *("/System/Library", "/System/Volumes/Preboot/Cryptexes", "/Library/Developer", "/Library/Apple"),
    *("/Applications/Xcode.app", "/private/var/db/timezone", "/private/var/select", "/private/etc/localtime"),
)
_FOLDERS_BY_VARIABLE = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH")  # environment.py passes these on
_IMPORTABLE = (".py", ".so", ".pyd", ".dylib", ".dist-info", ".egg-info")

_ASK_THE_INTERPRETER = """
import json, sys, sysconfig
try:
    with open("/proc/self/maps") as maps:
        mapped = sorted({line.split(None, 5)[5].strip() for line in maps if "/" in line})
except OSError:
    mapped = []
print(json.dumps({
    "prefixes": [sys.prefix, sys.exec_prefix], "base": sys.base_prefix, "executable": sys.executable, "path": sys.path,
    "base_packages": [sysconfig.get_path(name, vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
                      for name in ("purelib", "platlib")],
    "mapped": [name for name in mapped if name.startswith("/")],
}))
"""


@dataclass(frozen=True)
class Allowed:
    """What a candidate may read. Paths are absolute and real: no component is a symbolic link.

    read: files, and folders with everything beneath. links: symbolic links that lead there, with their text.
    hidden: folders beneath one of `read` that must not show. listed: folders of which only some entries are in `read`.
    """

    read: tuple[Path, ...]
    links: tuple[tuple[Path, str], ...] = ()
    hidden: tuple[Path, ...] = ()
    listed: tuple[Path, ...] = ()

    def expanded(self) -> Allowed:
        """The same without `hidden`: each folder that holds something hidden is replaced by its other entries.

        For layers that can only add rights beneath a folder. The folder itself stays in `listed`.
        """
        read: list[Path] = []
        listed = list(self.listed)
        for root in self.read:
            for folder, entries in _around(root, self.hidden):
                listed += [folder] if folder else []
                read += entries
        return Allowed(tuple(read), self.links, (), tuple(dict.fromkeys(listed)))


def _around(root: Path, hidden: Iterable[Path]) -> Iterator[tuple[Path | None, list[Path]]]:
    """(folder split up or None, entries to allow) so that all of `root` is allowed but what is hidden."""
    inside = [path for path in hidden if path.is_relative_to(root)]
    if not inside:
        yield None, [root]
        return
    if root in inside:
        return
    for entry in sorted(root.iterdir()):
        yield from _around(entry, inside)
    yield root, []


@dataclass
class _Gathered:
    """An allow-list in the making."""

    read: dict[Path, None] = field(default_factory=dict)
    links: dict[Path, str] = field(default_factory=dict)

    def covers(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self.read)

    def add(self, path: Path) -> None:
        """Allow a path and every symbolic link that is passed on the way to it; nothing when it does not exist."""
        if path.exists():
            real = self._walk(path, 40)  # as many links as Linux follows
            if not self.covers(real):
                self.read[real] = None

    def _walk(self, path: Path, links_left: int) -> Path:
        walked = Path(path.anchor)
        parts = path.parts[1:]
        for number, part in enumerate(parts, start=1):
            step = walked / part
            if not step.is_symlink():
                walked = step
                continue
            if links_left == 0:
                raise OSError(f"too many symbolic links on the way to {path}")
            text = str(step.readlink())
            self.links[step] = text
            target = Path(os.path.normpath(walked.resolve() / text))
            return self._walk(target.joinpath(*parts[number:]), links_left - 1)
        return walked

    def done(self, hidden: Iterable[Path], listed: Iterable[Path]) -> Allowed:
        """The finished list: nothing twice, no link where a folder shows it anyway."""
        read = tuple(
            path for path in self.read if not any(path != other and path.is_relative_to(other) for other in self.read)
        )
        final = _Gathered(dict.fromkeys(read))
        links = tuple((path, text) for path, text in self.links.items() if not final.covers(path))
        return Allowed(
            read,
            links,
            tuple(path for path in dict.fromkeys(hidden) if final.covers(path)),
            tuple(path for path in dict.fromkeys(listed) if not final.covers(path)),
        )


@functools.cache
def allowed_here() -> Allowed:
    """What candidates of this process may read, worked out once.

    Raises:
        InstallationError: our own interpreter does not start.
    """
    return allowed_for(_ask_interpreter(), dict(os.environ), sys.platform)


@functools.cache
def allowed_by_entry() -> Allowed:
    """`allowed_here`, with nothing hidden: 230 entries here, listed once because it takes 6 ms."""
    return allowed_here().expanded()


def allowed_for(python: dict[str, Any], environment: dict[str, str], system: str) -> Allowed:
    """What a candidate may read, given what the interpreter says of itself (`_ASK_THE_INTERPRETER`)."""
    found = _Gathered()
    for name in DARWIN_FOLDERS if system == "darwin" else LINUX_FOLDERS:
        found.add(Path(name))
    if system != "darwin":
        for place, pattern in LINUX_PATTERNS:
            for path in sorted(Path(place).glob(pattern)):
                found.add(path)
    for path in _from_variables(environment):
        found.add(path)
    found.add(Path(python["executable"]))
    base = Path(python["base"])
    for prefix in dict.fromkeys([base, *map(Path, python["prefixes"])]):
        if found.covers(prefix.resolve()):
            continue
        for name in ("pyvenv.cfg", "bin", "lib", "lib64", "libexec", "include", "Python", "Resources"):
            found.add(prefix / name)
    folders = [Path(name) for name in python["path"] if name and Path(name).exists()]
    listed = []
    for folder in folders:
        if found.covers(folder.resolve()):
            continue
        if folder.name in ("site-packages", "dist-packages") or folder.is_file():
            found.add(folder)
            continue
        listed.append(folder.resolve())
        for entry in _importable(folder):
            found.add(entry)
    for name in python["mapped"]:  # a shared library from a place that nobody thought of
        found.add(Path(name))
    unused = {Path(name).resolve() for name in python["base_packages"]} - {folder.resolve() for folder in folders}
    return found.done([*_corpora(found.read, folders), *(path for path in unused if path.is_dir())], listed)


def _from_variables(environment: dict[str, str]) -> Iterator[Path]:
    """Folders that passed-on variables name: libraries and toolkits in unusual places, but nothing that holds a home."""
    home = Path(environment.get("HOME", "/nonexistent")).resolve()
    temporary = Path(tempfile.gettempdir()).resolve()
    for variable in _FOLDERS_BY_VARIABLE:
        for name in environment.get(variable, "").split(os.pathsep):
            path = Path(name).resolve() if name.startswith("/") else None
            if path and path.is_dir() and not any(kept.is_relative_to(path) for kept in (home, temporary, Path.cwd())):
                yield Path(name)


def _importable(folder: Path) -> Iterator[Path]:
    """Entries of a source folder that `import` can find, but for the text: no .git, no tests, no data."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == TEXT_PACKAGE:
            continue
        if entry.suffix in _IMPORTABLE or (entry / "__init__.py").is_file():
            yield entry


def _corpora(roots: Iterable[Path], folders: Iterable[Path]) -> Iterator[Path]:
    """Every installed copy of the text that an allowed folder would show."""
    places = [*folders]
    for root in roots:
        for pattern in ("python3*/*-packages", "lib*/python3*/*-packages"):
            places += root.glob(pattern)
    for place in places:
        if (place / TEXT_PACKAGE).is_dir():
            yield (place / TEXT_PACKAGE).resolve()


def _ask_interpreter() -> dict[str, Any]:
    """What a candidate's interpreter will find of itself; ours may have been told otherwise (PYTHONPATH, pytest)."""
    environment = clean_environment(Path(tempfile.gettempdir()), accelerators=False, threads=1)
    command = [sys.executable, "-P", "-s", "-B", "-c", _ASK_THE_INTERPRETER]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise InstallationError(
            f"{sys.executable} does not start: {asked.stderr.strip()[-300:]}", hint="autoresearch doctor"
        )
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer
