"""The pieces of a step: called by name, in order, and timed at boundaries that wait for the device."""

from __future__ import annotations

import itertools
import types

import pytest

from autoresearch.bench.memory import device_memory, process_peak_mb
from autoresearch.bench.order import Mode
from autoresearch.bench.phases import PartsUnknown, Schedules, build_phases, call_by_name, with_mode
from autoresearch.bench.sampling import Sampling
from autoresearch.bench.timing import num_eval_batches, time_parts
from autoresearch.contract.rules import PRESETS


class AsynchronousDevice:
    """A device that works only when it is waited for: what is not waited for inside a part is counted in the next."""

    passes = ("forward", "backward")

    def __init__(self):
        self.clock, self.queued, self.calls = 0.0, 0.0, []

    def _queue(self, name, cost):
        self.calls.append(name)
        self.queued += cost

    def batches(self):
        for _ in itertools.count():
            self._queue("data", 1.0)
            yield "inputs", "targets", 1

    def micro_step(self, inputs, targets):
        return (lambda: self._queue("forward", 10.0)), (lambda: self._queue("backward", 20.0))

    def update(self):
        self._queue("optimizer", 5.0)

    def wait(self):
        self.clock += self.queued
        self.queued = 0.0

    def release(self):
        """Nothing is held."""


def test_each_part_is_charged_what_it_gave_an_asynchronous_device_to_do():
    device = AsynchronousDevice()
    sampling = Sampling(3, patience=1e9)
    steps = time_parts(device, device.batches(), 2, sampling, lambda: device.clock, lambda: device.clock)
    assert all(step == {"data": 2.0, "forward": 20.0, "backward": 40.0, "optimizer": 5.0} for step in steps)
    assert sampling.samples == [67.0] * 3
    one_step = ["data", "forward", "backward"] * 2 + ["optimizer"]
    assert device.calls == one_step * len(steps)


def test_the_wall_clock_runs_beside_the_one_that_counts():
    device = AsynchronousDevice()
    sampling = Sampling(3, patience=1e9)
    time_parts(device, device.batches(), 1, sampling, lambda: device.clock / 2, lambda: device.clock)
    assert sampling.wall_samples == [36.0] * 3
    assert sampling.samples == [18.0] * 3


def test_a_schedule_is_asked_by_the_name_of_the_parameter_it_serves():
    asked = []
    names = {
        "lr_multiplier_at": lambda progress: asked.append(progress) or 0.25,
        "muon_momentum_at": lambda step: 0.5 + step,
    }
    got = []
    schedules = Schedules(
        names, lambda lr_multiplier, muon_momentum, decay=7: got.append((lr_multiplier, muon_momentum))
    )
    assert len(asked) == 1  # before anything is timed
    schedules.call()
    schedules.call()
    assert got == [(0.25, 0.5)] * 2 and len(asked) == 1


def test_a_step_with_a_parameter_that_nothing_serves_is_not_guessed():
    with pytest.raises(PartsUnknown, match="mystery"):
        Schedules({}, lambda mystery: None)


def test_a_function_gets_what_it_names_and_nothing_else():
    assert call_by_name(lambda model, compiled=False: (model, compiled), model=1, compiled=True, device=2) == (1, True)
    assert call_by_name(lambda model, **_: model, model=1, device=2) == 1
    with pytest.raises(PartsUnknown, match="takes width; offered are device, model"):
        call_by_name(lambda width: width, model=1, device=2)


@pytest.mark.parametrize(
    ("mode", "expected"), [(Mode.OWN, ("bf16", True)), (Mode.EAGER, ("bf16", False)), (Mode.COMPILED, ("bf16", True))]
)
def test_the_mode_switches_the_compiler_and_nothing_else(mode, expected):
    assert with_mode(lambda device: ("bf16", True), mode)("cuda") == expected


def test_a_settings_for_that_says_nothing_of_compiling_is_not_guessed():
    with pytest.raises(PartsUnknown, match="settings_for"):
        with_mode(lambda device: "bf16", Mode.EAGER)("cuda")


def test_memory_is_asked_of_the_device_that_trains():
    torch = types.SimpleNamespace(
        cuda=types.SimpleNamespace(max_memory_allocated=lambda: 3 * 2**20),
        xpu=types.SimpleNamespace(max_memory_allocated=lambda: 5 * 2**20),
        mps=types.SimpleNamespace(driver_allocated_memory=lambda: 7 * 2**20),
    )
    found = {device: device_memory(torch, device) for device in ("cuda", "xpu", "mps")}
    assert {device: (memory.mb, memory.kind) for device, memory in found.items()} == {
        "cuda": (3.0, "device peak"),
        "xpu": (5.0, "device peak"),
        "mps": (7.0, "device held"),
    }
    assert process_peak_mb() > 10


def test_the_batches_of_an_evaluation_are_those_that_the_screening_asks_for():
    rules = PRESETS["tiny"]  # 256 rows, 16 prefix rows
    assert num_eval_batches(rules, 8) == 32 + 2 + 1
    assert num_eval_batches(rules, 100_000) == 1 + 1 + 1


MLX_FILE = """
import mlx.core as mx

class Model:
    def __init__(self, width):
        self.weights = {"table": mx.ones((16, width)), "head": mx.random.normal((width, 16))}

    def loss(self, weights, inputs, targets):
        logits = weights["table"][inputs] @ weights["head"]
        chosen = mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return mx.mean(mx.logsumexp(logits, axis=-1) - chosen)

class Plain:
    def __init__(self):
        self.state = {"steps": mx.array(0)}

    def numbers(self, lr_multiplier):
        return {"lr": mx.array(lr_multiplier)}

    def update(self, weights, grads, state, numbers):
        return {n: w - numbers["lr"] * grads[n] for n, w in weights.items()}, {"steps": state["steps"] + 1}

optimizer = Plain()
def config_from_hyperparameters(vocab_size): return 8
def settings_for_machine(): return mx.float32, COMPILED
def build_model(config, dtype): return Model(config)
def build_optimizer(model): return optimizer
def lr_multiplier_at(progress): return 0.5
"""


@pytest.mark.mlx
@pytest.mark.parametrize("compiled", [False, True])
def test_mlx_runs_forward_and_backward_as_one_part_and_learns(compiled):
    mx = pytest.importorskip("mlx.core", reason="needs MLX: pip install 'mlx[cpu]'")
    names = {"COMPILED": compiled}
    exec(MLX_FILE, names)
    phases, model, is_compiled = build_phases(names, "mlx", None, 16, None, num_micro_steps=2)
    assert is_compiled is compiled and phases.passes == ("forward_backward",)
    tokens = mx.array([[1, 2, 3, 4]])
    batches = itertools.repeat((tokens[:, :-1], tokens[:, 1:], 1))
    before = float(model.loss(model.weights, tokens[:, :-1], tokens[:, 1:]))
    ticks = itertools.count()
    sampling = Sampling(3, patience=1e9)
    steps = time_parts(phases, batches, 2, sampling, lambda: float(next(ticks)), lambda: 0.0)
    # one tick a boundary: two micro-steps, each of data and one pass, then the update
    assert steps[0] == {"data": 2.0, "forward_backward": 2.0, "optimizer": 1.0}
    assert float(model.loss(model.weights, tokens[:, :-1], tokens[:, 1:])) < before
    assert int(names["optimizer"].state["steps"]) == len(steps)
    phases.release()
