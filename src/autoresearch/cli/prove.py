"""The verb that proves what this machine defends: redteam."""

from __future__ import annotations

import argparse
import signal
import sys

from autoresearch.cli import screen
from autoresearch.redteam.entries import Entry, chosen, load_catalogue


def redteam(options: argparse.Namespace) -> int:
    """Every cheat of the catalogue and every honest control on this machine; 1 when what should hold does not."""
    catalogue = load_catalogue()
    if options.list:
        return _list(catalogue, as_json=options.json)
    named = chosen(catalogue, options.ids) if options.ids else []
    entries = named or [entry for entry in catalogue if options.full or not entry.full_only]
    # an identifier that was named is run however slow it is; a group leaves the slow ones to --full
    if not options.full:
        entries = [entry for entry in entries if not entry.full_only or entry.id in map(str.upper, options.ids)]
    return _run(entries, options)


def _list(catalogue: list[Entry], *, as_json: bool) -> int:
    for entry in catalogue:
        if as_json:
            screen.print_json(
                {
                    "id": entry.id,
                    "title": entry.title,
                    "tried": entry.tried,
                    "source": entry.source,
                    "kind": str(entry.kind),
                    "expect": [str(value) for value in entry.expect],
                    "defended_by": [str(value) for value in entry.defended_by],
                    "needs": sorted(entry.needs),
                    "full_only": entry.full_only,
                }
            )
        else:
            print(f"{entry.id}  {entry.kind:<8} {entry.title}\n     {entry.tried}\n     source: {entry.source}")
    return 0


def _run(entries: list[Entry], options: argparse.Namespace) -> int:
    from autoresearch.redteam.runner import Runner, Settings
    from autoresearch.redteam.scorecard import (
        Line,
        entry_json,
        entry_line,
        scorecard,
        totals,
        totals_json,
    )
    from autoresearch.sandbox.layers import all_layers, probe
    from autoresearch.sandbox.process_tree import shield_referee

    seal = probe(options.layers)
    shield_referee()
    settings = Settings.full() if options.full else Settings()
    lines: list[Line] = []
    interrupted = False
    # ended by the system, too, it takes its decoys and processes away; set before the first line, which tells others it runs
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not options.json:
            print(f"{len(entries)} entries; sealed: {seal.level} ({seal.kind})", flush=True)
        with Runner(seal, settings) as runner:
            for entry, judged in runner.run(entries):
                lines.append(Line(entry, judged))
                _say(entry_json(lines[-1]) if options.json else entry_line(lines[-1]))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGTERM, before)
    sums = totals(lines)
    if options.json:
        screen.print_json(totals_json(sums, sealed=seal.level, kind=seal.kind))
    else:
        install = [layer.install for layer in all_layers() if layer.install and not layer.works]
        print("\n" + scorecard(sums, sealed=f"{seal.level} ({seal.kind})", install=install))
    if interrupted:
        print(f"autoresearch: interrupted after {len(lines)} of {len(entries)} entries", file=sys.stderr)
        return 130
    if options.full and not options.ids:
        _rates(as_json=options.json)
    return 0 if sums.passed else 1


def _say(value: object) -> None:
    if isinstance(value, str):
        print(value, flush=True)
    else:
        screen.print_json(value)
        sys.stdout.flush()


def _rates(*, as_json: bool) -> None:
    """Detection rates of screening and deep examination beside the bound."""
    from autoresearch.redteam.detection import detection_rates, rate_line

    for rate in detection_rates():
        if as_json:
            screen.print_json({"event": "rate", **rate.as_json()})
        else:
            print(rate_line(rate), flush=True)
