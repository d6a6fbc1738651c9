"""What a sandbox costs a candidate's start: `python benchmarks/sandbox_start.py [--runs 15] [--links 20]`.

For each kind that works here: from the call that starts the process to the first byte that its module writes, interpreter
and stage 0 included. The kinds take turns within one run, so that a busy machine disturbs all alike; what counts is the
difference to `none`, which starts the same stage 0 with nothing around it. Also: what it takes to link a warm cache, and to
make and remove a cell. Cells are removed after the last start: freeing blocks can keep a disk busy for seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from lab import report

from autoresearch.sandbox.cell import Cell
from autoresearch.sandbox.layers import Kind, probe
from autoresearch.sandbox.seal import Seal
from autoresearch.vocabulary import UsageError


def since(began: float) -> float:
    """Milliseconds."""
    return (time.perf_counter() - began) * 1e3


def one_start(seal: Seal, folder: Path, warm: Path) -> tuple[Cell, dict[str, float]]:
    """A cell that has run, and the milliseconds of each step."""
    took = {}
    began = time.perf_counter()
    cell = Cell(seal, folder, accelerators=False, threads=1, warm_cache=warm)
    took["cell_ms"] = since(began)
    reader, writer = os.pipe()
    with (folder / "log").open("wb") as log:
        began = time.perf_counter()
        # timeit is the standard library's one module that runs a text given to it as an argument
        first = f"import os; os.write({writer}, b'1')"
        tree = cell.start("timeit", ["-n1", "-r1", first], output=log, pass_fds=[writer])
        os.close(writer)
        said = os.read(reader, 1)
        took["first_byte_ms"] = since(began)
    os.close(reader)
    assert said == b"1", (folder / "log").read_text()
    began = time.perf_counter()
    tree.kill()
    took["kill_ms"] = since(began)
    return cell, took


def make_warm_cache(folder: Path, num_files: int) -> Path:
    """A warm cache as a compiled model leaves one: small files, two to a folder."""
    for number in range(num_files):
        path = folder / "inductor" / f"{number // 2:03d}" / f"{number}.so"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    folder.mkdir(exist_ok=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--links", type=int, default=20, help="files in the warm cache")
    options = parser.parse_args()
    seals = {}
    for kind in (Kind.NONE, Kind.LANDLOCK, Kind.BUBBLEWRAP, Kind.SANDBOX_EXEC):
        try:
            seals[kind] = probe(kind)
        except UsageError as error:
            print(f"left out: {error.message}")
    took: dict[Kind, list[dict[str, float]]] = {kind: [] for kind in seals}
    cells = []
    with tempfile.TemporaryDirectory() as name:
        warm = make_warm_cache(Path(name) / "warm", options.links)
        for number in range(options.runs + 1):
            for kind, seal in seals.items():
                cell, laps = one_start(seal, Path(name) / f"{kind}-{number}", warm)
                cells.append((laps, cell))
                if number > 0:  # the first fills the page cache and works out the policy
                    took[kind].append(laps)
        for laps, cell in cells:
            began = time.perf_counter()
            cell.remove()
            laps["remove_ms"] = since(began)

    def median(kind: Kind, lap: str) -> float:
        return statistics.median(laps[lap] for laps in took[kind])

    print(
        f"{'kind':<14}{'level':<44}{'cell ms':>9}{'first byte ms':>15}{'over none ms':>14}{'kill ms':>9}{'remove ms':>11}"
    )
    for kind, seal in seals.items():
        over = median(kind, "first_byte_ms") - median(Kind.NONE, "first_byte_ms")
        steps = f"{median(kind, 'cell_ms'):>9.1f}{median(kind, 'first_byte_ms'):>15.1f}{over:>14.1f}"
        print(f"{kind:<14}{seal.level:<44}{steps}{median(kind, 'kill_ms'):>9.1f}{median(kind, 'remove_ms'):>11.1f}")
    report(
        {
            "runs_each": options.runs,
            "links_in_the_warm_cache": options.links,
            "over_none_ms_median": {
                kind: round(median(kind, "first_byte_ms") - median(Kind.NONE, "first_byte_ms"), 1) for kind in seals
            },
        }
    )


if __name__ == "__main__":
    main()
