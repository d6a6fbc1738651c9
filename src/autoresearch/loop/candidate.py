"""A candidate's process: started ahead of its order, it imports what any experiment imports, and waits.

Importing torch takes 1.6 to 3 s, a tenth of a trial on `tiny`. A process started while the one before it is examined has
that behind it when its order comes. It is as fresh as any other: it has seen no experiment file, and serves one order.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch.loop import sandbox

FOLDER_PREFIX = "autoresearch-trial-"  # then the referee's process number: a later start removes dead ones
_WORTH_PRELOADING = ("numpy", "torch")


class Candidate:
    """One process with its trial directory, scratch folder and channel."""

    def __init__(self, *, accelerators: bool, threads: int, preload: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        self._trial_dir = self.folder / "trial"  # holds the surface files and nothing else
        scratch = self.folder / "scratch"
        for path in (self._trial_dir, scratch):
            path.mkdir()
        self.channel, theirs = socket.socketpair()
        command = [*sandbox.interpreter("autoresearch.contract.channel"), "--fd", str(theirs.fileno())]
        command += ["--parent", str(os.getpid()), "--preload", ",".join(preload)]
        environment = sandbox.clean_environment(scratch, accelerators=accelerators, threads=threads)
        self._early_log_path = self.folder / "early.log"
        with self._early_log_path.open("wb") as early:
            self.tree = sandbox.ProcessTree(
                command, directory=scratch, environment=environment, output=early, pass_fds=[theirs.fileno()]
            )
        theirs.close()

    def begin(self, files: Mapping[str, str], entry: str, log_path: Path) -> None:
        """Give it its files and its log, and let it run. What it says from now on goes to `log_path`."""
        for name, text in files.items():
            (self._trial_dir / name).write_text(text, encoding="utf-8")
        with log_path.open("wb") as log, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # one byte carries the log's descriptor; a candidate that is gone already is found so by the referee
            socket.send_fds(self.channel, [b"!"], [log.fileno()])
            self.channel.sendall(f"{self._trial_dir / entry}\n".encode())

    def early_log(self) -> str:
        """What it said before its order came: nothing, unless our own launcher failed."""
        return self._early_log_path.read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """End it with everything it started, and remove its folder."""
        self.tree.kill()
        self.channel.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def worth_preloading(source: str) -> list[str]:
    """Slow modules that this experiment file imports at its top: what the next one will most likely import too."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in body if isinstance(node, ast.ImportFrom) and node.module}
    roots = {name.partition(".")[0] for name in names}
    return [name for name in _WORTH_PRELOADING if name in roots]
