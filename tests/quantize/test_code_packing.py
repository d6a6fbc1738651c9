"""Bit packing: exact for every width, and as long as it says."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.quantize.packing import pack, packed_bytes, unpack


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), count=st.integers(0, 100), seed=st.integers(0, 99))
def test_codes_come_back_bit_for_bit(bits, count, seed):
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.int16)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(count, bits) <= count * bits / 8 + bits
    assert torch.equal(unpack(packed, bits, count).to(torch.int16), codes)


def test_full_eighths_have_no_gap():
    assert packed_bytes(1_000_000, 3) == 375_000


def test_the_lowest_code_comes_first_in_the_lowest_bits():
    """The file format: 1, 2, 3 ... of three bits are 0b11_010_001, ..."""
    codes = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0], dtype=torch.int16)
    assert pack(codes, 3).tolist() == [0b11_010_001, 0b0_101_100_0, 0b000_111_11]
    assert pack(codes, 4).tolist() == [0x21, 0x43, 0x65, 0x07]
    assert pack(codes, 8).tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
