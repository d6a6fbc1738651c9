"""Rows without end: nothing lost or doubled, the same for every number of workers, resumed anywhere, no drift."""

import dataclasses
import json
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE
from token_corpora import BOS, Ledger, shards_of

from autoresearch.contract import frames, unit_worker
from autoresearch.contract.stream import Position, RowStream
from autoresearch.contract.token_shards import TokenShard, write_token_shard
from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError


def some_lengths(seed: int) -> list[list[int]]:
    generator = random.Random(seed)
    shards = [[generator.choice((1, 2, 5, 9, 17, 60)) for _ in range(generator.randint(1, 12))] for _ in range(3)]
    shards[seed % 3].append(150)
    return shards


CORPORA = [[[3]], [[5], [4, 1]], [[40, 1], [], [7]], *map(some_lengths, range(4))]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """(lengths, shards) of each corpus."""
    return [(lengths, shards_of(tmp_path_factory.mktemp("corpus"), lengths)) for lengths in CORPORA]


def in_a_thread(channel):
    """A worker without a process: the same frames and the same code, a thousand times faster to start."""
    own = channel.dup()

    def run():
        with own:
            try:
                unit_worker.work(own)
            except frames.BrokenFrame:
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread.join


@pytest.fixture(scope="module", autouse=True)
def _quick_workers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_worker, "start_process", in_a_thread)
        yield


cuts = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 5),
        "buffer_size": st.integers(1, 9),
        "order": st.sampled_from(["shuffled", "as_is", "short_first", "long_first"]),
        "block_tokens": st.sampled_from([1, 7, 30, 1000]),
        "unit_tokens": st.sampled_from([1, 40, 100, 250, 10_000]),
    }
)
row_lens = st.integers(2, 20)
which = st.integers(0, len(CORPORA) - 1)


def through_json(position):
    return Position.from_json(json.loads(json.dumps(position.as_json())))


# -------------------------------------------------------------------------------------------------------------- nothing lost


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(which, cuts, row_lens, st.integers(0, 2))
def test_every_token_comes_out_once_an_epoch_in_its_documents_order(corpora, index, cut, row_len, workers):
    lengths, shards = corpora[index]
    ledger = Ledger(lengths)
    epochs = set()
    with RowStream(shards, row_len=row_len, bos=BOS, workers=workers, **cut) as stream:
        while len(epochs) < 2 or max(epochs) < 3:
            row = stream.take(1)
            if stream.epoch not in epochs and stream.position.unit == 0:
                ledger.assert_whole_but(stream.epoch - 1, stream.position.carried)
            epochs.add(stream.epoch)
            ledger.read(row)
            assert sum(length for _, length in stream.position.rows) >= 1


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(which, cuts, st.lists(st.tuples(row_lens, st.integers(1, 12)), min_size=2, max_size=6))
def test_a_change_of_the_row_length_loses_and_repeats_nothing(corpora, index, cut, parts):
    lengths, shards = corpora[index]
    ledger = Ledger(lengths)
    position = Position()
    for row_len, num_rows in parts:
        stream = RowStream(shards, row_len=row_len, bos=BOS, start=position, **cut)
        ledger.read(stream.take(num_rows))
        position = through_json(stream.position)
    while stream.position.epoch < position.epoch + 2:
        row = stream.take(1)
        if stream.position.epoch > position.epoch and stream.position.unit == 0:
            ledger.assert_whole_but(stream.epoch - 1, stream.position.carried)
            return
        ledger.read(row)


@settings(max_examples=25, deadline=None)
@given(which, cuts, row_lens)
def test_less_than_a_row_waits_between_units(corpora, index, cut, row_len):
    lengths, shards = corpora[index]
    flat = [length for shard in lengths for length in shard]
    stream = RowStream(shards, row_len=row_len, bos=BOS, **cut)
    for _ in range(25):
        stream.take(1)
        assert sum(flat[document] - start for document, start in stream.position.carried) < row_len


