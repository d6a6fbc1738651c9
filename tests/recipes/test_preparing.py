"""The committed surface, its variants, and the two processes that run a surface."""

import json
import socket
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from patience import PATIENCE
from texts import sentence, surface_in, text_on_disk, write_shard

from autoresearch.contract import frames
from autoresearch.contract.feeder import batch_problem
from autoresearch.contract.stream import RowStream
from autoresearch.contract.tokenizer import train_tokenizer
from autoresearch.recipes import feeding, preparing
from autoresearch.recipes.door import load_surface
from autoresearch.recipes.feeding import RecipeRows
from autoresearch.recipes.preparing import Order, build, build_in
from autoresearch.recipes.reading import ArtefactRefused, read_artefact
from autoresearch.recipes.tokens import train_table
from autoresearch.vocabulary import DataCorrupt, UsageError, WorkspaceError

NOVEL = [sentence(number, 10 + number % 40) for number in range(120)]
TALES = [f"once {sentence(number, 8)}" for number in range(60)]
ROW_LEN = 33


@pytest.fixture(autouse=True)
def _no_surface_left_behind():
    yield
    for name in ("prepare", "data_sources"):
        sys.modules.pop(name, None)


@pytest.fixture
def built(tmp_path):
    """A function that builds a surface with changes on two datasets: (artefact, loaded surface)."""

    def make(**changes):
        surface = surface_in(tmp_path / "surface", **changes)
        out = tmp_path / "out"
        out.mkdir()
        build(surface, text_on_disk(tmp_path / "text", novel=NOVEL, tales=TALES), out, lambda _: None)
        return read_artefact(out), load_surface(surface)

    return make


def texts_of(artefact, group):
    tokens, offsets = artefact.groups[group].shard.open()
    bounds = pairwise(offsets)
    return [artefact.tokenizer.decode(tokens[start:stop]) for start, stop in bounds]


# ---- the surface as committed ---------------------------------------------------------------------------------------


def test_the_default_recipe_is_the_contracts_own_preparation(built):
    """Same documents, same table, same rows."""
    artefact, surface = built()
    assert texts_of(artefact, "novel/0") == NOVEL
    assert list(artefact.groups) == ["novel/0"], "the session's first dataset alone"
    table = train_tokenizer(NOVEL, 300)
    assert artefact.tokenizer.sha256 == table.sha256
    assert (artefact.order, artefact.buffer_size, artefact.removed) == ("shuffled", 1000, {})
    for seed in (1, 2):
        fed = surface.feed(artefact, seed, ROW_LEN)
        plain = RowStream([artefact.groups["novel/0"].shard], seed=seed, row_len=ROW_LEN, bos=table.get_bos_token_id())
        for size in (4, 1, 400):
            np.testing.assert_array_equal(fed.take(size, 0.5), plain.take(size))
            assert fed.epoch == plain.epoch
        assert fed.epoch > 1


@pytest.mark.slow
def test_the_default_recipe_on_the_contracts_corpus_gives_its_tokenizer(smoke, tmp_path):
    rules, prepared = smoke
    from autoresearch.contract.corpora import cache_root, open_corpus

    shards = open_corpus(rules.dataset, cache_root()).train_shards
    artefact = build_in(
        tmp_path / "made",
        surface_in(tmp_path / "surface"),
        {rules.dataset: shards},
        vocab_size=rules.vocab_size,
        row_len=rules.max_seq_len + 1,
        seed=0,
        say=lambda _: None,
    )
    assert artefact.tokenizer.sha256 == prepared.tokenizer.sha256
    assert artefact.num_tokens == prepared.num_train_tokens


def test_the_same_recipe_leaves_the_same_bytes(built, tmp_path):
    artefact, _ = built(DUPLICATES='"near"', NUM_TIERS="3")
    again = tmp_path / "again"
    again.mkdir()
    build(tmp_path / "surface", text_on_disk(tmp_path / "text", novel=NOVEL, tales=TALES), again, lambda _: None)
    assert read_artefact(again).sha256 == artefact.sha256


