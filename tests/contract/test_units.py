"""The order of an epoch: every document in one unit, blocks read whole, orders as they are called."""

import tracemalloc

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_corpora import BOS, PLACES, shards_of

from autoresearch.contract import units as units_module
from autoresearch.contract.units import ORDERS, UnitRows, Units
from autoresearch.vocabulary import DataCorrupt, DataMissing

LENGTHS = [[7, 7, 1, 30, 7], [2, 2, 2, 50, 2, 2], [9]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return shards_of(tmp_path_factory.mktemp("units"), LENGTHS)


FLAT = [length for shard in LENGTHS for length in shard]


def order_of(units, epoch):
    return [number for unit in range(units.count) for number in units.documents(epoch, unit)[0].tolist()]


@settings(deadline=None)
@given(st.sampled_from(ORDERS), st.integers(1, 60), st.integers(1, 200), st.integers(0, 3), st.integers(1, 3))
def test_every_document_is_in_one_unit_of_an_epoch_with_its_own_tokens(shards, order, block, unit, seed, epoch):
    units = Units(shards, seed=seed, order=order, block_tokens=block, unit_tokens=unit)
    assert sorted(order_of(units, epoch)) == list(range(len(FLAT)))
    for index in range(units.count):
        numbers, documents = units.documents(epoch, index)
        for number, tokens in zip(numbers.tolist(), documents, strict=True):
            assert tokens.tolist() == [number * PLACES + place for place in range(FLAT[number])]


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from(ORDERS), st.integers(1, 60), st.integers(1, 200))
def test_a_unit_is_the_same_whoever_asks_and_whatever_they_asked_before(shards, order, block, unit):
    cut = {"seed": 3, "order": order, "block_tokens": block, "unit_tokens": unit}
    asked = Units(shards, **cut)
    forwards = [asked.documents(2, index)[0].tolist() for index in range(asked.count)]
    backwards = [Units(shards, **cut).documents(2, index)[0].tolist() for index in reversed(range(asked.count))]
    assert forwards == backwards[::-1]


def test_as_it_is_means_as_it_is(shards):
    assert order_of(Units(shards, seed=9, order="as_is", block_tokens=5, unit_tokens=20), 4) == list(range(len(FLAT)))


@pytest.mark.parametrize(("order", "sign"), [("short_first", 1), ("long_first", -1)])
def test_documents_by_length_go_on_from_unit_to_unit(shards, order, sign):
    units = Units(shards, seed=9, order=order, unit_tokens=30)
    assert units.count > 1
    orders = {tuple(order_of(units, epoch)) for epoch in range(1, 9)}
    for numbers in orders:
        lengths = [sign * FLAT[number] for number in numbers]
        assert lengths == sorted(lengths)
    assert len(orders) > 1, "documents of one length are shuffled among each other"


def test_shuffles_differ_by_seed_and_epoch(shards):
    orders = {
        (seed, epoch): order_of(Units(shards, seed=seed, block_tokens=10, unit_tokens=40), epoch)
        for seed in (0, 1)
        for epoch in (1, 2)
    }
    assert len({tuple(order) for order in orders.values()}) == 4


def test_blocks_are_shuffled_over_all_shards_and_stay_together(tmp_path):
    """What keeps a disk from being read at random: a unit holds whole blocks, from all over the corpus."""
    shards = shards_of(tmp_path, [[10] * 400, [10] * 400])
    units = Units(shards, seed=0, block_tokens=100, unit_tokens=1000)
    assert units.count == 8
    for unit in range(8):
        numbers = units.documents(1, unit)[0]
        blocks, counts = np.unique(numbers // 10, return_counts=True)
        assert set(counts) == {10}
        assert np.ptp(blocks) > 20, "from all over the 80 blocks"
        assert not (np.diff(numbers) == 1).mean() > 0.2, "documents of several blocks are mixed"


def test_nothing_but_offsets_of_the_unit_is_read_to_find_it(tmp_path):
    """A corpus of any size opens at once: the memory that a unit takes does not grow with the corpus."""
    peaks = []
    for num_documents in (2_000, 40_000):
        folder = tmp_path / str(num_documents)
        folder.mkdir()
        shards = shards_of(folder, [[20] * num_documents])
        tracemalloc.start()
        Units(shards, seed=0, block_tokens=1000, unit_tokens=4000).documents(1, 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 50_000


def test_many_shards_do_not_hold_many_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "_MAX_OPEN_SHARDS", 2)
    shards = shards_of(tmp_path, [[20]] * 12)
    before = psutil.Process().num_fds()
    units = Units(shards, seed=0, block_tokens=20, unit_tokens=10_000)
    kept = units.documents(1, 0)[1]
    assert len(kept) == 12
    assert psutil.Process().num_fds() <= before + 4


def test_a_shard_that_is_gone_is_missing_data(tmp_path):
    shards = shards_of(tmp_path, [[20], [30]])
    units = Units(shards, seed=0)
    shards[1].offsets_path.unlink()
    with pytest.raises(DataMissing, match="shard1"):
        units.documents(1, 0)


def test_a_shard_that_was_cut_short_is_corrupt_data(tmp_path):
    shards = shards_of(tmp_path, [[20], [30]])
    units = Units(shards, seed=0)
    with shards[1].tokens_path.open("r+b") as stream:
        stream.truncate(130)
    with pytest.raises(DataCorrupt, match="shard1"):
        units.documents(1, 0)


# ------------------------------------------------------------------------------------------------------------------ rows


def packed(lengths, row_len, spread):
    documents = [np.arange(length, dtype=np.uint32) + number * PLACES for number, length in enumerate(lengths)]
    rows = np.empty((1 + sum(lengths), row_len), np.uint32)
    own = UnitRows([(number, 0) for number in range(len(lengths))], documents, BOS, 5, spread)
    return rows[: own.read(rows)], own


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=40), st.integers(2, 20), st.integers(0, 9))
def test_spread_rows_are_the_packed_rows_in_another_order(lengths, row_len, seed):
    plain, one = packed(lengths, row_len, None)
    spread, other = packed(lengths, row_len, (seed,))
    assert sorted(plain.tolist()) == sorted(spread.tolist())
    assert one.left == other.left
    assert one.made == other.made == len(plain)


def test_rows_of_one_document_keep_their_order_and_lie_apart():
    """200 rows of one document and 3,000 of single ones: a sixteenth of the rows near it are its own, not all."""
    rows, _ = packed([9 * 200, *[9] * 3000], 10, (1,))
    where = np.flatnonzero((rows[:, 1] < PLACES) & (rows[:, 1] >= 0))
    assert len(where) == 200
    assert (np.diff(rows[where, 1].astype(int)) == 9).all()
    assert np.ptp(where) > 3000 * 0.9
    rows, _ = packed([9 * 20, *[9] * 3000], 10, (1,))
    where = np.flatnonzero(rows[:, 1] < PLACES)
    assert 100 < np.ptp(where) <= 20 * 16
