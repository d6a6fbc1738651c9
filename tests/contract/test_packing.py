"""Packing: exact rows, nothing lost, the choice of the naive reference, no drift."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.contract.packing import Packer, pack_batches, pack_rows
from autoresearch.vocabulary import DataCorrupt, UsageError

BOS = 60_000
Array = np.ndarray[Any, Any]


def documents_of(lengths: list[int], dtype: type = np.uint16) -> list[Array]:
    """Documents of distinct tokens while there are enough of them: a document's pieces can be told apart."""
    start, documents = 0, []
    for length in lengths:
        documents.append((np.arange(start, start + length) % BOS).astype(dtype))
        start += length
    return documents


def naive_rows(documents: list[list[int]], row_len: int, buffer_size: int) -> list[list[int]]:
    """The algorithm in plain words: no keys, no bisection, one scan after another."""
    incoming = [(serial, tokens) for serial, tokens in enumerate(documents) if tokens]
    buffer: list[tuple[int, list[int]]] = []
    rows: list[list[int]] = []
    row: list[int] = []
    while True:
        while len(buffer) < buffer_size and incoming:
            buffer.append(incoming.pop(0))
        space = row_len - len(row)
        if space == 1 and row:
            row.append(BOS)
        elif not buffer:
            return rows
        else:
            fitting = [entry for entry in buffer if len(entry[1]) + 1 <= space]
            if not row:
                chosen = min(buffer)  # the oldest
            elif fitting:
                chosen = max(fitting, key=lambda entry: (len(entry[1]), -entry[0]))
            else:
                chosen = min(buffer, key=lambda entry: (len(entry[1]), -entry[0]))
            buffer.remove(chosen)
            serial, tokens = chosen
            row += [BOS, *tokens[: space - 1]]
            if tokens[space - 1 :]:
                buffer.append((serial, tokens[space - 1 :]))
        if len(row) == row_len:
            rows.append(row)
            row = []


lengths_strategy = st.lists(st.integers(0, 40), max_size=60)
row_len_strategy = st.integers(2, 20)
buffer_strategy = st.integers(1, 12)


@settings(deadline=None)
@given(lengths_strategy, row_len_strategy, buffer_strategy)
def test_every_row_has_its_length_and_begins_with_bos(lengths: list[int], row_len: int, buffer_size: int) -> None:
    for row in pack_rows(iter(documents_of(lengths)), row_len, BOS, buffer_size):
        assert row.shape == (row_len,)
        assert row[0] == BOS


@settings(deadline=None)
@given(lengths_strategy, row_len_strategy, buffer_strategy)
def test_no_token_is_lost_or_doubled_but_in_the_last_partial_row(
    lengths: list[int], row_len: int, buffer_size: int
) -> None:
    documents = documents_of(lengths)
    rows = list(pack_rows(iter(documents), row_len, BOS, buffer_size))
    given_tokens = Counter(token for document in documents for token in document.tolist())
    packed = Counter(token for row in rows for token in row.tolist() if token != BOS)
    assert not packed - given_tokens
    assert (given_tokens - packed).total() < row_len


@settings(deadline=None)
@given(lengths_strategy, row_len_strategy, buffer_strategy)
def test_pieces_of_a_document_appear_in_order_each_behind_a_bos(
    lengths: list[int], row_len: int, buffer_size: int
) -> None:
    document_of, position_of = {}, {}
    for number, document in enumerate(documents_of(lengths)):
        for position, token in enumerate(document.tolist()):
            document_of[token], position_of[token] = number, position
    next_position: Counter[int] = Counter()
    for row in pack_rows(iter(documents_of(lengths)), row_len, BOS, buffer_size):
        before = BOS
        for token in row.tolist():
            if token != BOS:
                number = document_of[token]
                assert position_of[token] == next_position[number]
                assert before == BOS or document_of[before] == number
                next_position[number] += 1
            before = token


@pytest.mark.slow
@given(lengths_strategy, row_len_strategy, buffer_strategy)
@settings(max_examples=300, deadline=None)
def test_every_choice_is_that_of_the_naive_reference(lengths: list[int], row_len: int, buffer_size: int) -> None:
    documents = documents_of(lengths)
    rows = [row.tolist() for row in pack_rows(iter(documents), row_len, BOS, buffer_size)]
    assert rows == naive_rows([document.tolist() for document in documents], row_len, buffer_size)


@settings(deadline=None)
@given(lengths_strategy, row_len_strategy, st.integers(1, 7))
def test_batches_are_the_rows_grouped(lengths: list[int], row_len: int, batch_size: int) -> None:
    rows = [row.tolist() for row in pack_rows(iter(documents_of(lengths)), row_len, BOS, 5)]
    batches = list(pack_batches(iter(documents_of(lengths)), batch_size, row_len, BOS, 5))
    assert [row for batch in batches for row in batch.tolist()] == rows
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(len(batch) for batch in batches)


def test_the_longest_that_fits_follows_the_oldest() -> None:
    documents = documents_of([3, 2, 5, 4, 9])
    first = next(pack_rows(iter(documents), 10, BOS))
    assert first.tolist() == [BOS, *documents[0], BOS, *documents[2]]


def test_the_shortest_is_cut_when_none_fits_and_its_remainder_comes_back() -> None:
    documents = documents_of([3, 9, 7, 8])
    rows = [row.tolist() for row in pack_rows(iter(documents), 10, BOS)]
    assert rows[0] == [BOS, *documents[0], BOS, *documents[2][:5]]
    assert rows[1] == [BOS, *documents[1]]
    assert rows[2] == [BOS, *documents[2][5:], BOS, *documents[3][:6]]


