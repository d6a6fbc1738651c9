"""What a benchmark leaves for machines: data/bench_YYYYMMDD_HHMMSS.json. docs/bench.md has the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from autoresearch.backends.hardware import Hardware
from autoresearch.bench import sampling
from autoresearch.bench.benchmark import Benchmark, Measurement
from autoresearch.bench.sampling import Spread, spread_of
from autoresearch.contract.rules import Clock, Rules
from autoresearch.files import write_json

FORMAT_VERSION = "1"


@dataclass(frozen=True)
class Circumstances:
    """Where and how it was measured.

    started_at, ended_at: UTC, ISO 8601. commit: the workspace's, None before its first one. notes: what a reader of the
    figures should know, one sentence each. paths: of the files as the user would type them, by label.
    """

    started_at: str
    ended_at: str
    commit: str | None
    hardware: Hardware
    system: str
    versions: Mapping[str, str | None]
    rules: Rules
    steps: int
    rounds: int
    limit_seconds: float
    threads: int
    paths: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Within:
    """What fits the contract's budget: whole optimizer steps and their tokens."""

    steps: int
    tokens: int


def tokens_per_second(measurement: Measurement) -> float:
    """Of training, by the median whole step: per CPU second where the contract counts those, as everywhere here."""
    return measurement.tokens_per_step / measurement.step.median


def mfu_percent(measurement: Measurement, peak_flops: float | None) -> float | None:
    """Part of the device's dense bf16 peak that training uses, in %; None where peak or FLOPs per token are unknown."""
    flops = measurement.parts["flops_per_token"] if measurement.parts else None
    if not flops or not peak_flops:
        return None
    return float(100 * flops * tokens_per_second(measurement) / peak_flops)


def within_budget(measurement: Measurement, rules: Rules) -> Within:
    """Steps and tokens of a run that lasts the contract's budget, by its own clock."""
    unit = float(measurement.first["micro_steps"]) if rules.clock is Clock.STEPS else measurement.step.median
    steps = int(rules.time_budget / unit)
    return Within(steps, steps * measurement.tokens_per_step)


def eval_seconds(measurement: Measurement) -> float | None:
    """Projection of the whole evaluation, on the candidate's side; None where parts were not measured."""
    if not measurement.parts:
        return None
    return float(spread_of(measurement.parts["eval_batch_seconds"]).median * measurement.parts["num_eval_batches"])


def benchmark_json(benchmark: Benchmark, where: Circumstances) -> dict[str, Any]:
    """All of it as JSON values. What was not measured is null."""
    hardware = asdict(where.hardware)
    del hardware["note"]
    return {
        "format_version": FORMAT_VERSION,
        "started_at": where.started_at,
        "ended_at": where.ended_at,
        "commit": where.commit,
        "machine": {**hardware, "system": where.system, "versions": dict(where.versions)},
        "contract": {
            "preset": where.rules.preset,
            "max_seq_len": where.rules.max_seq_len,
            "vocab_size": where.rules.vocab_size,
            "clock": str(where.rules.clock),
            "time_budget": where.rules.time_budget,
            "num_eval_rows": where.rules.num_eval_rows,
        },
        "settings": {
            "steps": where.steps,
            "rounds": where.rounds,
            "limit_seconds": where.limit_seconds,
            "threads": where.threads,
            "seconds_are": "cpu" if where.rules.clock is Clock.CPU else "wall",
            "warm_up": {
                "least_steps": sampling.LEAST_WARM_UP,
                "window": sampling.WINDOW,
                "stable_within": sampling.STABLE_WITHIN,
                "most_steps": sampling.MOST_WARM_UP,
                "most_seconds": sampling.MOST_WARM_UP_SECONDS,
            },
        },
        "notes": list(where.notes),
        "measurements": [_measurement_json(measured, where) for measured in benchmark.measurements],
        "comparisons": [
            {
                "mode": str(found.mode),
                "order": found.order,
                "seconds_per_token_b_over_a": found.ratio.ratio,
                "interval": list(found.ratio.interval) if found.ratio.interval else None,
                "pairs": list(found.ratio.pairs),
            }
            for found in benchmark.comparisons
        ],
    }


def _measurement_json(measured: Measurement, where: Circumstances) -> dict[str, Any]:
    first, parts = measured.first, measured.parts
    budget = within_budget(measured, where.rules)
    spreads = {name: asdict(spread) for name, spread in measured.part_spreads().items()}
    evaluation = None
    if parts:
        evaluation = {
            "rows": min(first["rows"], where.rules.num_eval_rows),
            "batch_seconds": asdict(spread_of(parts["eval_batch_seconds"])),
            "num_batches": parts["num_eval_batches"],
            "seconds": eval_seconds(measured),
        }
    return {
        "file": measured.label,
        "path": where.paths[measured.label],
        "sha256": measured.file.sha256,
        "mode": str(measured.mode),
        "compiled": measured.compiled,
        "library": first["library"],
        "device": first["device"],
        "text": {"kind": first["text"], "dataset": first["dataset"]},
        "batch": {
            "rows": first["rows"],
            "seq_len": first["seq_len"],
            "micro_steps": first["micro_steps"],
            "micro_steps_known": first["micro_steps_known"],
            "tokens_per_step": measured.tokens_per_step,
        },
        "step_seconds": asdict(measured.step),
        "wall_step_seconds": asdict(measured.wall_step),
        "parts_seconds": {**spreads, "overhead": measured.overhead_seconds} if parts else None,
        "parts_problem": measured.parts_problem or None,
        "tokens_per_second": tokens_per_second(measured),
        "num_params": parts["num_params"] if parts else None,
        "flops_per_token": parts["flops_per_token"] if parts else None,
        "mfu_percent": mfu_percent(measured, where.hardware.peak_flops),
        "peak_memory": {"mb": max(run["memory"]["mb"] for run in measured.runs), "kind": first["memory"]["kind"]},
        "process_peak_mb": max(run["process_peak_mb"] for run in measured.runs),
        "startup_seconds": {"cold": first["startup_seconds"], "warm": _warm_startup(measured)},
        "import_seconds": parts["import_seconds"] if parts else None,
        "build_seconds": parts["build_seconds"] if parts else None,
        "compile_seconds": measured.compile_seconds,
        "evaluation": evaluation,
        "budget": asdict(budget),
        "samples": {
            "warm_up_steps": [run["warm_up_steps"] for run in measured.runs],
            "step_seconds": [run["step_seconds"] for run in measured.runs],
            "wall_seconds": [run["wall_seconds"] for run in measured.runs],
            "parts_seconds": parts["parts"] if parts else None,
        },
    }


def _warm_startup(measured: Measurement) -> float | None:
    """Median start-up of the processes after the first, whose compile cache was filled; None where there was one."""
    later = [run["startup_seconds"] for run in measured.runs[1:]]
    return spread_of(later).median if later else None


def write_benchmark(data_dir: Path, report: Mapping[str, Any], at: datetime) -> Path:
    """Write data/bench_YYYYMMDD_HHMMSS.json of that time, which is UTC, whole; a number is added where there is one.

    Raises:
        DiskError: it cannot be written.
    """
    stamp = at.strftime("%Y%m%d_%H%M%S")
    path = data_dir / f"bench_{stamp}.json"
    count = 1
    while path.exists():
        count += 1
        path = data_dir / f"bench_{stamp}_{count}.json"
    write_json(path, report)
    return path


def share_of(spread: Spread, whole: Spread) -> float:
    """Part of a whole step, in %."""
    return 100 * spread.median / whole.median
