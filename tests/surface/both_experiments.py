"""train.py and train_mlx.py side by side: loaded with the same made-up contract, given the same weights and batches."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np

from autoresearch.backends.blas import find_openblas, load_blas

if OPENBLAS := find_openblas():
    load_blas(OPENBLAS)  # whoever imports this before mlx runs its tests in a tenth of the time

ROOT = Path(__file__).resolve().parents[2]


class FakeTokenizer:
    @classmethod
    def from_directory(cls):
        return cls()

    def get_vocab_size(self):
        return 64


class FakeLoader:
    """`num_batches` of arithmetic sequences modulo the vocabulary: random, and learnable from two tokens."""

    def __init__(self, place, num_batches, rows, length, vocab_size=64, seed=5):
        self.place, self.num_batches, self.shape = place, num_batches, (rows, length)
        self.vocab_size, self.seed = vocab_size, seed
        self.progress = 0.0
        self.training_seconds = 0.0

    def synthetic_batch(self):
        tokens = np.random.default_rng(9).integers(0, self.vocab_size, (self.shape[0], self.shape[1] + 1))
        return self.place(tokens[:, :-1]), self.place(tokens[:, 1:])

    def __iter__(self):
        random = np.random.default_rng(self.seed)
        rows, length = self.shape
        for i in range(self.num_batches):
            self.progress = i / self.num_batches
            self.training_seconds = 0.5 * (i + 1)
            start, slope = random.integers(0, self.vocab_size, (rows, 1)), random.integers(1, 4, (rows, 1))
            tokens = (start + slope * np.arange(length + 1)) % self.vocab_size
            yield self.place(tokens[:, :-1]), self.place(tokens[:, 1:]), 1


def fake_prepare(place, preset="smoke", sequence_len=64, num_batches=6, on_evaluation=lambda model, rows: None):
    """A module `prepare`: `place` makes a batch of numpy tokens an array of the library under test."""
    prepare = types.ModuleType("prepare")
    prepare.MAX_SEQ_LEN, prepare.TIME_BUDGET, prepare.SEED, prepare.PRESET = sequence_len, 20.0, 1234, preset
    prepare.MAX_DEVICE_BATCH_SIZE = 0
    prepare.Tokenizer = FakeTokenizer
    prepare.asked = []

    def make_dataloader(tokenizer, rows, length, split):
        prepare.asked.append((rows, length, split))
        return FakeLoader(place, num_batches, rows, length)

    def evaluate_bpb(model, tokenizer, batch_size):
        on_evaluation(model, batch_size)
        return 1.25

    prepare.make_dataloader, prepare.evaluate_bpb = make_dataloader, evaluate_bpb
    return prepare


def load_experiment(name, prepare):
    """An experiment file as a fresh module that has imported this `prepare`."""
    before = sys.modules.get("prepare")
    sys.modules["prepare"] = prepare
    spec = importlib.util.spec_from_file_location(f"{name}_beside_the_other", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
        if before is None:
            del sys.modules["prepare"]
        else:
            sys.modules["prepare"] = before
    return module


def small_shape(**changes):
    """Fields of a GPTConfig with windowed and full layers, value embeddings and grouped heads."""
    return (
        dict(sequence_len=16, vocab_size=24, n_layer=3, n_head=4, n_kv_head=2, n_embd=48, window_pattern="SLS")
        | changes
    )


def random_weights(shapes, seed=0, scale=0.3):
    """name -> float32 array: every weight drawn at random, projections and gates that start at zero included."""
    random = np.random.default_rng(seed)
    return {name: random.normal(0, scale, shapes[name]).astype(np.float32) for name in sorted(shapes)}


def assert_close(got, expected, rel, what=""):
    """Largest difference within `rel` of the largest value."""
    got, expected = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert got.shape == expected.shape, what
    apart = np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert apart <= rel, f"{what} differs by {apart:.1e} of its largest value, {rel:.0e} are allowed"
