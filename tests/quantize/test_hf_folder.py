"""Folders for transformers: complete, whole or absent, and ours again."""

import errno
import json
import os

import pytest
import safetensors.torch
import torch
from small_models import full_config, portable_config, some_ids, tokenizer, write_checkpoint

from autoresearch.files import DiskError
from autoresearch.quantize.architecture import ArchitectureEdited
from autoresearch.quantize.checkpoint import open_checkpoint
from autoresearch.quantize.hf_folder import class_for, is_hf_folder, open_hf_folder, write_hf_folder
from autoresearch.quantize.reference import ReferenceGPT, load_reference
from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError

CONFIGS = {
    "ApertusForCausalLM": portable_config(),
    "NanoChatForCausalLM": portable_config(softcap=15.0),
    "AutoresearchForCausalLM": full_config(),
}


@pytest.fixture(params=list(CONFIGS))
def exported(request, tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "run", CONFIGS[request.param]))
    assert class_for(checkpoint) == request.param
    write_hf_folder(checkpoint, tmp_path / "hf")
    return checkpoint, tmp_path / "hf", request.param


def test_our_loader_computes_the_checkpoint_from_the_folder_alone(exported):
    checkpoint, folder, cls = exported
    config, tensors, table, found, _ = open_hf_folder(folder)
    assert is_hf_folder(folder) and found == cls and table.sha256 == tokenizer().sha256
    ids = some_ids(config)
    ours = ReferenceGPT(config).take(tensors)(ids)
    torch.testing.assert_close(ours, load_reference(checkpoint)(ids), atol=2e-5, rtol=0)


def test_the_folder_is_complete_and_carries_code_only_where_no_class_is_stock(exported):
    _, folder, cls = exported
    names = {path.name for path in folder.iterdir()}
    assert names - {"modeling_autoresearch.py"} == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md",
        "autoresearch.json",
    }  # fmt: skip
    assert ("modeling_autoresearch.py" in names) == (cls == "AutoresearchForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [cls] and config["bos_token_id"] == 380 and config["tie_word_embeddings"] is False
    assert ("auto_map" in config) == (cls == "AutoresearchForCausalLM")


def test_bf16_halves_the_matrices_and_leaves_the_rest(tmp_path, portable):
    table = write_hf_folder(portable, tmp_path / "hf", type_name="bf16")
    types = {entry.name: entry.type for entry in table}
    assert types["model.layers.0.mlp.up_proj.weight"] == "bf16"
    assert types["model.layers.0.mlp.act_fn.alpha_p"] == types["model.norm.weight"] == "f32"
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(UsageError, match="f32 or bf16"):
        write_hf_folder(portable, tmp_path / "other", type_name="q8_0")


def test_an_export_of_ours_is_replaced_and_anything_else_is_left_alone(tmp_path, portable, full):
    write_hf_folder(portable, tmp_path / "hf")
    write_hf_folder(full, tmp_path / "hf")
    assert open_hf_folder(tmp_path / "hf")[3] == "AutoresearchForCausalLM"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no export of ours"):
        write_hf_folder(portable, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), safetensors.SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_no_folder(tmp_path, portable, monkeypatch, error):
    def full_disk(*_arguments):
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DiskError, match="disk full"):
        write_hf_folder(portable, tmp_path / "hf")
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_folder_is_refused(tmp_path, portable):
    folder = tmp_path / "hf"
    write_hf_folder(portable, folder)
    os.truncate(folder / "model.safetensors", 5_000)
    with pytest.raises(DataCorrupt):
        open_hf_folder(folder)
    write_hf_folder(portable, folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataMissing, match="tokenizer"):
        open_hf_folder(folder)
    write_hf_folder(portable, folder)
    (folder / "autoresearch.json").write_text("{}")
    with pytest.raises(DataCorrupt):
        open_hf_folder(folder)


def test_a_folder_with_other_tensors_is_refused(tmp_path, portable):
    write_hf_folder(portable, tmp_path / "hf")
    tensors = safetensors.torch.load_file(tmp_path / "hf" / "model.safetensors")
    tensors["model.layers.0.mlp.gate_proj.weight"] = torch.zeros(4, 4)
    safetensors.torch.save_file(tensors, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(ArchitectureEdited, match="gate_proj"):
        open_hf_folder(tmp_path / "hf")
