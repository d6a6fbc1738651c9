"""What tests with real coding agents stand on: a workspace, a home of their own, and the client where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch.proposers.agents import AgentOptions, ExternalCall, make_agent
from autoresearch.proposers.situation import Situation
from autoresearch.vocabulary import Proposal
from autoresearch.workspace import banner_for

SURFACE = banner_for("model") + "\nLEARNING_RATE = 0.1\nDEPTH = 2\n"
OLD, NEW = "LEARNING_RATE = 0.1", "LEARNING_RATE = 0.2"
IDEA = "IDEA: double the rate\nTOPIC: learning rate\nMECHANISM: few steps\nEXPECT: +0.004\n"
EDITED = SURFACE.replace(OLD, NEW)


class Bench:
    """A workspace, a clean home, and agents that run there. None of the developer's own settings are in reach."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.workspace = root / "lab"
        self.home.mkdir()
        (self.workspace / ".git").mkdir(parents=True)
        (self.workspace / ".git" / "ledger").write_text("secret ledger")
        (self.workspace / "prepare.py").write_text("MAX_SEQ_LEN = 64\n")
        self.calls: list[ExternalCall] = []

    def propose(self, name: str, variables: dict[str, str], *, sealed: bool = True, **options: Any) -> Proposal:
        """One proposal of the agent, in an environment of its own."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), **variables}
        given = AgentOptions(
            "train.py",
            "smoke",
            self.workspace,
            environment=environment,
            record=self.calls.append,
            sealed=sealed,
            minutes=1.0,
            **options,
        )
        return make_agent(name, given).propose(Situation({"train.py": SURFACE}))


def needs(program: str) -> pytest.MarkDecorator:
    """Skips where the client is not installed, and says how to get it."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program!r} on PATH (docs/guide.md says how)")


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Not below /tmp: codex refuses a home there."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-test-", dir="/var/tmp") as name:
        yield Bench(Path(name))


def folder_in(text: str) -> str:
    """The agent's folder, found in what a client told its model."""
    found = re.search(r"/[^\s\"\\]*autoresearch-agent-[^/\s\"\\]*/desk", text)
    assert found is not None, "the client did not tell its model where it works"
    return found[0]
