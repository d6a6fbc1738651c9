"""A recipe's process: the data program's files in a sandbox of their own, with what they were given and nothing else."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch.loop.candidate import FOLDER_PREFIX
from autoresearch.loop.log_pipe import LogPipe
from autoresearch.sandbox.cell import Cell
from autoresearch.sandbox.process_tree import ProcessTree
from autoresearch.sandbox.seal import Seal


class RecipeCell:
    """One of our modules beside a recipe's files, without accelerators; its channel and its log.

    `surface` is where the process finds the files. `readable` and `writable` are shown besides; see `Cell`.
    """

    def __init__(
        self,
        seal: Seal,
        files: Mapping[str, str],
        log_path: Path,
        *,
        threads: int,
        readable: Sequence[Path] = (),
        writable: Sequence[Path] = (),
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        self.cell = Cell(seal, self.folder, accelerators=False, threads=threads, readable=readable, writable=writable)
        for name, text in files.items():
            (self.cell.trial_dir / name).write_text(text, encoding="utf-8")
        self._log = LogPipe(log_path)
        self._channel: socket.socket | None = None  # our end of one made here
        self.tree: ProcessTree
        self._is_running = False

    @property
    def surface(self) -> str:
        """The folder of the recipe's files, as the process sees it."""
        return self.cell.inside(self.cell.trial_dir)

    @property
    def channel(self) -> socket.socket:
        """Our end of what it talks through, where it was not given a channel."""
        assert self._channel is not None, "start it without a channel"
        return self._channel

    def start(self, module: str, channel: socket.socket | None = None) -> None:
        """Start the module with `--fd N`: on that end of a channel, or on one of its own, our end of which is `channel`.

        Raises:
            InstallationError: the seal's program could not be started.
        """
        theirs = channel
        if theirs is None:
            self._channel, theirs = socket.socketpair()
        words = ["--fd", str(theirs.fileno())]
        self.tree = self.cell.start(module, words, output=self._log.write_fd, pass_fds=[theirs.fileno()])
        self._is_running = True
        self._log.hand_over()
        if channel is None:
            theirs.close()

    def log_flooded(self) -> bool:
        """Whether it has said more than a log may hold."""
        return self._log.flooded.is_set()

    def early_log(self) -> str:
        """What it said before its order came: that stands in its log."""
        return ""

    def close_log(self) -> None:
        """End the whole tree, and wait until all it said is in the log."""
        self.tree.kill()
        self._log.close()

    def close(self) -> None:
        """End it with everything it started, and remove its folder; what it was given stays."""
        if self._is_running:
            self.tree.kill()
        if self._channel is not None:
            self._channel.close()
        self._log.close()
        self.cell.remove()