# -------------------------------------------------------------------------------------------------------------- determinism


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(which, cuts, row_lens, st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_rows_are_the_same_whatever_the_number_of_workers(corpora, index, cut, row_len, takes):
    _, shards = corpora[index]
    streams = [RowStream(shards, row_len=row_len, bos=BOS, workers=workers, **cut) for workers in (0, 1, 3)]
    for num_rows in takes:
        first, *others = [(stream.take(num_rows).tolist(), stream.epoch, stream.position) for stream in streams]
        assert all(other == first for other in others)
    for stream in streams:
        stream.close()


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(which, cuts, row_lens, st.integers(0, 50), st.integers(0, 2))
def test_a_stream_goes_on_from_any_position(corpora, index, cut, row_len, before, workers):
    _, shards = corpora[index]
    stream = RowStream(shards, row_len=row_len, bos=BOS, **cut)
    stream.take(before)
    start = through_json(stream.position)
    with RowStream(shards, row_len=row_len, bos=BOS, start=start, workers=workers, **cut) as again:
        for num_rows in (1, 7):
            assert again.take(num_rows).tolist() == stream.take(num_rows).tolist()
            assert again.position == stream.position
            assert again.epoch == stream.epoch


@settings(max_examples=20, deadline=None)
@given(which, cuts, row_lens, st.integers(1, 20))
def test_rows_do_not_depend_on_how_many_are_taken_at_once(corpora, index, cut, row_len, num_rows):
    _, shards = corpora[index]
    one = RowStream(shards, row_len=row_len, bos=BOS, **cut)
    many = RowStream(shards, row_len=row_len, bos=BOS, **cut)
    singly = [one.take(1)[0].tolist() for _ in range(3 * num_rows)]
    assert [row for _ in range(3) for row in many.take(num_rows).tolist()] == singly
    assert one.position == many.position


def test_seeds_and_epochs_differ(corpora):
    _, shards = corpora[3]
    taken = {}
    for seed in (0, 1):
        stream = RowStream(shards, seed=seed, row_len=20, bos=BOS)
        while stream.epoch < 3:
            taken.setdefault((seed, stream.epoch), []).append(stream.take(1).tolist())
    assert len({str(taken[seed, epoch][:10]) for seed in (0, 1) for epoch in (1, 2)}) == 4


def test_the_first_rows_of_a_seed_are_these(tmp_path):
    """They are what a recorded trial was trained on: another order is another contract."""
    shards = shards_of(tmp_path, [[3, 5, 2], [4, 9, 1, 6]])
    stream = RowStream(shards, seed=7, row_len=8, bos=BOS, buffer_size=4, block_tokens=4, unit_tokens=12)
    rows = [
        ["." if t == BOS else f"{t // 100_000}{'abcdefghi'[t % 100_000]}" for t in row]
        for row in stream.take(6).tolist()
    ]
    assert [" ".join(row) for row in rows] == GOLDEN_ROWS
    assert json.loads(json.dumps(stream.position.as_json())) == GOLDEN_POSITION


GOLDEN_ROWS = [
    ". 6a 6b 6c 6d 6e 6f .",
    ". 1a 1b 1c 1d 1e . 5a",
    ". 0a 0b 0c . 3a 3b 3c",
    ". 4a 4b 4c 4d 4e 4f 4g",
    ". 3d . 4h 4i . 2a 2b",
    ". 6a 6b 6c 6d 6e 6f .",
]
GOLDEN_POSITION = {"epoch": 2, "unit": 0, "rows": [[8, 1]], "carried": [], "text": "87af247ba29c78be"}


# --------------------------------------------------------------------------------------------------------------------- drift


def test_long_documents_are_no_more_frequent_late_than_early(tmp_path):
    """Over the units and inside them: as packed, each unit would end with a tenth of nothing but long ones."""
    random_lengths = np.maximum(1, np.random.default_rng(0).lognormal(np.log(40), 1.27, 12_000)).astype(int)
    is_long = (random_lengths >= 205).astype(np.uint16)
    documents = [np.full(length, flag, np.uint16) for length, flag in zip(random_lengths, is_long, strict=True)]
    shard = write_token_shard(tmp_path, "long", documents, np.uint16)
    stream = RowStream([shard], seed=0, row_len=206, bos=2, buffer_size=100, block_tokens=2_000, unit_tokens=100_000)
    units = {}
    while stream.epoch == 1:
        row = stream.take(1)
        units.setdefault((stream.epoch, stream.position.unit), []).append((row == 1).mean())
    share = is_long[np.repeat(np.arange(12_000), random_lengths)].mean()
    by_unit = [np.mean(shares) for (epoch, _), shares in units.items() if epoch == 1]
    assert len(by_unit) == 10
    assert np.ptp(by_unit) < 0.2
    for tenth in zip(*(np.array_split(shares, 10) for (epoch, _), shares in units.items() if epoch == 1), strict=True):
        assert np.concatenate(tenth).mean() == pytest.approx(share, abs=0.15)


# ----------------------------------------------------------------------------------------------------------- types and errors


def test_small_ids_stay_in_two_bytes(tmp_path):
    shard = write_token_shard(tmp_path, "small", [np.arange(50, dtype=np.uint16)], np.uint16)
    rows = RowStream([shard], seed=0, row_len=9, bos=60_000).take(4)
    assert rows.dtype == np.uint16
    assert rows.shape == (4, 9)
    assert rows.flags.owndata and rows.flags.writeable


def test_rows_taken_stay_as_they_were(corpora):
    stream = RowStream(corpora[3][1], seed=0, row_len=9, bos=BOS)
    first = stream.take(5)
    copy = first.copy()
    stream.take(50)
    assert (first == copy).all()


def test_shards_without_tokens_are_missing_data(tmp_path):
    with pytest.raises(DataMissing):
        RowStream(shards_of(tmp_path, [[], []]), seed=0, row_len=9, bos=BOS)
    with pytest.raises(DataMissing):
        RowStream([], seed=0, row_len=9, bos=BOS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"row_len": 1},
        {"buffer_size": 0},
        {"workers": -1},
        {"order": "random"},
        {"seed": -1},
        {"bos": 2**32},
        {"bos": -1},
    ],
    ids=str,
)
def test_settings_that_make_no_rows_are_refused(corpora, wrong):
    with pytest.raises(UsageError) as caught:
        RowStream(corpora[3][1], **{"seed": 0, "row_len": 9, "bos": BOS} | wrong)
    assert caught.value.hint


