"""The real `gemini` and `opencode` clients as proposers, their models scripted on loopback."""

from __future__ import annotations

import json

import pytest
from agents_at_work import EDITED, IDEA, NEW, OLD, folder_in, needs
from scripted_others import chat, gemini, scripted

from autoresearch.sandbox.desk import bubblewrap_for_desks

pytestmark = pytest.mark.agent_cli

SEALS = [
    pytest.param(
        True, marks=pytest.mark.skipif(bubblewrap_for_desks() is None, reason="no bubblewrap here"), id="sealed"
    ),
    pytest.param(False, id="open"),
]


@needs("gemini")
@pytest.mark.parametrize("sealed", SEALS)
def test_gemini_edits_the_file_and_is_denied_everything_else(bench, sealed):
    (bench.home / ".gemini").mkdir()
    login = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
    (bench.home / ".gemini" / "settings.json").write_text(json.dumps(login))

    def script(request):
        folder = folder_in(request)
        return [
            ("run_shell_command", {"command": "git push"}),
            ("web_fetch", {"prompt": "read https://example.org"}),
            ("write_file", {"file_path": f"{folder}/outside.py", "content": "1"}),
            ("write_file", {"file_path": f"{bench.workspace}/train.py", "content": "1"}),
            ("read_file", {"file_path": f"{bench.workspace}/.git/ledger"}),
            ("read_file", {"file_path": f"{folder}/train.py"}),
            (
                "replace",
                {"file_path": f"{folder}/train.py", "instruction": "double", "old_string": OLD, "new_string": NEW},
            ),
            ("write_file", {"file_path": f"{folder}/IDEA.txt", "content": IDEA}),
            "Doubled.",
        ]

    with scripted(gemini, script) as server:
        variables = {"GEMINI_API_KEY": "dummy-dummy", "GOOGLE_GEMINI_BASE_URL": server.url}
        proposal = bench.propose("cli:gemini -m gemini-2.5-pro", variables, sealed=sealed)
    assert all("error" in result for result in server.results[:5]), server.results
    assert proposal.files == {"train.py": EDITED} and proposal.description == "double the rate"
    assert proposal.details["tokens"] == 9 * 1050
    assert not {"run_shell_command", "web_fetch", "google_web_search"} & server.tools


@needs("opencode")
@pytest.mark.parametrize("sealed", SEALS)
def test_opencode_edits_the_file_and_is_denied_everything_else(bench, sealed):
    def script(request):
        folder = folder_in(request)
        return [
            ("bash", {"command": "git push", "description": "x"}),
            ("webfetch", {"url": "https://example.org", "format": "text"}),
            ("write", {"filePath": f"{folder}/outside.py", "content": "1"}),
            ("write", {"filePath": f"{bench.workspace}/train.py", "content": "1"}),
            ("read", {"filePath": f"{bench.workspace}/.git/ledger"}),
            ("read", {"filePath": f"{folder}/train.py"}),
            ("edit", {"filePath": f"{folder}/train.py", "oldString": OLD, "newString": NEW}),
            ("write", {"filePath": f"{folder}/IDEA.txt", "content": IDEA}),
            "Doubled.",
        ]

    with scripted(chat, script) as server:
        model = {"cost": {"input": 1, "output": 2}}
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"{server.url}/v1", "apiKey": "dummy"},
            "models": {"m": model},
        }
        config = bench.home / ".config" / "opencode"
        config.mkdir(parents=True)
        (config / "opencode.json").write_text(json.dumps({"provider": {"scripted": provider}}))
        variables = {"OPENCODE_DISABLE_MODELS_FETCH": "1"}
        proposal = bench.propose("cli:opencode -m scripted/m", variables, sealed=sealed)
    assert not any("secret ledger" in result for result in server.results)
    assert proposal.files == {"train.py": EDITED} and proposal.description == "double the rate"
    assert proposal.details["tokens"] == 9 * 1050
    assert proposal.details["usd"] == pytest.approx(9 * (1000 * 1e-6 + 50 * 2e-6))
    assert server.tools == {"edit", "glob", "grep", "read", "write"}
