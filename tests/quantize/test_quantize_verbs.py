"""`autoresearch quantize` and `tq-benchmark` as a person calls them, on the `smoke` contract and a checkpoint of random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import full_config, write_checkpoint

from autoresearch.cli import main
from autoresearch.quantize.results import COLUMNS
from autoresearch.records.run_report import read_status


@pytest.fixture
def lab(make_workspace, smoke, monkeypatch):
    """A workspace with `ckpt`: a full model of the contract's size and tokenizer. It is the current folder."""
    rules, prepared = smoke
    root = make_workspace()
    config = full_config(sequence_len=rules.max_seq_len, vocab_size=prepared.tokenizer.get_vocab_size(), n_layer=2)
    folder = write_checkpoint(root / "ckpt", config)
    (folder / "tokenizer.json").write_text(prepared.tokenizer.to_json())
    monkeypatch.chdir(root)
    return root


QUICK = ["--calibration-tokens", "512", "--contract", "smoke"]


@pytest.mark.slow
def test_the_report_the_rows_the_status_and_the_file_agree(lab, capsys):
    assert main(["quantize", "ckpt", "--bits", "2,4", "--out", "small.safetensors", "--json", *QUICK]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((lab / "logs/quantize/quantize.json").read_text()) | {
        "measured_at": report["measured_at"]
    }
    assert [row["name"] for row in report["rows"]] == [
        "turboquant 2 bit", "turboquant 4 bit", "turboquant_ldlq 2 bit", "turboquant_ldlq 4 bit",
    ]  # fmt: skip
    lost = {row["name"]: row["val_bpb_lost"] for row in report["rows"]}
    assert abs(lost["turboquant 4 bit"]["value"]) < abs(lost["turboquant 2 bit"]["value"])
    assert all(loss["low"] < loss["value"] < loss["high"] for loss in lost.values())
    chosen = next(row for row in report["rows"] if row["name"] == report["recommended"]["name"])
    assert (lab / "small.safetensors").stat().st_size == chosen["file_bytes"]
    lines = (lab / "quant_results.tsv").read_text().splitlines()
    assert lines[0].split("\t") == list(COLUMNS) and len(lines) == 5
    assert (lab / "logs/quantize/quant_results.tsv").read_text().splitlines() == lines
    status = read_status(lab / "quant_status.txt")
    assert (status["phase"], status["progress"]) == ("ended", "1")
    assert not list(lab.glob("results*.tsv"))


@pytest.mark.slow
def test_the_kept_file_scores_what_the_report_says(lab, capsys, smoke):
    from autoresearch.quantize import turboquant
    from autoresearch.quantize.ground import open_ground

    main(["quantize", "ckpt", "--bits", "3", "--method", "turboquant", "--out", "q.safetensors", "--json", *QUICK])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    model = turboquant.load(Path("q.safetensors"))
    assert "n_layer" in json.loads(model.metadata["config"])
    ground = open_ground(Path("ckpt"), preset="smoke")
    assert ground.score()(model.dequantized()).val_bpb == pytest.approx(row["val_bpb"], abs=1e-9)


def test_the_rows_are_those_that_a_trial_is_scored_on(lab, smoke):
    from autoresearch.quantize.ground import open_ground
    from autoresearch.vocabulary import Slice

    _, prepared = smoke
    ground = open_ground(Path("ckpt"), preset="smoke")
    assert (ground.rows == prepared.rows(Slice.SEARCH)).all()
    assert len(open_ground(Path("ckpt"), preset="smoke", num_rows=3).rows) == 3


def test_calibration_reads_training_text_only(lab, smoke, monkeypatch):
    from autoresearch.contract.prepared import Prepared
    from autoresearch.quantize.ground import open_ground

    ground = open_ground(Path("ckpt"), preset="smoke", calibration_tokens=512)
    monkeypatch.setattr(Prepared, "rows", lambda *_: pytest.fail("validation rows were read"))
    hessians = ground.hessians()
    assert "layers.0.mlp.c_fc.weight" in hessians and "lm_head.weight" in hessians


@pytest.mark.slow
def test_the_benchmark_goes_on_where_it_stopped(lab, capsys):
    command = ["tq-benchmark", "ckpt", "--bits", "3", "--method", "turboquant,rtn_asymmetric,rtn_symmetric", *QUICK]
    assert main([*command, "--seeds", "2", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    cells = sorted((lab / "logs/quantize/tq_benchmark/cells").iterdir())
    written = {path: path.stat().st_mtime_ns for path in cells}
    assert main([*command, "--seeds", "3", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in cells} == written
    assert [row["num_seeds"] for row in second["summaries"]] == [3, 1, 1]
    assert first["cells"][0] == second["cells"][0]
    assert read_status(lab / "bench_status.txt")["cells"] == "5"
    assert {path.name for path in (lab / "logs/quantize/tq_benchmark").iterdir()} >= {
        "benchmark.json",
        "pareto_bpb.png",
    }


@pytest.mark.slow
def test_the_table_is_for_people_and_says_when_seeds_are_few(lab, capsys):
    assert main(["tq-benchmark", "ckpt", "--bits", "4", "--method", "turboquant,hqq", "--seeds", "1", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "recommended: " in out and "1 seeds say little" in out


def refused(capsys, *arguments) -> str:
    """What an unsuccessful command says; it names the next thing to type."""
    code = main(list(arguments))
    said = capsys.readouterr().err
    assert code in (1, 2) and "next: " in said
    return said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "no checkpoint at nothing"),
        (("ckpt", "--bits", "9"), "choose from 1 to 8"),
        (("ckpt", "--bits", "x"), "no number of bits"),
        (("ckpt", "--method", "magic"), "unknown method 'magic'"),
        (("ckpt", "--method", "turboquant_ldlq", "--calibration-tokens", "0"), "--calibration-tokens is 0"),
        (("ckpt", "--rows", "0"), "0 rows"),
        (("ckpt", "--rows", "100000"), "100000 rows"),
        (("ckpt", "--calibration-tokens", "-1"), "-1 tokens"),
        (("ckpt", "--contract", "huge"), "unknown contract"),
        (("ckpt", "--contract", "standard"), "nothing prepared"),
        (("ckpt", "--tag", "../x"), "../x"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_thing_to_type(lab, capsys, arguments, said):
    contract = () if "--contract" in arguments else ("--contract", "smoke")
    assert said in refused(capsys, "quantize", *arguments, *contract)
    assert said in refused(capsys, "tq-benchmark", *arguments, *contract)


def test_weights_that_are_not_numbers_are_refused(lab, capsys):
    path = lab / "ckpt" / "checkpoint.safetensors"
    weights = load_file(path)
    weights["wte.weight"][0, 0] = torch.nan
    save_file(weights, path)
    assert "wte.weight" in refused(capsys, "quantize", "ckpt", *QUICK)


def test_a_file_that_is_no_checkpoint_is_refused(lab, capsys):
    (lab / "ckpt" / "checkpoint.safetensors").write_bytes(b"not weights at all")
    assert "safetensors" in refused(capsys, "quantize", "ckpt", *QUICK)


def test_a_score_that_the_record_contradicts_ends_the_run(lab, capsys):
    """The shipped architecture makes something else of these weights than the file that trained them did."""
    (lab / "ckpt" / "metrics.json").write_text('{"preset": "smoke", "val_bpb": 1.5}')
    said = refused(capsys, "quantize", "ckpt", "--bits", "4", *QUICK)
    assert "the record says 1.5000" in said and "--scorer sealed" in said
    assert read_status(lab / "quant_status.txt")["phase"] == "failed"


def test_a_model_of_another_vocabulary_is_refused(lab, capsys):
    config = full_config(sequence_len=64, vocab_size=300, n_layer=2)
    write_checkpoint(lab / "other", config, tokenizer=False)
    assert "--contract P" in refused(capsys, "quantize", "other", *QUICK)


@pytest.mark.parametrize(("tool", "verb"), [("quantize_eval.py", "quantize"), ("tq_benchmark.py", "tq-benchmark")])
def test_the_tools_are_the_verbs(tool, verb):
    path = Path(__file__).parents[2] / "tools" / tool
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"autoresearch {verb}" in done.stdout
