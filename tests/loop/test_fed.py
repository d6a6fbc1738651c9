"""Recipes that feed the same rows are found to do so, by feeds that really run; whatever is in doubt is tried."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from patience import PATIENCE

from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.loop import fed
from autoresearch.loop.orders import Arena, Order
from autoresearch.loop.preparation import Pantry, make
from autoresearch.sandbox.layers import probe
from autoresearch.sandbox.process_tree import ProcessTree
from autoresearch.vocabulary import Outcome

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("prepare.py", "data_sources.py")}
GOING_ON = threading.Event()


def recipe(*edits: tuple[str, str], feed: str = "") -> dict[str, str]:
    """The shipped recipe with edits of data_sources.py, and with another `feed`."""
    files = dict(SHIPPED)
    for old, new in edits:
        assert files["data_sources.py"].count(old) == 1, old
        files["data_sources.py"] = files["data_sources.py"].replace(old, new)
    if feed:
        files["prepare.py"] += f"\n\ndef feed(artefact, seed, row_len):\n{feed}\n"
    return files


@pytest.fixture
def pantry(smoke, tmp_path) -> Pantry:
    rules, prepared = smoke
    corpus = open_corpus(rules.dataset, cache_root())
    return Pantry(rules, (corpus,), prepared, tmp_path / "cache", probe("auto"), threads=1, memory_mb=4000.0)


@pytest.fixture
def fed_by(pantry, tmp_path, monkeypatch):
    """An arena whose text a recipe makes; feeds are asked for less, and have the time of a starved machine."""
    monkeypatch.setattr(fed, "_SECONDS", PATIENCE)
    monkeypatch.setattr(fed, "_TOKENS", 2**18)

    def made(files: dict[str, str]) -> Arena:
        text = make(pantry, files, tmp_path / "log")
        return Arena(pantry.rules, text, "cpu", accelerators=False, seal=pantry.seal, recipe=files)

    return made


@pytest.mark.slow
def test_a_filter_that_finds_nothing_feeds_the_same_rows_and_its_trial_is_refused(pantry, fed_by) -> None:
    fed_by(SHIPPED)
    idle = fed_by(recipe(('DUPLICATES = "keep"', 'DUPLICATES = "exact"')))
    order = Order({"train.py": ""}, "train.py", 7)
    shorter = recipe(("MAX_CHARACTERS = 0 ", "MAX_CHARACTERS = 900 "))
    fed_by(shorter)
    done = fed.refused_as_repeated(idle, pantry, [(0, shorter), (4, SHIPPED)], order, GOING_ON)
    assert done is not None and done.trial.outcome is Outcome.REJECTED and done.trial.num_tokens == 0
    assert done.trial.reason == "the same program was tried as experiment 4: the recipe feeds the same rows"
    assert done.trial.seed == 7 and done.trial.recipe_sha256 and done.trial.preparation_seconds > 0
    assert fed.refused_as_repeated(idle, pantry, [(0, shorter)], order, GOING_ON) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "idle", [("LATE_FROM = 1.0", "LATE_FROM = 0.5"), ("TIER_WEIGHTS = (1.0, 1.0", "TIER_WEIGHTS = (1.0, 0.2")]
)
def test_weights_of_tiers_that_are_not_there_change_nothing(pantry, fed_by, idle) -> None:
    fed_by(SHIPPED)
    assert fed.feeds_the_same(fed_by(recipe(("\n" + idle[0], "\n" + idle[1]))), pantry, SHIPPED, GOING_ON)


TIERS = ("NUM_TIERS = 1 ", "NUM_TIERS = 2 ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "edits"),
    [
        ([], [('ORDER = "shuffled"', 'ORDER = "as_is"')]),
        ([], [("BUFFER_SIZE = 1000 ", "BUFFER_SIZE = 10 ")]),
        ([TIERS], [("LATE_FROM = 1.0", "LATE_FROM = 0.9"), ("\nLATE_TIER_WEIGHTS = (1.0, 1.0", "\nLATE_TIER_WEIGHTS = (1.0, 0.5")]),
    ],
)  # fmt: skip
def test_the_same_text_in_other_rows_is_another_idea(pantry, fed_by, before, edits) -> None:
    base, other = fed_by(recipe(*before)), fed_by(recipe(*before, *edits))
    assert fed._same_arrays(base.prepared.artefact_dir, other.prepared.artefact_dir)
    assert not fed.feeds_the_same(other, pantry, recipe(*before), GOING_ON)
    assert fed.fed_sha256(other, GOING_ON) != fed.fed_sha256(base, GOING_ON) != "", "both were asked"


def test_arrays_that_differ_in_one_byte_or_in_number_are_not_the_same(tmp_path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "group-0.tokens.npy").write_bytes(b"tokens")
        (folder / "recipe.json").write_text(str(folder))
    assert fed._same_arrays(ours, theirs), "the page may tell other reasons"
    (theirs / "group-1.tokens.npy").write_bytes(b"")
    assert not fed._same_arrays(ours, theirs)
    (ours / "group-1.tokens.npy").write_bytes(b"x")
    assert not fed._same_arrays(ours, theirs)


@pytest.mark.slow
def test_what_was_found_is_kept_in_a_file_and_a_damaged_one_is_made_again(pantry, fed_by) -> None:
    arena = fed_by(SHIPPED)
    kept = arena.prepared.directory / "fed.json"
    found = fed.fed_sha256(arena, GOING_ON)
    assert len(found) == 64
    assert json.loads(kept.read_text()) == {"format": "autoresearch-fed", "version": 1, "sha256": found}
    kept.write_text(kept.read_text().replace(found, "0" * 64))
    assert fed.fed_sha256(arena, GOING_ON) == "0" * 64, "read, not run again"
    for damage in ("{", '{"format": "autoresearch-fed", "version": 9, "sha256": "1"}', "[]"):
        kept.write_text(damage)
        assert fed.fed_sha256(arena, GOING_ON) == found


@pytest.mark.slow
def test_a_recipe_that_was_never_made_repeats_nothing(pantry, fed_by) -> None:
    arena = fed_by(SHIPPED)
    other = recipe(('DUPLICATES = "keep"', 'DUPLICATES = "exact"'))
    assert not fed.feeds_the_same(arena, pantry, other, GOING_ON)
    assert not fed.feeds_the_same(replace(arena, prepared=pantry.prepared, recipe=None), pantry, SHIPPED, GOING_ON)
    assert fed.feeds_the_same(arena, pantry, SHIPPED, GOING_ON)


@pytest.mark.slow
def test_a_feed_that_fails_is_left_to_its_trial(fed_by) -> None:
    arena = fed_by(recipe(feed="    raise ValueError('no idea')"))
    assert fed.fed_sha256(arena, GOING_ON) == ""
    assert not (arena.prepared.directory / "fed.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("why", ["it takes too long", "the user stops", "it takes too much memory"])
def test_a_feed_that_hangs_is_ended(fed_by, monkeypatch, why) -> None:
    arena = fed_by(recipe(feed="    import time\n    time.sleep(3600)"))
    stop = threading.Event()
    # where time is not what ends it, there is so much that the test would not
    monkeypatch.setattr(fed, "_SECONDS", 0.5 if why == "it takes too long" else 3600.0)
    if why == "the user stops":
        stop.set()
    if why == "it takes too much memory":
        monkeypatch.setattr(ProcessTree, "memory_mb", lambda _tree: 1e9)
    assert fed.fed_sha256(arena, stop) == ""
