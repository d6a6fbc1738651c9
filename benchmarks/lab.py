"""What the benchmarks share: a throw-away workspace, a session in it, and the memory of a process tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
COUNTING = ROOT / "tests" / "experiments" / "counting.py"


def make_workspace(folder: Path, experiment: Path, contract: str) -> Path:
    """A git repository with this experiment file, set to one contract."""
    folder.mkdir(parents=True)
    shutil.copyfile(experiment, folder / "train.py")
    (folder / "pyproject.toml").write_text(f'[tool.autoresearch]\ncontract = "{contract}"\n')
    shutil.copyfile(ROOT / ".gitignore", folder / ".gitignore")
    who = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    for command in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "start"]):
        subprocess.run(["git", "-C", str(folder), *who, *command], check=True)
    return folder


def environment() -> dict[str, str]:
    """Ours, with a name for commits."""
    named = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "benchmark"), ("EMAIL", "benchmark@example.org"))
    }
    return {**os.environ, **named}


def autoresearch(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "autoresearch", *arguments]


class PeakMemory:
    """Largest summed resident memory of a process and its descendants while the block runs, MiB."""

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.2):
            total = 0
            try:
                for member in [self._process, *self._process.children(recursive=True)]:
                    total += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self.peak_mb = max(self.peak_mb, total / 2**20)


def report(values: dict[str, object]) -> None:
    print(json.dumps(values, indent=2))
