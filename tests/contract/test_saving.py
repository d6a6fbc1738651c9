"""AUTORESEARCH_SAVE=DIR python train.py leaves a checkpoint folder."""

import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from safetensors import safe_open

from autoresearch.backends.hardware import hide_accelerators_environment
from autoresearch.backends.runtime import NumpyRuntime
from autoresearch.contract import channel as channel_module
from autoresearch.contract.standalone import standalone_names
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.files import DiskError
from autoresearch.vocabulary import AutoresearchError


@dataclass(frozen=True)
class Config:
    vocab_size: int
    smoothing: float = 1.0


class Counts:
    """Predicts every token alike, or looks ahead."""

    def __init__(self, vocab_size, leak=0.0):
        self.config = Config(vocab_size)
        self.leak = leak

    def state_dict(self):
        return {"counts": np.ones(self.config.vocab_size)}

    def __call__(self, inputs):
        logits = np.zeros((*inputs.shape, self.config.vocab_size))
        rows, columns = np.indices((inputs.shape[0], inputs.shape[1] - 1))
        logits[rows, columns, inputs[:, 1:]] += self.leak
        return logits


@pytest.fixture
def by_hand(smoke, monkeypatch, tmp_path):
    """The names of the `smoke` contract with a folder to save in, for a script that is there."""
    for name, value in hide_accelerators_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(channel_module, "runtime_in_use", NumpyRuntime)
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    monkeypatch.setenv("AUTORESEARCH_SAVE", "kept")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("LR = 1\n")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    return standalone_names()


def test_a_scored_run_leaves_weights_tokenizer_script_and_score(by_hand, tmp_path):
    tokenizer = by_hand["Tokenizer"].from_directory()
    score = by_hand["evaluate_bpb"](Counts(tokenizer.get_vocab_size()), tokenizer, 8)
    kept = tmp_path / "kept"
    assert {path.name for path in kept.iterdir()} == {
        "checkpoint.safetensors", "tokenizer.json", "train.py", "metrics.json",
    }  # fmt: skip
    with safe_open(kept / "checkpoint.safetensors", framework="np") as opened:
        assert json.loads(opened.metadata()["config"]) == {"smoothing": 1.0, "vocab_size": 512}
        assert opened.get_tensor("counts").tolist() == [1.0] * 512
    assert Tokenizer.from_directory(kept).sha256 == tokenizer.sha256
    assert (kept / "train.py").read_text() == "LR = 1\n"
    metrics = json.loads((kept / "metrics.json").read_text())
    assert metrics == {"preset": "smoke", "dataset": ["embedded"], "seed": 42, "val_bpb": score}


def test_a_refused_run_leaves_its_weights_without_a_score(by_hand, tmp_path):
    tokenizer = by_hand["Tokenizer"].from_directory()
    with pytest.raises(AutoresearchError, match="rejected"):
        by_hand["evaluate_bpb"](Counts(tokenizer.get_vocab_size(), leak=5.0), tokenizer, 8)
    assert json.loads((tmp_path / "kept" / "metrics.json").read_text())["val_bpb"] is None
    assert (tmp_path / "kept" / "checkpoint.safetensors").is_file()


def test_a_folder_that_cannot_be_made_is_told_before_training(by_hand, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTORESEARCH_SAVE", str(tmp_path / "file" / "kept"))
    with pytest.raises(DiskError):
        standalone_names()
