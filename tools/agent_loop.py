"""The research loop by the name and flags that earlier projects of this field gave it.

    python tools/agent_loop.py --tag nov21 --provider anthropic --model claude-opus-4-5 --max-experiments 100 --max-hours 10

does the same as `autoresearch research nov21 --model anthropic:claude-opus-4-5 --experiments 100 --hours 10`. Every other
flag goes to `autoresearch research` as it is; `autoresearch research --help` lists them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from autoresearch.cli import main


def research_arguments(arguments: list[str], environment: Mapping[str, str]) -> list[str]:
    """The arguments of `autoresearch` that say the same. Exits with 2 on wrong usage.

    The tag is --tag, else the variable RUN_TAG, else the time in UTC: agent-20261121-093000.
    """
    parser = argparse.ArgumentParser(
        prog="agent_loop.py",
        description="Research by itself: propose, train, judge, keep or discard. A thin front of `autoresearch research`.",
        epilog="Other flags go to `autoresearch research` as they are.",
        allow_abbrev=False,
    )
    parser.add_argument("--tag", help="name of the session (default: RUN_TAG, else the time)")
    parser.add_argument("--provider", help="provider of the language model: anthropic, openai, ollama, ...")
    parser.add_argument(
        "--model", help="model, or a whole chain: anthropic:NAME, openai:NAME (default: no language model)"
    )
    parser.add_argument("--base-url", help="address of an OpenAI-compatible server")
    parser.add_argument("--max-experiments", metavar="N", help="stop after N experiments")
    parser.add_argument("--max-hours", metavar="H", help="stop after H hours")
    given, others = parser.parse_known_args(arguments)
    if given.provider and not given.model:
        parser.error("--provider needs --model: which of its models")
    if given.base_url and not given.model:
        parser.error("--base-url needs --model: which model is served there")
    tag = given.tag or environment.get("RUN_TAG") or f"agent-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    command = ["research", tag]
    if given.model:
        provider = given.provider or ("openai" if given.base_url else "")
        name = f"{provider}:{given.model}" if provider else given.model
        command += ["--model", f"{name}@{given.base_url}" if given.base_url else name]
    if given.max_experiments:
        command += ["--experiments", given.max_experiments]
    if given.max_hours:
        command += ["--hours", given.max_hours]
    return [*command, *others]


if __name__ == "__main__":
    raise SystemExit(main(research_arguments(sys.argv[1:], os.environ)))
