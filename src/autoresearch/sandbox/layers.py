"""Which seals this machine gives: each is tried by a real run that attempts what it must prevent."""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch.sandbox import bubblewrap, landlock, macos, seccomp
from autoresearch.sandbox.cell import Cell
from autoresearch.sandbox.probing import MARK
from autoresearch.sandbox.process_tree import shield_referee
from autoresearch.sandbox.seal import Kind, Part, Seal
from autoresearch.vocabulary import InstallationError, UsageError

__all__ = ["Kind", "Layer", "Part", "Seal", "all_layers", "probe", "shield_referee"]

WISHES = ("auto", *(kind.value for kind in Kind))
_PROBE_SECONDS = 30.0  # measured: 0.1 s; a machine that swaps may take its time

_TRUNCATION_SINCE = 3  # versions of Landlock; see landlock.missing_from
_SIGNALS_SINCE = 6


@dataclass(frozen=True)
class Layer:
    """One line of `autoresearch doctor`. detail: its version, or why it does not work. install: what to type for it."""

    name: str
    works: bool
    defends: str
    detail: str
    install: str = ""


@dataclass(frozen=True)
class _Tried:
    """What came of trying one kind: a seal that holds its parts, or why there is none."""

    seal: Seal | None
    why_not: str = ""


def probe(wish: str = "auto") -> Seal:
    """The strongest seal that a test run proves here, or the one that is wished for; tried once per process.

    Strongest is the one that holds most parts; among equals the first of bubblewrap, Landlock, sandbox-exec.

    Raises:
        UsageError: no kind has this name, or it does not work here.
    """
    if wish not in WISHES:
        raise UsageError(f"no sandbox is called {wish!r}", hint=f"one of: {', '.join(WISHES)}")
    if wish == "auto":
        found = Seal(Kind.NONE, system=sys.platform)
        for kind in (Kind.BUBBLEWRAP, Kind.LANDLOCK, Kind.SANDBOX_EXEC):
            seal = _tried(kind).seal
            if seal is not None and len(seal.parts) > len(found.parts):
                found = seal
            if found.level == "full":
                break
        return found
    tried = _tried(Kind(wish))
    if tried.seal is None:
        raise UsageError(f"the sandbox {wish} does not work here: {tried.why_not}", hint="autoresearch doctor")
    return tried.seal


@functools.cache
def _tried(kind: Kind) -> _Tried:
    if kind is Kind.NONE:
        return _Tried(Seal(kind, system=sys.platform))
    if kind is Kind.SANDBOX_EXEC:
        return _try_sandbox_exec()
    if sys.platform != "linux":
        return _Tried(None, "it needs Linux")
    return _try_bubblewrap() if kind is Kind.BUBBLEWRAP else _try_landlock()


def _try_bubblewrap() -> _Tried:
    program = shutil.which("bwrap")
    if program is None:
        return _Tried(None, "bwrap is not installed")
    filtered = bool(seccomp.compiled(alone=False).program)
    reasons = []
    for number, variant in enumerate(bubblewrap.VARIANTS):
        parts = variant.parts | {Part.SYSTEM_CALLS} if filtered else variant.parts
        tried = _proven(Seal(Kind.BUBBLEWRAP, parts, sys.platform, Path(program), number))
        if tried.seal is not None:
            return tried
        reasons.append(tried.why_not)
    return _Tried(None, reasons[0])


def _try_landlock() -> _Tried:
    version = landlock.abi()
    if version == 0:
        return _Tried(None, "the kernel has no Landlock, or it is switched off")
    parts = set()
    if version >= _TRUNCATION_SINCE:
        parts.add(Part.FILES)
    if seccomp.compiled(alone=True).program:
        parts |= {Part.NETWORK, Part.SYSTEM_CALLS}  # Landlock alone lets UDP and local sockets through
        if version >= _SIGNALS_SINCE:
            parts.add(Part.PROCESSES)
    return _proven(Seal(Kind.LANDLOCK, frozenset(parts), sys.platform, landlock_abi=version))


def _try_sandbox_exec() -> _Tried:
    if sys.platform != "darwin":
        return _Tried(None, "it needs macOS")
    if not macos.PROGRAM.exists():
        return _Tried(None, f"{macos.PROGRAM} is missing")
    # not PROCESSES: nothing keeps a daemon from leaving its session, and macOS adopts no orphans
    parts = frozenset({Part.FILES, Part.NETWORK})
    return _proven(Seal(Kind.SANDBOX_EXEC, parts, sys.platform, macos.PROGRAM))


