"""Prepared data: complete or absent, found without hashing text, and damage is noticed."""

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from patience import PATIENCE

from autoresearch import files
from autoresearch.contract import building
from autoresearch.contract import prepared as module
from autoresearch.contract import token_store as store
from autoresearch.contract import tokenizer as tokenizer_module
from autoresearch.contract.bpb import target_bytes
from autoresearch.contract.packing import pack_rows
from autoresearch.contract.prepared import Prepared, open_prepared, open_prepared_directory, prepare
from autoresearch.contract.rules import rules_for
from autoresearch.files import DiskError
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice

RULES = dataclasses.replace(rules_for("smoke"), dataset="toy", vocab_size=300, max_seq_len=16, eval_tokens=8 * 16)


class ToyCorpus:
    """Forty small documents with Greek in them as one shard, or the given shards, and three slices."""

    name = "toy"

    def __init__(self, version: str = "1", *shards: list[str], validation: str = "slice") -> None:
        self.version = version
        self.validation = validation
        self.shards = shards or ([f"Document {i}: the ship, the sea, η θάλασσα." for i in range(40)],)
        self.train = [text for shard in self.shards for text in shard]
        self.num_reads = 0
        self.train_shards = [Path(f"shard_{number}") for number in range(len(self.shards))]

    def shard_documents(self, shard: Path) -> Iterator[str]:
        self.num_reads += 1
        yield from self.shards[self.train_shards.index(shard)]

    def shard_sha256(self, shard: Path) -> str:
        texts = self.shards[self.train_shards.index(shard)]
        return hashlib.sha256(f"{self.version} {texts}".encode()).hexdigest()

    def validation_documents(self, part: Slice) -> Iterator[str]:
        return (f"{self.validation} {part}, line {i}: the sea, the sea. Ωκεανός 😀" for i in range(30))

    def validation_sha256(self) -> str:
        return f"validation-{self.validation}"


@pytest.fixture
def ready(tmp_path: Path) -> Prepared:
    return prepare(RULES, ToyCorpus(), tmp_path)


def left_overs(root: Path) -> list[str]:
    return [path.name for path in (root / "toy").iterdir() if path.name.startswith(".preparing")]


def test_what_is_prepared_is_opened_again(tmp_path: Path, ready: Prepared) -> None:
    opened = open_prepared(RULES, "toy", tmp_path)
    assert opened.directory == ready.directory
    assert opened.hashes == {
        "corpus": hashlib.sha256(f"{ToyCorpus().shard_sha256(Path('shard_0'))}\n".encode()).hexdigest(),
        "validation": "validation-slice",
        "tokenizer": opened.tokenizer.sha256,
    }
    assert opened.tokenizer.get_vocab_size() == 300
    opened.verify()


def test_the_folder_holds_these_files_and_the_manifest_these_fields(ready: Prepared) -> None:
    assert sorted(path.name for path in ready.directory.iterdir()) == [
        "manifest.json",
        "rows.certify.npy",
        "rows.confirm.npy",
        "rows.search.npy",
        "tokenizer.json",
    ]
    manifest = json.loads((ready.directory / "manifest.json").read_text())
    assert list(manifest) == [
        *("format", "version", "contract_version", "recipe", "preset", "dataset", "command", "created"),
        *("vocab_size", "max_seq_len", "num_eval_rows", "hashes", "counts", "files", "shards"),
    ]
    assert manifest["format"] == "autoresearch-prepared"
    assert manifest["version"] == 2
    assert manifest["command"] == "autoresearch prepare --contract smoke"
    assert manifest["counts"]["train_documents"] == 40
    assert manifest["counts"]["train_tokens"] == ready.num_train_tokens
    assert manifest["counts"]["train_bytes"] == sum(len(text.encode()) for text in ToyCorpus().train)
    (shard,) = manifest["shards"]
    assert list(shard) == ["text", "text_sha256", "num_documents", "num_tokens", "num_bytes", "files"]
    name = shard["text_sha256"][:16]
    assert list(shard["files"]) == [f"{name}.tokens.npy", f"{name}.offsets.npy"]
    assert shard["files"][f"{name}.offsets.npy"]["bytes"] == 128 + 41 * 8
    assert ready.tokens_dir == ready.directory.parent / "tokens" / ready.hashes["tokenizer"][:16]
    assert sorted(path.name for path in ready.tokens_dir.iterdir()) == [
        *sorted([f"{name}.json", f"{name}.offsets.npy", f"{name}.tokens.npy"]),
        "tokenizer.json",
    ]
    rows = ready.rows(Slice.SEARCH)
    assert manifest["counts"]["search_bytes"] == target_bytes(rows, ready.tokenizer.token_bytes)


