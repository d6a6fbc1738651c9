"""A workspace in which a session was run: made once, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from calling import done, fill


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
