"""One phase of an experiment in a process of its own: `python -m autoresearch.cli.phase_process TAG PHASE`, started by the verb.

Its memory is the system's again afterwards, and one that is killed takes nothing with it. It ends when its standard input does,
which is a pipe from the verb: no phase outlives a verb that was killed, and none is begun twice at once.
"""

from __future__ import annotations

import os
import sys
import threading

from autoresearch.cli.experiment_phases import Plan, phases_of
from autoresearch.hostile_text import terminal_block
from autoresearch.loop.opening import session_lock
from autoresearch.loop.phases import PhaseRun
from autoresearch.loop.session import Stopped
from autoresearch.records.ledger import Ledger
from autoresearch.vocabulary import AutoresearchError, UsageError
from autoresearch.workspace import open_workspace

FAILED = 1
STOPPED = 130
ORPHANED = 3  # exit code of one whose verb is gone


def main(arguments: list[str]) -> int:
    """Carry the phase out and record it. 0: done; 1: failed, recorded, said on standard error; 130: stopped."""
    tag, name = arguments
    threading.Thread(target=_end_with_the_verb, daemon=True).start()
    workspace = open_workspace()
    ledger = Ledger(workspace.ledger_path)
    try:
        with session_lock(workspace, f"{tag}.phase"):
            run = PhaseRun(workspace, ledger, tag, [])
            values = run.book.settings(tag)
            if values is None:
                raise UsageError(f"no experiment {tag!r} was begun here", hint=f"autoresearch experiment {tag}")
            run = PhaseRun(workspace, ledger, tag, phases_of(workspace, Plan.from_json(values)))
            run.carry_out(run.phase(name), sys.stdout)
    except Stopped:
        return STOPPED
    except AutoresearchError as error:
        print(terminal_block(str(error)), file=sys.stderr)
        return FAILED
    return 0


def _end_with_the_verb() -> None:
    sys.stdin.buffer.read()
    os._exit(ORPHANED)  # candidates die with us; files are whole or not there


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
