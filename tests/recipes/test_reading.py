"""The artefact: what the writer leaves is read back; everything else is refused, by one error with one plain line."""

import json
import os
import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from texts import sentence, write_artefact

from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.recipes.artefact import ArtefactWriter
from autoresearch.recipes.reading import ArtefactRefused, Limits, open_artefact, read_artefact
from autoresearch.recipes.tokens import train_table
from autoresearch.vocabulary import UsageError

DOCUMENTS = {"a_0": [sentence(number) for number in range(20)], "a_1": ["short", "naïve", "", "end"]}


@pytest.fixture(scope="module")
def tokenizer():
    return train_table([sentence(number) for number in range(50)], 300)


@pytest.fixture(scope="module")
def sound(tmp_path_factory, tokenizer):
    """An artefact that nobody changes."""
    return write_artefact(tmp_path_factory.mktemp("recipes") / "sound", tokenizer, **DOCUMENTS)


@pytest.fixture
def copy(sound, tmp_path):
    """One to be changed."""
    return shutil.copytree(sound, tmp_path / "copy")


def change_page(folder, change):
    path = folder / "recipe.json"
    page = json.loads(path.read_text())
    change(page)
    path.write_text(json.dumps(page))


def refused(folder, limits=None, read=read_artefact):
    with pytest.raises(ArtefactRefused) as caught:
        read(folder, limits or Limits())
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert caught.value.hint
    return caught.value.message


# ---- what the writer leaves -----------------------------------------------------------------------------------------


def test_what_was_written_is_read_back(sound, tokenizer):
    artefact = read_artefact(sound)
    assert artefact.tokenizer.sha256 == tokenizer.sha256
    assert list(artefact.groups) == ["a/0", "a/1"]
    group = artefact.groups["a/1"]
    tokens, offsets = group.shard.open()
    texts = [tokenizer.decode(tokens[start:stop]) for start, stop in pairwise(offsets)]
    assert texts == ["short", "naïve", "end"]
    assert (group.num_documents, group.num_bytes, group.num_tokens) == (3, 14, len(tokens))
    assert artefact.num_tokens == sum(each.num_tokens for each in artefact.groups.values())


