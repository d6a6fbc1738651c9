"""--verify finds what is wrong with a file, and scores what is right."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import VOCAB_SIZE, portable_config, tokenizer, weights_of

from autoresearch.quantize.gguf import write_gguf
from autoresearch.quantize.hf_folder import write_hf_folder
from autoresearch.quantize.reference import ReferenceGPT
from autoresearch.quantize.verification import ROUNDING, Rows, compare, relative_error, score_of, verify

gguf = pytest.importorskip("gguf", reason="pip install 'autoresearch[export]'")


def some_rows(num_rows=6):
    rows = np.random.default_rng(0).integers(0, VOCAB_SIZE, (num_rows, 33)).astype(np.uint16)
    return Rows(rows, tokenizer().token_bytes, 100, "smoke")


@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0", "q4_0"])
def test_an_honest_gguf_passes_and_is_scored(portable, tmp_path, kind):
    write_gguf(portable, tmp_path / "m.gguf", type_name=kind)
    found = verify(tmp_path / "m.gguf", portable, wanted_type=kind, rows=some_rows())
    assert found.problems == ()
    assert found.num_bytes == (tmp_path / "m.gguf").stat().st_size
    assert found.largest_error[kind] <= ROUNDING[kind]
    assert (found.score.num_rows, found.score.num_all, found.score.contract) == (6, 100, "smoke")
    assert found.score.val_bpb == pytest.approx(found.checkpoint_score.val_bpb, rel=1e-6 if kind == "f32" else 0.5)
    assert found.largest_logit_difference < (1e-4 if kind == "f32" else 10)


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_an_honest_folder_passes(full, tmp_path, kind):
    write_hf_folder(full, tmp_path / "hf", type_name=kind)
    found = verify(tmp_path / "hf", full, wanted_type=kind, rows=None)
    assert found.problems == () and found.score is None
    assert found.largest_error["f32"] == 0.0


def test_an_altered_tensor_is_found(portable, tmp_path):
    write_gguf(portable, tmp_path / "m.gguf", type_name="f32")
    portable.tensors["layers.1.attn.c_v.weight"][0, 0] += 0.01
    found = verify(tmp_path / "m.gguf", portable, wanted_type="f32", rows=None)
    assert len(found.problems) == 1 and "blk.1.attn_v.weight is off by" in found.problems[0]


def test_a_file_of_another_type_than_asked_is_found(portable, tmp_path):
    write_gguf(portable, tmp_path / "m.gguf", type_name="q4_0")
    found = verify(tmp_path / "m.gguf", portable, wanted_type="q8_0", rows=None)
    assert any("is q4_0, q8_0 was meant" in problem for problem in found.problems)


def test_missing_unknown_and_misshapen_tensors_are_found():
    meant = {"a": torch.ones(2, 32), "b": torch.ones(3)}
    found = {"a": torch.ones(32, 2), "c": torch.ones(1)}
    problems, _ = compare(meant, found, dict.fromkeys("abc", "f32"), dict.fromkeys("abc", "f32"))
    assert problems == [
        "b is missing",
        "c was not meant to be there",
        "a has shape [32, 2], [2, 32] was meant",
    ]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([kind for kind in ROUNDING if kind != "f32"]),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 0.5, -3.0]),
)
def test_every_types_rounding_stays_within_its_bound(kind, seed, scale, offset):
    values = (np.random.default_rng(seed).standard_normal((4, 64)) + offset).astype(np.float32) * np.float32(scale)
    code = gguf.GGMLQuantizationType[kind.upper()]
    back = gguf.quants.dequantize(gguf.quants.quantize(values, code), code)
    assert relative_error(torch.from_numpy(values), torch.from_numpy(np.array(back)), kind) <= ROUNDING[kind]


def test_nan_is_infinitely_wrong_and_zeros_must_stay_zeros():
    zeros = torch.zeros(1, 32)
    assert relative_error(zeros, zeros, "q8_0") == 0.0
    assert relative_error(zeros, zeros + 1e-9, "q8_0") == math.inf
    assert relative_error(zeros + 1, torch.full((1, 32), math.nan), "q8_0") == math.inf


def test_a_score_is_the_contracts_arithmetic():
    config = portable_config()
    model = ReferenceGPT(config).take(weights_of(config))
    rows = some_rows(3)
    tokens = torch.from_numpy(rows.rows.astype(np.int64))
    logs = torch.log_softmax(model(tokens[:, :-1]).double(), -1).gather(-1, tokens[:, 1:, None])[..., 0]
    has_bytes = torch.from_numpy(rows.token_bytes)[tokens[:, 1:]] > 0
    num_bytes = int(rows.token_bytes[rows.rows[:, 1:]].sum())
    wanted = float(-(logs * has_bytes).sum()) / math.log(2) / num_bytes
    assert score_of(model, rows).val_bpb == pytest.approx(wanted, rel=1e-6)
