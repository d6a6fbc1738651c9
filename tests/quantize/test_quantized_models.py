"""A state dict quantized: what is and what is not, how many bits each gets, the table and the ratios."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.quantize.turboquant import Scheme, allocate, quantize_model, to_bytes
from autoresearch.vocabulary import DataCorrupt, UsageError


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """As train.py names them: embeddings, a head, two matrices, a gate, lambdas."""
    g = torch.Generator().manual_seed(seed)
    return {
        "wte.weight": torch.randn(256, 128, generator=g).bfloat16(),
        "value_embeds.1.weight": torch.randn(256, 128, generator=g).bfloat16(),
        "layers.0.attn.c_q.weight": 0.02 * torch.randn(128, 128, generator=g),
        "layers.0.attn.ve_gate.weight": torch.randn(4, 32, generator=g),
        "layers.0.mlp.c_fc.weight": 0.02 * torch.randn(512, 128, generator=g),
        "lm_head.weight": 0.001 * torch.randn(256, 128, generator=g),
        "resid_lambdas": torch.ones(2),
    }


def test_embeddings_and_head_are_quantized_gates_and_vectors_are_not():
    model = quantize_model(state(), lambda name: Scheme("turboquant", 4))
    kept = {row.name: row.reason for row in model.table if row.method == "kept"}
    assert set(kept) == {"layers.0.attn.ve_gate.weight", "resid_lambdas"}
    assert "gate" in kept["layers.0.attn.ve_gate.weight"]
    assert kept["resid_lambdas"] == "a vector"
    assert {"wte.weight", "lm_head.weight"} < set(model.quantized)


def test_what_the_caller_leaves_out_stays_as_it_is():
    tensors = state()
    model = quantize_model(tensors, lambda name: None if "wte" in name else Scheme("turboquant", 4))
    assert next(row.reason for row in model.table if row.name == "wte.weight") == "as asked"
    assert torch.equal(model.dequantized()["wte.weight"], tensors["wte.weight"])


def test_the_state_dict_comes_back_in_order_with_its_types():
    tensors = state()
    back = quantize_model(tensors, lambda name: Scheme("turboquant", 8)).dequantized()
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.allclose(
            back[name].float(), tensor.float(), atol=0.02 * float(tensor.float().std(correction=0) + 1)
        )


def test_the_table_has_size_and_quality_of_every_tensor():
    model = quantize_model(state(), lambda name: Scheme("turboquant", 4))
    row = next(row for row in model.table if row.name == "layers.0.attn.c_q.weight")
    assert (row.shape, row.method, row.code_bits, row.bits, row.bytes) == ((128, 128), "turboquant", 4, 4.125, 8448)
    assert row.cosine == pytest.approx(0.9953, abs=0.001)
    assert row.sqnr_db == pytest.approx(20.3, abs=0.2)
    assert model.num_bytes == sum(row.bytes for row in model.table)


def test_compression_is_told_three_ways():
    model = quantize_model(state(), lambda name: Scheme("turboquant", 4))
    size = len(to_bytes(model))
    told = model.compression(size)
    assert told.vs_float32 == pytest.approx(32 / 4.125)
    assert told.vs_bfloat16 == pytest.approx(16 / 4.125)
    original = sum(tensor.numel() * tensor.element_size() for tensor in state().values())
    assert told.whole_file == original / size
    assert told.whole_file < told.vs_float32


def test_half_a_bit_is_an_average_over_tensors():
    model = quantize_model(state(), lambda name: Scheme("turboquant", 2.5))
    widths = {name: tensor.scheme.bits for name, tensor in model.quantized.items()}
    assert set(widths.values()) > {2}
    assert 2.4 < model.average_code_bits <= 2.5


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1000, 100_000), min_size=1, max_size=12),
    average=st.floats(1, 8),
)
def test_no_allocation_exceeds_its_average_or_leaves_a_bit_unused(sizes, average):
    named = {str(index): size for index, size in enumerate(sizes)}
    bits = allocate(named, average, range(1, 9))
    spent = sum(named[name] * width for name, width in bits.items())
    assert spent <= average * sum(sizes) + 1e-6
    assert all(width == 8 or spent + named[name] > average * sum(sizes) - 1e-6 for name, width in bits.items())


def test_what_hurts_more_gets_more_bits():
    sizes = {"a": 1000, "b": 1000}
    assert allocate(sizes, 3, range(1, 9), {"a": 100.0, "b": 1.0}) == {"a": 5, "b": 1}
    assert allocate(sizes, 3, range(1, 9)) == {"a": 3, "b": 3}


def test_an_average_outside_the_widths_is_refused():
    with pytest.raises(UsageError, match="no widths"):
        allocate({"a": 10}, 4.5, range(1, 5))


def test_feedback_goes_where_there_is_a_hessian_and_the_table_says_so():
    hessian = torch.eye(128) + 0.5
    model = quantize_model(state(), lambda name: Scheme("turboquant_ldlq", 3), {"layers.0.mlp.c_fc.weight": hessian})
    methods = {row.name: row.method for row in model.table}
    assert methods["layers.0.mlp.c_fc.weight"] == "turboquant_ldlq"
    assert methods["wte.weight"] == "turboquant"


@pytest.mark.parametrize("name", ["lm_head.weight", "resid_lambdas"])
def test_nan_in_any_tensor_is_refused_by_name(name):
    tensors = state()
    tensors[name].view(-1)[0] = float("nan")
    with pytest.raises(DataCorrupt, match=name):
        quantize_model(tensors, lambda name: Scheme("turboquant", 4))
