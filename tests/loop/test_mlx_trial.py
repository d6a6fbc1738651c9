"""train_mlx.py in real sealed trials, the deep examination of its weights included."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from safetensors.numpy import load

from autoresearch.backends.blas import find_openblas
from autoresearch.loop.orders import Arena, DeepWish, Order
from autoresearch.loop.referee import run_trial
from autoresearch.sandbox.layers import probe
from autoresearch.vocabulary import Examination, Outcome

pytestmark = [
    pytest.mark.mlx,
    pytest.mark.timeout(600),  # two processes that import MLX and train: 10 s, minutes on a busy machine
    pytest.mark.skipif(importlib.util.find_spec("mlx") is None, reason="MLX is not installed: pip install 'mlx[cpu]'"),
]
KIND = "cpu-mlx:chip"
TRAIN_MLX = Path(__file__).resolve().parents[2] / "train_mlx.py"


@pytest.fixture(scope="module")
def run(smoke, tmp_path_factory):
    """A sealed trial on `smoke`, examined deeply."""
    rules, prepared = smoke
    arena = Arena(rules, prepared, KIND, accelerators=False, blas=find_openblas())
    wish = DeepWish(lambda _: True, noise_bpb=0.01)
    order = Order({"train_mlx.py": TRAIN_MLX.read_text()}, "train_mlx.py", 7, deep=wish)
    return run_trial(arena, order, tmp_path_factory.mktemp("mlx") / "log")


@pytest.mark.slow
def test_a_sealed_trial_finishes_with_a_score_that_was_examined_deeply(run, smoke):
    rules, _ = smoke
    assert run.trial.outcome is Outcome.FINISHED, run.log
    assert run.trial.sealed == probe().level
    assert run.trial.examined is Examination.DEEP, run.trial.reason
    assert run.trial.num_steps == rules.time_budget
    assert 1.5 < run.trial.val_bpb < 5
    assert run.trial.leak_bound_bpb is not None
    assert run.trial.claimed["num_steps"] == 8.0
    assert "device: cpu, mlx.core.float32, not compiled" in run.log


def test_the_answers_agree_to_float32_rounding(run):
    """What the tolerance for a CPU rests on: a prefix scores as the whole row does, in this process and in another."""
    assert run.trial.largest_deviation < 1e-4


def test_the_weights_kept_have_the_names_of_train_py(run):
    names = set(load(run.weights))
    assert {"wte.weight", "lm_head.weight", "resid_lambdas", "layers.1.attn.ve_gate.weight"} <= names
    assert "value_embeds.1.weight" in names and "value_embeds.0.weight" not in names


@pytest.mark.slow
def test_a_candidate_may_ask_for_a_compiler_of_its_own(smoke, tmp_path):
    """mx.compile on a CPU runs g++ and writes its kernels beside the temporary files: the sandbox has both."""
    rules, prepared = smoke
    arena = Arena(dataclasses.replace(rules, time_budget=2), prepared, KIND, accelerators=False, blas=find_openblas())
    text = TRAIN_MLX.read_text()
    compiled = (
        "\n    kernel = mx.compile(lambda x: mx.tanh(x) * x + 1)\n    print('compiled', kernel(mx.ones(3)).tolist())"
    )
    line = "    start_time = time.perf_counter()\n"
    assert line in text
    order = Order({"train_mlx.py": text.replace(line, line + compiled[1:] + "\n", 1)}, "train_mlx.py", 1)
    run = run_trial(arena, order, tmp_path / "log")
    assert run.trial.outcome is Outcome.FINISHED, run.log
    assert "compiled [1.76" in run.log
