"""One tensor quantized: sizes and errors against theory, round trips of every kind, and bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.quantize.codebooks import lloyd_max, uniform
from autoresearch.quantize.turboquant import METHODS, QuantizedTensor, Scheme, quantize_tensor, similarity
from autoresearch.vocabulary import DataCorrupt, UsageError


def gaussian(rows: int = 512, cols: int = 512, seed: int = 0) -> torch.Tensor:
    return 0.02 * torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def quality(weights: torch.Tensor, scheme: Scheme) -> tuple[float, float, float]:
    """(compression against float32, cosine, relative squared error)"""
    tensor = quantize_tensor(weights, scheme, name="w")
    cosine, sqnr_db = similarity(weights, tensor.dequantize())
    assert cosine is not None
    assert sqnr_db is not None
    return 32 / tensor.bits_per_weight, cosine, 10 ** (-sqnr_db / 10)


@pytest.mark.parametrize(("bits", "ratio", "cosine"), [(4, 7.76, 0.995), (3, 10.24, 0.983), (2, 15.06, 0.940)])
def test_plain_turboquant_has_the_published_size_and_cosine(bits, ratio, cosine):
    """Published: 7.6x at 0.995, 10x at 0.983. At 2 bits theory gives 0.940, not the 0.95 that is claimed."""
    found_ratio, found_cosine, _ = quality(gaussian(), Scheme("turboquant", bits))
    assert found_ratio == pytest.approx(ratio, abs=0.005)
    assert found_cosine == pytest.approx(cosine, abs=0.0006)


def test_the_bytes_are_the_codes_and_two_a_group():
    tensor = quantize_tensor(gaussian(), Scheme("turboquant", 3), name="w")
    assert tensor.num_bytes == 512 * 512 * 3 // 8 + 2 * 512 * 4


@pytest.mark.parametrize(
    "scheme", [Scheme("entropy_uniform", 2.05), Scheme("trellis", 2, memory_bits=8)], ids=["entropy-coded", "trellis"]
)
def test_a_cosine_of_0_95_at_14_6_times_takes_another_code(scheme):
    ratio, cosine, _ = quality(gaussian(256), scheme)
    assert ratio >= 14.6
    assert cosine >= 0.95


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_the_error_is_what_theory_says(bits):
    _, _, error = quality(gaussian(), Scheme("turboquant", bits))
    assert error == pytest.approx(lloyd_max(bits, 128).distortion, rel=0.02 if bits < 8 else 0.05)  # its tail is rare


@pytest.mark.parametrize("bits", [1.0, 2.5, 4.0])
def test_an_entropy_coded_grid_takes_the_bits_asked_for(bits):
    tensor = quantize_tensor(gaussian(), Scheme("entropy_uniform", bits), name="w")
    stored = 8 * tensor.arrays["stream"].numel() / tensor.num_weights
    assert stored == pytest.approx(bits, rel=0.01)
    _, _, error = quality(gaussian(), Scheme("entropy_uniform", bits))
    assert error == pytest.approx(uniform(bits, 128).distortion, rel=0.02)


def test_entropy_coding_lloyd_max_saves_bits_and_changes_no_weight():
    plain = quantize_tensor(gaussian(), Scheme("turboquant", 4), name="w")
    coded = quantize_tensor(gaussian(), Scheme("turboquant", 4, entropy=True), name="w")
    assert coded.bits_per_weight < plain.bits_per_weight - 0.2
    assert torch.equal(coded.dequantize(), plain.dequantize())


def test_codes_that_do_not_shrink_are_stored_plain():
    tensor = quantize_tensor(gaussian(64, 64), Scheme("turboquant", 1, entropy=True), name="w")
    assert set(tensor.arrays) == {"codes", "scales"}


def test_a_least_squares_scale_lowers_the_error_at_the_same_size():
    for bits in (1, 2, 4):
        plain = quality(gaussian(), Scheme("turboquant", bits))
        fitted = quality(gaussian(), Scheme("turboquant", bits, least_squares=True))
        assert fitted[0] == plain[0]
        assert fitted[2] < plain[2]


def test_the_inner_product_form_is_unbiased_and_far_noisier():
    """QJL: E[<y, w~>] = <y, w>, where plain TurboQuant shrinks every product; its squared error is pi/2 of one bit less."""
    weights = gaussian(1, 512)
    products = {"turboquant": 0.0, "turboquant_ip": 0.0}
    for method in products:
        found = [
            float(weights @ quantize_tensor(weights, Scheme(method, 2, seed=seed), name="w").dequantize().T)
            for seed in range(60)
        ]
        products[method] = sum(found) / 60 / float(weights @ weights.T)
    assert products["turboquant"] == pytest.approx(1 - lloyd_max(2, 128).distortion, abs=0.01)
    assert products["turboquant_ip"] == pytest.approx(1, abs=0.01)
    _, _, error = quality(gaussian(), Scheme("turboquant_ip", 4))
    assert error == pytest.approx(math.pi / 2 * lloyd_max(3, 128).distortion, rel=0.03)


def test_rotation_protects_the_neighbours_of_outliers():
    weights = gaussian()
    weights[:, 5] *= 100
    rows = torch.arange(512) != 5
    errors = {}
    for method in ("turboquant", "lloyd_max", "rtn_symmetric"):
        restored = quantize_tensor(weights, Scheme(method, 4), name="w").dequantize()
        errors[method] = float((restored - weights)[:, rows].square().sum() / weights[:, rows].square().sum())
    assert errors["turboquant"] < 0.8 * min(errors["lloyd_max"], errors["rtn_symmetric"])


def test_the_fair_baseline_clips():
    """A symmetric absmax grid flatters whatever is compared with it: at 2 bits it has five times the error."""
    _, symmetric, _ = quality(gaussian(), Scheme("rtn_symmetric", 2))
    _, clipped, _ = quality(gaussian(), Scheme("rtn_asymmetric", 2))
    assert symmetric < 0.78
    assert clipped > 0.935


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from([name for name in METHODS if not METHODS[name].feedback and name != "trellis"]),
    bits=st.integers(1, 8),
    rows=st.integers(1, 9),
    cols=st.integers(1, 200),
    group=st.sampled_from([1, 7, 32, 64, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([1e-30, 1e-4, 1.0, 1e4]),
    entropy=st.booleans(),
)
def test_a_packed_tensor_comes_back_bit_for_bit(method, bits, rows, cols, group, dtype, scale, entropy):
    weights = torch.randn(rows, cols, generator=torch.Generator().manual_seed(rows * cols)) * scale
    scheme = Scheme(method, bits, group=group, seed=3, entropy=entropy)
    tensor = quantize_tensor(weights.to(dtype), scheme, name="w")
    about, arrays = tensor.packed()
    again = QuantizedTensor.from_packed("w", about, arrays)
    assert again.scheme == scheme
    restored = tensor.dequantize()
    assert torch.equal(again.dequantize(), restored)
    assert restored.dtype == dtype
    assert restored.shape == weights.shape
    assert bool(restored.isfinite().all())
    assert tensor.num_bytes == sum(array.numel() * array.element_size() for array in arrays.values())
    if "codes" in arrays or "stream" in arrays:
        assert torch.equal(again.codes(), tensor.codes())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_packed_trellis_comes_back_bit_for_bit(bits):
    tensor = quantize_tensor(gaussian(20, 40), Scheme("trellis", bits, group=32, memory_bits=8), name="w")
    again = QuantizedTensor.from_packed("w", *tensor.packed())
    assert torch.equal(again.dequantize(), tensor.dequantize())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "rtn_symmetric"])
def test_groups_of_zeros_are_exact(method):
    weights = gaussian(16, 64)
    weights[3] = 0
    weights[5, 32:] = 0
    tensor = quantize_tensor(weights, Scheme(method, 2, group=32, memory_bits=8), torch.eye(64), name="w")
    restored = tensor.dequantize()
    assert not restored[3].any()
    assert not restored[5, 32:].any()
    assert restored[5, :32].any()
    assert not quantize_tensor(torch.zeros(4, 8), Scheme(method, 2, memory_bits=8), torch.eye(8)).dequantize().any()


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e30, 3e37])
def test_scales_outside_fp16_are_no_trouble(scale):
    weights = gaussian(8, 256) / 0.02 * scale
    cosine, _ = similarity(weights / scale, quantize_tensor(weights, Scheme("turboquant", 4)).dequantize() / scale)
    assert cosine == pytest.approx(0.995, abs=0.003)


def test_the_name_and_the_seed_choose_the_rotation():
    a, b, c = (
        quantize_tensor(gaussian(8, 128), Scheme("turboquant", 2, seed=seed), name=name).dequantize()
        for name, seed in (("a", 0), ("b", 0), ("a", 1))
    )
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_refused_by_name(bad):
    weights = gaussian(8, 128)
    weights[2, 3] = bad
    with pytest.raises(DataCorrupt, match=r"layers\.1\.w holds NaN or infinite") as caught:
        quantize_tensor(weights, Scheme(), name="layers.1.w")
    assert caught.value.hint


@pytest.mark.parametrize("weights", [torch.ones(3), torch.ones(2, 3, 4), torch.ones(2, 2).int(), torch.ones(0, 4)])
def test_what_is_no_matrix_is_refused(weights):
    with pytest.raises(UsageError, match="not a matrix"):
        quantize_tensor(weights, Scheme())


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "magic"},
        {"bits": 0},
        {"bits": 9},
        {"bits": float("nan")},
        {"bits": True},
        {"method": "trellis", "bits": 5},
        {"group": 0},
        {"group": 1e3},
        {"seed": -1},
        {"damping": 0.0},
        {"memory_bits": 40},
        {"entropy": "yes"},
    ],
)
def test_a_scheme_that_cannot_be_is_refused_with_what_can(fields):
    with pytest.raises(UsageError) as caught:
        Scheme(**fields)
    assert caught.value.hint


def test_one_tensor_cannot_have_half_a_bit():
    with pytest.raises(UsageError, match=r"2\.5 bits"):
        quantize_tensor(gaussian(8, 128), Scheme("turboquant", 2.5))