def test_importing_the_surface_needs_no_data_and_does_nothing(tmp_path):
    """What a sealed feeder relies on."""
    source = (
        "import sys; from pathlib import Path; from autoresearch.recipes.door import load_surface\n"
        "load_surface(Path(sys.argv[1]))\n"
        "heavy = {'torch', 'datasketch', 'scipy', 'pyarrow', 'tiktoken', 'autoresearch.contract.standalone'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(surface_in(tmp_path / "surface"))],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AUTORESEARCH_CACHE": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["surface"]


# ---- recipes that a researcher would write -------------------------------------------------------------------------------


def test_two_datasets_eighty_twenty(built):
    artefact, surface = built(SOURCE_WEIGHTS='{"novel": 0.2, "tales": 0.8}')
    assert list(artefact.groups) == ["novel/0", "tales/0"]
    fed = surface.feed(artefact, 0, ROW_LEN)
    once = artefact.tokenizer.encode("once")[0]
    tales = sum(bool((row == once).any()) for row in fed.take(100, 0.0))
    assert 75 <= tales <= 81


def test_a_byte_tokenizer(built):
    artefact, surface = built(VOCAB_SIZE="260")
    assert artefact.groups["novel/0"].num_tokens == artefact.groups["novel/0"].num_bytes
    assert surface.feed(artefact, 0, ROW_LEN).take(3, 0.0).max() <= 256


def test_from_short_to_long(built):
    artefact, surface = built(ORDER='"short_first"', BUFFER_SIZE="1")
    fed = surface.feed(artefact, 0, ROW_LEN)
    documents_in_a_row = [(row == artefact.tokenizer.get_bos_token_id()).sum() for row in fed.take(60, 0.0)]
    assert np.mean(documents_in_a_row[:20]) > np.mean(documents_in_a_row[-20:])


def test_tiers_with_a_second_phase(built):
    artefact, surface = built(
        NUM_TIERS="2",
        QUALITY='"own"',
        LATE_FROM="0.5",
        LATE_TIER_WEIGHTS="(1.0, 0.0)",
        more="def quality(text):\n    return -int(text.split()[-1])",
    )
    assert list(artefact.groups) == ["novel/0", "novel/1"]
    assert texts_of(artefact, "novel/0")[0] == NOVEL[0]
    assert texts_of(artefact, "novel/1")[-1] == NOVEL[-1]
    fed = surface.feed(artefact, 0, ROW_LEN)
    worse = artefact.groups["novel/1"].rows(seed=0, row_len=ROW_LEN).take(60)
    before, late = fed.take(40, 0.49), np.concatenate([fed.take(8, 0.5), fed.take(8, 1.0)])

    def from_the_worse_tier(rows):
        return sum(bool((worse == row).all(axis=1).any()) for row in rows)

    share = artefact.groups["novel/1"].num_tokens / artefact.num_tokens
    assert abs(from_the_worse_tier(before) - 40 * share) <= 1
    assert from_the_worse_tier(late) == 0


def test_ones_own_keep_and_clean(built):
    artefact, _ = built(
        MIN_CHARACTERS="20",
        more="def clean(text):\n    return text.replace('the ', '')\n\n\ndef keep(text):\n    return not text.endswith('7')",
    )
    expected = [text.replace("the ", "") for text in NOVEL]
    assert texts_of(artefact, "novel/0") == [text for text in expected if not text.endswith("7")]
    assert artefact.removed == {"keep": 12}


def test_duplicates_across_datasets_stay_in_the_first(tmp_path):
    surface = surface_in(tmp_path / "surface", SOURCE_WEIGHTS='{"b": 1, "a": 1}', DUPLICATES='"exact"')
    (tmp_path / "out").mkdir()
    text = text_on_disk(tmp_path / "text", vocab_size=260, a=["one", "two"], b=["TWO", "three"])
    build(surface, text, tmp_path / "out", lambda _: None)
    artefact = read_artefact(tmp_path / "out")
    assert (texts_of(artefact, "b/0"), texts_of(artefact, "a/0")) == (["TWO", "three"], ["one"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"DATASET": '"nowhere"'}, "no dataset 'nowhere'; it has novel, tales"),
        ({"QUALITY": '"best"', "NUM_TIERS": "2"}, "unknown quality"),
        ({"DUPLICATES": '"all"'}, "unknown kind of duplicates"),
        ({"ORDER": '"sorted"'}, "order 'sorted'"),
        ({"VOCAB_SIZE": "100"}, "vocabulary of 100"),
        ({"MAX_CHARACTERS": "-1"}, "documents of 0 to -1 characters"),
    ],
)
def test_a_mistake_in_a_table_says_what_is_possible(built, changes, says):
    with pytest.raises(UsageError, match=says):
        built(**changes)


