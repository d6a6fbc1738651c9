"""Entropy coding of codes: exact, near the entropy, and suspicious of what it reads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.quantize.entropy import compress, expand
from autoresearch.vocabulary import DataCorrupt


@settings(max_examples=50, deadline=None)
@given(codes=st.lists(st.integers(0, 300), max_size=200))
def test_codes_come_back_exactly(codes):
    tensor = torch.tensor(codes, dtype=torch.int16)
    coded = compress(tensor, 301)
    assert expand(coded["stream"], coded["counts"], len(codes)).tolist() == codes


def skewed(num: int = 100_000) -> torch.Tensor:
    t = torch.randn(num, generator=torch.Generator().manual_seed(0))
    return ((t / 0.9).round() + 6).clamp(0, 12).to(torch.int16)


def test_the_stream_is_within_a_hundredth_of_the_entropy():
    codes = skewed()
    coded = compress(codes, 13)
    p = coded["counts"].double() / codes.numel()
    entropy = -sum(q * math.log2(q) for q in p.tolist() if q)
    assert 8 * coded["stream"].numel() / codes.numel() < 1.01 * entropy


def test_one_symbol_alone_costs_nothing():
    coded = compress(torch.zeros(1000, dtype=torch.int16), 1)
    assert coded["stream"].numel() <= 4
    assert expand(coded["stream"], coded["counts"], 1000).tolist() == [0] * 1000


@pytest.mark.parametrize("damage", ["cut", "short", "flipped", "miscounted", "negative", "ends in zero"])
def test_a_damaged_stream_is_refused(damage):
    coded = compress(skewed(5000), 13)
    stream, counts = coded["stream"].clone(), coded["counts"].clone()
    if damage == "cut":
        stream = stream[:-3]
    elif damage == "short":
        stream = stream[:-40]
    elif damage == "flipped":
        stream[100] ^= 255
    elif damage == "miscounted":
        counts[6] += 1
    elif damage == "negative":
        counts[6] += counts[5] + 1
        counts[5] = -1
    else:
        stream = torch.cat((stream, torch.zeros(4, dtype=torch.uint8)))
    with pytest.raises(DataCorrupt):
        expand(stream, counts, 5000)
