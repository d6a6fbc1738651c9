"""Trellis-coded quantisation with a bitshift trellis: k bits a weight, L bits of memory (QTIP, arXiv 2406.11235).

The state is the last L bits of the stream; each weight shifts k new bits in and its value is a table's entry at the
state. So neighbouring weights share bits, and Viterbi's algorithm finds the stream whose values lie nearest to a whole
sequence: close to the rate-distortion bound without any entropy coder and without data. The streams are *tail-biting*:
the first state takes its older bits from the end of the same sequence, so T weights cost exactly T k bits.

All sequences of a tensor are searched side by side, on its device; sequences lie in the last dimension of every array,
where each step is four passes over contiguous memory.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

SEQUENCE = 256  # weights per tail-biting stream
TILE = 16  # columns of a tile: 16 rows of it make one sequence, and errors feed back from tile to tile, as in QTIP
MAX_BITS = 4
MIN_MEMORY_BITS, MAX_MEMORY_BITS = 8, 16
# The joint of a tail-biting sequence is decided from this many constraint lengths of weights on either side of it, the usual
# depth of a truncated Viterbi decoder; eight measured no better.
JOINT_CONSTRAINT_LENGTHS = 5
TABLE_SEED = 0
# Memory for the survivors of one block of sequences: 128 at 12 bits of memory and 2 bits a weight. On one core 64 to 256
# sequences measured within a fifth of each other; 16 cost twice as much.
SURVIVOR_BYTES = 1 << 27


@lru_cache(maxsize=16)
def table(memory_bits: int) -> torch.Tensor:
    """float32 [2**memory_bits]: the quantiles of N(0, 1) in an order drawn once for all tensors."""
    import numpy as np
    import torch
    from scipy.special import ndtri

    from autoresearch.quantize.rotation import random_bits

    num = 1 << memory_bits
    keys = np.frombuffer(random_bits(str(memory_bits), TABLE_SEED, "trellis", 8 * num), dtype="<u8")
    values = ndtri((np.arange(num) + 0.5) / num)
    return torch.from_numpy(values[np.argsort(keys, kind="stable")].astype(np.float32))


def encode(x: torch.Tensor, bits: int, memory_bits: int) -> torch.Tensor:
    """Sequences x float [N, T] of variance about 1 -> codes uint8 [N, T] of `bits` bits each."""
    import torch

    steps = max(1, (1 << (memory_bits - bits)) * 4 * x.size(1))
    block = max(32, SURVIVOR_BYTES // steps)
    starts = range(0, x.size(0), block)
    return torch.cat([_tail_biting(x[start : start + block], bits, memory_bits) for start in starts])


def decode(codes: torch.Tensor, bits: int, memory_bits: int) -> torch.Tensor:
    """Codes [N, T] -> values float32 [N, T]: the table at each position's window of bits, circular in the sequence."""
    import torch

    state = torch.zeros(codes.shape, dtype=torch.int64, device=codes.device)
    for back in range(-(-memory_bits // bits)):
        state |= codes.roll(back, dims=1).to(torch.int64) << (bits * back)
    return table(memory_bits).to(codes.device)[state & ((1 << memory_bits) - 1)]


def _tail_biting(x: torch.Tensor, bits: int, memory_bits: int) -> torch.Tensor:
    """One block of sequences [N, T]. First the joint from the weights around it, then the rest with the joint given."""
    import torch

    overlap = memory_bits - bits  # bits of the first state that come from the sequence's end
    symbols = -(-overlap // bits)  # the codes that hold them
    reach = min(x.size(1) // 2, JOINT_CONSTRAINT_LENGTHS * -(-memory_bits // bits))
    around = torch.cat((x[:, -reach:], x[:, :reach]), dim=1)
    at_joint = _viterbi(around, bits, memory_bits, None)[:, reach - symbols : reach]
    joint = torch.zeros(x.size(0), dtype=torch.int64, device=x.device)
    for symbol in at_joint.unbind(1):
        joint = (joint << bits) | symbol
    return _viterbi(x, bits, memory_bits, joint & ((1 << overlap) - 1)).to(torch.uint8)


def _viterbi(x: torch.Tensor, bits: int, memory_bits: int, joint: torch.Tensor | None) -> torch.Tensor:
    """The nearest stream to each sequence x [N, T]: codes int64 [N, T].

    joint: int64 [N], the low L - k bits of the state both before the first weight and after the last; None leaves both
    free. The cost of a path is the sum of c^2 - 2 c x. Only the survivors' costs are kept, [T, 2^(L - k), N]; going
    back, the chosen predecessor is found again from them, which is cheaper than storing an index of it everywhere.
    """
    import torch

    num, length = x.shape
    fan, origins = 1 << bits, 1 << (memory_bits - bits)
    values = table(memory_bits).to(x.device)
    squares, doubles = (values**2)[:, None], (-2 * values)[:, None]  # [states, 1]
    inputs = x.float().T.contiguous()  # [T, N]
    survivors = torch.zeros(length + 1, origins, num, device=x.device)
    if joint is not None:
        survivors[0] = torch.inf
        survivors[0].scatter_(0, joint[None], 0.0)
    cost = torch.empty(origins * fan, num, device=x.device)
    for t in range(length):
        torch.addmm(squares, doubles, inputs[t : t + 1], out=cost)  # an outer product: twice as fast as addcmul
        cost.view(origins, fan, num).add_(survivors[t].unsqueeze(1))
        torch.amin(cost.view(fan, origins, num), dim=0, out=survivors[t + 1])

    columns = torch.arange(num, device=x.device)
    high = torch.arange(fan, device=x.device)[:, None] * origins  # [fan, 1]: the k bits that leave the state
    low = survivors[length].argmin(dim=0) if joint is None else joint
    codes = torch.empty(length, num, dtype=torch.int64, device=x.device)
    for t in reversed(range(length)):
        states = high + low  # [fan, N]: every state that ends in these low bits
        c = values[states]
        costs = torch.addcmul(c**2, -2 * c, inputs[t]) + survivors[t][states >> bits, columns]
        state = states[costs.argmin(dim=0), columns]
        codes[t] = state & (fan - 1)
        low = state >> bits
    return codes.T


def tiles(rows: int, cols: int) -> Iterator[tuple[slice, int]]:
    """(columns, sequences) of each tile of TILE columns; its rows are padded with zeros to whole sequences."""
    for left in range(0, cols, TILE):
        width = min(TILE, cols - left)
        yield slice(left, left + width), -(-rows * width // SEQUENCE)


def num_sequences(rows: int, cols: int) -> int:
    return sum(count for _, count in tiles(rows, cols))


def tiled(x: torch.Tensor) -> torch.Tensor:
    """[rows, cols] -> sequences [N, SEQUENCE], tile by tile."""
    import torch

    parts = []
    for columns, count in tiles(x.size(0), x.size(1)):
        flat = x[:, columns].reshape(-1)
        parts.append(torch.cat((flat, flat.new_zeros(count * SEQUENCE - flat.numel()))))
    return torch.cat(parts).view(-1, SEQUENCE)


def untiled(sequences: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Undo `tiled`."""
    import torch

    rows, cols = shape
    values = torch.empty(shape, dtype=sequences.dtype, device=sequences.device)
    first = 0
    for columns, count in tiles(rows, cols):
        flat = sequences[first : first + count].reshape(-1)
        values[:, columns] = flat[: rows * (columns.stop - columns.start)].view(rows, -1)
        first += count
    return values
