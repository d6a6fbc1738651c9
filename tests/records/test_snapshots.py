import hashlib
import json
import os

import pytest
from ledgers import CRASHED, HASH, KEPT, open_ledger, record, session_of, trial_of

from autoresearch.records.snapshots import store_checkpoint, store_tokenizer, write_snapshot
from autoresearch.vocabulary import Outcome

WEIGHTS = b"safetensors of a small model"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


def snapshot(ledger, experiment, tmp_path):
    folder = tmp_path / "logs" / "nov21" / str(experiment.number)
    store = tmp_path / "checkpoints"
    write_snapshot(folder, ledger, session_of(), experiment, diff="-LR = 2\n+LR = 1\n", checkpoints_dir=store)
    return folder


def test_a_snapshot_holds_the_whole_experiment(ledger, tmp_path):
    store_checkpoint(tmp_path / "checkpoints", WEIGHTS)
    folder = snapshot(
        ledger, record(ledger, 1, trial_of(weights_sha256=DIGEST), KEPT, log="step 1\nstep 2\n"), tmp_path
    )
    assert {path.name for path in folder.iterdir()} == {
        "train.py", "diff.patch", "settings.json", "fingerprint.json", "run.log", "metrics.json", "checkpoint.safetensors",
    }  # fmt: skip
    assert (folder / "train.py").read_text() == "LR = 1\n"
    assert (folder / "diff.patch").read_text() == "-LR = 2\n+LR = 1\n"
    assert (folder / "run.log").read_text() == "step 1\nstep 2\n"
    assert (folder / "checkpoint.safetensors").read_bytes() == WEIGHTS
    assert json.loads((folder / "settings.json").read_text()) == {
        "settings": {"seed": 0, "hours": None},
        "machine": {"chip": "cpu"},
    }
    assert json.loads((folder / "fingerprint.json").read_text()) == {
        "preset": "smoke", "fingerprint": "f" * 12, "corpus": "c0", "validation": "v0", "tokenizer": "t0",
    }  # fmt: skip


def test_metrics_name_experiment_verdict_row_and_trials(ledger, tmp_path):
    folder = snapshot(ledger, record(ledger, 1, trial_of(), KEPT), tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {
        "tag", "experiment", "commit", "incumbent", "description", "proposer", "status", "verdict", "row", "trials",
    }  # fmt: skip
    assert (metrics["status"], metrics["commit"], metrics["verdict"]["gain"]) == ("keep", HASH, 0.0123)
    assert metrics["row"]["val_bpb"] == metrics["trials"][0]["trial"]["val_bpb"] == 1.9876543


def test_a_crash_is_null_in_metrics_and_leaves_no_checkpoint(ledger, tmp_path):
    store_checkpoint(tmp_path / "checkpoints", WEIGHTS)
    crashed = trial_of(outcome=Outcome.CRASHED, val_bpb=None, weights_sha256=DIGEST)
    folder = snapshot(ledger, record(ledger, 1, crashed, CRASHED), tmp_path)
    assert json.loads((folder / "metrics.json").read_text())["row"]["val_bpb"] is None
    assert not (folder / "checkpoint.safetensors").exists()


def test_a_removed_snapshot_comes_back_the_same(ledger, tmp_path):
    experiment = record(ledger, 1, trial_of(), KEPT)
    folder = snapshot(ledger, experiment, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    snapshot(ledger, experiment, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_proposal_cannot_write_outside_its_snapshot(ledger, tmp_path):
    from autoresearch.vocabulary import Proposal

    ledger.propose("nov21", 1, HASH, Proposal("escape", {"../../../evil.py": "1"}, "stranger"))
    folder = snapshot(ledger, ledger.experiment("nov21", 1), tmp_path)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("evil.py")] == [
        (folder / "evil.py").relative_to(tmp_path)
    ]


def test_weights_are_stored_once_under_their_hash(tmp_path):
    store = tmp_path / "checkpoints"
    assert store_checkpoint(store, WEIGHTS) == store_checkpoint(store, WEIGHTS) == DIGEST
    assert [path.name for path in store.iterdir()] == [f"{DIGEST}.safetensors"]


@pytest.mark.parametrize("can_link", [True, False])
def test_a_checkpoint_is_linked_where_it_can_be_and_copied_where_not(ledger, tmp_path, monkeypatch, can_link):
    store_checkpoint(tmp_path / "checkpoints", WEIGHTS)
    if not can_link:

        def refuse(*_arguments, **_keywords):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
    experiment = record(ledger, 1, trial_of(weights_sha256=DIGEST), KEPT)
    for _ in range(2):  # the second time replaces the first
        checkpoint = snapshot(ledger, experiment, tmp_path) / "checkpoint.safetensors"
    stored = tmp_path / "checkpoints" / f"{DIGEST}.safetensors"
    assert checkpoint.read_bytes() == WEIGHTS
    assert checkpoint.samefile(stored) is can_link
    assert not list(checkpoint.parent.glob(".*.new"))


def test_a_kept_checkpoint_stands_beside_its_tokenizer(ledger, tmp_path):
    table = '{"format": "a tokenizer"}\n'
    digest = hashlib.sha256(table.encode()).hexdigest()
    for _ in range(2):
        store_tokenizer(tmp_path / "checkpoints", table)
    store_checkpoint(tmp_path / "checkpoints", WEIGHTS)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == sorted(
        [f"{digest}.tokenizer.json", f"{DIGEST}.safetensors"]
    )
    folder = snapshot(
        ledger, record(ledger, 1, trial_of(weights_sha256=DIGEST, tokenizer_sha256=digest), KEPT), tmp_path
    )
    assert (folder / "tokenizer.json").read_text() == table
