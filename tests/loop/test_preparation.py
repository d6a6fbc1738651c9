"""Recipes prepared for real: in the sandbox, by the surface's own files, on the embedded corpus."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.contract.scored_text import documents_scored, rows_of
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.loop import preparation
from autoresearch.loop.conversation import Ended
from autoresearch.loop.preparation import Pantry, PreparationLimits, make, open_made
from autoresearch.sandbox.layers import probe
from autoresearch.vocabulary import Outcome, Slice

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("prepare.py", "data_sources.py")}


def recipe(*edits: tuple[str, str], build: str = "") -> dict[str, str]:
    """The shipped recipe with edits of data_sources.py, and with another `build`."""
    files = dict(SHIPPED)
    for old, new in edits:
        assert files["data_sources.py"].count(old) == 1, old
        files["data_sources.py"] = files["data_sources.py"].replace(old, new)
    if build:
        files["prepare.py"] += f"\n\ndef build(text, out):\n{build}\n"
    return files


TRAINS = """\
    from autoresearch.recipes.tokens import train_table
    texts = list(text.documents(text.names[0]))[:40]
    out.write_tokenizer(train_table(iter(texts), 300))
"""


@pytest.fixture
def pantry(smoke, tmp_path) -> Pantry:
    rules, prepared = smoke
    corpus = open_corpus(rules.dataset, cache_root())
    return Pantry(rules, (corpus,), prepared, tmp_path / "cache", probe("auto"), threads=1, memory_mb=4000.0)


def refused(pantry: Pantry, files: dict[str, str], tmp_path: Path) -> Ended:
    with pytest.raises(Ended) as caught:
        make(pantry, files, tmp_path / "log")
    assert open_made(pantry, files) is None, "what was refused is not kept"
    assert not list((pantry.cache_root / "recipes").glob(".making-*"))
    return caught.value


@pytest.mark.slow
def test_the_shipped_recipe_is_made_once_and_says_what_it_took(pantry, tmp_path) -> None:
    lines: list[str] = []
    started: list[int] = []
    made = make(pantry, SHIPPED, tmp_path / "log", on_line=lines.append, on_start=lambda pid, _: started.append(pid))
    assert made.tokenizer.sha256 == pantry.prepared.tokenizer.sha256, "by default the contract's own tokenizer"
    assert "documents" in lines[-1] and all("\n" not in line for line in lines)
    assert 0 < made.facts["preparation_seconds"] < 600 and made.facts["preparation_disk_mb"] > 1
    assert sum(group["documents"] for group in made.facts["groups"].values()) > 100
    again = make(pantry, SHIPPED, tmp_path / "log", on_start=lambda pid, _: started.append(pid))
    assert len(started) == 1, "the second time nothing ran"
    assert again.hashes == made.hashes


@pytest.mark.slow
def test_every_recipe_is_scored_on_the_same_bytes(pantry, tmp_path) -> None:
    plain = make(pantry, SHIPPED, tmp_path / "log")
    in_bytes = make(pantry, recipe(("VOCAB_SIZE = 0 ", "VOCAB_SIZE = 260 ")), tmp_path / "log")
    assert in_bytes.tokenizer.get_vocab_size() == 260
    for part in Slice:
        counts = [int(made.tokenizer.token_bytes[made.rows(part)[:, 1:]].sum()) for made in (plain, in_bytes)]
        expected = sum(len(text.encode()) for text in pantry.scored(part))
        assert counts[0] == counts[1] == expected
        assert len(in_bytes.rows(part)) > len(plain.rows(part))


@pytest.mark.slow
def test_recipes_differ_by_their_key_and_a_discarded_one_leaves_the_other_alone(pantry, tmp_path) -> None:
    first = make(pantry, SHIPPED, tmp_path / "log")
    second = make(pantry, recipe(("MIN_CHARACTERS = 0 ", "MIN_CHARACTERS = 1000 ")), tmp_path / "log")
    assert first.directory != second.directory and first.hashes["recipe"] != second.hashes["recipe"]
    assert second.facts["removed"]["length"] > 0
    assert first.hashes == open_made(pantry, SHIPPED).hashes


@pytest.mark.slow
def test_a_recipe_finds_no_validation_text(pantry, tmp_path) -> None:
    looks = """\
    import os
    found = []
    for folder, _, names in os.walk("/"):
        if folder.startswith(("/proc", "/sys", "/dev")) or "pyarrow" in folder:
            continue
        for name in names:
            if name.endswith(".parquet") or name.startswith(("rows.", "train.")):
                found.append(os.path.join(folder, name))
    readable = []
    for path in found:
        try:
            with open(path, "rb") as stream:
                stream.read(1)
            readable.append(os.path.basename(path))
        except OSError:
            pass
    raise RuntimeError("found " + " ".join(sorted(readable)))
