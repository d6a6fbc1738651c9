"""Quantized models on disk: the format to the byte, and what a hostile or damaged file meets."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import save as serialize
from safetensors.torch import save_file

from autoresearch.quantize.models import QuantizedModel
from autoresearch.quantize.turboquant import Scheme, load, quantize_model, quantize_tensor, save, to_bytes
from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError


def small(**fields) -> QuantizedModel:
    g = torch.Generator().manual_seed(0)
    tensors = {
        "w": torch.randn(32, 64, generator=g),
        "b": torch.arange(3.0),
        "e": torch.randn(64, 32, generator=g).half(),
    }
    return quantize_model(
        tensors, lambda name: Scheme(**{"method": "turboquant", "bits": 3} | fields), metadata={"config": "{}"}
    )


GOLDEN = (
    b'{"__metadata__":{"config":"{}","format":"autoresearch-quantized","tensors":"{\\"names\\":[\\"w\\",\\"b\\"],'
    b'\\"quantized\\":{\\"w\\":{\\"dtype\\":\\"float32\\",\\"exponent\\":-4,\\"scheme\\":{\\"bits\\":2,\\"damping\\":0.01,'
    b'\\"entropy\\":false,\\"group\\":8,\\"least_squares\\":false,\\"memory_bits\\":12,\\"method\\":\\"lloyd_max\\",'
    b'\\"seed\\":0},\\"shape\\":[2,8]}}}","version":"1"},"b":{"data_offsets":[0,8],"dtype":"F32","shape":[2]},'
    b'"w/codes":{"data_offsets":[12,16],"dtype":"U8","shape":[4]},'
    b'"w/scales":{"data_offsets":[8,12],"dtype":"F16","shape":[2,1]}}'
)


def test_the_file_is_this_to_the_byte():
    weights = torch.tensor([[-4.0, -1, 1, 4, 4, 1, -1, -4], [1, 1, 1, 1, 1, 1, 1, 1]])
    tensor = quantize_tensor(weights, Scheme("lloyd_max", 2, group=8), name="w")
    kept = {"b": torch.tensor([1.0, 2.0])}
    content = to_bytes(QuantizedModel(("w", "b"), {"w": tensor}, kept, (), {"config": "{}"}))
    length = int.from_bytes(content[:8], "little")
    assert content[8 : 8 + length].rstrip(b" ") == GOLDEN
    data = content[8 + length :]
    assert data[:8].hex() == "0000803f00000040"  # 1 and 2
    assert data[8:12].hex() == "d551004c"  # 46.65 = 16 sqrt(8.5) and 16, in fp16
    assert data[12:].hex() == "e41bffff"  # two bits each, lowest first


def test_the_same_model_gives_the_same_bytes():
    assert len({to_bytes(small()) for _ in range(5)}) == 1


@pytest.mark.parametrize("fields", [{}, {"entropy": True}, {"method": "rtn_asymmetric"}, {"method": "turboquant_ip"}])
def test_a_model_comes_back_bit_for_bit(tmp_path, fields):
    model = small(**fields)
    size = save(model, tmp_path / "m.safetensors")
    assert size == (tmp_path / "m.safetensors").stat().st_size
    again = load(tmp_path / "m.safetensors")
    assert to_bytes(again) == (tmp_path / "m.safetensors").read_bytes()
    assert again.metadata == {"config": "{}"}
    assert again.num_bytes == model.num_bytes
    back, before = again.dequantized(), model.dequantized()
    assert list(back) == list(before)
    assert all(torch.equal(back[name], before[name]) for name in before)


def test_a_missing_file_says_what_makes_one(tmp_path):
    with pytest.raises(DataMissing) as caught:
        load(tmp_path / "no.safetensors")
    assert "autoresearch quantize" in caught.value.hint


def test_a_plain_checkpoint_is_no_quantized_model(tmp_path):
    save_file({"w": torch.ones(4, 4)}, tmp_path / "m.safetensors")
    with pytest.raises(DataCorrupt, match="no quantized model"):
        load(tmp_path / "m.safetensors")


def altered(tmp_path, change):
    """The small model's file with its metadata and tensors changed."""
    from safetensors import safe_open

    save(small(), tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as stream:
        metadata, tensors = dict(stream.metadata()), {name: stream.get_tensor(name) for name in list(stream.keys())}
    described = json.loads(metadata["tensors"])
    change(metadata, tensors, described)
    metadata["tensors"] = metadata["tensors"] if metadata["tensors"] == "[" else json.dumps(described)
    (tmp_path / "m.safetensors").write_bytes(serialize(tensors, metadata=metadata))
    return tmp_path / "m.safetensors"


def in_scheme(**fields):
    return lambda metadata, tensors, described: described["quantized"]["w"]["scheme"].update(fields)


def in_tensor(**fields):
    return lambda metadata, tensors, described: described["quantized"]["w"].update(fields)


CHANGES = {
    "version": lambda m, t, d: m.update(version="2"),
    "no JSON": lambda m, t, d: m.update(tensors="["),
    "no names": lambda m, t, d: d.pop("names"),
    "names twice": lambda m, t, d: d["names"].append("w"),
    "names are numbers": lambda m, t, d: d.update(names=[1, 2]),
    "a tensor unnamed": lambda m, t, d: d["names"].remove("b"),
    "a tensor missing": lambda m, t, d: t.pop("b"),
    "codes missing": lambda m, t, d: t.pop("w/codes"),
    "codes cut": lambda m, t, d: t.update({"w/codes": t["w/codes"][:-3].clone()}),
    "codes of another type": lambda m, t, d: t.update({"w/codes": t["w/codes"].to(torch.int8)}),
    "scales of another shape": lambda m, t, d: t.update({"w/scales": t["w/scales"].T.contiguous()}),
    "a scale of NaN": lambda m, t, d: t["w/scales"].fill_(float("nan")),
    "an array too many": lambda m, t, d: t.update({"w/signs": t["w/codes"].clone()}),
    "a method of tomorrow": in_scheme(method="magic"),
    "a method that is a list": in_scheme(method=[]),
    "other bits": in_scheme(bits=4),
    "half a bit": in_scheme(bits=2.5),
    "another group": in_scheme(group=32),
    "a field too many": in_scheme(code="import os"),
    "entropy as text": in_scheme(entropy="yes"),
    "a uniform grid without stream": in_scheme(method="entropy_uniform"),
    "a huge shape": in_tensor(shape=[2**30, 2**30]),
    "a shape of text": in_tensor(shape="32x64"),
    "a shape of three": in_tensor(shape=[32, 64, 1]),
    "dtype of our attributes": in_tensor(dtype="save"),
    "a wild exponent": in_tensor(exponent=10**6),
    "an exponent of true": in_tensor(exponent=True),
    "a scheme that is text": in_tensor(scheme="turboquant"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_file_that_contradicts_itself_is_refused(tmp_path, change):
    with pytest.raises(DataCorrupt) as caught:
        load(altered(tmp_path, change))
    assert caught.value.hint


def test_a_torn_or_scribbled_file_is_refused_or_reads_and_never_crashes(tmp_path):
    content = to_bytes(small(entropy=True))
    path, rng = tmp_path / "m.safetensors", random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        if rng.random() < 0.4:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(rng.randrange(1, 4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load(path).dequantized()
        except DataCorrupt as error:
            assert error.hint


def test_names_that_would_collide_are_refused():
    tensor = quantize_tensor(torch.randn(32, 64), Scheme(), name="w")
    clash = QuantizedModel(("w", "w/codes"), {"w": tensor}, {"w/codes": torch.ones(2)}, ())
    with pytest.raises(UsageError, match="w/codes"):
        to_bytes(clash)
    with pytest.raises(UsageError, match="format"):
        to_bytes(QuantizedModel((), {}, {}, (), {"format": "mine"}))
