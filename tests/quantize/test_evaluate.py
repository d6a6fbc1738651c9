"""A checkpoint under several forms, measured on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import TOKEN_BYTES, ToyCheckpoint, ToyCodec, toy_forms, toy_rows, trained_toy

from autoresearch.quantize.evaluate import Form, check_bits, evaluate
from autoresearch.quantize.measuring import Fidelity, fidelity_of, measure
from autoresearch.quantize.scoring import RowBits, module_score
from autoresearch.vocabulary import DataCorrupt, UsageError


@pytest.fixture(scope="module")
def toy():
    model = trained_toy()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return ToyCheckpoint(weights), module_score(model, toy_rows(), TOKEN_BYTES)


def test_a_row_says_what_the_form_loses_on_the_same_rows_and_fewer_bits_lose_more(toy):
    checkpoint, score = toy
    two, eight = evaluate(checkpoint, toy_forms((2, 8)), score)
    before = score(checkpoint.tensors).val_bpb
    assert two.val_bpb_before == eight.val_bpb_before == before
    assert two.loss.value == pytest.approx(two.val_bpb - before)
    assert two.loss.value > 10 * abs(eight.loss.value)
    assert two.loss.low < two.loss.value < two.loss.high


def test_the_score_is_of_what_the_file_gave_back_and_the_size_is_the_files(toy, tmp_path):
    checkpoint, score = toy
    seen = []

    def watching(weights):
        seen.append({name: value.clone() for name, value in weights.items()})
        return score(weights)

    (row,) = evaluate(checkpoint, toy_forms((3,)), watching, keep_in=tmp_path)
    assert row.file == tmp_path / "1.safetensors" and row.file.stat().st_size == row.file_bytes
    stored = ToyCodec(3).read(row.file).dequantized()
    assert len(seen) == 2
    assert all(torch.equal(seen[1][name], stored[name]) for name in stored)


def test_compression_is_against_32_bits_16_bits_and_the_checkpoint_as_saved(toy, tmp_path):
    _, score = toy
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"x" * 5000)
    checkpoint = ToyCheckpoint(toy[0].tensors, path)
    (row,) = evaluate(checkpoint, toy_forms((4,)), score)
    weights = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    size = row.file_bytes
    assert row.compression == {"fp32": 4 * weights / size, "bf16": 2 * weights / size, "file": 5000 / size}
    assert row.measured.bits_per_weight == 4.0
    assert row.measured.num_quantized == weights - 1


def test_rows_and_stages_are_told_as_they_come(toy):
    checkpoint, score = toy
    told = []
    evaluate(
        checkpoint,
        toy_forms((2, 4)),
        score,
        on_stage=lambda stage: told.append((stage.index, stage.doing)),
        on_row=lambda row: told.append(row.name),
    )
    assert told == [
        (0, "scoring"), (1, "quantizing"), (1, "scoring"), "toy 2 bit", (2, "quantizing"), (2, "scoring"), "toy 4 bit",
    ]  # fmt: skip


def test_only_a_form_with_feedback_gets_the_hessians(toy):
    checkpoint, score = toy
    plain, feeding = ToyCodec(4), ToyCodec(4)
    hessians = {"head.weight": torch.eye(64)}
    forms = [Form("toy", 4, 0, plain), Form("toy_ldlq", 4, 0, feeding, needs_hessians=True)]
    evaluate(checkpoint, forms, score, hessians=hessians)
    assert plain.calls == [None] and feeding.calls == [hessians]
    with pytest.raises(UsageError, match="calibration text"):
        evaluate(checkpoint, forms, score)


def test_a_form_that_breaks_the_model_has_no_score_and_the_others_go_on(toy):
    checkpoint, score = toy
    forms = [Form("broken", 4, 0, ToyCodec(4, spoil=True)), *toy_forms((4,))]
    broken, sound = evaluate(checkpoint, forms, score)
    assert broken.val_bpb is None and broken.loss is None
    assert broken.as_json()["val_bpb_lost"] is None
    assert sound.val_bpb is not None


def test_weights_that_are_not_numbers_are_refused_by_name(toy):
    checkpoint, score = toy
    weights = {**checkpoint.tensors, "head.weight": checkpoint.tensors["head.weight"] * torch.inf}
    with pytest.raises(DataCorrupt, match=r"head\.weight holds 2048"):
        evaluate(ToyCheckpoint(weights), toy_forms(), score)


def test_a_checkpoint_without_a_score_of_its_own_is_refused(toy):
    checkpoint, _ = toy
    nothing = RowBits(np.array([np.nan]), np.array([1]))
    with pytest.raises(DataCorrupt, match="no finite score"):
        evaluate(checkpoint, toy_forms(), lambda _weights: nothing)


def test_the_callers_check_of_the_score_comes_before_any_work(toy):
    checkpoint, score = toy
    forms = toy_forms((4,))

    def refuse(_score):
        raise UsageError("another model")

    with pytest.raises(UsageError, match="another model"):
        evaluate(checkpoint, forms, score, check_before=refuse)
    assert forms[0].codec.calls == []


def test_a_checkpoint_with_nothing_to_quantize_is_refused(toy):
    _, score = toy
    with pytest.raises(DataCorrupt, match="large enough"):
        measure({"scale": torch.ones(1)}, ToyCodec(4), score)


@pytest.mark.parametrize("bits", [0.0, 0.99, 8.01, float("nan"), -3.0])
def test_widths_outside_1_to_8_are_refused(bits):
    with pytest.raises(UsageError, match="choose from 1 to 8"):
        check_bits(bits)


def test_fidelity_weighs_tensors_by_their_size_and_leaves_zeros_out():
    before = {"a": torch.ones(30), "b": torch.ones(10), "zero": torch.zeros(1000)}
    after = {"a": torch.ones(30), "b": torch.full((10,), 0.5), "zero": torch.zeros(1000)}
    found = fidelity_of(before, after, ["a", "b", "zero"])
    assert found == Fidelity(
        distortion=pytest.approx(0.25 / 4), cosine=pytest.approx(1.0), slope=pytest.approx(3.5 / 4)
    )
    assert fidelity_of(before, after, ["zero"]) == Fidelity(0.0, 1.0, 1.0)
