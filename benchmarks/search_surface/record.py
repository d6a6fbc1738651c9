"""Records real trials for the search benchmark: `python benchmarks/search_surface/record.py [--trials 400]`.

Every trial is a sealed one under `tiny`, ordered from the referee like a session's: this checkout's train.py with the
constants of one point of `design.py`, screened, on the search slice. One JSON line per trial is appended to
trials.jsonl and synchronised, so the recorder may be killed at any time and goes on where it was. About 25 s a trial on
a quiet machine; the contract's clock counts CPU time, so neighbours cost time rather than score.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from search_surface.design import Point, point  # noqa: E402

from autoresearch.loop.opening import Ground, find_ground  # noqa: E402
from autoresearch.loop.orders import Order  # noqa: E402
from autoresearch.loop.referee import run_trial  # noqa: E402
from autoresearch.loop.settings import Settings  # noqa: E402
from autoresearch.proposers.constants import Constants, read_constants, rewrite  # noqa: E402
from autoresearch.proposers.search_space import space_of  # noqa: E402
from autoresearch.vocabulary import Outcome, Trial  # noqa: E402

PRESET = "tiny"
TRAIN = HERE.parents[1] / "train.py"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=400, help="how many there shall be in all")
    parser.add_argument("--out", type=Path, default=HERE / "trials.jsonl")
    parser.add_argument(
        "--polite", action="store_true", help="a second recorder: last trials first, on a quiet machine"
    )
    options = parser.parse_args()
    source = TRAIN.read_text(encoding="utf-8")
    constants = read_constants(source, PRESET)
    ground = find_ground(Settings(contract=PRESET))
    space = space_of(constants, seq_len=ground.rules.max_seq_len, anchors={}, seen={})
    numbers = range(options.trials)[:: -1 if options.polite else 1]
    with tempfile.TemporaryDirectory() as folder:
        while missing := [n for n in numbers if n not in numbers_in(options.out)]:
            for number in missing:
                while options.polite and not is_quiet():
                    time.sleep(20.0)
                recorded = read_recording(options.out)  # again: another recorder may write the same file
                if number in numbers_in(options.out):
                    continue
                row = record(point(number, space, recorded), source, constants, ground, Path(folder) / "run.log")
                if row is None:
                    print(f"{number}: timed out on a busy machine, left for later", flush=True)
                    continue
                append(options.out, row)
                print(
                    f"{number}: {row['kind']} {row['outcome']} {row['val_bpb']} in {row['wall_seconds']} s", flush=True
                )


def numbers_in(path: Path) -> set[object]:
    """Numbers of the trials that are recorded."""
    return {row["number"] for row in read_recording(path)}


def record(here: Point, source: str, constants: Constants, ground: Ground, log_path: Path) -> dict[str, object] | None:
    """Run one point; None when it says nothing about the point, because the machine was too busy for it."""
    literals = constants.literals
    changes = {name: value for name, value in here.values.items() if repr(value) != repr(literals[name].value)}
    began = time.monotonic()
    order = Order({"train.py": rewrite(source, constants, changes)}, "train.py", here.seed)
    trial = run_trial(ground.arena, order, log_path).trial
    if trial.outcome is Outcome.TIMED_OUT and not is_quiet():
        return None  # the deadlines are wall time, four times the budget: neighbours ran it into them
    return {
        "number": here.number,
        "kind": here.kind,
        "repeats": here.repeats,
        "seed": here.seed,
        "values": here.values,
        **measured(trial),
        "wall_seconds": round(time.monotonic() - began, 1),
        "train_sha256": hashlib.sha256(source.encode()).hexdigest()[:16],
        "fingerprint": ground.fingerprint,
        "chip": ground.hardware.chip,
    }


def is_quiet() -> bool:
    """Whether a trial would have most of a core to itself. The load includes a recorder's own trial."""
    return os.getloadavg()[0] < 1.5 * (os.cpu_count() or 1)


def measured(trial: Trial) -> dict[str, object]:
    """What is kept of a trial."""
    return {
        "outcome": str(trial.outcome),
        "reason": trial.reason[:200],
        "val_bpb": trial.val_bpb,
        "num_steps": trial.num_steps,
        "num_tokens": trial.num_tokens,
        "tok_sec": round(trial.tok_sec, 1),
        "budget_used": round(trial.budget_used, 3),
        "cpu_share": None if trial.cpu_share is None else round(trial.cpu_share, 3),
        "disturbed": trial.disturbed,
        "peak_memory_mb": round(trial.peak_memory_mb),
    }


def read_recording(path: Path) -> list[dict[str, object]]:
    """Lines of a recording; one that a kill cut short is left out (and run again)."""
    rows: list[dict[str, object]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            print(f"left out, cut short: {line[:60]}", file=sys.stderr)
    return rows


def append(path: Path, row: Mapping[str, object]) -> None:
    """One more line, on the disk when this returns. A line that a kill cut short is ended first."""
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if torn else "") + json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


if __name__ == "__main__":
    main()