def test_a_remaining_space_of_one_holds_a_lone_bos() -> None:
    documents = documents_of([3, 4])
    assert [row.tolist() for row in pack_rows(iter(documents), 5, BOS)] == [
        [BOS, *documents[0], BOS],
        [BOS, *documents[1]],
    ]


def test_a_document_longer_than_many_rows_fills_them_in_order() -> None:
    (document,) = documents_of([1000])
    rows = list(pack_rows(iter([document]), 101, BOS))
    assert np.concatenate([row[1:] for row in rows]).tolist() == document.tolist()


def test_what_a_row_was_made_of_can_be_read() -> None:
    documents = documents_of([3, 9, 7, 8])
    packer = Packer(iter(documents), BOS)
    row = np.empty(10, dtype=np.uint16)
    made = []
    while packer.fill(row):
        made.append([(serial, tokens.tolist()) for serial, tokens in packer.placed])
    assert made[0] == [(0, documents[0].tolist()), (2, documents[2][:5].tolist())]
    assert made[1] == [(1, documents[1].tolist())]
    left = [(serial, tokens.tolist()) for serial, tokens in packer.placed]
    assert left == [(3, documents[3][6:].tolist())], "a row that was not filled holds what is left"


def test_empty_documents_leave_no_trace() -> None:
    documents = documents_of([0, 5, 0, 0, 5, 0])
    rows = [row.tolist() for row in pack_rows(iter(documents), 6, BOS, 1)]
    assert rows == [[BOS, *documents[1]], [BOS, *documents[4]]]


def test_no_documents_no_rows() -> None:
    assert list(pack_rows(iter([]), 8, BOS)) == []
    assert list(pack_batches(iter([]), 2, 8, BOS)) == []


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_rows_have_the_type_of_the_documents(dtype: type) -> None:
    batch = next(pack_batches(iter(documents_of([50], dtype)), 2, 10, BOS))
    assert batch.dtype == dtype


def test_ids_above_65535_survive() -> None:
    document = np.array([70_000, 80_000, 90_000], dtype=np.uint32)
    assert next(pack_rows(iter([document]), 4, 100_000)).tolist() == [100_000, 70_000, 80_000, 90_000]


def test_documents_of_two_types_are_refused_rather_than_wrapped_around() -> None:
    documents = [np.array([1], dtype=np.uint16), np.array([70_000], dtype=np.uint32)]
    with pytest.raises(DataCorrupt, match="uint32 after documents of uint16"):
        list(pack_rows(iter(documents), 2, BOS))


def test_a_bos_that_the_type_cannot_hold_is_refused() -> None:
    for bos in (65_536, -1):
        with pytest.raises(DataCorrupt, match="BOS"):
            list(pack_rows(iter(documents_of([3])), 2, bos))


@pytest.mark.parametrize(("batch_size", "row_len", "buffer_size"), [(0, 8, 10), (1, 1, 10), (1, 8, 0)])
def test_sizes_that_would_pack_nothing_are_refused(batch_size: int, row_len: int, buffer_size: int) -> None:
    with pytest.raises(UsageError):
        list(pack_batches(iter(documents_of([5])), batch_size, row_len, BOS, buffer_size))


def test_a_yielded_batch_stays_as_it_was() -> None:
    batches = pack_batches(iter(documents_of([30] * 50)), 4, 16, BOS, 3)
    first = next(batches)
    copy = first.copy()
    list(batches)
    assert np.array_equal(first, copy)


def test_at_most_the_buffer_is_read_ahead() -> None:
    taken = 0

    def counted() -> Iterator[Array]:
        nonlocal taken
        for document in documents_of([9] * 500):
            taken += 1
            yield document

    rows = pack_rows(counted(), 10, BOS, 50)
    for _ in range(20):
        next(rows)
    assert 50 <= taken <= 50 + 20


def log_normal_documents(seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    while True:
        for length in np.maximum(1, rng.lognormal(np.log(40), 1.27, 1000)).astype(int):
            yield np.zeros(length, dtype=np.uint16)


def test_the_share_of_over_long_documents_in_the_buffer_does_not_grow() -> None:
    """Longest-fit alone ends with a buffer that holds nothing else."""
    row_len, num_documents = 205, 200
    packer = Packer(log_normal_documents(0), BOS, num_documents)
    row = np.empty(row_len, dtype=np.uint16)
    shares = []
    for _ in range(10):
        for _ in range(500):
            packer.fill(row)
        shares.append(sum(length >= row_len for length in packer.waiting_lengths()) / num_documents)
    assert max(shares) < 0.45
    assert np.mean(shares[5:]) < np.mean(shares[:5]) + 0.1


def test_no_document_waits_longer_than_the_buffer_is_deep() -> None:
    """Each row serves the oldest; longest-fit alone would never take one that is longer than a row."""
    buffer_size, row_len = 20, 11
    stubborn = np.full(25, 7, dtype=np.uint16)
    small = (np.full(1 + i % 3, 1, dtype=np.uint16) for i in range(100_000))
    stream = iter([*islice(small, 5), stubborn, *islice(small, 20_000)])
    rows = list(islice(pack_rows(stream, row_len, BOS, buffer_size), buffer_size))
    assert sum((row == 7).sum() for row in rows) == 25
