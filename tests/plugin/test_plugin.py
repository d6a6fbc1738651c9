"""The plugin and the shipped settings agree with the program: scopes, verbs, names; and they stay out of others' way."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml_front

from autoresearch import __version__
from autoresearch.cli.driving import called
from autoresearch.cli.parser import build_parser
from autoresearch.cli.preflight import OFFERED
from autoresearch.workspace import BRANCH_PREFIX, SCOPES

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "experiment-plugin"
SKILLS = sorted(path.parent.name for path in (PLUGIN / "skills").glob("*/SKILL.md"))
SETTINGS = json.loads((ROOT / ".claude" / "settings.json").read_text(encoding="utf-8"))
HOOKS = json.loads((PLUGIN / "hooks" / "hooks.json").read_text(encoding="utf-8"))["hooks"]
ASK = PLUGIN / "hooks" / "ask.sh"


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def skill(name: str) -> str:
    return (PLUGIN / "skills" / name / "SKILL.md").read_text(encoding="utf-8")


def commands_of(event: str) -> dict[str, list[str]]:
    """Arguments of the hook's command by its matcher."""
    return {group.get("matcher", ""): shlex.split(group["hooks"][0]["command"]) for group in HOOKS[event]}


def test_the_plugins_name_gives_its_skills_the_names_that_the_hook_knows():
    manifest = json.loads((PLUGIN / ".claude-plugin" / "plugin.json").read_text())
    assert (manifest["name"], manifest["version"]) == ("experiment", __version__)
    assert SKILLS == ["compare", "data", "model", "review", "run"]
    for name in ("model", "data", "run"):
        assert called(f"/experiment:{name} t1", 0.0, None) is not None


@pytest.mark.parametrize("name", SKILLS)
def test_front_matter_of_a_skill_is_readable_and_names_it(name):
    front = yaml_front.read(skill(name))
    assert front["name"] == name
    assert 20 < len(front["description"]) < 1024
    assert "model" not in front  # whichever model the person runs


@pytest.mark.parametrize("name", SKILLS)
def test_every_command_that_a_skill_shows_is_one_that_the_program_takes(name):
    shown = re.findall(r"autoresearch ([a-z]+)([^`\n]*)", skill(name))
    assert shown
    for verb, rest in shown:
        if verb in verbs():
            known = {option for action in verbs()[verb]._actions for option in action.option_strings}
            assert set(re.findall(r"(?<!\S)--?[a-z-]+", rest)) <= known, f"autoresearch {verb}{rest}"
        else:
            assert rest.startswith(("", " ")) and verb in ("experiments", "experiment"), f"autoresearch {verb}"


@pytest.mark.parametrize("program", SCOPES)
def test_a_programs_skill_names_exactly_its_files(program):
    text = skill(program)
    files = {name for names in SCOPES.values() for name in names}
    page = {"model": "program.md", "data": "program_data.md"}
    assert {name for name in files if f"`{name}`" in text} == set(SCOPES[program])
    assert page[program] in text


def test_the_reviewer_knows_the_scopes_and_what_a_trial_offers():
    text = (PLUGIN / "agents" / "experiment-reviewer.md").read_text(encoding="utf-8")
    for name in [*(name for names in SCOPES.values() for name in names), *OFFERED]:
        assert re.search(rf"\b{re.escape(name)}\b", text), name
    front = yaml_front.read(text)
    assert front["name"] == "experiment-reviewer"
    assert not {"Edit", "Write"} & set(front["tools"].split(", "))


def test_every_editing_tool_is_asked_about_before_and_checked_after():
    before = commands_of("PreToolUse")
    assert before["Edit|Write|MultiEdit|NotebookEdit"][-1] == "scope"
    assert before["Bash"][-1] == "shell"
    assert commands_of("PostToolUse")["Edit|Write|MultiEdit"][-1] == "preflight"
    assert commands_of("Stop")[""][-1] == "stop"
    assert commands_of("UserPromptSubmit")[""][-1] == "begin"


def test_every_hook_calls_a_file_of_the_plugin_with_a_name_that_the_program_knows():
    (names,) = [action.choices for action in verbs()["hook"]._actions if action.dest == "name"]
    for event in HOOKS:
        for command in commands_of(event).values():
            assert command[:2] == ["sh", "${CLAUDE_PLUGIN_ROOT}/hooks/ask.sh"]
            assert command[2] in names