def test_a_position_of_another_text_or_seed_is_refused(corpora):
    stream = RowStream(corpora[3][1], seed=0, row_len=9, bos=BOS)
    stream.take(3)
    for shards, seed in ((corpora[4][1], 0), (corpora[3][1], 1)):
        with pytest.raises(UsageError, match="another text"):
            RowStream(shards, seed=seed, row_len=9, bos=BOS, start=stream.position)


@pytest.mark.parametrize(
    "damage",
    [
        {"epoch": 0},
        {"unit": -1},
        {"rows": [[1, 2]]},
        {"rows": [[9, -1]]},
        {"rows": 3},
        {"carried": [[1]]},
        {"text": None},
    ],
    ids=str,
)
def test_a_damaged_position_is_corrupt_data(damage):
    value = Position().as_json() | damage
    if damage == {"text": None}:
        del value["text"]
    with pytest.raises(DataCorrupt):
        Position.from_json(value)


def test_a_carried_piece_that_no_document_has_is_corrupt_data(corpora):
    stream = RowStream(corpora[0][1], seed=0, row_len=3, bos=BOS)
    for piece in ((7, 0), (0, 99)):
        start = dataclasses.replace(stream.position, carried=(piece,))
        with pytest.raises(DataCorrupt, match=r"no document 7|no token 99"):
            RowStream(corpora[0][1], seed=0, row_len=3, bos=BOS, start=start).take(9)


