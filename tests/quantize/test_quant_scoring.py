"""Scores row by row: the contract's number, whatever the batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import TOKEN_BYTES, toy_rows, trained_toy

from autoresearch.contract.bpb import bits_per_byte, target_bytes
from autoresearch.quantize import scoring
from autoresearch.quantize.scoring import RowBits, module_score
from autoresearch.vocabulary import UsageError


def test_the_rows_sum_to_the_contracts_bits_per_byte():
    model, rows = trained_toy(), toy_rows()
    found = module_score(model, rows, TOKEN_BYTES)(model.state_dict())
    with torch.no_grad():
        logits = model(torch.from_numpy(rows[:, :-1])).double()
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(rows[:, 1:]).flatten(), reduction="none"
    )
    counted = TOKEN_BYTES[rows[:, 1:]] > 0
    total = float(nats.view(counted.shape)[torch.from_numpy(counted)].sum())
    assert found.val_bpb == pytest.approx(bits_per_byte(total, target_bytes(rows, TOKEN_BYTES)), rel=1e-6)
    assert found.num_bytes.sum() == target_bytes(rows, TOKEN_BYTES)


def test_the_batch_size_changes_no_row(monkeypatch):
    model, rows = trained_toy(), toy_rows()
    whole = module_score(model, rows, TOKEN_BYTES)(model.state_dict())
    monkeypatch.setattr(scoring, "_LOGIT_BYTES_CPU", 1)  # one row at a time
    told = []
    single = module_score(model, rows, TOKEN_BYTES, on_progress=told.append)(model.state_dict())
    np.testing.assert_allclose(single.bits, whole.bits, rtol=1e-6)
    assert len(told) == len(rows) and told[-1] == 1.0


def test_other_weights_give_other_bits_and_the_first_come_back():
    model, rows = trained_toy(), toy_rows()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    score = module_score(model, rows, TOKEN_BYTES)
    first = score(weights)
    assert score({**weights, "head.weight": weights["head.weight"] * 0}).val_bpb > first.val_bpb
    np.testing.assert_array_equal(score(weights).bits, first.bits)


def test_weights_of_another_model_are_refused_with_what_to_type():
    model = trained_toy()
    with pytest.raises(UsageError, match="do not fit"):
        module_score(model, toy_rows(), TOKEN_BYTES)({"other": torch.zeros(2)})


def test_a_score_with_a_row_of_infinite_bits_is_not_finite():
    assert not RowBits(np.array([1.0, math.inf]), np.array([1, 1])).is_finite
