"""Runs the real `claude` client against a scripted model on loopback, with our plugin and our settings and nobody else's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "experiment-plugin"
CLIENT = shutil.which("claude")
needs_client = pytest.mark.skipif(CLIENT is None, reason="no claude on PATH: npm install -g @anthropic-ai/claude-code")


def environment(home: Path, url: str = "", *, with_autoresearch: bool = True) -> dict[str, str]:
    """A clean environment: a home of its own, a dummy key, and the test's cache and git identity."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("AUTORESEARCH_", "GIT_", "OMP_"))}
    client_dir = str(Path(CLIENT or "claude").parent)
    path = [str(Path(sys.executable).parent)] if with_autoresearch else []
    return {
        **kept,
        "HOME": str(home),
        "PATH": os.pathsep.join([*path, client_dir, "/usr/local/bin", "/usr/bin", "/bin"]),
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "dummy",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def ask(root: Path, home: Path, url: str, prompt: str, *arguments: str, **kinds: bool) -> dict[str, Any]:
    """One unattended session in `root`, with the plugin: the client's own JSON result."""
    home.mkdir(exist_ok=True)
    command = ["claude", "--plugin-dir", str(PLUGIN), "-p", prompt, "--output-format", "json", *arguments]
    done = subprocess.run(
        command,
        cwd=root,
        env=environment(home, url, **kinds),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def with_settings(root: Path) -> Path:
    """Give a workspace the settings that the project ships."""
    (root / ".claude").mkdir()
    shutil.copy(ROOT / ".claude" / "settings.json", root / ".claude" / "settings.json")
    return root
