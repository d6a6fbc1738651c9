"""What an objective makes of weights: quantized and brought back, in the file they came in, and what it will not take."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from autoresearch.loop.weights import bare
from autoresearch.quantize.objective import FEWEST_VALUES, AtBits, is_quantized
from autoresearch.vocabulary import UnfitWeights

SEEN: dict[str, torch.Tensor] = {}


def halves(name: str, matrix: torch.Tensor) -> torch.Tensor:
    """A code that keeps halves only."""
    SEEN[name] = matrix
    return torch.round(2 * matrix) / 2


OBJECTIVE = AtBits("bpb@1bit", halves)


def test_every_large_tensor_comes_back_from_its_code_and_small_ones_as_they_were():
    tensors = {
        "matrix": torch.randn(32, 16),
        "bf16": torch.randn(20, 30).bfloat16(),
        "vector": torch.randn(512).double(),
        "cube": torch.randn(4, 8, 16),
        "norm": torch.randn(16),
        "steps": torch.tensor(7),
    }
    SEEN.clear()
    found = load(OBJECTIVE.transform(save(tensors, {"config": "{}"})))
    assert {name: (t.shape, t.dtype) for name, t in found.items()} == {
        n: (t.shape, t.dtype) for n, t in tensors.items()
    }
    assert sorted(SEEN) == ["bf16", "cube", "matrix", "vector"]
    assert {name: tuple(t.shape) for name, t in SEEN.items()} == {
        "bf16": (20, 30),
        "cube": (32, 16),
        "matrix": (32, 16),
        "vector": (1, 512),
    }
    for name in SEEN:
        assert torch.equal(found[name], (torch.round(2 * tensors[name].float()) / 2).to(tensors[name].dtype))
    assert torch.equal(found["norm"], tensors["norm"]) and torch.equal(found["steps"], tensors["steps"])


def test_the_file_is_the_one_that_a_process_would_pack_of_those_tensors():
    tensors = {"b": torch.randn(32, 16), "a": torch.randn(3)}
    transformed = OBJECTIVE.transform(save(tensors, {"config": "{}"}))
    assert bare(transformed) == transformed == save(load(transformed))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [3, 1000])
def test_weights_that_are_no_finite_numbers_are_refused_by_name(bad, size):
    tensors = {"fine": torch.ones(1000), "wte": torch.full((size,), bad)}
    with pytest.raises(UnfitWeights, match="wte holds weights that are no finite numbers"):
        OBJECTIVE.transform(save(tensors))


@pytest.mark.parametrize(
    "hidden",
    [
        {"copy": torch.zeros(2000, dtype=torch.int32)},
        {f"piece.{i}": torch.zeros(FEWEST_VALUES - 1) for i in range(8)},
        {"copy": torch.zeros(9000, dtype=torch.uint8)},
    ],
    ids=["whole numbers", "many small tensors", "bytes"],
)
def test_a_copy_of_the_weights_out_of_reach_is_refused(hidden):
    with pytest.raises(UnfitWeights, match="stay as they are"):
        OBJECTIVE.transform(save({"matrix": torch.randn(40, 50), **hidden}))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_shapes_types_and_names_never_change(shape, dtype):
    tensor = torch.ones(shape, dtype=dtype)
    found = load(OBJECTIVE.transform(save({"w": tensor})))["w"]
    assert torch.equal(found, tensor) and found.dtype == dtype
    assert is_quantized(tensor) == (tensor.numel() >= FEWEST_VALUES)