def test_an_epoch_is_every_document_once_and_the_order_comes_from_seed_and_epoch(ready: Prepared) -> None:
    def epochs(seed: int) -> list[list[str]]:
        taken = [(ready.tokenizer.decode(tokens), epoch) for tokens, epoch in islice(ready.documents(seed), 120)]
        assert [epoch for _, epoch in taken] == [1] * 40 + [2] * 40 + [3] * 40
        return [[text for text, _ in taken[start : start + 40]] for start in (0, 40, 80)]

    first = epochs(7)
    assert all(sorted(epoch) == sorted(ToyCorpus().train) for epoch in first)
    assert first[0] != first[1] != first[2]
    assert epochs(7) == first
    assert epochs(8)[0] != first[0]


def test_tokens_of_all_documents_are_counted(ready: Prepared) -> None:
    documents = [tokens for tokens, _ in islice(ready.documents(0), 40)]
    assert sum(map(len, documents)) == ready.num_train_tokens
    assert {tokens.dtype for tokens in documents} == {np.dtype(np.uint16)}


def test_documents_without_text_are_left_out(tmp_path: Path) -> None:
    corpus = ToyCorpus("1", ["", *ToyCorpus().train, ""])
    ready = prepare(RULES, corpus, tmp_path)
    assert {epoch for _, epoch in islice(ready.documents(0), 40)} == {1}
    assert next(islice(ready.documents(0), 40, None))[1] == 2


@pytest.mark.parametrize("part", list(Slice))
def test_rows_are_the_packed_slice_in_the_order_of_its_documents(ready: Prepared, part: Slice) -> None:
    rows = ready.rows(part)
    assert rows.shape == (8, 17)
    documents = ready.tokenizer.encode_documents(ToyCorpus().validation_documents(part))
    expected = list(islice(pack_rows(iter(documents), 17, ready.tokenizer.get_bos_token_id()), 8))
    assert np.array_equal(rows, expected)
    assert f"slice {part}" in ready.tokenizer.decode(rows[0])


def test_nobody_can_write_into_the_data(ready: Prepared) -> None:
    with pytest.raises(ValueError, match="read-only"):
        ready.rows(Slice.SEARCH)[0, 0] = 1
    tokens, _ = next(ready.documents(0))
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_the_tokenizer_learns_from_training_text_only_and_up_to_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = store.train_tokenizer

    def spy(texts: Iterator[str], vocab_size: int) -> tokenizer_module.Tokenizer:
        seen.extend(texts)
        return original(ToyCorpus().train, vocab_size)

    monkeypatch.setattr(store, "train_tokenizer", spy)
    monkeypatch.setattr(store, "MAX_TOKENIZER_CHARACTERS", 100)
    prepare(RULES, ToyCorpus(), tmp_path)
    assert "".join(seen) == "".join(ToyCorpus().train)[:100]


def test_preparing_twice_reads_the_text_once(tmp_path: Path, ready: Prepared) -> None:
    corpus = ToyCorpus()
    assert prepare(RULES, corpus, tmp_path).directory == ready.directory
    assert corpus.num_reads == 0


def test_force_builds_again_into_the_same_place(tmp_path: Path, ready: Prepared) -> None:
    corpus = ToyCorpus()
    again = prepare(RULES, corpus, tmp_path, force=True)
    assert corpus.num_reads > 0
    assert again.manifest["files"] == ready.manifest["files"]
    assert again.directory == ready.directory
    assert left_overs(tmp_path) == []


