"""train.py against the published one on a CPU: `python benchmarks/step_speed.py [--rounds 9] [--trials 6]`.

The other side is benchmarks/published_train.py, or any candidate file (`--against FILE`). Three questions, one JSON object:

    numerics   the same weights and the same batch in both: how far apart are loss, gradients, and weights after one step?
    speed      tokens per CPU second of whole training steps (loop, loader and progress line included), `--rounds` times a fresh process
               of each file, alternating, same threads; the ratio of neighbours with its 95 % interval. CPU seconds because wall
               time says on a busy machine how busy it was
    trials     `--trials N`: N sealed trials of each under the contract, same seeds, alternating: val_bpb at an equal budget of CPU
               seconds, and the paired difference with its 95 % interval. Wall deadlines are lifted, so that a busy machine
               ends no trial. With `--rounds 0` this question alone, of files that need not hold the same model

`--preset tiny` is what the figures are about. Batches of `speed` are synthetic; of `trials` the contract's own text.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import ROOT, report

from autoresearch.contract.rules import rules_for

OURS = ROOT / "train.py"
PUBLISHED = ROOT / "benchmarks" / "published_train.py"
FIRST_SEED = 700_000
WARM_STEPS = 10


class Batches:
    """`num` batches of arithmetic sequences modulo the vocabulary, with a progress from 0 to 1: the loader's outside."""

    def __init__(self, num: int, rows: int, length: int, vocab_size: int) -> None:
        self.num, self.rows, self.length, self.vocab_size = num, rows, length, vocab_size
        self.progress = self.training_seconds = 0.0

    def __iter__(self) -> Iterator[tuple[Any, Any, int]]:
        import torch

        generator = torch.Generator().manual_seed(5)
        for i in range(self.num):
            self.progress = i / self.num
            start = torch.randint(self.vocab_size, (self.rows, 1), generator=generator)
            slope = torch.randint(1, 4, (self.rows, 1), generator=generator)
            tokens = (start + slope * torch.arange(self.length + 1)) % self.vocab_size
            yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), 1


def load(path: Path, preset: str) -> Any:
    """The experiment file as a module that has imported a `prepare` of this preset."""
    rules = rules_for(preset)
    prepare = types.ModuleType("prepare")
    constants = {"MAX_SEQ_LEN": rules.max_seq_len, "TIME_BUDGET": rules.time_budget, "SEED": 1, "PRESET": preset}
    vars(prepare).update(constants, MAX_DEVICE_BATCH_SIZE=0, Tokenizer=None, evaluate_bpb=None, make_dataloader=None)
    sys.modules["prepare"] = prepare
    spec = importlib.util.spec_from_file_location(f"experiment_{abs(hash(path))}", path)
    assert spec is not None and spec.loader is not None, f"{path} is no Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def start(module: Any, vocab_size: int) -> tuple[Any, Any]:
    import torch

    torch.manual_seed(1)
    model = module.build_model(module.config_from_hyperparameters(vocab_size), torch.device("cpu"))
    return model, module.build_optimizer(model)


def numerics(paths: Sequence[Path], preset: str) -> dict[str, float]:
    """Largest differences between the two files on the same weights and batch, all weights random."""
    import torch

    rules = rules_for(preset)
    modules = [load(path, preset) for path in paths]
    (ours, our_optimizer), (theirs, their_optimizer) = (start(module, rules.vocab_size) for module in modules)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in ours.named_parameters():
            p.normal_(0.0, 0.1, generator=generator)
            theirs.get_parameter(name).copy_(p)
    inputs, targets, _ = next(iter(Batches(1, modules[0].DEVICE_BATCH_SIZE, rules.max_seq_len, rules.vocab_size)))
    losses = [model(inputs, targets) for model in (ours, theirs)]
    for loss in losses:
        loss.backward()

    def apart(a: Any, b: Any) -> float:
        return float((a - b).norm() / b.norm())

    by_name = dict(ours.named_parameters())
    gradients = max(apart(by_name[name].grad, q.grad) for name, q in theirs.named_parameters())
    for optimizer in (our_optimizer, their_optimizer):
        optimizer.step(1.0, 0.85, 0.2)
    with torch.no_grad():
        weights = max(apart(by_name[name], q) for name, q in theirs.named_parameters())
    return {
        "loss_apart": abs(losses[0].item() - losses[1].item()),
        "gradients_apart_relative": gradients,
        "weights_after_a_step_apart_relative": weights,
    }


