"""GGUF files that carry a quantized model's codes as they are packed."""

import json
import os

import pytest
import torch
from small_models import full_config, some_ids, tokenizer, weights_of, write_checkpoint

from autoresearch.quantize.gguf import open_gguf
from autoresearch.quantize.gguf_file import read_raw
from autoresearch.quantize.packed_gguf import is_quantized, open_quantized, unpacked, write_packed_gguf
from autoresearch.quantize.reference import ReferenceGPT
from autoresearch.quantize.runnable import open_runnable
from autoresearch.quantize.turboquant import Scheme, quantize_model, save
from autoresearch.quantize.verification import verify_packed
from autoresearch.vocabulary import DataCorrupt, DataMissing

pytest.importorskip("gguf", reason="pip install 'autoresearch[export]'")


@pytest.fixture
def quantized(tmp_path):
    """A TurboQuant file of 4 bits with its tokenizer beside it."""
    config = full_config()
    values = json.dumps({k: v for k, v in json.loads(config.to_json()).items() if k != "normalised_embeddings"})
    model = quantize_model(
        weights_of(config), lambda _name: Scheme("turboquant", bits=4, group=32), metadata={"config": values}
    )
    (tmp_path / "q").mkdir()
    save(model, tmp_path / "q" / "quantized.safetensors")
    (tmp_path / "q" / "tokenizer.json").write_text(tokenizer().to_json())
    return tmp_path / "q" / "quantized.safetensors"


def test_a_quantized_model_is_known_and_runs_as_it_is(quantized, tmp_path):
    assert is_quantized(quantized)
    assert not is_quantized(write_checkpoint(tmp_path / "c", full_config()) / "checkpoint.safetensors")
    assert not is_quantized(tmp_path / "nothing.safetensors")
    found = open_runnable(quantized.parent)
    assert found.kind == "quantized model" and found.config == full_config()
    assert found.model()(some_ids(found.config)).isfinite().all()


@pytest.mark.slow
def test_the_codes_come_back_bit_for_bit_and_make_a_small_file(quantized, tmp_path):
    opened = open_quantized(quantized)
    table = write_packed_gguf(quantized, opened, tmp_path / "m.gguf")
    assert {entry.type for entry in table} == {"i8"}
    found = open_gguf(tmp_path / "m.gguf")
    assert found.architecture == "packed" and found.tokenizer.sha256 == tokenizer().sha256
    assert all(torch.equal(found.tensors[name], opened.tensors[name]) for name in opened.tensors)
    plain = sum(tensor.numel() * 4 for tensor in opened.tensors.values())
    assert sum(entry.num_bytes for entry in table) < plain / 6
    checked = verify_packed(tmp_path / "m.gguf", opened, rows=None)
    assert checked.problems == () and checked.largest_logit_difference == 0.0
    ids = some_ids(found.config)
    assert ReferenceGPT(found.config).take(found.tensors)(ids).isfinite().all()


def test_other_weights_than_were_packed_are_found(quantized, tmp_path):
    opened = open_quantized(quantized)
    write_packed_gguf(quantized, opened, tmp_path / "m.gguf")
    opened.tensors["lm_head.weight"][0, 0] += 1
    assert verify_packed(tmp_path / "m.gguf", opened, rows=None).problems == ("lm_head.weight is not what was packed",)


def test_a_file_without_a_configuration_is_refused(tmp_path):
    save(
        quantize_model(weights_of(full_config()), lambda _name: Scheme("turboquant", bits=4)),
        tmp_path / "q.safetensors",
    )
    with pytest.raises(DataMissing, match="does not say what model it is"):
        open_quantized(tmp_path / "q.safetensors")


@pytest.mark.parametrize("damage", ["json", "dtype", "shape", "negative", "missing", "truncated"])
def test_damaged_descriptions_are_refused(quantized, tmp_path, damage):
    write_packed_gguf(quantized, open_quantized(quantized), tmp_path / "m.gguf")
    if damage == "truncated":
        os.truncate(tmp_path / "m.gguf", 60_000)
        with pytest.raises(DataCorrupt):
            open_gguf(tmp_path / "m.gguf")
        return
    _, fields, arrays = read_raw(tmp_path / "m.gguf")
    body = json.loads(fields["autoresearch.packed"])
    first = next(entry for entry in body["arrays"] if entry["shape"])
    if damage == "dtype":
        first["dtype"] = "save"  # a name that torch has, and no type of number
    elif damage == "shape":
        first["shape"] = [2**40]
    elif damage == "negative":
        first["shape"] = [-1]
    elif damage == "missing":
        del arrays[first["name"]]
    text = "{" if damage == "json" else json.dumps(body)
    with pytest.raises(DataCorrupt, match="damaged"):
        unpacked(tmp_path / "m.gguf", full_config(), {"autoresearch.packed": text}, arrays)