def test_a_reader_of_the_old_folder_keeps_reading_while_it_is_replaced(tmp_path: Path, ready: Prepared) -> None:
    rows = ready.rows(Slice.SEARCH)
    before = rows.tolist()
    prepare(RULES, ToyCorpus(), tmp_path, force=True)
    assert rows.tolist() == before


@pytest.mark.parametrize(
    "change",
    [{"vocab_size": 310}, {"max_seq_len": 32, "eval_tokens": 8 * 32}, {"eval_tokens": 7 * 16}],
)
def test_other_rules_are_other_data(tmp_path: Path, ready: Prepared, change: dict[str, int]) -> None:
    rules = dataclasses.replace(RULES, **change)  # type: ignore[arg-type]
    with pytest.raises(DataMissing):
        open_prepared(rules, "toy", tmp_path)
    assert prepare(rules, ToyCorpus(), tmp_path).directory != ready.directory
    assert open_prepared(RULES, "toy", tmp_path).directory == ready.directory


def test_rules_that_differ_in_budget_only_share_the_data(tmp_path: Path, ready: Prepared) -> None:
    assert open_prepared(dataclasses.replace(RULES, time_budget=99.0), "toy", tmp_path).directory == ready.directory


def test_another_corpus_is_in_force_once_prepared_and_the_old_one_again_after_it_is_asked_for(
    tmp_path: Path, ready: Prepared
) -> None:
    changed = prepare(RULES, ToyCorpus(version="2"), tmp_path)
    assert changed.directory != ready.directory
    assert open_prepared(RULES, "toy", tmp_path).directory == changed.directory
    prepare(RULES, ToyCorpus(), tmp_path)
    assert open_prepared(RULES, "toy", tmp_path).directory == ready.directory


def test_other_validation_text_is_other_data(tmp_path: Path, ready: Prepared) -> None:
    assert prepare(RULES, ToyCorpus(validation="part"), tmp_path).directory != ready.directory


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"directory": 3}', '{"directory": "prepared-gone"}'])
def test_without_a_usable_pointer_the_newest_fitting_folder_is_found(
    tmp_path: Path, ready: Prepared, content: str | None
) -> None:
    newer = prepare(RULES, ToyCorpus(version="2"), tmp_path)
    prepare(dataclasses.replace(RULES, vocab_size=310), ToyCorpus(), tmp_path)
    for pointer in (tmp_path / "toy").glob("current-*.json"):
        pointer.unlink() if content is None else pointer.write_text(content)
    assert open_prepared(RULES, "toy", tmp_path).directory == newer.directory


def test_a_pointer_cannot_lead_out_of_the_cache(tmp_path: Path, ready: Prepared) -> None:
    outside = tmp_path / "outside"
    ready.directory.rename(outside)
    for pointer in (tmp_path / "toy").glob("current-*.json"):
        pointer.write_text(json.dumps({"directory": "../outside"}))
    with pytest.raises(DataMissing):
        open_prepared(RULES, "toy", tmp_path)


def test_nothing_prepared_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(DataMissing) as caught:
        open_prepared(RULES, "toy", tmp_path)
    assert caught.value.hint == "autoresearch prepare --contract smoke"
    with pytest.raises(DataMissing) as caught:
        open_prepared(RULES, "other", tmp_path)
    assert caught.value.hint == "autoresearch prepare --contract smoke --dataset other"
    with pytest.raises(DataMissing):
        open_prepared_directory(tmp_path / "nowhere")


NAMES = ["tokenizer.json", "tokens.npy", "offsets.npy", "rows.search.npy", "rows.certify.npy"]


