"""Error feedback: it lowers the error that the layer's inputs see, in any basis, and refuses what is no Hessian."""

from __future__ import annotations

import pytest
import torch

from autoresearch.quantize.feedback import inverse_factor
from autoresearch.quantize.turboquant import QuantizedTensor, Scheme, quantize_tensor
from autoresearch.vocabulary import UsageError


def layer(rows: int = 48, cols: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and the Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(cols, cols, generator=generator) * torch.rand(cols, generator=generator)
    inputs = torch.randn(500, cols, generator=generator) @ mix
    return torch.randn(rows, cols, generator=generator), inputs.T @ inputs


def output_error(weights: torch.Tensor, hessian: torch.Tensor, method: str, bits: int) -> float:
    scheme = Scheme(method, bits, group=32, memory_bits=8)
    error = weights - quantize_tensor(weights, scheme, hessian, name="w").dequantize()
    return float(torch.trace(error @ hessian @ error.T) / torch.trace(weights @ hessian @ weights.T))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plain", "fed"),
    [
        ("turboquant", "turboquant_ldlq"),
        ("rtn_asymmetric", "gptq"),
        ("entropy_uniform", "entropy_uniform_ldlq"),
        ("trellis", "trellis_ldlq"),
    ],
)
def test_feedback_takes_a_third_or_more_off_the_error_of_the_outputs(plain, fed):
    weights, hessian = layer()
    assert output_error(weights, hessian, fed, 3) < 0.65 * output_error(weights, hessian, plain, 3)


def test_with_white_inputs_feedback_changes_nothing():
    weights, _ = layer()
    white = torch.eye(weights.size(1))
    plain = quantize_tensor(weights, Scheme("turboquant", 3), name="w").dequantize()
    fed = quantize_tensor(weights, Scheme("turboquant_ldlq", 3), white, name="w").dequantize()
    assert torch.allclose(plain, fed, atol=1e-3)


def test_inputs_that_never_came_are_plain_rounding():
    weights, hessian = layer()
    plain = quantize_tensor(weights, Scheme("rtn_asymmetric", 3), name="w").dequantize()
    fed = quantize_tensor(weights, Scheme("gptq", 3), torch.zeros_like(hessian), name="w").dequantize()
    assert torch.allclose(plain, fed, atol=1e-5)


def test_a_singular_hessian_is_damped():
    weights, _ = layer()
    one_input = torch.randn(1, weights.size(1), generator=torch.Generator().manual_seed(1))
    error = output_error(weights, one_input.T @ one_input, "turboquant_ldlq", 2)
    assert error < 0.05 * output_error(weights, one_input.T @ one_input, "turboquant", 2)


def test_the_factor_is_of_the_damped_inverse():
    _, hessian = layer(cols=24)
    factor = inverse_factor(hessian.double(), 0.01)
    scaled = hessian.double() / hessian.double().diagonal().mean()
    assert torch.allclose(factor.T @ factor @ (scaled + 0.01 * torch.eye(24)), torch.eye(24).double(), atol=1e-8)
    assert torch.equal(factor, factor.triu())


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (lambda h: h[:-1], "columns are"),
        (lambda h: h.index_fill(0, torch.tensor([3]), float("nan")), "NaN"),
        (lambda h: h + torch.triu(h.abs().max() * torch.ones_like(h), 1), "symmetric"),
        (lambda h: -h, "non-negative"),
    ],
)
def test_what_is_no_hessian_is_refused_by_name(broken, word):
    weights, hessian = layer()
    with pytest.raises(UsageError, match=word) as caught:
        quantize_tensor(weights, Scheme("turboquant_ldlq", 2), broken(hessian), name="layers.3")
    assert "layers.3" in str(caught.value)
    assert caught.value.hint


def test_feedback_without_a_hessian_names_the_method_without_it():
    with pytest.raises(UsageError) as caught:
        quantize_tensor(torch.ones(4, 4), Scheme("turboquant_ldlq", 2))
    assert "use turboquant" in caught.value.hint


@pytest.mark.parametrize("method", ["turboquant_ldlq", "gptq", "entropy_uniform_ldlq", "trellis_ldlq"])
def test_a_tensor_with_feedback_comes_back_bit_for_bit(method):
    weights, hessian = layer(rows=16, cols=40)
    tensor = quantize_tensor(weights, Scheme(method, 2, group=16, memory_bits=8), hessian, name="w")
    again = QuantizedTensor.from_packed("w", *tensor.packed())
    assert torch.equal(again.dequantize(), tensor.dequantize())