def test_the_page_is_what_others_read(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    said = []
    writer = ArtefactWriter(folder, said.append)
    writer.describe(removed={"repeated lines": 3}, order="short_first", buffer_size=10)
    writer.write_tokenizer(train_table([], 260))
    writer.write_group("org/name/0", ["ab", "c"])
    assert not (folder / "recipe.json").exists()
    writer.finish()
    assert json.loads((folder / "recipe.json").read_text()) == {
        "format": "autoresearch-recipe",
        "version": 1,
        "vocab_size": 260,
        "groups": [{"name": "org/name/0", "documents": 2, "tokens": 3, "bytes": 3}],
        "removed": {"repeated lines": 3},
        "packing": {"order": "short_first", "buffer_size": 10},
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        "group-0.offsets.npy",
        "group-0.tokens.npy",
        "recipe.json",
        "tokenizer.json",
    ]
    assert np.load(folder / "group-0.tokens.npy").tolist() == [97, 98, 99]
    assert np.load(folder / "group-0.offsets.npy").tolist() == [0, 2, 3]
    assert said == ["tokenizer of 260 tokens", "org/name/0: 2 documents, 3 tokens"]
    artefact = read_artefact(folder)
    assert (artefact.removed, artefact.order, artefact.buffer_size) == ({"repeated lines": 3}, "short_first", 10)


def test_the_hash_is_that_of_the_content(sound, copy, tmp_path, tokenizer):
    again = write_artefact(tmp_path / "again", tokenizer, **DOCUMENTS)
    assert read_artefact(sound).sha256 == read_artefact(copy).sha256 == read_artefact(again).sha256
    other = write_artefact(tmp_path / "other", tokenizer, **DOCUMENTS, a_2=["more"])
    assert read_artefact(other).sha256 != read_artefact(sound).sha256
    assert open_artefact(sound).sha256 == ""


def test_a_writer_refuses_what_a_reader_would(tmp_path, tokenizer):
    tmp_path.joinpath("made").mkdir()
    writer = ArtefactWriter(tmp_path / "made", lambda _: None)
    with pytest.raises(UsageError, match="tokenizer comes before"):
        writer.write_group("a/0", ["text"])
    with pytest.raises(UsageError, match="no tokenizer"):
        writer.finish()
    writer.write_tokenizer(tokenizer)
    with pytest.raises(UsageError, match="one tokenizer"):
        writer.write_tokenizer(tokenizer)
    for name in ("", "../x", "a//0", "a/0\n", ".a/0", "a" * 200, "a/b/c/d/e"):
        with pytest.raises(UsageError, match="cannot be called"):
            writer.write_group(name, ["text"])
    with pytest.raises(UsageError, match="no documents"):
        writer.write_group("a/0", ["", ""])
    for wrong in ({"order": "sorted"}, {"buffer_size": 0}, {"removed": {"a\nb": 1}}):
        with pytest.raises(UsageError):
            writer.describe(**wrong)
    writer.write_group("a/0", ["text"])
    with pytest.raises(UsageError, match="cannot be called"):
        writer.write_group("a/0", ["text"])
    with pytest.raises(UsageError, match="no tokenizer or no group"):
        ArtefactWriter(tmp_path / "made", lambda _: None).finish()


# ---- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda page: page.update(format="other"),
        lambda page: page.update(version=2),
        lambda page: page.update(version=True),
        lambda page: page.update(version=1.5),
        lambda page: page.update(val_bpb=0.1),
        lambda page: page.pop("packing"),
        lambda page: page.update(vocab_size=301),
        lambda page: page.update(vocab_size="300"),
        lambda page: page.update(groups=[]),
        lambda page: page.update(groups={}),
        lambda page: page.update(groups=[7]),
        lambda page: page["groups"].pop(),
        lambda page: page["groups"].reverse(),
        lambda page: page["groups"].append(dict(page["groups"][0], name="b/0")),
        lambda page: page["groups"][1].update(name="a/0"),
        lambda page: page["groups"][0].update(name="../../etc/passwd"),
        lambda page: page["groups"][0].update(name="a/0\n"),
        lambda page: page["groups"][0].update(name=None),
        lambda page: page["groups"][0].update(tokens=page["groups"][0]["tokens"] + 1),
        lambda page: page["groups"][0].update(tokens=2**62),
        lambda page: page["groups"][0].update(tokens=-1),
        lambda page: page["groups"][0].update(tokens=True),
        lambda page: page["groups"][0].update(documents=0),
        lambda page: page["groups"][0].update(documents=10**9),
        lambda page: page["groups"][0].update(documents=19),
        lambda page: page["groups"][0].update(bytes=12.0),
        lambda page: page["groups"][0].update(bytes=float("nan")),
        lambda page: page["groups"][0].update(path="x"),
        lambda page: page.update(removed=[]),
        lambda page: page.update(removed={"x": -1}),
        lambda page: page.update(removed={"\x1b[31m": 1}),
        lambda page: page.update(removed={f"r{number}": 1 for number in range(1000)}),
        lambda page: page["packing"].update(order="best"),
        lambda page: page["packing"].update(order=["shuffled"]),
        lambda page: page["packing"].update(buffer_size=0),
        lambda page: page["packing"].update(buffer_size=10**12),
        lambda page: page["packing"].update(workers=99),
    ],
)
def test_a_page_that_says_anything_else_is_refused(copy, change):
    change_page(copy, change)
    refused(copy)
    refused(copy, read=open_artefact)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": NaN}',
        b'{"format": Infinity}',
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": "autoresearch-recipe", "format": "autoresearch-recipe"}',
        b" " * (2 << 20),
    ],
    ids=range(10),
)
def test_a_page_that_is_no_plain_json_is_refused(copy, content):
    (copy / "recipe.json").write_bytes(content)
    refused(copy)


def test_a_key_that_stands_twice_is_refused(copy):
    path = copy / "recipe.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2, "version": 1'))
    assert "twice" in refused(copy)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
PLACES = [("format",), ("version",), ("vocab_size",), ("groups",), ("groups", 0), ("removed",), ("packing",)]
PLACES += [("groups", 0, key) for key in ("name", "documents", "tokens", "bytes")]
PLACES += [("packing", key) for key in ("order", "buffer_size")]


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=JSON)
def test_whatever_stands_in_a_page_the_one_error_is_raised_or_nothing_changes(sound, copy, place, value):
    page = json.loads((sound / "recipe.json").read_text())
    holder = page
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (copy / "recipe.json").write_text(json.dumps(page))
    try:
        read_artefact(copy)
    except ArtefactRefused as error:
        assert "\n" not in error.message
        return
    assert place in {("groups", 0, "name"), ("groups", 0, "bytes"), ("removed",), ("packing", "buffer_size")} or (
        page == json.loads((sound / "recipe.json").read_text())
    )


# ---- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.update(token_bytes=[0] * 300),
        lambda table: table.update(pattern="."),
        lambda table: table.update(specials=["<|endoftext|>"]),
        lambda table: table["tokens"].pop(),
        lambda table: table["tokens"].append("6161616161616161"),
        lambda table: table["tokens"].__setitem__(65, table["tokens"][66]),
        lambda table: table["tokens"].__setitem__(280, ""),
        lambda table: table["tokens"].__setitem__(280, "ZZ"),
        lambda table: table["tokens"].__setitem__(280, table["tokens"][280].upper() + "AB"),
        lambda table: table.update(tokens=[7]),
        lambda table: table.update(tokens=None),
    ],
)
def test_a_tokenizer_that_is_not_exactly_a_table_is_refused(copy, change):
    path = copy / "tokenizer.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table, indent=0) + "\n")
    assert "tokenizer" in refused(copy)


def test_another_spelling_of_the_same_table_is_refused(copy):
    path = copy / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert "more than its table" in refused(copy)


