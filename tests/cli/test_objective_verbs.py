"""`--objective` as a person types it, with real quantization: a night on the score at 4 bits, and what each verb says of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from calling import call, done, edit, fill, git, refused

from autoresearch.cli.objectives import objective_named
from autoresearch.cli.sealed_score import exam_batch_size, sealed_score
from autoresearch.loop.objective import PLAIN
from autoresearch.quantize.ground import open_ground
from autoresearch.vocabulary import UnfitWeights, UsageError
from autoresearch.workspace import open_workspace

# counts that come back from 4 bits below zero have no logarithm
ABOVE_ZERO = ("SHARPNESS * np.log(self.counts)", "SHARPNESS * np.log(np.maximum(self.counts, 0.5))")


@pytest.fixture(scope="module")
def _once(tmp_path_factory, smoke) -> tuple[Path, str]:
    root = fill(tmp_path_factory.mktemp("objective") / "lab")
    edit(root, ABOVE_ZERO)
    git(root, "commit", "-qam", "counts above zero")
    return root, done(root, "research", "a", "--experiments", "2", "--objective", "bpb@4bit")


@pytest.fixture
def night(_once, tmp_path) -> Path:
    shutil.copytree(_once[0], tmp_path / "night")
    return tmp_path / "night"


@pytest.mark.slow
def test_a_night_at_four_bits_says_and_records_what_it_judged(night, _once):
    assert "objective  bpb@4bit" in _once[1]
    assert "bpb@4bit (lower is better)" in _once[1]
    head, *rows = [line.split("\t") for line in (night / "results.tsv").read_text().splitlines()]
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    assert len(cells) == 3
    assert {row["objective"] for row in cells} == {"bpb@4bit"}
    assert all(float(row["val_bpb"]) != float(row["objective_bpb"]) > 0 for row in cells)
    assert f"judged on `bpb@4bit`: {cells[1]['objective_bpb']}" in (night / "EXPERIMENT_LOG.md").read_text()


@pytest.mark.slow
def test_every_verb_that_looks_says_which_score_it_shows(night):
    assert json.loads(done(night, "status", "--json"))["objective"] == "bpb@4bit"
    assert "bpb@4bit (lower is better)" in done(night, "history")
    assert "bpb@4bit 3." in done(night, "show", "0") or "bpb@4bit 4." in done(night, "show", "0")
    assert "contract smoke, judged on bpb@4bit, fingerprint" in done(night, "compare", "0", "1")


@pytest.mark.slow
def test_a_night_on_plain_val_bpb_is_compared_with_it_in_a_group_of_its_own(night):
    done(night, "research", "b", "--experiments", "1")
    found = json.loads(done(night, "compare", "a:0", "b:0", "--json"))
    assert not found["comparable"]
    assert [group["objective"] for group in found["groups"]] == ["bpb@4bit", "bpb"]


@pytest.mark.slow
def test_a_night_goes_on_as_it_began_and_not_otherwise(night):
    done(night, "research", "a", "--experiments", "3", "--resume")
    refused(call(night, "research", "a", "--resume", "--objective", "bpb@2bit"), 2, "judges on bpb@4bit, not bpb@2bit")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpb@9bit", "bpb@4bit:nothing", "bpb@8bit:trellis", "bpb@4bit:turboquant_ldlq"])
def test_what_is_no_objective_is_refused_before_a_session_is_made(night, name):
    before = git(night, "for-each-ref")
    refused(call(night, "research", "c", "--objective", name), 2)
    assert git(night, "for-each-ref") == before


def test_objectives_are_made_of_what_the_quantizer_has():
    assert objective_named(PLAIN) is None
    assert objective_named("bpb@3bit:trellis").name == "bpb@3bit:trellis"
    with pytest.raises(UsageError, match="hands over its weights alone"):
        objective_named("bpb@4bit:gptq")


def test_the_batch_of_the_examination_is_read_from_a_snapshot_and_from_an_experiment(tmp_path, night):
    assert exam_batch_size(night / "logs" / "a" / "0") == 8
    (tmp_path / "metrics.json").write_text('{"trial": {"exam_batch_size": 3}}')
    assert exam_batch_size(tmp_path) == 3
    (tmp_path / "metrics.json").write_text('{"trial": {"exam_batch_size": "many"}, "trials": [[], {"trial": null}]}')
    assert exam_batch_size(tmp_path) == 8


@pytest.mark.slow
def test_weights_are_scored_by_the_checkpoints_own_file_as_they_were_in_their_trial(night):
    folder = night / "logs" / "a" / "0"
    trials = [row["trial"] for row in json.loads((folder / "metrics.json").read_text())["trials"]]
    weights = hashlib.sha256((folder / "checkpoint.safetensors").read_bytes()).hexdigest()
    recorded = next(trial["val_bpb"] for trial in trials if trial["weights_sha256"] == weights)
    ground = open_ground(folder, preset="smoke")
    score = sealed_score(ground, open_workspace(night))
    assert score(ground.tensors).val_bpb == pytest.approx(recorded, rel=1e-12)
    assert score({"counts": torch.ones(512)}).val_bpb > recorded
    assert not score({"counts": torch.full((512,), torch.nan)}).is_finite
    with pytest.raises(UnfitWeights, match=r"train.py does not score these weights \(rejected"):
        score({"counts": torch.ones(3)})