def test_a_tier_without_a_weight_is_said_before_anything_is_read(built):
    with pytest.raises(AssertionError, match="weight"):
        built(NUM_TIERS="5")


# ---- the door ---------------------------------------------------------------------------------------------------------


def test_a_file_beside_the_surface_shadows_nothing(tmp_path):
    surface = surface_in(tmp_path / "surface", more="import json\nassert json.dumps")
    (surface / "json.py").write_text("raise SystemExit('shadowed')")
    (surface / "autoresearch.py").write_text("raise SystemExit('shadowed')")
    assert callable(load_surface(surface).build)


def test_two_surfaces_do_not_mix(tmp_path):
    one = load_surface(surface_in(tmp_path / "one", VOCAB_SIZE="300"))
    other = load_surface(surface_in(tmp_path / "other", VOCAB_SIZE="400"))
    assert (one.sources.VOCAB_SIZE, other.sources.VOCAB_SIZE) == (300, 400)


def test_what_is_no_surface_is_said(tmp_path):
    with pytest.raises(WorkspaceError, match=r"no data_sources\.py"):
        load_surface(tmp_path)
    surface = surface_in(tmp_path / "surface")
    (surface / "prepare.py").write_text("def build(text, out):\n    pass\n")
    with pytest.raises(WorkspaceError, match="no feed"):
        load_surface(surface)


# ---- for people ---------------------------------------------------------------------------------------------------------


def test_a_recipe_built_by_hand_replaces_the_old_one_only_when_it_succeeds(tmp_path):
    shards = {"a": [write_shard(tmp_path / "a.parquet", NOVEL)]}

    def make(surface):
        return build_in(tmp_path / "made", surface, shards, vocab_size=270, row_len=ROW_LEN, seed=0, say=lambda _: None)

    assert make(surface_in(tmp_path / "one")).tokenizer.get_vocab_size() == 270
    with pytest.raises(ZeroDivisionError):
        make(surface_in(tmp_path / "two", more="def clean(text):\n    return 1 / 0"))
    assert read_artefact(tmp_path / "made").tokenizer.get_vocab_size() == 270
    assert make(surface_in(tmp_path / "three", VOCAB_SIZE="280")).tokenizer.get_vocab_size() == 280
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "made", "one", "three", "two"]


# ---- the processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def process(tmp_path):
    """A function that starts one of the two modules and returns (our end, process)."""
    started = []

    def start(module):
        ours, theirs = socket.socketpair()
        ours.settimeout(120.0)
        command = [sys.executable, "-P", "-m", f"autoresearch.recipes.{module}", "--fd", str(theirs.fileno())]
        child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, cwd=tmp_path)
        theirs.close()
        started.append((ours, child))
        return ours, child

    yield start
    for ours, child in started:
        ours.close()
        child.communicate(timeout=PATIENCE)


def order_for(tmp_path, **changes):
    surface = surface_in(tmp_path / "surface", **changes)
    shard = write_shard(tmp_path / "novel.parquet", NOVEL)
    (tmp_path / "out").mkdir()
    return Order(str(surface), str(tmp_path / "out"), {"novel": [str(shard)]}, 300, ROW_LEN, 0)


