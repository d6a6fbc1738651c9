"""What a benchmark leaves: the JSON that other programs read, literally, and what a person sees of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autoresearch.backends.hardware import Hardware
from autoresearch.bench.benchmark import Benchmark, Comparison, Measurement
from autoresearch.bench.experiment_file import ExperimentFile
from autoresearch.bench.order import Mode
from autoresearch.bench.ratio import Ratio
from autoresearch.bench.record import Circumstances, benchmark_json, mfu_percent, within_budget, write_benchmark
from autoresearch.bench.table import benchmark_text
from autoresearch.contract.rules import PRESETS

FILE = ExperimentFile(Path("train.py"), "", "5ha", (), frozenset())
FOREIGN = ExperimentFile(Path("theirs.py"), "", "5hb", ("build_model", "main"), frozenset())
RUN = {
    "text": "prepared",
    "dataset": "tinystories",
    "library": "torch",
    "device": "cuda",
    "compiled": True,
    "rows": 16,
    "seq_len": 512,
    "micro_steps": 2,
    "micro_steps_known": True,
    "startup_seconds": 30.0,
    "warm_up_steps": 6,
    "step_seconds": [0.5, 0.5, 0.5],
    "wall_seconds": [0.5, 0.5, 0.5],
    "memory": {"mb": 1024.0, "kind": "device peak"},
    "process_peak_mb": 900.0,
}
PARTS = {
    "compiled": True,
    "parts": {"data": [0.01] * 3, "forward": [0.15] * 3, "backward": [0.25] * 3, "optimizer": [0.05] * 3},
    "import_seconds": 2.0,
    "build_seconds": 1.0,
    "wall_seconds": [20.5, 0.5, 0.5, 0.5],
    "warm_up_steps": 1,
    "num_params": 1e6,
    "flops_per_token": 1e9,
    "eval_batch_seconds": [0.02, 0.02, 0.02],
    "num_eval_batches": 194,
}


def measured() -> Benchmark:
    ours = Measurement("A", FILE, Mode.OWN, [RUN, {**RUN, "startup_seconds": 8.0}], PARTS)
    slow = {**RUN, "step_seconds": [1.0] * 3, "wall_seconds": [1.0] * 3, "compiled": None}
    yours = Measurement("B", FOREIGN, Mode.OWN, [slow, slow], None, "the file defines no build_model, main")
    return Benchmark((ours, yours), (Comparison(Mode.OWN, "ABBA", Ratio(2.0, (1.9, 2.1), (1.95, 2.05))),))


def where(preset: str = "small", peak_flops: float | None = 1e14) -> Circumstances:
    return Circumstances(
        started_at="2026-11-21T09:30:00+00:00",
        ended_at="2026-11-21T09:40:00.000Z",
        commit="c" * 40,
        hardware=Hardware("cuda", "NVIDIA H200", 139.0, 16, peak_flops, ("bfloat16", "float32"), note="not shown"),
        system="Linux x86_64, Python 3.11.7",
        versions={"torch": "2.13.0", "mlx": None},
        rules=PRESETS[preset],
        steps=3,
        rounds=2,
        limit_seconds=600.0,
        threads=1,
        paths={"A": "train.py", "B": "../theirs.py"},
        notes=("one note",),
    )


def flat(value: float, count: int) -> dict:
    return {"median": value, "q1": value, "q3": value, "num_samples": count}


def test_the_record_is_literally_this():
    report = json.loads(json.dumps(benchmark_json(measured(), where())))
    yours = report["measurements"].pop()
    assert report == {
        "format_version": "1",
        "started_at": "2026-11-21T09:30:00+00:00",
        "ended_at": "2026-11-21T09:40:00.000Z",
        "commit": "c" * 40,
        "machine": {
            "backend": "cuda",
            "chip": "NVIDIA H200",
            "memory_gb": 139.0,
            "cores": 16,
            "peak_flops": 1e14,
            "dtypes": ["bfloat16", "float32"],
            "peak_is_estimate": False,
            "driver": "",
            "on_cpu": False,
            "system": "Linux x86_64, Python 3.11.7",
            "versions": {"torch": "2.13.0", "mlx": None},
        },
        "contract": {
            "preset": "small",
            "max_seq_len": 512,
            "vocab_size": 2048,
            "clock": "wall",
            "time_budget": 300.0,
            "num_eval_rows": 3072,
        },
        "settings": {
            "steps": 3,
            "rounds": 2,
            "limit_seconds": 600.0,
            "threads": 1,
            "seconds_are": "wall",
            "warm_up": {
                "least_steps": 3,
                "window": 3,
                "stable_within": 0.05,
                "most_steps": 20,
                "most_seconds": 60.0,
            },
        },
        "notes": ["one note"],
        "measurements": [
            {
                "file": "A",
                "path": "train.py",
                "sha256": "5ha",
                "mode": "own",
                "compiled": True,
                "library": "torch",
                "device": "cuda",
                "text": {"kind": "prepared", "dataset": "tinystories"},
                "batch": {
                    "rows": 16,
                    "seq_len": 512,
                    "micro_steps": 2,
                    "micro_steps_known": True,
                    "tokens_per_step": 16384,
                },
                "step_seconds": flat(0.5, 6),
                "wall_step_seconds": flat(0.5, 6),
                "parts_seconds": {
                    "data": flat(0.01, 3),
                    "forward": flat(0.15, 3),
                    "backward": flat(0.25, 3),
                    "optimizer": flat(0.05, 3),
                    "overhead": pytest.approx(0.04),
                },
                "parts_problem": None,
                "tokens_per_second": 32768.0,
                "num_params": 1e6,
                "flops_per_token": 1e9,
                "mfu_percent": pytest.approx(32.768),
                "peak_memory": {"mb": 1024.0, "kind": "device peak"},
                "process_peak_mb": 900.0,
                "startup_seconds": {"cold": 30.0, "warm": 8.0},
                "import_seconds": 2.0,
                "build_seconds": 1.0,
                "compile_seconds": 20.0,
                "evaluation": {
                    "rows": 16,
                    "batch_seconds": flat(0.02, 3),
                    "num_batches": 194,
                    "seconds": pytest.approx(3.88),
                },
                "budget": {"steps": 600, "tokens": 600 * 16384},
                "samples": {
                    "warm_up_steps": [6, 6],
                    "step_seconds": [[0.5] * 3] * 2,
                    "wall_seconds": [[0.5] * 3] * 2,
                    "parts_seconds": PARTS["parts"],
                },
            }
        ],
        "comparisons": [
            {
                "mode": "own",
                "order": "ABBA",
                "seconds_per_token_b_over_a": 2.0,
                "interval": [1.9, 2.1],
                "pairs": [1.95, 2.05],
            }
        ],
    }
    assert yours["parts_problem"] == "the file defines no build_model, main"
    unknown = ("parts_seconds", "num_params", "mfu_percent", "compile_seconds", "evaluation", "compiled")
    assert [yours[name] for name in unknown] == [None] * len(unknown)


def test_a_peak_that_is_not_known_leaves_mfu_unknown():
    assert mfu_percent(measured().measurements[0], None) is None


def test_the_budget_is_counted_in_the_contract_s_own_unit():
    ours, _ = measured().measurements
    assert within_budget(ours, PRESETS["smoke"]).steps == 4  # 8 micro-steps, two a step
    assert within_budget(ours, PRESETS["tiny"]).steps == 40  # 20 CPU seconds


def test_two_records_of_one_second_both_stay(tmp_path):
    at = datetime(2026, 11, 21, 9, 30, 5, tzinfo=UTC)
    names = [write_benchmark(tmp_path, {"n": number}, at).name for number in range(2)]
    assert names == ["bench_20261121_093005.json", "bench_20261121_093005_2.json"]
    assert [json.loads((tmp_path / name).read_text())["n"] for name in names] == [0, 1]


def test_a_person_sees_parts_shares_and_the_ratio_with_its_interval():
    lines = benchmark_text(measured(), where()).splitlines()
    (forward,) = [line for line in lines if line.startswith("    forward ")]
    assert "150.00 ms" in forward and forward.endswith("30.0 %")
    (overhead,) = [line for line in lines if "overhead" in line]
    assert "40.00 ms" in overhead and overhead.endswith("8.0 %")
    assert "../theirs.py takes 2.000 times as long per token as train.py (95 %: 1.900 to 2.100, 2 pairs" in "\n".join(
        lines
    )
    assert "not measured: the file defines no build_model, main" in "\n".join(lines)
    assert "note: one note" in lines