"""
    ended = refused(pantry, recipe(build=looks), tmp_path)
    assert ended.outcome is Outcome.CRASHED
    found = set(ended.reason.split("found ")[1].split())
    shards = {path.name for path in pantry.corpora[0].train_shards}
    assert {name for name in found if name.endswith(".parquet")} == shards, ended.reason
    assert not {name for name in found if name.endswith(".npy")}, ended.reason


@pytest.mark.slow
def test_a_recipe_that_carries_validation_text_in_its_source_is_rejected(pantry, tmp_path) -> None:
    stolen = pantry.scored(Slice.SEARCH)[:4]
    build = f"{TRAINS}    out.write_group('own', {stolen!r})\n"
    ended = refused(pantry, recipe(build=build), tmp_path)
    assert ended.outcome is Outcome.REJECTED and "of the validation text stands in the recipe's text" in ended.reason


@pytest.mark.slow
def test_validation_text_inside_tokens_is_found_too(pantry, tmp_path) -> None:
    sentences = " ".join(" ".join(pantry.scored(Slice.SEARCH)).split()[:400])
    build = f"""\
    from autoresearch.contract.tokenizer import Tokenizer
    words = {sentences!r}
    tokens = [bytes([n]) for n in range(256)] + sorted({{words[n:n + 120].encode() for n in range(0, len(words) - 120, 40)}})
    out.write_tokenizer(Tokenizer(tokens))
    out.write_group("all", text.documents(text.names[0]))
"""
    ended = refused(pantry, recipe(build=build), tmp_path)
    assert ended.outcome is Outcome.REJECTED and "validation text" in ended.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "says"),
    [
        ("(out._folder / 'recipe.json').write_text('{}')", "the page must hold"),
        ("(out._folder / 'more.npy').write_bytes(b'x')", "more.npy"),
        ("(out._folder / 'tokenizer.json').write_text((out._folder / 'tokenizer.json').read_text().replace('\"tokens\"', '\"token_bytes\": [1], \"tokens\"'))", "tokenizer"),
    ],
)  # fmt: skip
def test_what_is_left_behind_is_read_as_hostile(pantry, tmp_path, after, says) -> None:
    build = f"""\
{TRAINS}    out.write_group("all", texts)
    finish = type(out).finish
    def last(self):
        finish(self)
        {after}
    type(out).finish = last
"""
    ended = refused(pantry, recipe(build=build), tmp_path)
    assert ended.outcome is Outcome.REJECTED and says in ended.reason


def test_a_crash_says_why(pantry, tmp_path) -> None:
    ended = refused(pantry, recipe(build="    raise KeyError('no such filter')\n"), tmp_path)
    assert (ended.outcome, ended.reason) == (Outcome.CRASHED, "KeyError: 'no such filter'")
    assert "Traceback" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_recipe_that_does_not_end_is_ended(pantry, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(preparation._LIMITS, "smoke", PreparationLimits(3.0, 512.0))
    ended = refused(pantry, recipe(build="    while True:\n        pass\n"), tmp_path)
    assert (ended.outcome, ended.reason) == (Outcome.TIMED_OUT, "the preparation took more than 3 s")


@pytest.mark.slow
def test_a_recipe_that_fills_the_disk_is_ended(pantry, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(preparation._LIMITS, "smoke", PreparationLimits(60.0, 20.0))
    build = """\
    stream = open(out._folder / "big", "wb")
    while True:
        stream.write(bytes(1 << 20))
        stream.flush()