def test_the_shipped_settings_let_through_exactly_the_scopes_and_known_verbs():
    allow = SETTINGS["permissions"]["allow"]
    edits = {rule for rule in allow if rule.startswith(("Edit", "Write"))}
    assert edits == {f"Edit(./{name})" for names in SCOPES.values() for name in names}
    shells = [re.fullmatch(r"Bash\((.*?)( \*)?\)", rule)[1] for rule in allow if rule.startswith("Bash")]
    called_verbs = {words.split()[1] for words in shells if words.startswith("autoresearch ")} - {"--version"}
    assert called_verbs <= set(verbs())
    assert {"try", "status", "history", "show", "diff", "compare"} <= called_verbs
    assert "hook" not in called_verbs
    assert all(words.split()[0] in ("autoresearch", "git") for words in shells)
    assert "Bash" not in allow


@pytest.mark.parametrize(
    "rule", ["git push", "git push *", "python -c *", "python3 -c *", "node -e *", "bash -c *", "curl *", "pip *"]
)
def test_the_shipped_settings_deny_pushing_inline_code_network_and_installing(rule):
    assert f"Bash({rule})" in SETTINGS["permissions"]["deny"]


def test_the_shipped_settings_deny_the_web_tools_and_skip_no_permissions():
    assert {"WebFetch", "WebSearch"} <= set(SETTINGS["permissions"]["deny"])
    assert "defaultMode" not in SETTINGS["permissions"]


# -- ask.sh ---------------------------------------------------------------------------------------------------------------


def ask(folder: Path, name: str, *, path: str) -> subprocess.CompletedProcess[str]:
    event = json.dumps({"cwd": str(folder), "tool_input": {"file_path": "prepare.py", "command": "git push"}})
    environment = {**os.environ, "PATH": path}
    environment.pop("CLAUDE_PLUGIN_ROOT", None)
    return subprocess.run(
        ["sh", str(ASK), name], cwd=folder, env=environment, input=event, capture_output=True, text=True, check=False
    )


def path_without(tmp_path: Path, fake: str | None = None) -> str:
    """A PATH with git and no autoresearch, or with a fake one."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    if fake is not None:
        (folder / "autoresearch").write_text(f"#!/bin/sh\n{fake}\n")
        (folder / "autoresearch").chmod(0o755)
    return f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"


@pytest.mark.parametrize("prefix", BRANCH_PREFIX.values())
def test_without_autoresearch_a_research_branch_refuses_and_any_other_is_left_alone(make_workspace, tmp_path, prefix):
    root, path = make_workspace(), path_without(tmp_path)
    for name in ("begin", "scope", "shell", "preflight", "stop"):
        assert ask(root, name, path=path).returncode == 0
        assert ask(tmp_path, name, path=path).returncode == 0
    subprocess.run(["git", "-C", str(root), "switch", "--quiet", "-c", f"{prefix}/t1"], check=True)
    for name, code in {"begin": 0, "scope": 2, "shell": 2, "preflight": 0, "stop": 0}.items():
        found = ask(root, name, path=path)
        assert found.returncode == code, name
        assert ("not on PATH" in found.stderr) == (code == 2)


def test_a_broken_autoresearch_does_not_open_the_fence(make_workspace, tmp_path):
    root, path = make_workspace(), path_without(tmp_path, "exit 1")
    assert ask(root, "scope", path=path).returncode == 0
    subprocess.run(["git", "-C", str(root), "switch", "--quiet", "-c", "autoresearch/t1"], check=True)
    assert ask(root, "scope", path=path).returncode == 2
    assert ask(root, "stop", path=path).returncode == 0


def test_answers_of_the_program_come_through(make_workspace, tmp_path):
    root = make_workspace()
    path = path_without(tmp_path, f'exec "{sys.executable}" -m autoresearch "$@"')
    subprocess.run(["git", "-C", str(root), "switch", "--quiet", "-c", "autoresearch/t1"], check=True)
    refused = ask(root, "scope", path=path)
    assert refused.returncode == 2
    assert "prepare.py is not in scope" in refused.stderr