def child(path: Path, preset: str, num_steps: int) -> None:
    """One measurement: CPU and wall seconds of `num_steps` whole steps after some unmeasured ones, as a last line."""
    rules = rules_for(preset)
    module = load(path, preset)
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if hasattr(module, "settings_for"):  # what its main() sets the process up with
        module.settings_for(torch.device("cpu"))
    model, optimizer = start(module, rules.vocab_size)
    rows = module.DEVICE_BATCH_SIZE
    num_micro_steps = module.TOTAL_BATCH_SIZE // (rows * rules.max_seq_len)
    spent = []
    for steps in (WARM_STEPS, num_steps):
        batches = Batches(steps * num_micro_steps, rows, rules.max_seq_len, rules.vocab_size)
        began = time.process_time(), time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            module.train(model, optimizer, batches, num_micro_steps)
        spent = [time.process_time() - began[0], time.perf_counter() - began[1]]
    tokens = num_steps * num_micro_steps * rows * rules.max_seq_len
    print(json.dumps({"per_cpu_second": tokens / spent[0], "per_second": tokens / spent[1]}))


def measured(path: Path, preset: str, num_steps: int, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--preset", preset, "--steps", str(num_steps), "--child", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def with_interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and half of its 95 % interval, by Student's t."""
    half = 0.0
    if len(values) > 1:
        half = student_975(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": round(statistics.mean(values), 4), "plus_minus": round(half, 4)}


def student_975(degrees: int) -> float:
    """97.5 % quantile of Student's t, within 0.5 % from 3 degrees on (expansion of Cornish and Fisher)."""
    if degrees < 3:
        return (12.706, 4.303)[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def speed(paths: Sequence[Path], options: argparse.Namespace) -> dict[str, Any]:
    rounds: list[list[dict[str, float]]] = []
    for number in range(options.rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        found = {i: measured(paths[i], options.preset, options.steps, options.threads) for i in order}
        rounds.append([found[0], found[1]])
        ours, theirs = (round(found[i]["per_cpu_second"]) for i in (0, 1))
        print(f"round {number + 1}: {ours:,} against {theirs:,} tokens a CPU second", file=sys.stderr, flush=True)
    ratios = [math.log(a["per_cpu_second"] / b["per_cpu_second"]) for a, b in rounds]
    mean = with_interval(ratios)
    return {
        "ratio": round(math.exp(mean["mean"]), 3),
        "interval": [round(math.exp(mean["mean"] + sign * mean["plus_minus"]), 3) for sign in (-1, 1)],
        "ours_per_cpu_second": round(statistics.median(a["per_cpu_second"] for a, _ in rounds)),
        "theirs_per_cpu_second": round(statistics.median(b["per_cpu_second"] for _, b in rounds)),
        "wall_ratio": round(statistics.median(a["per_second"] / b["per_second"] for a, b in rounds), 3),
    }


def trials(paths: Sequence[Path], options: argparse.Namespace) -> dict[str, Any]:
    from autoresearch.loop.opening import find_ground
    from autoresearch.loop.referee import Order, run_trial
    from autoresearch.loop.settings import Settings
    from autoresearch.vocabulary import Slice

    arena = find_ground(Settings(contract=options.preset, threads=options.threads)).arena
    rules = replace(arena.rules, wall_deadline=1800.0, trial_deadline=3600.0, exam_deadline=900.0, startup_cap=600.0)
    arena = replace(arena, rules=rules)
    scores: list[list[float]] = []
    tokens: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.trials):
            found: dict[int, Any] = {}
            for i in (0, 1) if number % 2 == 0 else (1, 0):
                order = Order({"train.py": paths[i].read_text()}, "train.py", FIRST_SEED + number, Slice.CONFIRM)
                found[i] = run_trial(arena, order, Path(folder) / "run.log").trial
                assert found[i].val_bpb is not None, f"{paths[i].name}: {found[i].outcome} {found[i].reason}"
            scores.append([found[0].val_bpb, found[1].val_bpb])
            tokens.append([found[0].tok_sec, found[1].tok_sec])
            print(f"trial {number + 1}: {scores[-1]}", file=sys.stderr, flush=True)
    ours, theirs = zip(*scores, strict=True)
    noise = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 2) if len(ours) > 1 else None
    return {
        "ours": [round(score, 4) for score in ours],
        "theirs": [round(score, 4) for score in theirs],
        "ours_minus_theirs": with_interval([a - b for a, b in scores]),
        "noise_of_one_run": noise and round(noise, 4),
        "tokens_a_second_ratio": round(statistics.median(a / b for a, b in tokens), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--file", type=Path, default=OURS)
    parser.add_argument("--against", type=Path, default=PUBLISHED)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="measured steps of each process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.preset, options.steps)
        return
    paths = (options.file, options.against)
    figures: dict[str, Any] = {"files": [path.name for path in paths], "preset": options.preset}
    if options.rounds:
        figures["numerics"] = numerics(paths, options.preset)
        figures["speed"] = speed(paths, options)
    if options.trials:
        figures["trials"] = trials(paths, options)
    report({**figures, "threads": options.threads, "load_average": round(os.getloadavg()[0], 1)})


if __name__ == "__main__":
    main()
