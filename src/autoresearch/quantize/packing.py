"""Codes of 1 to 8 bits in bytes without gaps: eight codes fill exactly `bits` bytes, lowest bit first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_BITS = 8


def packed_bytes(num_codes: int, bits: int) -> int:
    """Bytes that `pack` makes of so many codes: full eighths, so at most `bits` bytes more than num_codes * bits / 8."""
    return -(-num_codes // 8) * bits


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Integer codes in [0, 2**bits) of any shape, in row-major order -> uint8 [packed_bytes], on the same device."""
    import torch

    flat = codes.reshape(-1)
    if missing := -flat.numel() % 8:
        flat = torch.cat((flat, flat.new_zeros(missing)))
    if 8 % bits == 0:  # whole codes in each byte: the same format without 64-bit words, in an eighth of the memory
        shares = flat.to(torch.uint8).view(-1, 8 // bits)
        whole = shares[:, 0].clone()
        for place in range(1, 8 // bits):
            whole |= shares[:, place] << (bits * place)
        return whole
    eights = flat.view(-1, 8)
    word = torch.zeros(eights.size(0), dtype=torch.int64, device=codes.device)  # 8 codes of at most 7 bits: 56 bits
    for place in range(8):
        word |= eights[:, place].to(torch.int64) << (bits * place)
    packed = torch.empty(eights.size(0), bits, dtype=torch.uint8, device=codes.device)
    for byte in range(bits):
        packed[:, byte] = (word >> (8 * byte)) & 255
    return packed.view(-1)


def unpack(packed: torch.Tensor, bits: int, num_codes: int) -> torch.Tensor:
    """What `pack` packed: uint8 [num_codes]."""
    import torch

    if 8 % bits == 0:
        parts = [(packed >> (bits * place)) & ((1 << bits) - 1) for place in range(8 // bits)]
        return torch.stack(parts, dim=1).view(-1)[:num_codes]
    rows = packed.view(-1, bits)
    word = torch.zeros(rows.size(0), dtype=torch.int64, device=packed.device)
    for byte in range(bits):
        word |= rows[:, byte].to(torch.int64) << (8 * byte)
    codes = torch.empty(rows.size(0), 8, dtype=torch.uint8, device=packed.device)
    for place in range(8):
        codes[:, place] = (word >> (bits * place)) & ((1 << bits) - 1)
    return codes.view(-1)[:num_codes]
