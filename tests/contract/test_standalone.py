"""`python train.py` by hand: the same names and rules in one process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

from autoresearch.backends.hardware import hide_accelerators_environment
from autoresearch.backends.runtime import NumpyRuntime
from autoresearch.contract import channel as channel_module
from autoresearch.contract import standalone
from autoresearch.contract.standalone import DEFAULT_SEED, preset_in_force, standalone_names
from autoresearch.contract.stream import RowStream
from autoresearch.vocabulary import AutoresearchError, DataMissing, Slice, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    """What the module writes into the environment is undone, and experiments here are numpy's."""
    for name, value in hide_accelerators_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(channel_module, "runtime_in_use", NumpyRuntime)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def names(smoke, monkeypatch):
    """The names of the prepared `smoke` contract."""
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    return standalone_names()


class Counts:
    """Predicts every token by how often it was seen; `leak` adds that to the logit of the next token."""

    def __init__(self, vocab_size, leak=0.0):
        self.counts = np.ones(vocab_size)
        self.leak = leak

    def state_dict(self):
        return {"counts": self.counts}

    def __call__(self, inputs):
        logits = np.broadcast_to(np.log(self.counts), (*inputs.shape, len(self.counts))).copy()
        rows, columns = np.indices((inputs.shape[0], inputs.shape[1] - 1))
        logits[rows, columns, inputs[:, 1:]] += self.leak
        return logits


# -------------------------------------------------------------------------------------------------- contract in force


def write_settings(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def test_the_environment_wins_over_the_workspace(tmp_path, monkeypatch):
    write_settings(tmp_path, '[tool.autoresearch]\ncontract = "small"\n')
    assert preset_in_force(tmp_path) == "small"
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    assert preset_in_force(tmp_path) == "smoke"


def test_the_workspace_is_found_from_a_folder_inside_it(tmp_path):
    write_settings(tmp_path, '[tool.autoresearch]\ncontract = "long"\n')
    inside = tmp_path / "notes" / "today"
    inside.mkdir(parents=True)
    assert preset_in_force(inside) == "long"


def test_the_nearest_project_counts_and_none_above_it(tmp_path, monkeypatch):
    monkeypatch.setattr(standalone, "default_preset", lambda _: "tiny")
    monkeypatch.setattr(standalone, "detect", lambda: None)
    write_settings(tmp_path, '[tool.autoresearch]\ncontract = "long"\n')
    write_settings(tmp_path / "lab", "[project]\nname = 'lab'\n")
    assert preset_in_force(tmp_path / "lab") == "tiny"


def test_where_nothing_is_said_the_machine_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(standalone, "detect", lambda: "this machine")
    monkeypatch.setattr(standalone, "default_preset", {"this machine": "standard"}.__getitem__)
    assert preset_in_force(tmp_path) == "standard"


# --------------------------------------------------------------------------------------------------------------- names


def test_the_constants_are_those_of_the_contract(names):
    assert {name: names[name] for name in ("MAX_SEQ_LEN", "TIME_BUDGET", "SEED", "PRESET")} == {
        "MAX_SEQ_LEN": 64,
        "TIME_BUDGET": 8,
        "SEED": DEFAULT_SEED,
        "PRESET": "smoke",
    }
    assert DEFAULT_SEED == 42


def test_the_limit_of_rows_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    assert standalone_names()["MAX_DEVICE_BATCH_SIZE"] == 0
    monkeypatch.setenv("AUTORESEARCH_MAX_DEVICE_BATCH_SIZE", "8")
    assert standalone_names()["MAX_DEVICE_BATCH_SIZE"] == 8


@pytest.mark.parametrize("limit", ["0", "x", "-1", "1.5"])
def test_a_limit_of_rows_that_is_none_is_a_usage_error(monkeypatch, limit):
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    monkeypatch.setenv("AUTORESEARCH_MAX_DEVICE_BATCH_SIZE", limit)
    with pytest.raises(UsageError, match="no number of rows"):
        standalone_names()


def test_a_loader_opened_again_by_hand_goes_on_with_text_that_was_not_taken(names):
    tokenizer = names["Tokenizer"].from_directory()
    names["make_dataloader"](tokenizer, 8, 64)
    inputs, targets, _ = next(names["make_dataloader"](tokenizer, 2, 64))
    assert inputs.shape == targets.shape == (2, 64)


def test_the_seed_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    monkeypatch.setenv("AUTORESEARCH_SEED", "137")
    assert standalone_names()["SEED"] == 137


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", "٣"])
def test_a_seed_that_is_none_is_a_usage_error(monkeypatch, seed):
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    monkeypatch.setenv("AUTORESEARCH_SEED", seed)
    with pytest.raises(UsageError, match="is not a seed"):
        standalone_names()


def test_an_unknown_contract_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "gigantic")
    with pytest.raises(UsageError, match="gigantic"):
        standalone_names()


def test_accelerators_are_hidden_unless_the_clock_is_on_the_wall(monkeypatch):
    for preset, hidden in (("smoke", True), ("tiny", True), ("small", False), ("standard", False)):
        monkeypatch.setenv("AUTORESEARCH_CONTRACT", preset)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        standalone_names()
        assert (os.environ["CUDA_VISIBLE_DEVICES"] == "") is hidden, preset