def file_of(ready: Prepared, name: str) -> Path:
    """The file of that name, or the only shard's."""
    shard = ready.shards[0]
    return {"tokens.npy": shard.tokens_path, "offsets.npy": shard.offsets_path}.get(name, ready.directory / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_or_missing_file_is_noticed_on_opening_and_mended_by_the_hint(
    tmp_path: Path, ready: Prepared, name: str
) -> None:
    path = file_of(ready, name)
    path.write_bytes(path.read_bytes()[:-3])
    for _ in range(2):
        with pytest.raises(DataCorrupt, match=name) as caught:
            open_prepared(RULES, "toy", tmp_path)
        assert caught.value.hint == "autoresearch prepare --contract smoke --force"
        path.unlink(missing_ok=True)
    prepare(RULES, ToyCorpus(), tmp_path)
    open_prepared(RULES, "toy", tmp_path).verify()


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_is_noticed_by_verify_and_built_again(tmp_path: Path, ready: Prepared, name: str) -> None:
    path = file_of(ready, name)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataCorrupt, match=name):
        open_prepared(RULES, "toy", tmp_path).verify()
    lines: list[str] = []
    prepare(RULES, ToyCorpus(), tmp_path, lines.append).verify()
    again = "tokenizing it again" if name in ("tokens.npy", "offsets.npy") else "preparing again"
    assert [line for line in lines if line.endswith(f"was altered: {again}")]


def test_an_altered_tokenizer_of_the_right_size_is_not_used(tmp_path: Path, ready: Prepared) -> None:
    path = ready.directory / "tokenizer.json"
    text = path.read_text()
    first, last = text.rsplit('"', 2)[0], text.rsplit('"', 2)[1]
    path.write_text(first + '"' + "fe" * (len(last) // 2) + '"\n]\n}\n')
    with pytest.raises(DataCorrupt, match="altered"):
        _ = open_prepared(RULES, "toy", tmp_path).tokenizer
    path.write_text(text.replace('"61"', '"62"'))
    with pytest.raises(DataCorrupt, match="lacks 1 single bytes") as caught:
        _ = open_prepared(RULES, "toy", tmp_path).tokenizer
    assert caught.value.hint == "autoresearch prepare --contract smoke --force"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "autoresearch-prepared", "version": 9}'])
def test_a_damaged_manifest_is_corrupt_and_built_again(tmp_path: Path, ready: Prepared, content: str) -> None:
    (ready.directory / "manifest.json").write_text(content)
    with pytest.raises(DataCorrupt):
        open_prepared(RULES, "toy", tmp_path)
    prepare(RULES, ToyCorpus(), tmp_path)
    open_prepared(RULES, "toy", tmp_path).verify()


def test_a_manifest_that_leaves_out_a_file_is_corrupt(ready: Prepared) -> None:
    path = ready.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["rows.search.npy"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataCorrupt, match=r"lacks rows\.search\.npy"):
        open_prepared_directory(ready.directory)


def test_a_slice_that_is_too_short_is_an_error_that_counts(tmp_path: Path) -> None:
    rules = dataclasses.replace(RULES, eval_tokens=10_000 * 16)
    with pytest.raises(DataMissing, match=r"search slice of toy fills \d+ of the 10000 rows"):
        prepare(rules, ToyCorpus(), tmp_path)
    assert left_overs(tmp_path) == []


@pytest.mark.parametrize("vocab_size", [260, 300])
@pytest.mark.parametrize("train", [[], ["", ""]])
def test_a_corpus_without_training_text_is_an_error(tmp_path: Path, train: list[str], vocab_size: int) -> None:
    with pytest.raises(DataMissing, match="no training text"):
        prepare(dataclasses.replace(RULES, vocab_size=vocab_size), ToyCorpus("1", train), tmp_path)


def test_a_tokenizer_that_drops_characters_of_the_validation_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "SPLIT_PATTERN", r"[^😀]+")
    with pytest.raises(DataCorrupt, match="does not reproduce the search text"):
        prepare(RULES, ToyCorpus(), tmp_path)
    assert not list((tmp_path / "toy").glob("prepared-*"))


