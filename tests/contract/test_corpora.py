"""What text there is: reading shards, their damage, and which corpora are known."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.contract import corpora
from autoresearch.contract.corpora import cache_root, num_documents, open_corpus, read_documents
from autoresearch.contract.dataset_names import dataset_dir
from autoresearch.contract.shard_record import Shard, ShardRecord, write_record
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice, UsageError


def write_shard(path: Path, texts: list[Any], *, rows_per_group: int = 3, column: str = "text", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: texts}), path, row_group_size=rows_per_group, **options)
    return path


def texts_of(name: str, count: int) -> list[str]:
    return [f"{name} {i} naïve — £{i}" for i in range(count)]


def fill(
    root: Path,
    name: str,
    shards: dict[int, int],
    *,
    held_out: int = 6,
    in_use: int | None = None,
    num_files: int | None = None,
) -> Path:
    """Shards of a dataset, by number, with that many documents, and their record; the dataset's folder."""
    folder = dataset_dir(name, root)

    def made(file: str, seed: str, count: int, number: int | None) -> Shard:
        path = write_shard(folder / "shards" / file, texts_of(seed, count))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return Shard(f"shards/{file}", path.stat().st_size, sha256, count, number, file)

    record = ShardRecord(
        name,
        {"kind": "folder"},
        num_files=len(shards) if num_files is None else num_files,
        num_shards=len(shards) if in_use is None else in_use,
        validation=made("validation.parquet", "held", held_out, None),
        training=tuple(made(f"shard_{n:05d}.parquet", f"s{n}", count, n) for n, count in shards.items()),
    )
    write_record(folder, record)
    return folder


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_documents_come_back_whole_and_in_order_over_row_groups(tmp_path: Path) -> None:
    texts = [*texts_of("d", 10), "", "two\n\nparagraphs", "\U0001f40b"]
    path = write_shard(tmp_path / "with spaces und Ümläute.parquet", texts)
    assert list(read_documents(path)) == texts
    assert num_documents(path) == 13


def test_large_strings_and_further_columns_are_read(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2], "text": pa.array(["a", "b"], pa.large_string())})
    pq.write_table(table, tmp_path / "s.parquet")
    assert list(read_documents(tmp_path / "s.parquet")) == ["a", "b"]


