"""What most tests stand on: a prepared `smoke` contract, a workspace with an experiment of 0.2 s, and git that knows us."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from fakes import fake_experiment
from hypothesis import settings

# A commit is judged by the same examples wherever and whenever it runs, and not by how long a busy machine takes for one.
# New ones are looked for on purpose: HYPOTHESIS_PROFILE=search pytest -m hypothesis
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory):
    """Nothing of the developer's machine reaches a test: own cache, own git configuration, no settings."""
    home = tmp_path_factory.mktemp("home")
    (home / "gitconfig").write_text(
        "[user]\n\tname = Test Person\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n"
    )
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # started in the background of a shell, it would hand this on to every program that a test interrupts
        signal.signal(signal.SIGINT, signal.default_int_handler)
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("AUTORESEARCH_", "GIT_"))]:
        patch.delenv(name)
    patch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
    patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    patch.setenv("AUTORESEARCH_CACHE", str(home / "cache"))
    patch.setenv("OMP_NUM_THREADS", "1")
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _environment_left_as_found():
    """A test that leaves a variable behind decides what the next one of its process meets: it fails here, by name."""
    before = dict(os.environ)
    yield
    left = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    left -= {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"}  # torch sets the second itself, when it first compiles
    assert not left, f"left behind in the environment: {', '.join(sorted(left))}"


@pytest.fixture(scope="session")
def smoke(_own_environment):
    """The `smoke` contract, prepared once for all tests: (rules, prepared)."""
    from autoresearch.contract.corpora import cache_root, open_corpus
    from autoresearch.contract.prepared import prepare
    from autoresearch.contract.rules import rules_for

    rules = rules_for("smoke")
    return rules, prepare(rules, open_corpus(rules.dataset, cache_root()), cache_root())


@pytest.fixture
def make_workspace(tmp_path, smoke):
    """A function that makes a git repository with an experiment file, set to the `smoke` contract."""

    def make(text: str | None = None, *, folder: str = "lab", settings: str = ""):
        root = tmp_path / folder
        root.mkdir(parents=True)
        (root / "train.py").write_text(fake_experiment() if text is None else text, encoding="utf-8")
        table = f'[tool.autoresearch]\ncontract = "smoke"\ncalibration = 2\n{settings}'
        (root / "pyproject.toml").write_text(table, encoding="utf-8")
        ignored = "results*.tsv\nEXPERIMENT_LOG.md\nrun.log\nprogress.png\ndata/\nlogs/\n*_status.txt\n"
        (root / ".gitignore").write_text(ignored)
        git = ["git", "-C", str(root)]
        subprocess.run([*git, "init", "--quiet"], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "start"], check=True)
        return root

    return make