def test_a_failure_leaves_neither_a_folder_nor_a_pointer(tmp_path: Path) -> None:
    class Torn(ToyCorpus):
        def shard_documents(self, shard: Path) -> Iterator[str]:
            yield from super().shard_documents(shard)
            if self.num_reads > 1:
                raise DataCorrupt("shard is torn", hint="fetch it again")

    with pytest.raises(DataCorrupt, match="torn"):
        prepare(RULES, Torn(), tmp_path)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [".prepare.lock", "tokens"]
    assert not list((tmp_path / "toy").rglob("*.npy*"))


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_that_opens_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    program = dedent(
        """
        import dataclasses, os, signal, sys
        from pathlib import Path
        sys.path[:0] = sys.argv[2:]
        from test_prepared import RULES, ToyCorpus
        from autoresearch.contract.prepared import prepare
        class Killed(ToyCorpus):
            def shard_documents(self, shard):
                yield from super().shard_documents(shard)
                if self.num_reads > 1:
                    os.kill(os.getpid(), signal.SIGKILL)
        prepare(RULES, Killed(), Path(sys.argv[1]))
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path), *map(str, Path(__file__).parents[:2])]
    killed = subprocess.run(command, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "toy" / "tokens").rglob(".*.tmp"))) == 2
    with pytest.raises(DataMissing):
        open_prepared(RULES, "toy", tmp_path)
    prepare(RULES, ToyCorpus(), tmp_path).verify()
    assert not list((tmp_path / "toy" / "tokens").rglob(".*.tmp"))


def at_once(actions: list[Callable[[], object]]) -> list[BaseException]:
    errors: list[BaseException] = []

    def guarded(action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_two_at_once_both_get_the_data_and_the_second_waits_for_the_first(tmp_path: Path) -> None:
    started, waiting = threading.Event(), threading.Event()

    class Slow(ToyCorpus):
        def shard_documents(self, shard: Path) -> Iterator[str]:
            started.set()
            assert waiting.wait(PATIENCE)
            return super().shard_documents(shard)

    def second() -> None:
        assert started.wait(PATIENCE)
        corpus = ToyCorpus()
        prepare(RULES, corpus, tmp_path, lambda line: waiting.set() if "waiting for it" in line else None).verify()
        assert corpus.num_reads == 0

    assert at_once([lambda: prepare(RULES, Slow(), tmp_path).verify(), second]) == []


def test_where_there_are_no_locks_two_at_once_still_leave_whole_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    both = threading.Barrier(2, timeout=PATIENCE)

    class Simultaneous(ToyCorpus):
        def shard_documents(self, shard: Path) -> Iterator[str]:
            both.wait()
            return super().shard_documents(shard)

    assert at_once([lambda: prepare(RULES, Simultaneous(), tmp_path).verify()] * 2) == []
    open_prepared(RULES, "toy", tmp_path).verify()
    assert left_overs(tmp_path) == []


def test_a_rename_that_comes_second_leaves_the_first_in_place(tmp_path: Path) -> None:
    first, second = tmp_path / "final", tmp_path / "aside"
    for path in (first, second):
        path.mkdir()
        (path / "whose").write_text(path.name)
    building._give_name(second, first)
    assert (first / "whose").read_text() == "final"
    assert not second.exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "disk full"), (errno.EROFS, "cannot write")],
)
def test_a_disk_that_refuses_is_our_error_and_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.np, "save", refuse)
    with pytest.raises(DiskError, match=message) as caught:
        prepare(RULES, ToyCorpus(), tmp_path)
    assert "autoresearch prepare --contract smoke" in caught.value.hint
    assert left_overs(tmp_path) == []


def test_a_cache_that_is_a_file_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "toy").write_text("")
    with pytest.raises(DiskError):
        prepare(RULES, ToyCorpus(), tmp_path)


def test_a_path_with_spaces_and_greek_works(tmp_path: Path) -> None:
    root = tmp_path / "my λαβ cache"
    prepare(RULES, ToyCorpus(), root)
    open_prepared(RULES, "toy", root).verify()


def test_opening_reads_no_text_and_loads_no_tokenizer_library(tmp_path: Path, ready: Prepared) -> None:
    program = (
        "import sys; from pathlib import Path; from autoresearch.contract.prepared import open_prepared_directory;"
        "p = open_prepared_directory(Path(sys.argv[1])); p.tokenizer.get_bos_token_id(); next(p.documents(1));"
        "print(sorted({'tiktoken', 'rustbpe', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(ready.directory)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
