"""train_mlx.py beside train.py on a CPU: `python benchmarks/mlx_speed.py [--preset tiny] [--rounds 5] [--steps 8] [--compiled]`.

    numerics   the same weights and the same batch in both: how far apart are logits, loss and gradients, in parts of the
               largest value?
    speed      tokens per CPU second of whole training steps (loop, loader and progress line included), each measurement in a
               fresh process, the variants in turn: torch; MLX as installed; MLX with OpenBLAS loaded first, where it is
               found. Medians, and medians of the ratio to torch in the same round. CPU seconds because wall time says on a
               busy machine how busy it was
    --compiled adds MLX with OpenBLAS and mx.compile, which runs g++ for every new kernel: first in an empty cache (the
               seconds of start-up are the compiler's), then warm

One thread throughout; batches are synthetic. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from lab import ROOT, report

from autoresearch.backends.blas import find_openblas, load_blas
from autoresearch.contract.rules import rules_for

TORCH, PLAIN, OPENBLAS, COMPILED = "torch", "mlx", "mlx_openblas", "mlx_openblas_compiled"
WARM_STEPS = 2


class Batches:
    """`num` batches of arithmetic sequences modulo the vocabulary, with a progress from 0 to 1: the loader's outside."""

    def __init__(self, place: Callable[[Any], Any], num: int, rows: int, length: int, vocab_size: int) -> None:
        self.place, self.num, self.rows, self.length, self.vocab_size = place, num, rows, length, vocab_size
        self.progress = self.training_seconds = 0.0

    def __iter__(self) -> Iterator[tuple[Any, Any, int]]:
        random = np.random.default_rng(5)
        for i in range(self.num):
            self.progress = i / self.num
            start, slope = random.integers(0, self.vocab_size, (self.rows, 1)), random.integers(1, 9, (self.rows, 1))
            tokens = (start + slope * np.arange(self.length + 1)) % self.vocab_size
            yield self.place(tokens[:, :-1]), self.place(tokens[:, 1:]), 1


def load_experiment(name: str, preset: str) -> Any:
    """An experiment file as a module, with the constants of the contract and no data."""
    prepare = types.ModuleType("prepare")
    constants = {"MAX_SEQ_LEN": rules_for(preset).max_seq_len, "TIME_BUDGET": 20.0, "SEED": 1, "PRESET": preset}
    vars(prepare).update(constants, MAX_DEVICE_BATCH_SIZE=0, Tokenizer=None, make_dataloader=None, evaluate_bpb=None)
    sys.modules["prepare"] = prepare
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def measure(variant: str, preset: str, num_steps: int) -> dict[str, float]:
    """Tokens per CPU second of this process, and CPU seconds of start-up from the imports on."""
    begun = cpu_seconds()
    if variant in (OPENBLAS, COMPILED):
        found = find_openblas()
        assert found is not None
        load_blas(found)
    train = load_experiment("train" if variant == TORCH else "train_mlx", preset)
    rules = rules_for(preset)
    config = train.config_from_hyperparameters(rules.vocab_size)
    rows = train.DEVICE_BATCH_SIZE
    num_micro_steps = train.num_micro_steps_for(rows, rules.max_seq_len, train.TOTAL_BATCH_SIZE)
    if variant == TORCH:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(1)
        model, place = train.build_model(config, torch.device("cpu")), torch.from_numpy
    else:
        import mlx.core as mx

        if variant != COMPILED:
            train.settings_for_machine()
        mx.random.seed(1)
        model, place = train.build_model(config), mx.array
    optimizer = train.build_optimizer(model)

    def steps(num: int) -> int:
        batches = Batches(place, num * num_micro_steps, rows, rules.max_seq_len, rules.vocab_size)
        with contextlib.redirect_stdout(io.StringIO()):
            return int(train.train(model, optimizer, batches, num_micro_steps).num_tokens)

    steps(WARM_STEPS)
    started, wall = cpu_seconds(), time.perf_counter()
    num_tokens = steps(num_steps)
    return {
        "tokens_per_cpu_second": num_tokens / (cpu_seconds() - started),
        "tokens_per_second": num_tokens / (time.perf_counter() - wall),
        "startup_cpu_seconds": started - begun,
    }


def in_a_fresh_process(variant: str, preset: str, num_steps: int, temporary: str) -> dict[str, float]:
    """`measure` in a process of its own. temporary: where MLX keeps compiled kernels."""
    command = [sys.executable, __file__, "--preset", preset, "--steps", str(num_steps), "--only", variant]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TMPDIR": temporary}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def numerics(preset: str) -> dict[str, float]:
    """Largest differences between the two files, in parts of the largest value, from the same random weights and batch."""
    if found := find_openblas():
        load_blas(found)
    ours, theirs = load_experiment("train_mlx", preset), load_experiment("train", preset)
    import mlx.core as mx
    import torch

    ours.settings_for_machine()
    torch.set_num_threads(1)
    rules = rules_for(preset)
    model = theirs.build_model(theirs.config_from_hyperparameters(rules.vocab_size), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.1, generator=generator)
    mine = ours.GPT(ours.config_from_hyperparameters(rules.vocab_size))
    mine.load_state_dict({name: mx.array(value.numpy()) for name, value in model.state_dict().items()})
    inputs, targets = np.random.default_rng(2).integers(0, rules.vocab_size, (2, 2, rules.max_seq_len))
    loss = model(torch.from_numpy(inputs), torch.from_numpy(targets))
    loss.backward()
    got, grads = mx.value_and_grad(mine.loss)(mine.weights, mx.array(inputs), mx.array(targets))
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs)).numpy()

    def apart(a: Any, b: Any) -> float:
        one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        return float(np.abs(one - other).max() / np.abs(other).max())

    return {
        "logits": apart(mine(mx.array(inputs)), logits),
        "loss": apart(got, loss.item()),
        "gradients_worst_tensor": max(apart(grads[name], p.grad) for name, p in model.named_parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compiled", action="store_true", help="measure mx.compile too: minutes of g++")
    parser.add_argument("--only", choices=(TORCH, PLAIN, OPENBLAS, COMPILED), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.preset, options.steps)))
        return
    variants = [TORCH, PLAIN]
    if openblas := find_openblas():
        variants.append(OPENBLAS)
    with tempfile.TemporaryDirectory() as temporary:
        cold: dict[str, float] = {}
        if options.compiled and openblas:
            cold = in_a_fresh_process(COMPILED, options.preset, options.steps, temporary)
            variants.append(COMPILED)
        rounds = [
            {name: in_a_fresh_process(name, options.preset, options.steps, temporary) for name in variants}
            for _ in range(options.rounds)
        ]

    def median(name: str, key: str) -> float:
        return round(statistics.median(each[name][key] for each in rounds), 2)

    key = "tokens_per_cpu_second"
    report(
        {
            "preset": options.preset,
            "numerics": numerics(options.preset),
            "openblas": str(openblas) if openblas else None,
            "speed": {
                name: {
                    **{each: median(name, each) for each in rounds[0][name]},
                    "ratio_to_torch": round(
                        statistics.median(each[name][key] / each[TORCH][key] for each in rounds), 3
                    ),
                }
                for name in variants
            },
            "compiling_cpu_seconds_once": cold.get("startup_cpu_seconds"),
        }
    )


if __name__ == "__main__":
    main()
