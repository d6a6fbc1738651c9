"""What the sandbox tests share: the kinds that work here, and scripts run as processes in a cell."""

from __future__ import annotations

import functools
import os
import select
import sys
import textwrap
import time
from pathlib import Path

import pytest
from patience import PATIENCE

from autoresearch.sandbox.cell import Cell
from autoresearch.sandbox.layers import probe
from autoresearch.sandbox.seal import Seal
from autoresearch.vocabulary import UsageError

SEALING = ("bubblewrap", "landlock")
EVERY = (*SEALING, "none")

PREAMBLE = """
import json, os, resource, signal, socket, subprocess, sys, time

def burn(seconds):
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        pass

def say(word):
    os.write(1, (word + chr(10)).encode())

def hear():
    return os.read(0, 1)

"""


@functools.cache
def _seal_or_reason(kind: str) -> Seal | str:
    try:
        return probe(kind)
    except UsageError as error:
        return error.message


def seal_of(kind: str) -> Seal:
    """The seal of this kind; the test is skipped where it does not work."""
    seal = _seal_or_reason(kind)
    if isinstance(seal, str):
        pytest.skip(seal)
    return seal


def until(condition, seconds=PATIENCE):
    """Poll until the condition holds; the test fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Started:
    """A cell whose process runs a script, the words it printed so far, and whether anyone in it still lives.

    Numbers of processes inside a namespace mean nothing outside, so life is told by a pipe that all of them hold open.
    """

    def __init__(self, kind: str, script: str, folder: Path, *, arguments=(), stdin=None, **options):
        self.cell = Cell(seal_of(kind), folder, **{"accelerators": False, "threads": 1, **options})
        path = self.cell.trial_dir / "script.py"
        path.write_text(PREAMBLE + textwrap.dedent(script))
        self.log = folder / "log"
        self._life, theirs = os.pipe()
        # timeit is the standard library's one module that runs a text given to it as an argument
        run = f"import runpy; runpy.run_path({self.cell.inside(path)!r}, run_name='__main__')"
        with self.log.open("wb") as output:
            self.tree = self.cell.start(
                "timeit", ["-n1", "-r1", "-s", f"import sys; sys.argv = {['script', *arguments]!r}", run],
                output=output, pass_fds=[theirs],
            )  # fmt: skip
        os.close(theirs)

    def words(self) -> list[str]:
        return self.log.read_text().split()

    def word(self, prefix: str) -> str:
        """What follows the prefix in the printed word that has it; waits for that word."""

        def said():
            return any(word.startswith(prefix) for word in self.words())

        until(lambda: said() or self.tree.poll() is not None)
        assert said(), self.log.read_text()
        return next(word for word in self.words() if word.startswith(prefix)).removeprefix(prefix)

    def is_gone(self, seconds: float = 0.0) -> bool:
        """Whether every process of the cell has ended, by now or within `seconds`."""
        return bool(select.select([self._life], [], [], seconds)[0])

    def end(self) -> None:
        self.tree.kill()
        os.close(self._life)


def run_script(kind: str, script: str, folder: Path, seconds: float = PATIENCE, **options) -> tuple[int | None, str]:
    """(exit code, what it printed) of a script run to its end in a cell."""
    started = Started(kind, script, folder, **options)
    code = started.tree.wait(seconds)
    started.end()
    return code, started.log.read_text()


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted by prctl, which only Linux has")
