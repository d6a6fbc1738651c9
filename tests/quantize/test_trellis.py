"""The trellis code: better than any scalar quantiser, decodable from its bits alone, tail-biting."""

from __future__ import annotations

import itertools

import pytest
import torch

from autoresearch.quantize import trellis
from autoresearch.quantize.codebooks import lloyd_max


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("bits", "memory_bits"), [(1, 8), (2, 8), (3, 8), (4, 10)])
def test_a_few_hundred_states_beat_lloyd_max_at_every_width(bits, memory_bits):
    x = gaussian(32, trellis.SEQUENCE)
    codes = trellis.encode(x, bits, memory_bits)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) < 2**bits
    error = (trellis.decode(codes, bits, memory_bits) - x).square().mean() / x.square().mean()
    assert error < lloyd_max(bits).distortion


def test_1024_states_at_2_bits_come_near_the_published_figure():
    """0.0759 was measured for such a code with groups' scales fitted; Lloyd-Max has 0.1175, the bound is 0.0625."""
    x = gaussian(64, trellis.SEQUENCE)
    error = (trellis.decode(trellis.encode(x, 2, memory_bits=10), 2, memory_bits=10) - x).square().mean()
    assert error / x.square().mean() < 0.082


def test_more_states_do_better():
    x = gaussian(16, trellis.SEQUENCE)
    errors = [float((trellis.decode(trellis.encode(x, 2, m), 2, m) - x).square().mean()) for m in (8, 9, 10, 11)]
    assert errors == sorted(errors, reverse=True)


def test_the_search_finds_the_best_of_all_streams_with_the_same_joint():
    """Five weights of 2 bits: 1024 streams can be tried one by one. The joint is decided first, so it is held."""
    x = gaussian(6, 5)
    codes = trellis.encode(x, 2, memory_bits=8)
    every = torch.tensor(list(itertools.product(range(4), repeat=5)), dtype=torch.uint8)
    values = trellis.decode(every, 2, memory_bits=8)
    for row, found in zip(x, codes, strict=True):
        same_joint = (every[:, -3:] == found[-3:]).all(dim=1)
        errors = (values - row).square().sum(dim=1)
        assert errors[(every == found).all(dim=1)].item() == pytest.approx(errors[same_joint].min().item(), rel=1e-5)


def test_a_sequence_is_a_circle():
    """Tail-biting: no state is stored, so turning the codes turns the values."""
    codes = torch.randint(0, 8, (3, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    values = trellis.decode(codes, 3, memory_bits=10)
    assert torch.equal(trellis.decode(codes.roll(7, dims=1), 3, memory_bits=10), values.roll(7, dims=1))


def test_blocks_of_sequences_do_not_change_the_answer(monkeypatch):
    x = gaussian(70, 64)
    whole = trellis.encode(x, 2, memory_bits=8)
    monkeypatch.setattr(trellis, "SURVIVOR_BYTES", 1)
    assert torch.equal(trellis.encode(x, 2, memory_bits=8), whole)


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (40, 100), (256, 8)])
def test_tiles_come_back_as_the_matrix(shape):
    x = gaussian(*shape)
    sequences = trellis.tiled(x)
    assert sequences.shape == (trellis.num_sequences(*shape), trellis.SEQUENCE)
    assert torch.equal(trellis.untiled(sequences, shape), x)


def test_matrices_with_sides_in_sixteens_cost_no_padding():
    assert trellis.num_sequences(512, 512) * trellis.SEQUENCE == 512 * 512


def test_the_table_is_the_normal_quantiles_each_once():
    table = trellis.table(10)
    assert len(set(table.tolist())) == 1024
    assert float(table.square().mean()) == pytest.approx(1, abs=0.01)
    assert table[:4].tolist() == pytest.approx(GOLDEN_TABLE, abs=1e-6)  # files depend on its order


GOLDEN_TABLE = [1.7792712, -1.0038941, 3.2971933, -0.7813948]
