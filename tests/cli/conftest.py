"""A workspace in which a session was run: made once, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from calling import done, git

COUNTING = Path(__file__).parents[1] / "experiments" / "counting.py"


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


@pytest.fixture(scope="session")
def _session_once(tmp_path_factory, smoke) -> tuple[Path, str]:
    root = fill(tmp_path_factory.mktemp("lived") / "lab")
    return root, done(root, "research", "a", "--experiments", "2", "--json")


@pytest.fixture
def lived_workspace(_session_once, tmp_path) -> Path:
    """A copy of a workspace whose session `a` has had two experiments."""
    shutil.copytree(_session_once[0], tmp_path / "lived")
    return tmp_path / "lived"


@pytest.fixture
def session_output(_session_once) -> str:
    """What that session wrote to standard output under --json."""
    return _session_once[1]
