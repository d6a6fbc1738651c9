"""Methods by name, and the codecs behind them."""

from __future__ import annotations

import pytest
import torch

from autoresearch.quantize import library, methods
from autoresearch.quantize.benchmark import FAIR_BASELINE
from autoresearch.quantize.codec import TurboCodec
from autoresearch.quantize.measuring import fidelity_of, measure
from autoresearch.quantize.methods import chosen_bits, chosen_methods, codec_for, forms_of, known_methods
from autoresearch.quantize.scheme import Scheme
from autoresearch.quantize.scoring import RowBits
from autoresearch.quantize.theory import LLOYD_MAX, expected_distortion
from autoresearch.vocabulary import UsageError


@pytest.fixture(scope="module")
def weights():
    random = torch.Generator().manual_seed(0)
    return {
        "embed.weight": torch.randn(96, 128, generator=random),
        "head.weight": 0.02 * torch.randn(40, 130, generator=random),
        "scale": torch.ones(3),
    }


def no_score(_weights):
    import numpy as np

    return RowBits(np.ones(2), np.ones(2, dtype=int))


def test_all_means_every_method_and_the_fair_baseline_is_one_of_them():
    assert [method.name for method in chosen_methods("all")] == list(known_methods())
    assert {"turboquant", "turboquant_ip", "turboquant_ldlq", "trellis", "rtn_symmetric", "lloyd_max", "hqq"} <= set(
        known_methods()
    )
    assert FAIR_BASELINE in known_methods()


@pytest.mark.parametrize("text", ["turbo", "", ",", "turboquant,x"])
def test_an_unknown_method_is_refused_and_the_known_ones_are_named(text):
    with pytest.raises(UsageError, match="known: turboquant"):
        chosen_methods(text)


def test_widths_are_read_once_each_and_in_order():
    assert chosen_bits("4, 2.5,2,4") == [4.0, 2.5, 2.0]
    for text in ("", "two", "9", "nan", "0"):
        with pytest.raises(UsageError):
            chosen_bits(text)


def test_a_method_without_randomness_is_run_with_one_seed_and_reasons_are_given_for_what_is_left_out():
    chosen = chosen_methods("turboquant,rtn_asymmetric,turboquant_ldlq,trellis")
    forms, missing = forms_of(chosen, [3, 6], range(5), no_calibration="--calibration-tokens is 0")
    counts = {name: sum(form.method == name for form in forms) for name in ("turboquant", "rtn_asymmetric", "trellis")}
    assert counts == {"turboquant": 10, "rtn_asymmetric": 2, "trellis": 5}
    assert [(name, bits) for name, bits, _ in missing] == [("turboquant_ldlq", None), ("trellis", 6)]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_measured_distortion_of_gaussian_weights_is_what_theory_says(weights, bits):
    codec = codec_for(known_methods()["turboquant"], bits, 0)
    measured = measure(weights, codec, no_score)
    assert measured.fidelity.distortion == pytest.approx(LLOYD_MAX[bits], rel=0.06)
    assert measured.fidelity.cosine == pytest.approx((1 - LLOYD_MAX[bits]) ** 0.5, abs=0.002)
    assert measured.fidelity.slope == pytest.approx(1 - measured.fidelity.distortion, abs=0.02)


def test_the_inner_product_form_is_unbiased_and_worse_as_theory_says(weights):
    measured = measure(weights, codec_for(known_methods()["turboquant_ip"], 4, 0), no_score)
    assert measured.fidelity.distortion == pytest.approx(expected_distortion("turboquant_ip", 4), rel=0.15)
    assert measured.fidelity.slope == pytest.approx(1.0, abs=0.02)


def test_a_fractional_width_is_the_average_over_tensors(weights):
    measured = measure(weights, codec_for(known_methods()["turboquant"], 2.5, 0), no_score)
    bits = {fact.bits for fact in measured.facts if fact.bits is not None}
    assert bits <= {1, 2, 3, 4, 5, 6, 7, 8} and measured.bits_per_weight < 2.5 + 0.2


def test_our_file_holds_the_configuration_and_gives_the_same_weights_back(weights, tmp_path):
    codec = TurboCodec(Scheme("turboquant", 3, seed=5), {"config": '{"n_layer": 2}'})
    coded = codec.encode(weights, None)
    codec.write(coded, tmp_path / "q.safetensors")
    back = codec.read(tmp_path / "q.safetensors")
    assert back.model.metadata == {"config": '{"n_layer": 2}'}
    assert all(torch.equal(back.dequantized()[name], tensor) for name, tensor in coded.dequantized().items())
    assert [fact.name for fact in back.table if fact.bits is None] == ["scale"]


def test_a_tensor_without_a_hessian_takes_the_form_without_feedback(weights):
    codec = TurboCodec(Scheme("turboquant_ldlq", 3))
    coded = codec.encode(weights, {"embed.weight": torch.eye(128)})
    assert {fact.name: fact.method for fact in coded.table} == {
        "embed.weight": "turboquant_ldlq", "head.weight": "turboquant", "scale": "kept",
    }  # fmt: skip


@pytest.mark.parametrize("bits", library.WIDTHS)
def test_the_librarys_method_comes_back_from_its_file_as_near_as_its_width_allows(weights, tmp_path, bits):
    if why := library.why_not_here():
        pytest.skip(why)
    codec = library.HqqCodec(bits)
    coded = codec.encode(weights, None)
    codec.write(coded, tmp_path / "q.safetensors")
    back = codec.read(tmp_path / "q.safetensors").dequantized()
    assert all(torch.equal(back[name], tensor) for name, tensor in coded.dequantized().items())
    assert {name: tensor.shape for name, tensor in back.items()} == {name: t.shape for name, t in weights.items()}
    most = {1: 4.0, 2: 0.35, 3: 0.06, 4: 0.013, 8: 1e-4}[bits]
    assert fidelity_of(weights, back, ["embed.weight"]).distortion < most


def test_without_the_library_its_method_is_left_out_with_what_to_type(monkeypatch):
    monkeypatch.setattr(library, "why_not_here", lambda: f"not installed ({library.INSTALL})")
    forms, missing = forms_of(chosen_methods("hqq"), [4, 5], [0])
    assert forms == []
    assert missing == [
        ("hqq", 4, "not installed (pip install hqq)"),
        ("hqq", 5, "the library packs 1, 2, 3, 4, 8 bits"),
    ]


def test_without_the_entropy_coder_its_methods_are_left_out_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(methods, "find_spec", lambda _name: None)
    forms, missing = forms_of(chosen_methods("entropy_uniform,turboquant"), [3], [0, 1])
    assert [form.method for form in forms] == ["turboquant", "turboquant"]
    assert [(name, bits) for name, bits, _ in missing] == [("entropy_uniform", 3)]
    assert "pip install" in missing[0][2]