def test_shards_of_two_types_are_refused(tmp_path):
    shards = [write_token_shard(tmp_path, d.__name__, [np.ones(50, dtype=d)], d) for d in (np.uint16, np.uint32)]
    with pytest.raises(DataCorrupt, match="uint32, the shards before it uint16"):
        RowStream(shards, seed=0, row_len=9, bos=9).take(20)


# ------------------------------------------------------------------------------------------------------------- real processes


@pytest.fixture
def _real_workers(monkeypatch):
    monkeypatch.setattr(unit_worker, "start_process", START_PROCESS)


START_PROCESS = unit_worker.start_process


@pytest.mark.slow
@pytest.mark.usefixtures("_real_workers")
def test_processes_pack_the_rows_that_this_one_packs(corpora):
    _, shards = corpora[3]
    settings = {"seed": 4, "row_len": 11, "bos": BOS, "block_tokens": 20, "unit_tokens": 100}
    here = RowStream(shards, **settings)
    before = {child.pid for child in psutil.Process().children()}
    with RowStream(shards, workers=2, **settings) as ahead:
        for num_rows in (3, 200, 1):
            assert ahead.take(num_rows).tolist() == here.take(num_rows).tolist()
        assert len({child.pid for child in psutil.Process().children()} - before) == 2
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.usefixtures("_real_workers")
def test_a_worker_that_is_killed_is_an_error_and_no_hang(corpora):
    before = {child.pid for child in psutil.Process().children()}
    with RowStream(corpora[3][1], seed=0, row_len=11, bos=BOS, workers=1) as stream:
        stream.take(1)
        for child in psutil.Process().children():
            if child.pid not in before:
                child.kill()
        with pytest.raises(DataCorrupt, match="a process that packs rows stopped"):
            for _ in range(100_000):
                stream.take(50)


def test_what_a_worker_cannot_read_is_named(tmp_path):
    shards = shards_of(tmp_path, [[50], [60]])
    with RowStream(shards, seed=0, row_len=11, bos=BOS, workers=1, unit_tokens=50) as stream:
        shards[1].tokens_path.unlink()
        with pytest.raises(DataCorrupt, match=shards[1].tokens_path.name):
            stream.take(50)


@pytest.mark.slow
@pytest.mark.usefixtures("_real_workers")
def test_workers_end_when_the_one_who_started_them_is_killed(tmp_path):
    shard = shards_of(tmp_path, [[50, 60]])[0]
    script = (
        "import sys, time; from pathlib import Path\n"
        "from autoresearch.contract.stream import RowStream\n"
        "from autoresearch.contract.token_shards import TokenShard\n"
        f"shard = TokenShard(Path({str(shard.tokens_path)!r}), Path({str(shard.offsets_path)!r}), 2, 110)\n"
        f"RowStream([shard], seed=0, row_len=11, bos={BOS}, workers=1).take(1)\n"
        "print('taken', flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout.readline() == "taken\n"
        (worker,) = psutil.Process(parent.pid).children()
        parent.kill()
        worker.wait(PATIENCE)


def test_a_worker_says_nothing_before_it_is_asked():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        end = in_a_thread(theirs)
        theirs.close()
        ours.settimeout(0.05)
        with pytest.raises(TimeoutError):
            ours.recv(1)
        ours.close()
        end()


def test_shards_are_named_to_workers_by_their_whole_path(corpora, tmp_path, monkeypatch):
    """A worker may run in another folder."""
    _, shards = corpora[3]
    monkeypatch.chdir(shards[0].tokens_path.parent)
    near = [
        TokenShard(Path(s.tokens_path.name), Path(s.offsets_path.name), s.num_documents, s.num_tokens) for s in shards
    ]
    with RowStream(near, seed=0, row_len=11, bos=BOS, workers=1) as stream:
        assert len(stream.take(5)) == 5