def test_a_vocabulary_beyond_the_limit_is_refused(copy):
    assert "299" in refused(copy, Limits(max_vocab_size=299))


# ---- the arrays ---------------------------------------------------------------------------------------------------------


def rewrite(path, change):
    array = np.load(path)
    array = change(array)
    path.unlink()
    np.save(path, array)


def set_at(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokens", set_at(3, 296)),  # BOS, which no text can give
        ("tokens", set_at(-1, 65535)),
        ("tokens", lambda array: array.astype(np.uint32)),
        ("tokens", lambda array: array.astype(">u2")),
        ("tokens", lambda array: array.astype(np.int16)),
        ("tokens", lambda array: array[None]),
        ("tokens", lambda array: array[:-1]),
        ("tokens", lambda array: np.append(array, array[:1])),
        ("offsets", set_at(0, 1)),
        ("offsets", set_at(2, 0)),
        ("offsets", set_at(1, -5)),
        ("offsets", set_at(1, 2**40)),
        ("offsets", lambda array: np.repeat(array[:1], len(array))),
        ("offsets", lambda array: array + 0.0),
        ("offsets", set_at(-1, 10**6)),
    ],
)
def test_arrays_that_are_not_documents_are_refused(copy, name, change):
    rewrite(copy / f"group-0.{name}.npy", change)
    refused(copy)


def test_an_offset_that_falls_between_two_chunks_is_seen(copy, monkeypatch):
    monkeypatch.setattr("autoresearch.recipes.reading._CHUNK", 8)  # one offset at a time
    sound_hash = read_artefact(copy).sha256
    monkeypatch.undo()
    assert read_artefact(copy).sha256 == sound_hash
    rewrite(copy / "group-0.offsets.npy", set_at(4, 1))
    monkeypatch.setattr("autoresearch.recipes.reading._CHUNK", 8)
    assert "does not rise" in refused(copy)


def test_a_pickle_in_place_of_an_array_is_never_loaded(copy):
    path = copy / "group-0.tokens.npy"
    size = path.stat().st_size
    path.unlink()
    with path.open("wb") as stream:
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    content = path.read_bytes()
    path.write_bytes(content[:size].ljust(size, b"\0"))
    assert "is not an array" in refused(copy)


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["group-0.tokens.npy", "group-0.offsets.npy", "group-1.offsets.npy", "tokenizer.json"]),
    place=st.integers(0, 10_000),
    value=st.integers(1, 255),
)
def test_no_flipped_byte_passes_unseen(sound, copy, name, place, value):
    """Refused, or another hash."""
    content = bytearray((sound / name).read_bytes())
    content[place % len(content)] ^= value
    (copy / name).write_bytes(content)
    try:
        assert read_artefact(copy).sha256 != read_artefact(sound).sha256
    except ArtefactRefused as error:
        assert "\n" not in error.message
    finally:
        shutil.copy(sound / name, copy / name)


# ---- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recipe.json", "tokenizer.json", "group-0.tokens.npy", "group-1.offsets.npy"])
def test_only_a_plain_file_of_its_own_is_opened(sound, copy, name):
    path = copy / name
    path.unlink()
    assert name in refused(copy)
    path.symlink_to(sound / name)
    assert name in refused(copy)
    path.unlink()
    os.mkfifo(path)  # opening it for reading would block for ever
    assert name in refused(copy)
    path.unlink()
    path.mkdir()
    assert name in refused(copy)
    path.rmdir()
    os.link(shutil.copy(sound / name, copy.parent / "elsewhere"), path)
    assert name in refused(copy)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "group-2.tokens.npy", "x\n\x1b[31m"])
def test_a_file_that_does_not_belong_there_is_refused(copy, name):
    (copy / name).write_text("")
    assert "does not belong" in refused(copy)


def test_more_bytes_than_the_limit_are_refused(copy):
    total = sum(path.stat().st_size for path in copy.iterdir())
    read_artefact(copy, Limits(max_bytes=total))
    assert "is the most" in refused(copy, Limits(max_bytes=total - 1))


def test_a_sparse_file_of_a_terabyte_costs_nothing(copy):
    with (copy / "group-0.tokens.npy").open("r+b") as stream:
        stream.truncate(1 << 40)
    assert "is the most" in refused(copy)
    with (copy / "tokenizer.json").open("r+b") as stream:
        stream.truncate(1 << 40)
    assert "tokenizer.json has" in refused(copy)


def test_there_is_no_artefact_in_an_empty_or_missing_folder(tmp_path):
    assert "recipe.json" in refused(tmp_path)
    assert "recipe.json" in refused(tmp_path / "nothing")


def test_a_table_of_bytes_needs_no_text_and_other_tables_do(tokenizer):
    table = train_table(iter(()), 260)
    assert table.encode("é") == list("é".encode())
    assert isinstance(table, Tokenizer)
    assert tokenizer.get_vocab_size() == 300
    with pytest.raises(UsageError, match="259"):
        train_table(["text"], 259)
