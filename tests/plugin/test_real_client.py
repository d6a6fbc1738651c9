"""The real `claude` client, a scripted model on loopback, our plugin, our settings: what holds and what is done for real."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE
from real_client import PLUGIN, ask, environment, needs_client, with_settings
from scripted_claude import ScriptedClaude, in_order, say, scripted_claude, use

from autoresearch.records.ledger import Ledger
from autoresearch.workspace import open_workspace

pytestmark = [pytest.mark.agent_cli, needs_client]


@pytest.fixture
def lab(make_workspace, tmp_path) -> Path:
    """A workspace with the shipped settings, in which the client was told to trust the folder."""
    root = with_settings(make_workspace())
    (root / "prepare.py").write_text("X = 1\n")
    git = ["git", "-C", str(root)]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "with settings"], check=True)
    home = tmp_path / "home"
    home.mkdir()
    trusted = {"projects": {str(root): {"hasTrustDialogAccepted": True}}}
    (home / ".claude.json").write_text(json.dumps(trusted))
    return root


def edit(root: Path, old: str, new: str, name: str = "train.py") -> list[dict]:
    return [use("Edit", file_path=str(root / name), old_string=old, new_string=new)]


def read(root: Path, name: str = "train.py") -> list[dict]:
    return [use("Read", file_path=str(root / name))]


def shell(command: str, **more: object) -> list[dict]:
    return [use("Bash", command=command, **more)]


def feedback(model: ScriptedClaude) -> list[str]:
    """What the stop hook told the agent, in order."""
    texts = [json.dumps(m["content"]) for m in model.asked[-1]["messages"] if m["role"] == "user"]
    return [text for text in texts if "Stop hook feedback" in text]


@pytest.mark.slow
def test_the_client_finds_nothing_wrong_with_the_plugin(tmp_path):
    command = ["claude", "plugin", "validate", str(PLUGIN), "--strict"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_model_skill_tries_for_real_and_is_sent_back_until_the_limit(lab):
    turns = [
        read(lab),
        edit(lab, "SHARPNESS = 0.5", "SHARPNESS = 0.9"),
        shell('autoresearch try -m "sharper" --tag t1 --experiments 2 --json'),
        [say("Shall I continue?")],
        edit(lab, "SHARPNESS = 0.9", "SHARPNESS = 0.05"),
        shell('autoresearch try -m "flatter" --tag t1 --json'),
        [say("Two ideas tried.")],
    ]
    with scripted_claude(in_order(*turns)) as model:
        result = ask(lab, lab.parent / "home", model.url, "/experiment:model t1 --experiments 2")
    assert result["result"] == "Two ideas tried."
    assert result["permission_denials"] == []
    ledger = Ledger(open_workspace(lab).ledger_path)
    experiments = ledger.experiments("t1")
    ledger.close()
    assert [(found.proposal.description, str(found.status)) for found in experiments[1:]] == [
        ("sharper", "keep"),
        ("flatter", "discard"),
    ]
    assert "SHARPNESS = 0.9" in (lab / "train.py").read_text()  # the discard brought the incumbent's file back
    assert len(feedback(model)) == 1
    assert "Research on t1 goes on" in feedback(model)[0]


@pytest.mark.slow
def test_what_is_out_of_scope_is_refused_before_it_happens(lab):
    turns = [
        read(lab, "prepare.py"),
        edit(lab, "X = 1", "X = 2", "prepare.py"),
        [use("Write", file_path=str(lab / "helper.py"), content="Y = 1\n")],
        shell("git push"),
        shell("echo X = 3 > prepare.py"),
        shell('autoresearch status; python -c \'open("prepare.py", "w")\''),
        [say("I cannot.")],
    ]
    with scripted_claude(in_order(*turns)) as model:
        result = ask(lab, lab.parent / "home", model.url, "/experiment:run t1")
    refused = [text for text in model.tool_results() if "autoresearch: refused" in text]
    assert len(refused) == 5
    assert len(result["permission_denials"]) == 5
    assert (lab / "prepare.py").read_text() == "X = 1\n"
    assert not (lab / "helper.py").exists()
    assert not {"WebFetch", "WebSearch"} & model.tools_offered()


@pytest.mark.slow
def test_a_broken_edit_is_told_to_the_agent_at_once(lab):
    turns = [read(lab), edit(lab, "SHARPNESS = 0.5", "SHARPNESS = = 0.5"), [say("I see.")]]
    with scripted_claude(in_order(*turns)) as model:
        ask(lab, lab.parent / "home", model.url, "/experiment:run t1")
    assert "autoresearch preflight of train.py" in json.dumps(model.asked[-1]["messages"])


@pytest.mark.slow
def test_a_trial_in_the_background_is_waited_for(lab):
    turns = [
        read(lab),
        edit(lab, "SHARPNESS = 0.5", "SHARPNESS = 0.9"),
        shell('autoresearch try -m "sharper" --tag t1 --experiments 1 --json', run_in_background=True),
        [say("It runs in the background.")],
    ]
    with scripted_claude(in_order(*turns)) as model:
        ask(lab, lab.parent / "home", model.url, "/experiment:model t1")
    ledger = Ledger(open_workspace(lab).ledger_path)
    statuses = [str(found.status) for found in ledger.experiments("t1")]
    ledger.close()
    assert statuses == ["keep", "keep"]


@pytest.mark.slow
def test_an_agent_that_only_talks_is_let_go_after_three_times(lab):
    with scripted_claude(in_order([say("Shall I begin?")])) as model:
        result = ask(lab, lab.parent / "home", model.url, "/experiment:model t1")
    assert result["result"] == "Shall I begin?"
    assert len(model.asked) == 4


@pytest.mark.slow
def test_a_session_that_does_no_research_is_left_alone(lab):
    turns = [read(lab, "prepare.py"), edit(lab, "X = 1", "X = 2", "prepare.py"), [say("Done.")]]
    with scripted_claude(in_order(*turns)) as model:
        result = ask(lab, lab.parent / "home", model.url, "change X to 2")
    assert result["result"] == "Done."
    assert (lab / "prepare.py").read_text() == "X = 2\n"
    assert len(model.asked) == 3


@pytest.mark.slow
def test_an_agent_drives_over_mcp_without_a_shell(lab, tmp_path):
    """Another agent than ours, without plugin and shell: it edits, and tries through the protocol's server."""
    servers = {"mcpServers": {"autoresearch": {"command": "autoresearch", "args": ["mcp"]}}}
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps(servers))
    tool = "mcp__autoresearch__try"
    turns = [
        read(lab),
        edit(lab, "SHARPNESS = 0.5", "SHARPNESS = 0.9"),
        [use("WaitForMcpServers")],  # what the client itself advises while a server starts
        [use(tool, message="sharper", tag="m1")],
        [use("mcp__autoresearch__history", tag="m1")],
        [say("done")],
    ]
    home = lab.parent / "home"
    command = [
        *("claude", "-p", "improve it", "--output-format", "json", "--strict-mcp-config", "--mcp-config", str(config)),
        *(
            "--tools",
            "Read,Edit,WaitForMcpServers",
            "--allowedTools",
            "Read",
            "Edit",
            tool,
            "mcp__autoresearch__history",
        ),
    ]
    with scripted_claude(in_order(*turns)) as model:
        done = subprocess.run(
            command,
            cwd=lab,
            env=environment(home, model.url),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert json.loads(done.stdout)["permission_denials"] == []
    ledger = Ledger(open_workspace(lab).ledger_path)
    (experiment,) = ledger.experiments("m1")[1:]
    ledger.close()
    assert (experiment.proposal.description, str(experiment.status)) == ("sharper", "keep")
    told = json.dumps(model.asked[-1]["messages"])
    assert "p_better" in told and "sharper" in told
