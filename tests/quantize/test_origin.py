"""Where a checkpoint comes from, by the files around it; they may hold anything."""

from __future__ import annotations

import json

import pytest

from autoresearch.quantize.origin import Origin, origin_of

TRIAL = {"weights_sha256": "ab", "slice": "search", "val_bpb": 1.9}


def snapshot(folder, **changes):
    metrics = {"tag": "nov21", "experiment": 7, "commit": "0123456789", "trials": [{"trial": TRIAL}], **changes}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "fingerprint.json").write_text('{"preset": "tiny"}')
    return folder


def test_a_snapshot_says_which_experiment_left_it_and_what_it_scored(tmp_path):
    folder = snapshot(tmp_path)
    wanted = Origin("nov21", 7, "0123456789", "tiny", 1.9)
    assert origin_of(folder, "ab") == wanted
    assert origin_of(folder / "checkpoint.safetensors", "ab") == wanted
    assert str(wanted) == "nov21 #7"


def test_the_score_of_other_weights_or_of_another_slice_is_not_taken(tmp_path):
    assert origin_of(snapshot(tmp_path), "cd").val_bpb is None
    trial = {**TRIAL, "slice": "confirm"}
    assert origin_of(snapshot(tmp_path, trials=[{"trial": trial}]), "ab").val_bpb is None


def test_a_run_by_hand_says_its_contract_and_score(tmp_path):
    (tmp_path / "metrics.json").write_text('{"preset": "tiny", "seed": 42, "val_bpb": 1.8}')
    assert origin_of(tmp_path, "ab") == Origin(preset="tiny", val_bpb=1.8)


@pytest.mark.parametrize(
    "changes",
    [{"tag": "../../x"}, {"tag": 3}, {"experiment": "7"}, {"trials": 5}, {"trials": [3]}, {"commit": "x; rm"}],
)
def test_whatever_the_files_hold_nothing_strange_comes_out(tmp_path, changes):
    found = origin_of(snapshot(tmp_path, **changes), "ab")
    assert found.tag in (None, "nov21") and found.commit in (None, "0123456789") and found.experiment in (None, 7)


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, "\xff"])
def test_files_that_cannot_be_read_say_nothing(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content, encoding="latin-1")
    assert origin_of(tmp_path, "ab") == Origin()
