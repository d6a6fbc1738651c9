"""tools/agent_loop.py: the flags of earlier projects, and what they mean here."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "agent_loop.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("agent_loop", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--tag", "t1"], ["research", "t1"]),
        (
            ["--tag", "t1", "--max-experiments", "20", "--max-hours", "8"],
            ["research", "t1", "--experiments", "20", "--hours", "8"],
        ),
        (
            ["--tag", "t1", "--provider", "anthropic", "--model", "m"],
            ["research", "t1", "--model", "anthropic:m"],
        ),
        (["--tag", "t1", "--model", "openai:a, ollama:b"], ["research", "t1", "--model", "openai:a, ollama:b"]),
        (
            ["--tag", "t1", "--model", "m", "--base-url", "http://127.0.0.1:1/v1"],
            ["research", "t1", "--model", "openai:m@http://127.0.0.1:1/v1"],
        ),
        (["--tag", "t1", "--resume", "--seed", "3"], ["research", "t1", "--resume", "--seed", "3"]),
    ],
)
def test_the_old_flags_become_those_of_research_and_the_rest_goes_through(tool, given, meant):
    assert tool.research_arguments(given, {}) == meant


def test_the_tag_may_come_from_the_environment_or_the_clock(tool):
    assert tool.research_arguments([], {"RUN_TAG": "night"}) == ["research", "night"]
    (_, tag) = tool.research_arguments([], {})
    assert re.fullmatch(r"agent-\d{8}-\d{6}", tag)


@pytest.mark.parametrize("given", [["--provider", "anthropic"], ["--base-url", "http://127.0.0.1:1"]])
def test_a_provider_without_a_model_is_wrong_usage(tool, given, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.research_arguments(given, {})
    assert ended.value.code == 2
    assert "--model" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_the_same_program_as_the_verb(make_workspace):
    command = [sys.executable, str(TOOL), "--tag", "t1", "--max-experiments", "0"]
    done = subprocess.run(command, cwd=make_workspace(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "setting experiments = 0" in done.stderr