def _proven(seal: Seal) -> _Tried:
    """The seal with those of its parts that a test run found to hold; none when it does not even start."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoresearch-probe-")))
        mark = os.urandom(8).hex()
        canary = folder / "canary"
        canary.write_text(mark)
        knocks = stack.enter_context(_listening(folder))
        stranger = stack.enter_context(_stranger(mark))
        arguments = ["--canary", str(canary), "--port", str(knocks.port), "--unix", knocks.unix_path]
        arguments += ["--stranger", str(stranger.pid), "--mark", mark]
        done, why_not = _run(seal, folder / "cell", arguments)
        if done is None:
            return _Tried(None, why_not)
        fails = {
            Part.FILES: done["reads"] or done["writes"],
            Part.NETWORK: knocks.heard(),
            Part.PROCESSES: done["sees processes"] or stranger.poll() is not None,
            Part.SYSTEM_CALLS: not done["refuses system calls"],
        }
    held = frozenset(part for part in seal.parts if not fails[part])
    if not held:
        return _Tried(None, "it starts, and holds nothing back")
    return _Tried(replace(seal, parts=held))


def _run(seal: Seal, folder: Path, arguments: list[str]) -> tuple[dict[str, Any] | None, str]:
    """(what the test run says it could do, "") or (None, why it said nothing)."""
    reader, writer = os.pipe()
    log_path = folder.with_suffix(".log")
    try:
        cell = Cell(seal, folder, accelerators=False, threads=1)
        with log_path.open("wb") as log:
            arguments = ["--fd", str(writer), *arguments]
            tree = cell.start("autoresearch.sandbox.probing", arguments, output=log, pass_fds=[writer])
        code = tree.wait(_PROBE_SECONDS)
        tree.kill()
        said = os.read(reader, 4096) if select.select([reader], [], [], 0)[0] else b""
    except (InstallationError, OSError) as error:
        return None, str(error).splitlines()[0]
    finally:
        os.close(reader)
        os.close(writer)
    if said:
        return json.loads(said), ""
    last_words = log_path.read_text(errors="replace").strip().splitlines()[-1:]
    return None, last_words[0] if last_words else f"a test run ended with {code}"


@contextmanager
def _stranger(mark: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that a sealed one must neither read nor end."""
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={MARK: mark}) as process:
        try:
            yield process
        finally:
            process.kill()


class _Knocks:
    """Sockets that nobody sealed must reach: TCP and UDP on loopback, a local one with a path and one without."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.unix_path = str(folder / "socket")
        stream = self._bound(stack, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.port = stream.getsockname()[1]
        self._sockets = [
            stream,
            self._bound(stack, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", self.port)),
            self._bound(stack, socket.AF_UNIX, socket.SOCK_STREAM, self.unix_path),
        ]
        if sys.platform == "linux":
            self._sockets.append(self._bound(stack, socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.unix_path}"))

    @staticmethod
    def _bound(stack: ExitStack, family: int, kind: int, address: tuple[str, int] | str) -> socket.socket:
        made = stack.enter_context(socket.socket(family, kind))
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    def heard(self) -> bool:
        """Whether anybody knocked."""
        return bool(select.select(self._sockets, [], [], 0)[0])


@contextmanager
def _listening(folder: Path) -> Iterator[_Knocks]:
    with ExitStack() as stack:
        yield _Knocks(folder, stack)


def all_layers() -> list[Layer]:
    """Every layer, with whether it works here, what it defends, and what to install for it."""
    return [*_kinds(), *_always()]


def _kinds() -> list[Layer]:
    wrapped, locked, mac = (_tried(kind) for kind in (Kind.BUBBLEWRAP, Kind.LANDLOCK, Kind.SANDBOX_EXEC))
    on_linux, has_bwrap = sys.platform == "linux", shutil.which("bwrap") is not None
    filtered = seccomp.compiled(alone=False)
    needs_linux = "it needs Linux"
    gaps = landlock.missing_from(landlock.abi())
    version = f"ABI {landlock.abi()}" + (f", without {', '.join(gaps)}" if gaps else "")
    return [
        Layer(
            "bubblewrap",
            wrapped.seal is not None,
            "files, network and processes, by namespaces of its own",
            _bubblewrap_detail(wrapped),
            _bubblewrap_install(has_bwrap) if on_linux and wrapped.seal is None else "",
        ),
        Layer(
            "Landlock",
            locked.seal is not None,
            "files by path, TCP, signals; no program needed",
            version if locked.seal is not None else locked.why_not,
            "Linux 6.12 or newer with `landlock` in its lsm= list" if on_linux and (gaps or not locked.seal) else "",
        ),
        Layer(
            "seccomp",
            bool(filtered.program),
            "system calls that attack the kernel or a neighbour; with Landlock every socket",
            (filtered.detail or filtered.why_not) if on_linux else needs_linux,
            "apt-get install libseccomp2 && pip install pyseccomp" if on_linux and not filtered.program else "",
        ),
        Layer(
            "sandbox-exec",
            mac.seal is not None,
            "files and network, by a written profile",
            str(macos.PROGRAM) if mac.seal is not None else mac.why_not,
        ),
    ]


def _bubblewrap_detail(tried: _Tried) -> str:
    if tried.seal is None:
        return tried.why_not
    asked = subprocess.run([str(tried.seal.program), "--version"], capture_output=True, text=True, check=False)
    return f"{asked.stdout.strip() or 'unknown version'}, {bubblewrap.VARIANTS[tried.seal.variant].name}"


def _bubblewrap_install(is_there: bool) -> str:
    if not is_there:
        return "apt-get install bubblewrap"
    return "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"


def _always() -> list[Layer]:
    """What needs nothing of the machine."""
    on_linux = sys.platform == "linux"
    return [
        Layer("environment", True, "keys, home and paths, by an allow-list of variables", "always"),
        Layer("limits", True, "memory, disk, log, file size and number of processes, by a watchdog", "always"),
        Layer(
            "process tree",
            True,
            "survivors of a trial: killed with all descendants",
            "always, orphans included" if on_linux else "always; a daemon that leaves its session is not found",
        ),
    ]
