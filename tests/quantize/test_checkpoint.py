"""Checkpoints from disk: what is taken, and what is refused with which words."""

import hashlib
import io
import json
import os

import pytest
import torch
from safetensors.torch import save
from small_models import full_config, portable_config, tokenizer, weights_of, write_checkpoint

from autoresearch.quantize.architecture import ArchitectureEdited
from autoresearch.quantize.checkpoint import open_checkpoint
from autoresearch.vocabulary import DataCorrupt, DataMissing


def test_a_folder_gives_weights_configuration_tokenizer_and_hash(tmp_path):
    folder = write_checkpoint(tmp_path / "run", full_config())
    found = open_checkpoint(folder)
    assert found.config == full_config()
    assert found.needed_tokenizer.sha256 == tokenizer().sha256
    assert all(torch.equal(found.tensors[name], value) for name, value in weights_of(full_config()).items())
    assert found.sha256 == hashlib.sha256((folder / "checkpoint.safetensors").read_bytes()).hexdigest()
    assert open_checkpoint(folder / "checkpoint.safetensors").sha256 == found.sha256


def test_another_tokenizer_can_be_named(tmp_path):
    folder = write_checkpoint(tmp_path / "run", full_config(), tokenizer=False)
    (tmp_path / "elsewhere.json").write_text(tokenizer().to_json())
    with pytest.raises(DataMissing, match=r"no tokenizer\.json"):
        _ = open_checkpoint(folder).needed_tokenizer
    assert open_checkpoint(folder, tmp_path / "elsewhere.json").needed_tokenizer.sha256 == tokenizer().sha256
    with pytest.raises(DataMissing, match="no tokenizer at"):
        open_checkpoint(folder, tmp_path / "nowhere.json")


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "run", full_config(vocab_size=512))
    with pytest.raises(DataCorrupt, match="384 ids and the model 512"):
        _ = open_checkpoint(folder).needed_tokenizer


def test_without_a_configuration_it_opens_and_says_what_to_type_when_one_is_needed(tmp_path):
    folder = write_checkpoint(tmp_path / "run", full_config(), metadata=False)
    found = open_checkpoint(folder)
    assert len(found.tensors) == len(weights_of(full_config()))
    with pytest.raises(DataMissing, match="does not say what model it is") as raised:
        _ = found.config
    assert "autoresearch train --save" in raised.value.hint


def test_a_config_json_beside_the_weights_serves_where_the_header_says_nothing(tmp_path):
    folder = write_checkpoint(tmp_path / "run", full_config(), metadata=False)
    (folder / "config.json").write_text(full_config().to_json())
    assert open_checkpoint(folder).config == full_config()


def test_an_edited_architecture_opens_and_is_refused_only_as_the_shipped_one(tmp_path):
    tensors = weights_of(full_config()) | {"layers.0.mlp.gate.weight": torch.zeros(4, 4)}
    file = tmp_path / "edited.safetensors"
    file.write_bytes(save(tensors, {"config": full_config().to_json()}))
    found = open_checkpoint(file)
    assert "layers.0.mlp.gate.weight" in found.tensors
    with pytest.raises(ArchitectureEdited, match="architecture was edited"):
        _ = found.config


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_run_is_named_by_its_tensor(tmp_path, value):
    tensors = weights_of(full_config())
    tensors["layers.1.mlp.c_fc.weight"][3, 4] = value
    file = tmp_path / "bad.safetensors"
    file.write_bytes(save(tensors))
    with pytest.raises(DataCorrupt, match=r"layers\.1\.mlp\.c_fc\.weight holds 1 of 16,384 values"):
        open_checkpoint(file)


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000])
def test_a_cut_off_file_is_refused(tmp_path, keep):
    folder = write_checkpoint(tmp_path / "run", full_config())
    file = folder / "checkpoint.safetensors"
    os.truncate(file, keep)
    with pytest.raises(DataCorrupt):
        open_checkpoint(file)


def test_other_kinds_of_file_are_told_by_their_first_bytes(tmp_path):
    gguf = tmp_path / "model.bin"
    gguf.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(DataCorrupt, match="is a GGUF") as raised:
        open_checkpoint(gguf)
    assert "autoresearch sample" in raised.value.hint
    text = tmp_path / "notes.txt"
    text.write_text("not weights at all, but long enough to have a header of some size\n" * 20)
    with pytest.raises(DataCorrupt, match="not a safetensors file"):
        open_checkpoint(text)
    with pytest.raises(DataMissing, match="no checkpoint at"):
        open_checkpoint(tmp_path / "nothing.safetensors")
    with pytest.raises(DataMissing, match=r"no checkpoint\.safetensors in"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("wrapped", ["plain", "model", "state_dict"])
def test_a_pt_file_is_loaded_with_its_configuration(tmp_path, wrapped):
    config = portable_config()
    state = {f"_orig_mod.{name}": value for name, value in weights_of(config).items()}
    content = state if wrapped == "plain" else {wrapped: state, "config": json.loads(config.to_json()), "step": 7}
    torch.save(content, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(config.to_json())
    found = open_checkpoint(tmp_path / "model.pt")
    assert found.config == config
    assert torch.equal(found.tensors["wte.weight"], weights_of(config)["wte.weight"])


def test_a_pt_file_that_holds_code_runs_none_of_it(tmp_path):
    file = io.BytesIO()
    torch.save({"w": torch.zeros(2), "trap": _Trap(tmp_path / "ran")}, file)
    (tmp_path / "trap.pt").write_bytes(file.getvalue())
    with pytest.raises(DataCorrupt, match="weights only"):
        open_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


class _Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pt_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"nonsense")
    with pytest.raises(DataCorrupt):
        open_checkpoint(tmp_path / "broken.pt")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(DataCorrupt, match="no state dict"):
        open_checkpoint(tmp_path / "list.pt")
