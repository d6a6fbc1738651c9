"""How the command-line tests call the program: as its own process, in a folder, as a person would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

COUNTING = Path(__file__).parents[1] / "experiments" / "counting.py"
ANOTHER_SHARPNESS = ("SHARPNESS = 0.5", "SHARPNESS = 0.9")  # sharper counts predict better: a sure keep
WORSE_SHARPNESS = ("SHARPNESS = 0.5", "SHARPNESS = 0.05")  # nearly uniform: a sure discard


def call(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """`python -m autoresearch ARGUMENTS` in a folder; `before` is a command that starts it."""
    return subprocess.run(
        [*before, sys.executable, "-m", "autoresearch", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "110", **(environment or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def done(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a call that must succeed."""
    result = call(folder, *arguments, environment=environment)
    assert result.returncode == 0, f"{arguments}: {result.stdout}\n{result.stderr}"
    return result.stdout


def refused(result: subprocess.CompletedProcess[str], code: int, *said: str) -> str:
    """The hint of a call that must be refused: by this exit code, with these words, one next step and no traceback."""
    assert result.returncode == code, f"exit code {result.returncode}: {result.stdout}\n{result.stderr}"
    assert "Traceback" not in result.stderr + result.stdout, result.stderr
    hints = [line for line in result.stderr.splitlines() if line.strip().startswith("next:")]
    assert len(hints) == 1, result.stderr
    for words in said:
        assert words in result.stderr, f"{words!r} is not in: {result.stderr}"
    return hints[0].split("next:", 1)[1].strip()


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def edit(root: Path, change: tuple[str, str]) -> None:
    """Change the experiment file in the checkout."""
    path = root / "train.py"
    text = path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change), encoding="utf-8")


def fill(root: Path) -> Path:
    """Make `root` a workspace whose experiment takes a fraction of a second, with a first commit."""
    root.mkdir(parents=True)
    shutil.copy(COUNTING, root / "train.py")
    (root / "pyproject.toml").write_text('[tool.autoresearch]\ncontract = "smoke"\ncalibration = 2\n')
    (root / ".gitignore").write_text("results*.tsv\nEXPERIMENT_LOG.md\n*.log\n*.png\ndata/\nlogs/\n*_status.txt\n")
    git(root, "init", "--quiet")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    return root
