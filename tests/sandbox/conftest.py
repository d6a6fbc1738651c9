"""Processes started by a test are ended after it."""

from __future__ import annotations

import pytest
from cells import Started


@pytest.fixture
def start(tmp_path):
    """A function (kind, script) that starts the script in a cell; whatever is left of it is killed after the test."""
    begun = []

    def begin(kind: str, script: str, **options) -> Started:
        begun.append(Started(kind, script, tmp_path / f"cell{len(begun)}", **options))
        return begun[-1]

    yield begin
    for started in begun:
        started.end()