@given(start=st.integers(0, 12), stop=st.none() | st.integers(0, 14))
def test_a_span_reads_what_a_slice_of_the_list_holds(
    start: int, stop: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "span.parquet"
    if not path.exists():
        write_shard(path, texts_of("d", 11))
    assert list(read_documents(path, start=start, stop=stop)) == texts_of("d", 11)[start:stop]


def test_only_the_row_groups_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_shard(tmp_path / "s.parquet", texts_of("d", 12))
    read: list[int] = []
    whole = corpora._Shard.read_group

    def spy(shard: Any, group: int) -> list[str]:
        read.append(group)
        return whole(shard, group)

    monkeypatch.setattr(corpora._Shard, "read_group", spy)
    stream = read_documents(path, start=4)
    assert next(stream) == "d 4 naïve — £4"
    assert read == [1], "a stream must not run ahead of its reader"
    assert len(list(stream)) == 7
    assert read == [1, 2, 3]


# ---- damage ----------------------------------------------------------------------------------------------------------


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_byte_of_the_text(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"naive prose")] ^= 0x20
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut_in_half, empty, flip_a_byte_of_the_text])
def test_a_damaged_shard_is_named_with_what_to_type_next(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = write_shard(
        tmp_path / "shard 0.parquet",
        ["naive prose"] * 9,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    damage(path)
    with pytest.raises(DataCorrupt) as raised:
        list(read_documents(path))
    assert str(path) in raised.value.message
    assert f"rm -f '{path}'" in raised.value.hint
    assert "autoresearch prepare" in raised.value.hint


def test_a_shard_without_the_text_column_names_the_columns_it_has(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.parquet", ["a"], column="content")
    with pytest.raises(DataCorrupt, match=r"no column `text`, only content"):
        list(read_documents(path))


def test_a_text_column_of_numbers_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.parquet", [1, 2])
    with pytest.raises(DataCorrupt, match="holds int64, not strings"):
        list(read_documents(path))


def test_a_null_document_is_refused_rather_than_skipped(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.parquet", ["a", None, "c"])
    with pytest.raises(DataCorrupt, match="1 rows of row group 0 hold no text"):
        list(read_documents(path))


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"text": bad}), tmp_path / "s.parquet")
    with pytest.raises(DataCorrupt, match="cannot be read"):
        list(read_documents(tmp_path / "s.parquet"))


def test_a_shard_that_is_not_there_is_missing_and_not_corrupt(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"nowhere\.parquet"):
        list(read_documents(tmp_path / "nowhere.parquet"))
    with pytest.raises(DataMissing, match=r"nowhere\.parquet"):
        corpora.file_sha256(tmp_path / "nowhere.parquet")


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("AUTORESEARCH_CACHE", raising=False)
    return tmp_path


def test_the_cache_is_in_the_home_directory_by_default_and_is_not_created(home: Path) -> None:
    assert cache_root() == home / ".cache" / "autoresearch"
    assert not (home / ".cache").exists()


def test_xdg_cache_home_is_respected_when_it_is_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/else")
    assert cache_root() == Path("/somewhere/else/autoresearch")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/dir")
    assert cache_root() == home / ".cache" / "autoresearch"


def test_autoresearch_cache_wins_over_xdg_and_must_be_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/else")
    monkeypatch.setenv("AUTORESEARCH_CACHE", "~/my cache")
    assert cache_root() == home / "my cache"
    monkeypatch.setenv("AUTORESEARCH_CACHE", "my cache")
    with pytest.raises(UsageError) as raised:
        cache_root()
    assert raised.value.hint == f"export AUTORESEARCH_CACHE='{Path('my cache').absolute()}'"


# ---- folders of shards -----------------------------------------------------------------------------------------------


def test_an_unknown_dataset_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown dataset 'pile'; known: embedded, climbmix, tinystories"):
        open_corpus("pile", tmp_path)


@pytest.mark.parametrize("name", ["climbmix", "hf:owner/name:en"])
def test_missing_shards_name_the_folder_and_the_command_that_gets_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataMissing) as raised:
        open_corpus(name, tmp_path)
    assert str(dataset_dir(name, tmp_path)) in raised.value.message
    assert raised.value.hint == f"autoresearch prepare --dataset {name}"


def test_the_record_says_which_shards_are_used_and_no_other_file_is(tmp_path: Path) -> None:
    folder = fill(tmp_path, "tinystories", {0: 1, 1: 2, 2: 3}, in_use=2)
    write_shard(folder / "shards" / "shard_00009.parquet", ["a stranger"])
    corpus = open_corpus("tinystories", tmp_path)
    assert [p.name for p in corpus.train_shards] == ["shard_00000.parquet", "shard_00001.parquet"]
    assert {span.path.name for span in corpus.validation.values()} == {"validation.parquet"}
    assert list(corpus.train_documents()) == texts_of("s0", 1) + texts_of("s1", 2)
    assert corpus.num_shards == 2


def test_another_number_of_shards_may_be_asked_for(tmp_path: Path) -> None:
    fill(tmp_path, "climbmix", {0: 1, 1: 2, 2: 3}, in_use=1, num_files=5)
    assert len(open_corpus("climbmix", tmp_path, num_shards=3).train_shards) == 3
    with pytest.raises(DataMissing, match="3 of the 4 training files") as raised:
        open_corpus("climbmix", tmp_path, num_shards=4)
    assert raised.value.hint == "autoresearch prepare --dataset climbmix --num-shards 4"
    with pytest.raises(DataMissing, match="3 of the 5 training files"):
        open_corpus("climbmix", tmp_path, num_shards=-1)


