"""How long `autoresearch --help` takes beside an interpreter that does nothing: `python benchmarks/help.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from lab import autoresearch, report


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    runs = [(seconds(autoresearch("--help")), seconds([sys.executable, "-c", "pass"])) for _ in range(11)]
    ours, bare = (statistics.median(column) for column in zip(*runs, strict=True))
    report(
        {
            "help_seconds_median": round(ours, 3),
            "bare_interpreter_seconds_median": round(bare, 3),
            "worst_help_seconds": round(max(r[0] for r in runs), 3),
        }
    )


if __name__ == "__main__":
    main()
