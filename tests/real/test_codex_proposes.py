"""The real `codex` client as a proposer, its model scripted on loopback."""

from __future__ import annotations

import pytest
from agents_at_work import EDITED, IDEA, NEW, OLD, needs
from scripted_responses import call, in_order, say, scripted_responses

from autoresearch.sandbox.desk import bubblewrap_for_desks

pytestmark = [pytest.mark.agent_cli, needs("codex")]

SEALS = [
    pytest.param(
        True, marks=pytest.mark.skipif(bubblewrap_for_desks() is None, reason="no bubblewrap here"), id="sealed"
    ),
    pytest.param(False, id="open"),
]
PATCH = f"""apply_patch <<'EOF'
*** Begin Patch
*** Update File: train.py
@@
-{OLD}
+{NEW}
*** Add File: IDEA.txt
{chr(10).join("+" + line for line in IDEA.splitlines())}
*** End Patch
EOF"""


def codex(url: str) -> str:
    provider = f'{{name="s",base_url="{url}",env_key="OPENAI_API_KEY",wire_api="responses"}}'
    return f"cli:codex -m scripted -c model_provider=scripted -c 'model_providers.scripted={provider}'"


@pytest.mark.slow
@pytest.mark.parametrize("sealed", SEALS)
def test_codex_edits_the_file_through_its_own_tools_and_its_tokens_are_recorded(bench, sealed):
    (bench.home / ".codex").mkdir()
    turns = [[call("exec_command", cmd="cat TASK.md")], [call("exec_command", cmd=PATCH)], [say("Doubled.")]]
    with scripted_responses(in_order(*turns)) as server:
        proposal = bench.propose(codex(server.url), {"OPENAI_API_KEY": "dummy"}, sealed=sealed)
        results = server.tool_results()
    assert "val_bpb" in results[0]
    assert proposal.files == {"train.py": EDITED}
    assert proposal.description == "double the rate"
    (spent,) = bench.calls
    assert (spent.cost.input_tokens, spent.cost.output_tokens, spent.cost.cached_tokens) == (3000, 150, 600)


@pytest.mark.slow
@pytest.mark.parametrize("sealed", SEALS)
def test_codex_commands_have_no_network_and_write_nowhere_else(bench, sealed):
    (bench.home / ".codex").mkdir()
    with scripted_responses(lambda body: [say("nobody asks here")]) as listener:
        port = listener.url.split(":")[2].split("/")[0]
        deed = (
            f"touch {bench.workspace}/evil {bench.home}/evil /var/tmp/evil-of-codex; "
            f"(exec 3<>/dev/tcp/127.0.0.1/{port}) && echo connected; cat {bench.workspace}/.git/ledger; echo done; env"
        )
        turns = [[call("exec_command", cmd=deed)], [call("exec_command", cmd=PATCH)], [say("Doubled.")]]
        with scripted_responses(in_order(*turns)) as server:
            proposal = bench.propose(
                codex(server.url), {"OPENAI_API_KEY": "sk-planted-0123456789abcdef"}, sealed=sealed
            )
            first = server.tool_results()[0]
    assert "done" in first and "connected" not in first
    assert "sk-planted" not in first
    assert ("secret ledger" in first) is not sealed, "codex's own sandbox lets everything be read; ours does not"
    assert not (bench.workspace / "evil").exists() and not (bench.home / "evil").exists()
    assert "web_search" not in server.tools_offered()
    assert proposal.files == {"train.py": EDITED}