def test_a_gap_among_the_shards_ends_what_can_be_used(tmp_path: Path) -> None:
    fill(tmp_path, "climbmix", {0: 1, 2: 3}, in_use=1)
    with pytest.raises(DataMissing, match="1 of the 2 training files"):
        open_corpus("climbmix", tmp_path, num_shards=2)


def test_a_dataset_whose_first_shards_are_still_coming_is_not_there(tmp_path: Path) -> None:
    fill(tmp_path, "climbmix", {0: 1}, in_use=0)
    with pytest.raises(DataMissing, match="no shards of climbmix"):
        open_corpus("climbmix", tmp_path)


@pytest.mark.parametrize("count", [3, 10, 11])
def test_the_three_slices_are_contiguous_and_share_the_shard_out_completely(tmp_path: Path, count: int) -> None:
    fill(tmp_path, "tinystories", {0: 1}, held_out=count)
    corpus = open_corpus("tinystories", tmp_path)
    slices = [list(corpus.validation_documents(part)) for part in Slice]
    assert [text for texts in slices for text in texts] == texts_of("held", count)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_too_few_documents_for_three_slices_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "tinystories", {0: 1}, held_out=2)
    with pytest.raises(DataCorrupt, match="2 documents cannot be cut into 3 slices"):
        open_corpus("tinystories", tmp_path)


@pytest.mark.parametrize("name", ["shard_00001.parquet", "validation.parquet"])
def test_a_shard_of_another_size_or_gone_is_found_without_reading_it(tmp_path: Path, name: str) -> None:
    folder = fill(tmp_path, "climbmix", {0: 4, 1: 4})
    path = folder / "shards" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataCorrupt, match=name):
        open_corpus("climbmix", tmp_path)
    path.unlink()
    with pytest.raises(DataMissing, match=name) as raised:
        open_corpus("climbmix", tmp_path)
    assert raised.value.hint == "autoresearch prepare --dataset climbmix"


def test_a_shard_that_was_altered_is_not_hashed_into_a_corpus(tmp_path: Path) -> None:
    folder = fill(tmp_path, "climbmix", {0: 4})
    path = folder / "shards" / "shard_00000.parquet"
    corpus = open_corpus("climbmix", tmp_path)
    whole = corpus.train_sha256()
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    with pytest.raises(DataCorrupt, match="was altered"):
        corpus.train_sha256()
    assert corpus.validation_sha256() != whole


def test_hashes_follow_content_and_tell_training_from_validation(tmp_path: Path) -> None:
    fill(tmp_path, "tinystories", {0: 4}, held_out=6)
    before = open_corpus("tinystories", tmp_path)
    train, validation, whole = before.train_sha256(), before.validation_sha256(), before.corpus_sha256()
    assert len({train, validation, whole}) == 3
    fill(tmp_path, "tinystories", {0: 5}, held_out=6)
    after = open_corpus("tinystories", tmp_path)
    assert after.train_sha256() != train
    assert after.validation_sha256() == validation
    assert after.corpus_sha256() != whole


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"format": "autoresearch-shards", "version": 2}'])
def test_a_record_of_another_form_is_refused(tmp_path: Path, body: str) -> None:
    folder = fill(tmp_path, "climbmix", {0: 4})
    (folder / "shards.json").write_text(body)
    with pytest.raises(DataCorrupt, match=r"shards\.json cannot be read"):
        open_corpus("climbmix", tmp_path)


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    assert corpora.file_sha256(path) == corpora.file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    assert corpora.file_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_importing_corpora_loads_neither_pyarrow_nor_the_text(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, autoresearch.contract.corpora as corpora\n"
        "corpora.open_corpus('embedded', pathlib.Path('/'))\n"
        "print(*sorted({'pyarrow', 'numpy', 'autoresearch_corpus'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
