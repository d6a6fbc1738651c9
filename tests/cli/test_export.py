"""export and sample as a person calls them: from a session's snapshot, from a folder, and with bad input."""

from __future__ import annotations

import json

import pytest
from calling import call, done, refused
from small_models import full_config, portable_config, write_checkpoint

pytestmark = pytest.mark.slow

pytest.importorskip("gguf", reason="pip install 'autoresearch[export]'")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a portable and a full checkpoint."""
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "portable", portable_config())
    write_checkpoint(folder / "full", full_config())
    return folder


@pytest.mark.slow
def test_a_portable_checkpoint_becomes_a_gguf_that_is_verified_and_sampled(models, tmp_path):
    said = done(tmp_path, "export", str(models / "portable"), "--type", "q8_0", "--verify", "--contract", "smoke")
    assert "wrote portable-q8_0.gguf" in said and "runs: llama.cpp" in said
    assert "digits two by two" in said  # what the stock tokenizer cannot express
    assert "verified: 33 tensors" in said and "not scored: contract smoke has another tokenizer" in said
    texts = [
        done(tmp_path, "sample", "portable-q8_0.gguf", "--tokens", "12", "--seed", seed) for seed in ("1", "1", "2")
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
def test_a_full_checkpoint_says_what_keeps_it_from_stock_runtimes(models, tmp_path):
    said = json.loads(done(tmp_path, "export", str(models / "full"), "--out", "m.gguf", "--json"))
    assert said["kind"] == "autoresearch"
    assert any("value embeddings, x0 mixing, sliding windows, softcap 15" in note for note in said["notes"])
    assert ["only reads", "gguf-py and viewers; llama.cpp refuses the architecture `autoresearch`"] in said["runtimes"]


@pytest.mark.slow
def test_a_folder_for_transformers_is_sampled_like_its_checkpoint(models, tmp_path):
    done(tmp_path, "export", str(models / "full"), "--format", "hf", "--out", "folder", "--verify")
    greedy = ("--tokens", "16", "--temperature", "0", "--prompt", "It is", "--json")
    texts = [json.loads(done(tmp_path, "sample", model, *greedy)) for model in ("folder", str(models / "full"))]
    assert texts[0]["text"] == texts[1]["text"] and texts[0]["kind"] != texts[1]["kind"]


@pytest.mark.slow
def test_nothing_in_a_sample_drives_the_terminal(models, tmp_path):
    said = done(tmp_path, "sample", str(models / "full"), "--temperature", "50", "--tokens", "200")
    assert not [char for char in said if not char.isprintable() and char not in "\n\t"]


@pytest.mark.slow
def test_bad_input_is_refused_with_the_next_thing_to_type(models, tmp_path):
    run = lambda *words: call(tmp_path, *words)  # noqa: E731
    assert "train --save" in refused(run("export", "nothing.safetensors"), 1, "no checkpoint at nothing.safetensors")
    refused(run("export", str(models / "full"), "--type", "f16"), 2, "squared ReLU overflows")
    refused(run("export", str(models / "full"), "--architecture", "apertus"), 2, "no stock runtime computes this model")
    refused(run("export", str(models / "full"), "--architecture", "llama"), 2, "choose apertus or autoresearch")
    refused(run("export", str(models / "full"), "--format", "hf", "--type", "q8_0"), 2, "f32 or bf16")
    refused(run("sample", "none.gguf"), 1, "no file none.gguf")
    refused(run("sample", str(models / "full"), "--tokens", "0"), 2, "0 tokens")
    refused(run("sample", str(models / "full"), "--device", "warp"), 2, "no device 'warp'")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    refused(run("sample", "cut.gguf"), 1, "cut off or damaged")
    assert not list(tmp_path.glob("*-*.gguf"))


@pytest.mark.slow
def test_a_kept_snapshot_has_all_that_an_export_asks_for(lived_workspace):
    """Of an experiment file that is not ours: it is opened, and told apart, without a crash."""
    folder = lived_workspace / "logs" / "a" / "0"
    assert {"checkpoint.safetensors", "tokenizer.json", "train.py"} <= {path.name for path in folder.iterdir()}
    refused(call(lived_workspace, "export", "logs/a/0"), 1)
