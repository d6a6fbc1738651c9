"""Pieces whose backward pass is written out equal the expressions that they stand for."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.backends import fused
from autoresearch.backends.memory import keep_freed_memory


def turned(x, cos, sin):
    out = torch.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cos + x[..., 1::2] * sin
    out[..., 1::2] = x[..., 1::2] * cos - x[..., 0::2] * sin
    return out


PIECES = {
    "rms_norm": (fused.rms_norm, lambda x: F.rms_norm(x, (x.size(-1),), eps=fused.EPS), [(2, 5, 3, 8)]),
    "relu_squared_linear": (
        fused.relu_squared_linear,
        lambda x, weight: F.relu(x @ weight.T).square(),
        [(2, 5, 8), (12, 8)],
    ),
    "turn_pairs": (fused.turn_pairs, turned, [(2, 5, 3, 8), (1, 5, 1, 4), (1, 5, 1, 4)]),
}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 100.0]), name=st.sampled_from(sorted(PIECES)))
def test_each_piece_and_its_gradients_equal_the_expression_in_float64(name, seed, scale):
    piece, expression, shapes = PIECES[name]
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(*shape, generator=generator) for shape in shapes]
    tensors[0] *= scale
    learnt = 1 if name == "turn_pairs" else len(tensors)  # angles are no parameters
    got_in = [t.clone().requires_grad_(i < learnt) for i, t in enumerate(tensors)]
    wide_in = [t.double().requires_grad_(i < learnt) for i, t in enumerate(tensors)]
    got, expected = piece(*got_in), expression(*wide_in)
    grad = torch.randn(expected.shape, generator=generator)
    got.backward(grad)
    expected.backward(grad.double())
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6 * scale**2 + 1e-6)
    for a, b in zip(got_in[:learnt], wide_in[:learnt], strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=2e-4, atol=1e-5 * max(1.0, b.grad.abs().max().item()))


def test_a_second_backward_pass_through_the_squared_relu_is_refused_with_what_to_write():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(12, 8, requires_grad=True)
    loss = fused.relu_squared_linear(x, weight).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"write F\.relu\(F\.linear\(x, weight\)\)\.square\(\)"):
        loss.backward()


@pytest.mark.parametrize("name", sorted(PIECES))
def test_pieces_of_a_larger_tensor_are_taken_as_they_lie(name):
    """A slice of another projection's output has gaps between its rows."""
    piece, expression, shapes = PIECES[name]
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(*shapes[0][:-2], shapes[0][-2] + 2, shapes[0][-1], generator=generator)
    rest = [torch.randn(*shape, generator=generator) for shape in shapes[1:]]
    part = wide[..., 1:-1, :]
    assert not part.is_contiguous()
    torch.testing.assert_close(piece(part, *rest), expression(part, *rest), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(PIECES))
def test_other_dtypes_and_autocast_take_the_plain_expression(name, monkeypatch):
    for function in (fused._RmsNorm, fused._ReluSquaredLinear, fused._TurnPairs):
        monkeypatch.setattr(function, "forward", lambda *_: pytest.fail("written out for another dtype"))
    piece, _, shapes = PIECES[name]
    tensors = [torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    assert piece(*(t.bfloat16() for t in tensors)).dtype == torch.bfloat16
    assert piece(*(t.double() for t in tensors)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert piece(*tensors).shape[:-1] == shapes[0][:-1]


def test_a_second_derivative_is_refused():
    x = torch.randn(3, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(fused.rms_norm(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_the_c_library_keeps_what_is_freed():
    assert keep_freed_memory() == hasattr(ctypes.CDLL(None), "mallopt")


def test_a_c_library_that_cannot_be_told_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert keep_freed_memory() is False
