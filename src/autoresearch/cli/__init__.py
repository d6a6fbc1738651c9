"""The command line: parse, call, print, exit. Importing it loads no heavy library, so that --help is instant."""

from __future__ import annotations

import os
import sys

from autoresearch.cli.parser import parse
from autoresearch.hostile_text import terminal_block
from autoresearch.report.text import for_encoding
from autoresearch.vocabulary import AutoresearchError


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the user must act, 2 wrong usage, 130 interrupted."""
    options = parse(arguments)
    try:
        code: int = options.run(options)
    except AutoresearchError as error:
        _say(f"autoresearch: {error}")  # a message may quote a log, git or a file's name
        return error.exit_code
    except KeyboardInterrupt:
        _say("autoresearch: interrupted")
        return 130
    except BrokenPipeError:
        # whoever read our output (head, less) has seen enough; nothing more can be written there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _say(text: str) -> None:
    print(for_encoding(terminal_block(text), sys.stderr.encoding), file=sys.stderr)
