"""The block-wise loss is plain cross-entropy of soft-capped logits, in value and gradient, on every path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.backends import loss as module
from autoresearch.backends.loss import softcapped_cross_entropy


def plain(x, weight, targets, cap):
    logits = x @ weight.T
    return F.cross_entropy(cap * torch.tanh(logits / cap) if cap else logits, targets)


def some(num_rows, width=16, vocab_size=40, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_rows, width, generator=generator) * scale
    weight = torch.randn(vocab_size, width, generator=generator)
    return x, weight, torch.randint(vocab_size, (num_rows,), generator=generator)


def loss_and_gradients(function, x, weight, targets, cap, factor=3.0, **options):
    a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = function(a, b, targets, cap, **options)
    (factor * loss).backward()
    return loss.item(), a.grad, b.grad


@pytest.mark.parametrize("cap", [15.0, 1.5, 30.0, 30.5, 200.0, 0.0])
@pytest.mark.parametrize("num_rows", [1, 7, 8, 50])
def test_loss_and_gradients_equal_plain_cross_entropy_in_float64(monkeypatch, num_rows, cap):
    """Caps on both sides of where float32 without a maximum taken off ends; rows that fill blocks of 8 or do not."""
    monkeypatch.setattr(module, "CPU_ELEMENTS", 8 * 40)
    x, weight, targets = some(num_rows)
    loss, grad_x, grad_weight = loss_and_gradients(softcapped_cross_entropy, x, weight, targets, cap)
    expected, wide_x, wide_weight = loss_and_gradients(plain, x.double(), weight.double(), targets, cap)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(grad_x.double(), wide_x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_weight.double(), wide_weight, rtol=1e-4, atol=1e-5)  # 1 - tanh^2 loses digits


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(1, 40), cap=st.sampled_from([0.0, 5.0, 15.0]), elements=st.integers(1, 2000))
def test_the_size_of_a_block_changes_nothing_but_rounding(num_rows, cap, elements):
    x, weight, targets = some(num_rows)
    before = module.CPU_ELEMENTS
    module.CPU_ELEMENTS = elements
    try:
        got = loss_and_gradients(softcapped_cross_entropy, x, weight, targets, cap)
    finally:
        module.CPU_ELEMENTS = before
    for a, b in zip(got, loss_and_gradients(plain, x, weight, targets, cap), strict=True):
        torch.testing.assert_close(
            torch.as_tensor(a), torch.as_tensor(b), rtol=1e-4, atol=1e-5
        )  # float32 sums in another order: 1.9e-6 apart was seen


@pytest.mark.parametrize("cap", [0.0, 15.0])
def test_gradients_are_those_of_finite_differences(cap):
    x, weight, targets = (t.double() if t.is_floating_point() else t for t in some(5, width=3, vocab_size=7))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    block_sums_are_float32 = {"eps": 1e-3, "atol": 1e-3, "rtol": 1e-2, "nondet_tol": 1e-6}
    assert torch.autograd.gradcheck(
        lambda a, b: softcapped_cross_entropy(a, b, targets, cap).double(), (x, weight), **block_sums_are_float32
    )


def test_bfloat16_products_keep_a_float32_loss_and_float32_sums():
    x, weight, targets = some(64, scale=1.0)
    loss, grad_x, grad_weight = loss_and_gradients(softcapped_cross_entropy, x.bfloat16(), weight, targets, 15.0)
    expected, wide_x, wide_weight = loss_and_gradients(plain, x.double(), weight.double(), targets, 15.0)
    assert loss == pytest.approx(expected, rel=0.01)
    assert (grad_x.dtype, grad_weight.dtype) == (torch.bfloat16, torch.float32)
    assert (grad_x.double() - wide_x).norm() < 0.02 * wide_x.norm()
    assert (grad_weight.double() - wide_weight).norm() < 0.02 * wide_weight.norm()


def test_no_block_is_larger_than_its_share(monkeypatch):
    sizes = []
    real = module._block

    def watched(x, weight, targets, cap):
        sizes.append(len(x) * len(weight))
        return real(x, weight, targets, cap)

    monkeypatch.setattr(module, "_block", watched)
    monkeypatch.setattr(module, "CPU_ELEMENTS", 10 * 40)
    x, weight, targets = some(95)
    softcapped_cross_entropy(x, weight, targets, 0.0)
    assert sizes == [400] * 9 + [200]


def test_compiled_blocks_are_used_where_the_model_is_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled.append((function, dynamic)) or function)
    module._compiled_block.cache_clear()
    x, weight, targets = some(9)
    assert softcapped_cross_entropy(x, weight, targets, 0.0, compiled=True).isfinite()
    module._compiled_block.cache_clear()
    assert compiled == [(module._block, False)]


def test_it_says_so_when_asked_for_a_second_derivative():
    x, weight, targets = some(4)
    weight.requires_grad_()
    (grad,) = torch.autograd.grad(softcapped_cross_entropy(x, weight, targets, 15.0), weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        grad.sum().backward()