def test_importing_needs_no_data_but_using_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "empty"))
    names = standalone_names()
    assert names["MAX_SEQ_LEN"] == 64
    with pytest.raises(DataMissing) as caught:
        names["Tokenizer"].from_directory()
    assert "prepare" in caught.value.hint


def test_the_environments_choice_of_text_wins_over_the_workspaces(names, monkeypatch):
    with pytest.raises(DataMissing, match="tinystories"):
        standalone_names(dataset="tinystories")["Tokenizer"].from_directory()
    monkeypatch.setenv("AUTORESEARCH_DATASET", "embedded")
    tokenizer = standalone_names(dataset="tinystories")["Tokenizer"].from_directory()
    assert tokenizer.sha256 == names["Tokenizer"].from_directory().sha256


# --------------------------------------------------------------------------------------------------- training and score


@pytest.mark.slow
def test_batches_are_those_of_the_seed_and_end_with_the_budget(names, smoke):
    _, prepared = smoke
    tokenizer = names["Tokenizer"].from_directory()
    expected = RowStream(prepared.shards, seed=DEFAULT_SEED, row_len=65, bos=tokenizer.get_bos_token_id())
    loader = names["make_dataloader"](tokenizer, 4, 64, "train")
    progress = []
    for inputs, targets, epoch in loader:
        rows = expected.take(4)
        np.testing.assert_array_equal(inputs, rows[:, :-1])
        np.testing.assert_array_equal(targets, rows[:, 1:])
        assert epoch == 1
        progress.append(loader.progress)
    assert progress == [step / 8 for step in range(1, 9)]


def test_training_lowers_the_score(names):
    tokenizer = names["Tokenizer"].from_directory()
    model = Counts(tokenizer.get_vocab_size())
    untrained = names["evaluate_bpb"](model, tokenizer, 8)
    for _, targets, _ in names["make_dataloader"](tokenizer, 4, 64):
        model.counts += np.bincount(targets.ravel(), minlength=len(model.counts))
    trained = names["evaluate_bpb"](model, tokenizer, 8)
    assert 0.3 < trained < untrained - 0.3
    assert names["evaluate_bpb"](model, tokenizer, 5) == pytest.approx(trained, abs=1e-9)


def test_a_model_that_looks_ahead_gets_an_error_instead_of_a_score(names):
    tokenizer = names["Tokenizer"].from_directory()
    model = Counts(tokenizer.get_vocab_size(), leak=5.0)
    with pytest.raises(AutoresearchError, match=r"rejected: position .* the model looks ahead"):
        names["evaluate_bpb"](model, tokenizer, 8)


def test_a_model_that_changes_while_it_is_examined_gets_an_error_instead_of_a_score(names):
    tokenizer = names["Tokenizer"].from_directory()

    class KeepsStatistics(Counts):
        def __call__(self, inputs):
            logits = super().__call__(inputs)
            self.counts = self.counts * (1 + 1e-9)
            return logits

    with pytest.raises(AutoresearchError, match=r"rejected: the weights changed while they were examined"):
        names["evaluate_bpb"](KeepsStatistics(tokenizer.get_vocab_size()), tokenizer, 8)


def test_a_score_that_no_model_can_reach_gets_an_error_instead(names, smoke):
    """Nobody is there to examine it deeply."""
    tokenizer = names["Tokenizer"].from_directory()
    rows = smoke[1].rows(Slice.SEARCH).astype(np.int64)
    following = {row[: column + 1].tobytes(): row[column + 1] for row in rows for column in range(len(row) - 1)}

    class KnowsTheText(Counts):
        def __call__(self, inputs):
            logits = np.zeros((*inputs.shape, len(self.counts)), dtype=np.float32)
            for line, row in enumerate(inputs):
                for column in range(len(row)):
                    logits[line, column, following.get(row[: column + 1].tobytes(), 0)] = 12.0
            return logits

    with pytest.raises(AutoresearchError, match=r"rejected: val_bpb 0\.1\d+ is not plausible") as caught:
        names["evaluate_bpb"](KnowsTheText(tokenizer.get_vocab_size()), tokenizer, 8)
    assert caught.value.hint


def run_by_hand(workspace, text=None, **environment):
    """`python train.py` in a workspace with the repository's own prepare.py: (exit code, what it said)."""
    for name in ("prepare.py", "data_sources.py"):
        shutil.copy(ROOT / name, workspace / name)
    if text is not None:
        (workspace / "train.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=workspace,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_script_run_by_hand_prints_the_same_score_twice(make_workspace):
    workspace = make_workspace()
    scores = []
    for _ in range(2):
        code, said = run_by_hand(workspace)
        assert code == 0, said
        scores.append(next(line for line in said.splitlines() if line.startswith("val_bpb:")))
    assert scores[0] == scores[1]
    assert 0.5 < float(scores[0].split()[1]) < 8.0


@pytest.mark.slow
def test_a_script_run_by_hand_with_another_seed_reads_other_text(make_workspace):
    workspace = make_workspace()
    outputs = [run_by_hand(workspace, AUTORESEARCH_SEED=seed)[1] for seed in ("1", "2")]
    scores = [next(line for line in said.splitlines() if line.startswith("val_bpb:")) for said in outputs]
    assert scores[0] != scores[1]
