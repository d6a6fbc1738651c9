"""The real `claude` client as a proposer, its model scripted on loopback."""

from __future__ import annotations

import json

import pytest
from agents_at_work import EDITED, IDEA, NEW, OLD, folder_in, needs
from scripted_claude import Block, ScriptedClaude, in_order, say, scripted_claude, use

from autoresearch.sandbox.desk import bubblewrap_for_desks
from autoresearch.vocabulary import ProviderUnavailable

pytestmark = [pytest.mark.agent_cli, needs("claude")]

SEALS = [
    pytest.param(
        True, marks=pytest.mark.skipif(bubblewrap_for_desks() is None, reason="no bubblewrap here"), id="sealed"
    ),
    pytest.param(False, id="open"),
]
KEY = "sk-ant-api03-dummy-0123456789"


def honest(folder: str) -> list[list[Block]]:
    return [
        [use("Read", file_path=f"{folder}/TASK.md")],
        [use("Read", file_path=f"{folder}/train.py")],
        [use("Edit", file_path=f"{folder}/train.py", old_string=OLD, new_string=NEW)],
        [use("Write", file_path=f"{folder}/IDEA.txt", content=IDEA)],
        [say("I doubled the learning rate.")],
    ]


def variables(server: ScriptedClaude) -> dict[str, str]:
    return {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY}


@pytest.mark.slow
@pytest.mark.parametrize("sealed", SEALS)
def test_claude_edits_the_file_through_its_own_tools_and_its_cost_is_recorded(bench, sealed):
    with scripted_claude(lambda body: in_order(*honest(folder_in(json.dumps(body))))(body)) as server:
        proposal = bench.propose("cli:claude", variables(server), sealed=sealed)
    assert proposal.files == {"train.py": EDITED}
    assert proposal.description == "double the rate"
    assert proposal.details["agent_sealed"] == ("bubblewrap" if sealed else "none")
    (call,) = bench.calls
    assert (call.cost.input_tokens, call.cost.output_tokens) == (5 * 1200, 5 * 50)
    assert call.cost.usd is not None and 0 < call.cost.usd == proposal.details["usd"]
    assert call.model.startswith("claude-") and not call.why
    assert KEY not in str(proposal)


@pytest.mark.slow
@pytest.mark.parametrize("sealed", SEALS)
def test_claude_is_denied_push_fetch_and_every_other_file(bench, sealed):
    planted = bench.home / ".claude"
    planted.mkdir()
    hook = [{"matcher": "*", "hooks": [{"type": "command", "command": f"touch {bench.root}/hooked"}]}]
    mine = {"permissions": {"allow": ["Bash", "WebFetch", "Write"]}, "hooks": {"PreToolUse": hook}}
    (planted / "settings.json").write_text(json.dumps(mine))
    (planted / "CLAUDE.md").write_text("instructions of another day")
    ledger = str(bench.workspace / ".git" / "ledger")

    def script(body):
        folder = folder_in(json.dumps(body))
        attempts = [
            [use("Bash", command="git push origin main")],
            [use("Bash", command=f"cat {ledger}")],
            [use("WebFetch", url="https://example.org", prompt="read it")],
            [use("WebSearch", query="val_bpb")],
            [use("Write", file_path=f"{folder}/outside.py", content="1")],
            [use("Write", file_path=f"{bench.workspace}/train.py", content="1")],
            [use("Read", file_path=ledger)],
            [use("Read", file_path=f"{folder}/prepare.py")],
            [use("Edit", file_path=f"{folder}/prepare.py", old_string="64", new_string="1")],
        ]
        return in_order(*attempts, *honest(folder))(body)

    with scripted_claude(script) as server:
        proposal = bench.propose("cli:claude", variables(server), sealed=sealed)
        results = server.tool_results()
    assert server.tools_offered() == {"Read", "Edit", "Write", "Glob", "Grep"}
    refused = [result for result in results if "denied" in result or "not enabled" in result or "not exist" in result]
    assert len(refused) == 8 and not any("secret ledger" in result for result in results)
    assert proposal.files == {"train.py": EDITED}, "what it could not do leaves no trace"
    assert not (bench.root / "hooked").exists() and not (bench.workspace / "train.py").exists()
    assert "instructions of another day" not in json.dumps(server.asked)


@pytest.mark.slow
def test_claude_ends_at_its_turns_and_is_nudged_once(bench):
    def script(body):
        return [use("Read", file_path=f"{folder_in(json.dumps(body))}/train.py")]

    with scripted_claude(script) as server, pytest.raises(ProviderUnavailable, match="changed nothing"):
        bench.propose("cli:claude", variables(server), turns=3)
    assert len(server.asked) == 6, "two attempts of three turns"
    assert "first attempt" in json.dumps(server.asked[3]) and "first attempt" not in json.dumps(server.asked[0])
    assert all("maximum number of turns" in call.why for call in bench.calls)


@pytest.mark.slow
def test_claude_stops_when_the_money_that_is_left_is_spent(bench):
    def script(body):
        return [use("Read", file_path=f"{folder_in(json.dumps(body))}/train.py")]

    with scripted_claude(script) as server, pytest.raises(ProviderUnavailable):
        bench.propose("cli:claude", variables(server), may_spend=lambda: 0.01)
    assert len(server.asked) <= 6, "a call costs 0.006 USD by the client's own count"
