"""Bits per byte: by hand on non-ASCII text, and the same whatever the batches."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoresearch.contract.bpb import bits_per_byte, byte_bearing, row_bytes, row_nats, target_bytes, total_nats
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.vocabulary import DataCorrupt

# 256 bytes, then ids 256 "the", 257 "κα" (4 bytes), 258 half a character: the first three bytes of an emoji.
TOKENIZER = Tokenizer([*(bytes([value]) for value in range(256)), b"the", "κα".encode(), "😀".encode()[:3]])
V = 263
BOS = 259


def test_a_uniform_model_on_greek_chinese_and_emoji_scores_log2_v_times_tokens_per_byte() -> None:
    # "the " = 1 token of 3 bytes + 1; "κα" = 1 token of 4; "漢" = 3 bytes apart; "😀" = 3 bytes in one token + 1.
    row = [BOS, 256, 0x20, 257, 0xE6, 0xBC, 0xA2, 258, 0x80, BOS, 0x21]
    rows = np.array([row], dtype=np.uint16)
    assert TOKENIZER.decode_bytes([token for token in row if token != BOS]).decode() == "the κα漢😀!"
    num_bytes = 3 + 1 + 4 + 3 + 4 + 1
    assert len("the κα漢😀!".encode()) == num_bytes == 16
    num_scored = 9  # ten targets, one of them BOS
    nats = np.full((1, 10), math.log(V))
    bearing = byte_bearing(rows, TOKENIZER.token_bytes)
    assert bearing.sum() == num_scored
    assert target_bytes(rows, TOKENIZER.token_bytes) == num_bytes
    bpb = bits_per_byte(total_nats(row_nats(nats, bearing)), num_bytes)
    assert bpb == pytest.approx(math.log2(V) * num_scored / num_bytes, rel=1e-15)
    assert bpb == pytest.approx(4.521892, abs=1e-6)  # log2(263) = 8.038919


def test_the_first_token_of_a_row_is_input_only() -> None:
    rows = np.array([[256, BOS, BOS], [BOS, 256, 65]], dtype=np.uint16)
    assert byte_bearing(rows, TOKENIZER.token_bytes).tolist() == [[False, False], [True, True]]
    assert row_bytes(rows, TOKENIZER.token_bytes).tolist() == [0, 4]


def test_nats_of_specials_are_not_in_the_score() -> None:
    nats = np.array([[1.0, 1e9, 2.0]])
    assert row_nats(nats, np.array([[True, False, True]])).tolist() == [3.0]


def test_eight_bits_per_byte_is_ln_256_nats_per_byte() -> None:
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8.0, rel=1e-15)


@pytest.mark.slow
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 9)), elements=st.floats(0, 30, width=32)),
    st.integers(1, 12),
    st.randoms(),
)
def test_the_score_does_not_depend_on_grouping_or_order_to_the_last_bit(nats, batch_size, random) -> None:  # type: ignore[no-untyped-def]
    bearing = nats > 1.0
    whole = total_nats(row_nats(nats, bearing))
    order = list(range(len(nats)))
    random.shuffle(order)
    parts = [
        row_nats(nats[order[start : start + batch_size]], bearing[order[start : start + batch_size]])
        for start in range(0, len(order), batch_size)
    ]
    assert total_nats(np.concatenate(parts)) == whole


def test_small_nats_are_not_swallowed_by_large_ones() -> None:
    """A running sum, in float64 too, would lose each of them."""
    nats = np.array([[2.0**53] + [1.0] * 1000])
    assert row_nats(nats, np.ones_like(nats, dtype=bool))[0] == 2.0**53 + 1000
    assert total_nats(np.array([1e16, 1.0, -1e16])) == 1.0


def test_a_count_of_bytes_does_not_overflow_thirty_two_bits() -> None:
    token_bytes = np.array([2_000_000_000, 0], dtype=np.int32)
    assert target_bytes(np.zeros((3, 4), dtype=np.uint16), token_bytes) == 9 * 2_000_000_000


@pytest.mark.parametrize("num_bytes", [0, -1])
def test_no_bytes_is_an_error_and_not_a_score(num_bytes: int) -> None:
    with pytest.raises(DataCorrupt, match="nothing to score"):
        bits_per_byte(1.0, num_bytes)


def test_a_diverged_model_has_no_finite_score() -> None:
    assert math.isnan(bits_per_byte(math.nan, 5))
    assert bits_per_byte(math.inf, 5) == math.inf
