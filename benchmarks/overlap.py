"""Holding training files against the validation text: one process beside several, in one run.

    python benchmarks/overlap.py [--shards 8] [--megabytes 20] [--processes 2] [--rounds 3]

Text: the synthetic corpus of tokenizing.py; the first shard stands for the validation text. Rounds are interleaved, the
best of each counts, and the processes' start is part of their time. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenizing import write_shards

from autoresearch.sources.looking import Looking, SourceFile, documents_of
from autoresearch.sources.overlap import Look, ValidationIndex


def one(index: ValidationIndex, files: list[SourceFile]) -> list[Look]:
    return [index.look(documents_of(file, None, lines_are_articles=False)) for file in files]


def several(index: ValidationIndex, files: list[SourceFile], num_processes: int) -> list[Look]:
    with Looking(num_processes, index, None, False) as look, ThreadPoolExecutor(2 * num_processes) as threads:
        return list(threads.map(look, files))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), options.shards + 1, options.megabytes)
        held, *files = [SourceFile(path, path.name, None, False) for path in sorted(Path(folder).glob("*.parquet"))]
        index = ValidationIndex(documents_of(held, None, lines_are_articles=False))
        ways = {"one": lambda: one(index, files), "several": lambda: several(index, files, options.processes)}
        best = dict.fromkeys(ways, float("inf"))
        found = {}
        for _ in range(options.rounds):
            for name, run in ways.items():
                began = time.perf_counter()
                found[name] = run()
                best[name] = min(best[name], time.perf_counter() - began)
    assert all((a.met == b.met).all() and a.exact == b.exact for a, b in zip(*found.values(), strict=True))
    characters = options.shards * options.megabytes * 1e6
    print(
        json.dumps(
            {
                "characters": characters,
                "processes": options.processes,
                "million_per_second": {name: round(characters / seconds / 1e6, 1) for name, seconds in best.items()},
                "times_as_fast": round(best["one"] / best["several"], 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
