"""Input statistics of layers, on training text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import toy_rows, trained_toy

from autoresearch.quantize.calibration import hessians_of, training_rows
from autoresearch.vocabulary import DataMissing, UsageError


class Text:
    """Ten documents of seven tokens, over and over."""

    def __init__(self, num_documents: int | None = None) -> None:
        self.num_documents = num_documents

    def documents(self, seed):
        count = 0
        while self.num_documents is None or count < self.num_documents:
            yield np.full(7, count % 10 + 1, dtype=np.uint16), 1 + count // 10
            count += 1


def test_a_hessian_is_the_mean_outer_product_of_a_layers_inputs():
    model, rows = trained_toy(), toy_rows()
    found = hessians_of(model, rows, batch_rows=5)
    inputs = model.embed.weight.detach()[torch.from_numpy(rows)].flatten(0, 1)
    assert list(found) == ["head.weight"]
    torch.testing.assert_close(found["head.weight"], inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)


def test_no_hook_stays_behind():
    model = trained_toy()
    hessians_of(model, toy_rows())
    assert not model.head._forward_hooks


def test_calibration_rows_hold_at_least_the_tokens_asked_for_and_begin_with_a_bos():
    rows = training_rows(Text(), 100, 16, 0, seed=0)
    assert rows.shape == (7, 16) and rows.dtype == np.int64
    assert (rows[:, 0] == 0).all()


def test_text_that_is_too_short_is_said():
    with pytest.raises(DataMissing, match="one row"):
        training_rows(Text(1), 100, 4096, 0, seed=0)
    with pytest.raises(UsageError, match="no calibration text"):
        training_rows(Text(), 0, 16, 0, seed=0)
