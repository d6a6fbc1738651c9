"""A candidate's process: started ahead of its order, it imports what any experiment imports, and waits.

Importing torch takes 1.6 to 3 s, a tenth of a trial on `tiny`. A process started while the one before it is examined has
that behind it when its order comes. It is as fresh as any other: it has seen no experiment file, and serves one order.
"""

from __future__ import annotations

import ast
import contextlib
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from autoresearch.loop.log_pipe import LogPipe
from autoresearch.sandbox.cell import Cell, remove_folder
from autoresearch.sandbox.seal import Seal

FOLDER_PREFIX = "autoresearch-trial-"  # then the referee's process number: a later start removes dead ones
# By the package that is imported: `import mlx.core as mx`, and importing `mlx` alone loads nothing.
_WORTH_PRELOADING = {"numpy": "numpy", "torch": "torch", "mlx": "mlx.core"}


class Candidate:
    """One process in a sandbox, with its trial directory, scratch folder and channel."""

    def __init__(
        self,
        *,
        seal: Seal,
        accelerators: bool,
        threads: int,
        preload: Sequence[str] = (),
        warm_cache: Path | None = None,
        blas: Path | None = None,
    ) -> None:
        """blas: library that its launcher loads before any module; the sandbox must let it be read."""
        self.seal = seal
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        self.cell = Cell(seal, self.folder, accelerators=accelerators, threads=threads, warm_cache=warm_cache)
        self.channel, theirs = socket.socketpair()
        self._log: LogPipe | None = None
        self._early_log_path = self.folder / "early.log"
        arguments = ["--fd", str(theirs.fileno()), "--preload", ",".join(preload)]
        if blas is not None:
            arguments += ["--blas", str(blas)]
        with self._early_log_path.open("wb") as early:
            self.tree = self.cell.start(
                "autoresearch.contract.channel", arguments, output=early, pass_fds=[theirs.fileno()]
            )
        theirs.close()

    def begin(self, files: Mapping[str, str], entry: str, log_path: Path) -> None:
        """Give it its files and its log, and let it run. What it says from now on goes to `log_path`."""
        for name, text in files.items():
            (self.cell.trial_dir / name).write_text(text, encoding="utf-8")
        self._log = LogPipe(log_path)
        order = f"{self.cell.inside(self.cell.trial_dir / entry)}\n"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # one byte carries the log's descriptor; a candidate that is gone already is found so by the referee
            socket.send_fds(self.channel, [b"!"], [self._log.write_fd])
            self.channel.sendall(order.encode())
        self._log.hand_over()

    def log_flooded(self) -> bool:
        """Whether it has said more than a log may hold."""
        return self._log is not None and self._log.flooded.is_set()

    def early_log(self) -> str:
        """What it said before its order came: nothing, unless our own launcher failed."""
        return self._early_log_path.read_text(errors="replace")[-2000:]

    def close_log(self) -> None:
        """End the whole tree, and wait until all it said is in the log."""
        self.tree.kill()
        if self._log is not None:
            self._log.close()

    def close(self) -> None:
        """End it with everything it started, and remove its folder."""
        self.close_log()
        self.channel.close()
        self.cell.remove()


def worth_preloading(source: str) -> list[str]:
    """Slow modules that this experiment file imports at its top: what the next one will most likely import too."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in body if isinstance(node, ast.ImportFrom) and node.module}
    roots = {name.partition(".")[0] for name in names}
    return [module for package, module in _WORTH_PRELOADING.items() if package in roots]


def remove_dead_folders() -> None:
    """Remove trial folders whose referee is gone: their names carry its process number."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        owner = folder.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            remove_folder(folder)