"""
    ended = refused(pantry, recipe(build=build), tmp_path)
    assert ended.outcome is Outcome.CRASHED and "to disk, 20 are allowed" in ended.reason


@pytest.mark.slow
def test_however_much_a_recipe_says_little_of_it_is_shown(pantry, tmp_path) -> None:
    lines: list[str] = []
    build = f"""\
{TRAINS}    out.write_group("all", texts)
    for number in range(20_000):
        out.say(f"line {{number}}\\r\\x1b[2J")
"""
    make(pantry, recipe(build=build), tmp_path / "log", on_line=lines.append)
    assert 0 < len(lines) < 2000 and not any("\x1b" in line or "\r" in line for line in lines)


def test_a_stop_ends_the_preparation(pantry, tmp_path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Ended) as caught:
        make(pantry, SHIPPED, tmp_path / "log", stop=stop)
    assert caught.value.outcome is Outcome.ABANDONED


@pytest.mark.slow
def test_a_damaged_recipe_is_made_again(pantry, tmp_path) -> None:
    made = make(pantry, SHIPPED, tmp_path / "log")
    (made.directory / "rows.search.npy").write_bytes(b"")
    assert open_made(pantry, SHIPPED) is None
    assert make(pantry, SHIPPED, tmp_path / "log").hashes == made.hashes


@pytest.mark.slow
def test_made_json_has_these_fields(pantry, tmp_path) -> None:
    made = make(pantry, SHIPPED, tmp_path / "log")
    facts = json.loads((made.directory / "made.json").read_text())
    assert list(facts) == [
        *("format", "version", "hashes", "text", "vocab_size", "groups", "removed"),
        *("preparation_seconds", "preparation_cpu_seconds", "preparation_disk_mb", "overlap", "files"),
    ]
    assert (facts["format"], facts["version"]) == ("autoresearch-made-recipe", 1)
    assert list(facts["hashes"]) == ["corpus", "validation", "tokenizer", "recipe"]


# -- the text that is scored -------------------------------------------------------------------------------------------


def test_scored_documents_fill_the_contracts_rows_and_no_more(smoke) -> None:
    rules, prepared = smoke
    texts = [f"document {n} " * 20 for n in range(200)]
    found = documents_scored(texts, prepared.tokenizer, rules)
    rows = rows_of(found, prepared.tokenizer, rules)
    assert found == texts[: len(found)] and 0 < len(found) < len(texts)
    assert len(rows) <= rules.num_eval_rows + 1
    assert documents_scored(["x" * 10**6], prepared.tokenizer, rules) == ["x" * 10**6], "one at least"


def test_rows_hold_every_byte_and_end_in_bos(smoke) -> None:
    rules, prepared = smoke
    texts = ["a short one", "ein längerer Text, mit Umläuten. " * 30, "€" * 50]
    for tokenizer in (prepared.tokenizer, Tokenizer([bytes([n]) for n in range(256)])):
        rows = rows_of(texts, tokenizer, rules)
        assert rows.shape[1] == rules.max_seq_len + 1
        assert (rows[:, 0] == tokenizer.get_bos_token_id()).all()
        assert int(tokenizer.token_bytes[rows[:, 1:]].sum()) == sum(len(text.encode()) for text in texts)
        assert np.count_nonzero(rows[-1] == tokenizer.get_bos_token_id()) > 1
