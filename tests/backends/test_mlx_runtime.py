"""MLX says what torch and numpy say of the same model, packs the same bytes, and lets two steps run."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from autoresearch.backends.runtime import NumpyRuntime, TorchRuntime, runtime_in_use

torch = pytest.importorskip("torch")
mx = pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'mlx[cpu]'")

from autoresearch.backends.mlx_runtime import MlxRuntime  # noqa: E402

pytestmark = pytest.mark.mlx


@pytest.fixture
def runtime():
    return MlxRuntime()


@pytest.mark.parametrize("scale", [0.1, 2.0, 1e3])
def test_claims_and_logits_are_those_of_numpy(runtime, scale):
    random = np.random.default_rng(1)
    table = (random.normal(size=(50, 50)) * scale).astype(np.float32)
    inputs, targets = random.integers(0, 50, (3, 7)), random.integers(0, 50, (3, 7))
    rows, columns = random.integers(0, 3, 6), random.integers(0, 7, 6)
    weight = mx.array(table)
    answers = []
    for each, model in ((NumpyRuntime(), lambda tokens: table[tokens]), (runtime, lambda tokens: weight[tokens])):
        logits = each.logits(model, inputs)
        answers.append((each.nll(logits, targets), each.pick(logits, rows, columns)))
    for nll, picked in answers:
        assert (nll.shape, nll.dtype, picked.shape, picked.dtype) == ((3, 7), np.float32, (6, 50), np.float32)
    np.testing.assert_allclose(answers[1][0], answers[0][0], atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(answers[1][1], answers[0][1])


def test_bf16_logits_are_answered_in_float32(runtime):
    logits = runtime.logits(lambda tokens: mx.ones((*tokens.shape, 4), mx.bfloat16), np.zeros((1, 2), dtype=np.int64))
    assert logits.dtype == mx.float32


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_tokens_of_any_width_are_widened_into_storage_of_their_own(runtime, dtype):
    rows = np.array([[1, 2, 60_000], [4, 5, 6]], dtype=dtype)
    placed = runtime.place(rows[:, 1:])
    rows[:] = 0
    assert placed.dtype == mx.int64
    assert placed.tolist() == [[2, 60_000], [5, 6]]


def test_read_only_tokens_from_the_wire_can_be_placed(runtime):
    assert runtime.place(np.frombuffer(bytes(24), dtype=np.int64)).tolist() == [0, 0, 0]


def states():
    """The same state for MLX and torch: matrices, a transposed view, bfloat16, a scalar, integers."""
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    ours = {
        "whole": mx.array(whole),
        "transposed": mx.array(whole).T,
        "column": mx.array(whole)[:, 1],
        "half": mx.array(whole).astype(mx.bfloat16).T,
        "step": mx.array(7, mx.int64),
    }
    theirs = {
        "whole": torch.from_numpy(whole),
        "transposed": torch.from_numpy(whole).T,
        "column": torch.from_numpy(whole)[:, 1],
        "half": torch.from_numpy(whole).to(torch.bfloat16).T,
        "step": torch.tensor(7),
    }
    return ours, theirs


@pytest.mark.parametrize("metadata", [None, {"config": '{"n_layer": 2}'}])
def test_equal_weights_have_the_bytes_that_torch_packs(runtime, metadata):
    """The row of a trial carries the hash of these bytes, and a checkpoint of either file is read the same way."""
    from safetensors.torch import save

    ours, theirs = states()
    expected = save({name: value.contiguous().clone() for name, value in theirs.items()}, metadata)
    assert runtime.pack(ours, metadata) == expected
    assert runtime.pack(dict(reversed(ours.items())), metadata) == expected


def test_weights_come_back_as_they_were_packed(runtime):
    ours, _ = states()
    again = runtime.unpack(runtime.pack(ours))
    assert set(again) == set(ours)
    for name, value in ours.items():
        assert (again[name].dtype, again[name].shape) == (value.dtype, value.shape)
        assert mx.array_equal(again[name], value)
    assert runtime.pack(again) == runtime.pack(ours)


def test_weights_that_torch_packed_are_read(runtime):
    from safetensors.torch import save

    ours, theirs = states()
    again = runtime.unpack(save({name: value.contiguous().clone() for name, value in theirs.items()}))
    assert all(mx.array_equal(again[name], value) for name, value in ours.items())


class Queue:
    """Stands in for mlx.core: a stream whose markers are done only when they are waited for."""

    def __init__(self):
        self.queued, self.waited = [], []

    def array(self, value):
        return value

    def async_eval(self, marker):
        self.queued.append(len(self.queued))

    def eval(self, marker):
        self.waited.append(marker)

    def synchronize(self):
        self.waited = list(self.queued)


def test_at_most_two_steps_are_in_flight():
    runtime = MlxRuntime()
    runtime._mx = queue = Queue()
    for num_asked in range(1, 7):
        runtime.pace()
        assert len(queue.queued) - len(queue.waited) == min(num_asked, 2)
    runtime.synchronize()
    assert len(runtime._in_flight) == 0
    assert queue.waited == queue.queued


def test_pacing_waits_for_the_work_that_was_queued_before_it(runtime):
    """A step of two batches ago is done when the third is asked for: the marker is behind it in the same stream."""
    mx.synchronize()
    arrays = [mx.random.normal((64, 64))]
    for _ in range(3):
        arrays.append(arrays[-1] @ arrays[-1])
        mx.async_eval(arrays[-1])
        runtime.pace()
    assert len(runtime._in_flight) == 2
    runtime.synchronize()


def test_the_runtime_follows_what_the_experiment_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx.core", SimpleNamespace())
    assert isinstance(runtime_in_use(), TorchRuntime)  # both: torch
    monkeypatch.delitem(sys.modules, "torch")
    assert isinstance(runtime_in_use(), MlxRuntime)
    monkeypatch.delitem(sys.modules, "mlx.core")
    assert isinstance(runtime_in_use(), NumpyRuntime)


def test_the_runtime_module_imports_no_mlx():
    code = "import sys, autoresearch.backends.mlx_runtime; print('mlx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