@pytest.mark.slow
def test_the_processes_prepare_and_feed_as_one_process_does(process, tmp_path):
    order = order_for(tmp_path, NUM_TIERS="2")
    ours, child = process("preparing")
    preparing.send_order(ours, order)
    heard = []
    while not heard or heard[-1]["op"] != "done":
        heard.append(frames.receive(ours, 0)[0])
    assert any(each["op"] == "said" and "novel/1" in each["line"] for each in heard)
    assert child.wait(PATIENCE) == 0
    artefact = read_artefact(tmp_path / "out")

    surface = load_surface(tmp_path / "surface")
    ours, child = process("feeding")
    feeding.send_order(ours, feeding.FeedOrder(order.surface, order.out, 5))
    vocab_size = artefact.tokenizer.get_vocab_size()
    for stream, (batch_size, row_len) in enumerate([(4, ROW_LEN), (2, ROW_LEN), (3, 20)], start=1):
        if stream != 2:  # the second goes on where the first was
            expected = surface.feed(artefact, 5, row_len)
        frames.send(ours, {"op": "open", "stream": stream, "batch_size": batch_size, "seq_len": row_len - 1})
        for progress in (0.0, 0.25):
            frames.send(ours, {"op": "more", "progress": progress})
            header, payload = frames.receive(ours, 1 << 20)
            assert not batch_problem(header, payload, num_rows=batch_size, row_len=row_len, vocab_size=vocab_size)
            rows = np.frombuffer(payload, dtype=header["dtype"]).reshape(batch_size, row_len)
            np.testing.assert_array_equal(rows, expected.take(batch_size, progress))
            assert (header["stream"], header["epoch"]) == (stream, 1)
    ours.close()
    _, said = child.communicate(timeout=PATIENCE)
    assert (child.returncode, said) == (0, b"")


def test_a_recipe_that_fails_leaves_its_traceback_and_no_artefact(process, tmp_path):
    ours, child = process("preparing")
    preparing.send_order(ours, order_for(tmp_path, more="def keep(text):\n    return text.missing"))
    with pytest.raises(frames.Closed):
        while True:
            assert frames.receive(ours, 0)[0]["op"] == "said"
    _, said = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1
    assert b"AttributeError" in said
    assert b"data_sources.py" in said
    with pytest.raises(ArtefactRefused):
        read_artefact(tmp_path / "out")


class Gives:
    epoch = 1

    def __init__(self, rows):
        self.rows = rows

    def take(self, num_rows, progress):
        return self.rows


@pytest.mark.parametrize(
    "rows",
    [np.zeros((2, 9)), np.zeros((2, 8), np.int64), np.full((2, 9), -1), np.full((2, 9), 300), [["a"] * 9] * 2, None],
    ids=["floats", "short", "negative", "large", "text", "none"],
)
def test_a_feed_whose_rows_are_none_is_told_so(rows):
    source = RecipeRows(lambda _: Gives(rows), train_table([], 260))
    source.open(2, 8)
    with pytest.raises(UsageError, match="take"):
        source.rows(0.0)


def test_a_line_of_progress_is_one_plain_line(process, tmp_path):
    order = order_for(tmp_path)
    prepare = tmp_path / "surface" / "prepare.py"
    prepare.write_text(
        prepare.read_text().replace(
            "    chosen = select(", '    out.say("a\\n\\x1b[31mb" * 1000)\n    chosen = select(', 1
        )
    )
    ours, _ = process("preparing")
    preparing.send_order(ours, order)
    line = frames.receive(ours, 0)[0]["line"]
    assert len(line) <= 500
    assert line.isprintable()


def test_an_order_survives_the_way_however_many_shards_it_names():
    order = Order("/s", "/o", {"a": [f"/shards/shard_{number:05}.parquet" for number in range(7000)]}, 8192, 2049, 3)
    assert Order.decode(order.encode()) == order
    assert len(order.encode()) < preparing.MAX_ORDER_BYTES
    assert json.loads(feeding.FeedOrder("/s", "/a", 1).encode()) == {"surface": "/s", "artefact": "/a", "seed": 1}


def test_the_text_is_that_of_the_shards_in_their_order_and_of_no_other(tmp_path):
    text = text_on_disk(tmp_path, novel=NOVEL, tales=TALES)
    assert text.names == ("novel", "tales")
    assert list(text.documents("tales")) == TALES
    with pytest.raises(UsageError, match="'validation'"):
        text.documents("validation")
    (tmp_path / "novel.parquet").write_bytes(b"cut")
    with pytest.raises(DataCorrupt):
        list(text.documents("novel"))
