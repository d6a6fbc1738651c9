"""Token shards: documents in, the same documents out, whole or absent, in a format that any numpy reads."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.contract import token_shards as module
from autoresearch.contract.token_shards import TokenShard, find_token_shard, write_token_shard
from autoresearch.files import sweep_temporaries
from autoresearch.vocabulary import DataCorrupt, DataMissing


def arrays(*documents: list[int], dtype: type = np.uint16) -> list[np.ndarray]:
    return [np.array(document, dtype=dtype) for document in documents]


def documents_of(shard: TokenShard) -> list[list[int]]:
    tokens, offsets = shard.open()
    return [tokens[offsets[i] : offsets[i + 1]].tolist() for i in range(shard.num_documents)]


@settings(max_examples=25)  # each writes and flushes two files
@given(st.lists(st.lists(st.integers(0, 65535))), st.sampled_from([np.uint16, np.uint32]))
def test_documents_come_back_in_order_without_the_empty_ones(tmp_path_factory, documents, dtype) -> None:
    folder = tmp_path_factory.mktemp("shard")
    shard = write_token_shard(folder, "a", iter(arrays(*documents, dtype=dtype)), dtype)
    assert documents_of(shard) == [document for document in documents if document]
    assert shard.num_tokens == sum(map(len, documents))
    assert shard.open()[0].dtype == dtype
    assert find_token_shard(folder, "a") == shard


def test_more_offsets_than_are_buffered_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUFFERED", 4)
    documents = [[i, i] for i in range(41)]
    assert documents_of(write_token_shard(tmp_path, "a", iter(arrays(*documents)), np.uint16)) == documents


def test_the_files_are_these_bytes(tmp_path: Path) -> None:
    write_token_shard(tmp_path, "shard", arrays([1, 2], [258]), np.uint16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard.offsets.npy", "shard.tokens.npy"]
    content = (tmp_path / "shard.tokens.npy").read_bytes()
    assert content[:10] == b"\x93NUMPY\x01\x00\x76\x00"
    assert content[10:128].startswith(b"{'descr': '<u2', 'fortran_order': False, 'shape': (3,), }")
    assert content[128:] == b"\x01\x00\x02\x00\x02\x01"
    offsets = (tmp_path / "shard.offsets.npy").read_bytes()
    assert offsets[10:128].startswith(b"{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }")
    assert offsets[128:] == b"".join(value.to_bytes(8, "little") for value in (0, 2, 3))


def test_what_is_open_is_a_plain_array_that_nobody_can_write(tmp_path: Path) -> None:
    for array in write_token_shard(tmp_path, "a", arrays([1, 2, 3]), np.uint16).open():
        assert type(array) is np.ndarray
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_reader_of_the_old_shard_keeps_reading_while_it_is_replaced(tmp_path: Path) -> None:
    tokens, offsets = write_token_shard(tmp_path, "a", arrays([1, 2, 3]), np.uint16).open()
    new = write_token_shard(tmp_path, "a", arrays([9], [8]), np.uint16)
    assert (tokens.tolist(), offsets.tolist()) == ([1, 2, 3], [0, 3])
    assert documents_of(new) == [[9], [8]]


def test_an_error_in_the_middle_leaves_no_file_and_keeps_the_old_shard(tmp_path: Path) -> None:
    def torn() -> Iterator[np.ndarray]:
        yield from arrays([1])
        raise DataCorrupt("torn")

    with pytest.raises(DataCorrupt, match="torn"):
        write_token_shard(tmp_path, "a", torn(), np.uint16)
    assert list(tmp_path.iterdir()) == []
    old = write_token_shard(tmp_path, "a", arrays([5]), np.uint16)
    with pytest.raises(DataCorrupt, match="torn"):
        write_token_shard(tmp_path, "a", torn(), np.uint16)
    assert documents_of(old) == [[5]]


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.float32])
def test_a_document_of_another_dtype_is_refused(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(DataCorrupt, match="in a shard of uint16"):
        write_token_shard(tmp_path, "a", arrays([1], dtype=dtype), np.uint16)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_middle_leaves_no_shard_and_what_is_left_is_swept(tmp_path: Path) -> None:
    program = dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from autoresearch.contract.token_shards import write_token_shard
        def documents():
            yield np.array([1, 2], dtype=np.uint16)
            os.kill(os.getpid(), signal.SIGKILL)
        write_token_shard(Path(sys.argv[1]), "a", documents(), np.uint16)
        """
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert find_token_shard(tmp_path, "a") is None
    assert len(list(tmp_path.iterdir())) == 2
    sweep_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [module.TOKENS_SUFFIX, module.OFFSETS_SUFFIX])
def test_a_missing_or_truncated_file_is_our_error_and_no_shard(tmp_path: Path, suffix: str) -> None:
    shard = write_token_shard(tmp_path, "a", arrays([1, 2], [3]), np.uint16)
    path = tmp_path / ("a" + suffix)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataCorrupt, match=path.name):
        shard.open()
    assert find_token_shard(tmp_path, "a") is None
    path.unlink()
    with pytest.raises(DataMissing, match=path.name):
        shard.open()
    assert find_token_shard(tmp_path, "a") is None


def test_files_of_two_shards_do_not_open_as_one(tmp_path: Path) -> None:
    first = write_token_shard(tmp_path, "a", arrays([1, 2], [3]), np.uint16)
    second = write_token_shard(tmp_path, "b", arrays([1], [2, 3, 4]), np.uint16)
    with pytest.raises(DataCorrupt, match="not 3 tokens"):
        TokenShard(second.tokens_path, first.offsets_path, 2, 3).open()
    with pytest.raises(DataCorrupt, match="spans 0 to 4"):
        TokenShard(first.tokens_path, second.offsets_path, 2, 3).open()
    with pytest.raises(DataCorrupt, match="not 4 offsets"):
        TokenShard(first.tokens_path, first.offsets_path, 3, 3).open()


def test_an_array_of_objects_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    shard = write_token_shard(tmp_path, "a", arrays([1]), np.uint16)
    np.save(shard.tokens_path, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(DataCorrupt):
        shard.open()
