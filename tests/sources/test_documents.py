"""Documents out of files of any kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_text import parquet

from autoresearch.sources.documents import TEXT_CHARACTERS, articles, read_any
from autoresearch.vocabulary import DataCorrupt, UsageError


def read(folder: Path, name: str, data: bytes, column: str | None = None) -> list[str]:
    path = folder / name
    path.write_bytes(data)
    return list(read_any(path, column))


def test_a_text_file_without_separators_is_cut_at_empty_lines_into_documents_of_some_length(tmp_path: Path):
    paragraphs = [f"paragraph {at} " + "word " * 100 for at in range(40)]
    documents = read(tmp_path, "t.txt", "\n\n".join(paragraphs).encode())
    assert "".join("".join(documents).split()) == "".join("".join(paragraphs).split())
    assert all(TEXT_CHARACTERS <= len(text) < 2 * TEXT_CHARACTERS for text in documents[:-1])
    assert all(text.startswith("paragraph") for text in documents)


def test_a_text_file_without_empty_lines_is_still_cut(tmp_path: Path):
    documents = read(tmp_path, "t.txt", ("a line of words\n" * 20_000).encode())
    assert len(documents) > 3
    assert max(map(len, documents)) <= 10 * TEXT_CHARACTERS + 20


def test_separators_end_documents_wherever_they_stand(tmp_path: Path):
    text = "one\n\nstill one\n<|endoftext|>\ntwo<|endoftext|>three<|endoftext|><|endoftext|>\n\n"
    assert read(tmp_path, "t.txt", text.encode()) == ["one\n\nstill one", "two", "three"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    assert read(tmp_path, "t.txt", b"\xef\xbb\xbfhello") == ["hello"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.txt", b"caf\xe9", "not UTF-8"),
        ("t.jsonl", b'{"text": "a"}\n{"text": ', "line 2 is not JSON"),
        ("t.jsonl", b'["a"]\n', "line 1 is not a JSON object"),
        ("t.jsonl", b'{"text": "a"}\n{"text": 3}\n', "line 2: text holds no string"),
        ("t.jsonl", b'{"text": "\\ud800"}\n', "line 1 holds half of a surrogate pair"),
        ("t.jsonl.gz", b"not gzip", "cannot be read"),
        ("t.jsonl.zst", b"not zstd", "cannot be read"),
        ("t.parquet", b"PAR1 not", "not a whole parquet file"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path: Path, name: str, data: bytes, said: str):
    with pytest.raises(DataCorrupt, match=said) as raised:
        read(tmp_path, name, data)
    assert name in raised.value.message
    assert raised.value.hint


def test_rows_and_lines_without_text_are_passed_over(tmp_path: Path):
    assert read(tmp_path, "t.jsonl", b'{"text": "a"}\n\n{"text": null}\n{"text": ""}\n{"text": "b"}\n') == ["a", "b"]
    assert read(tmp_path, "t.parquet", parquet(["a", None, "", "b"])) == ["a", "b"]


def test_the_only_column_of_strings_is_the_text(tmp_path: Path):
    assert read(tmp_path, "t.parquet", parquet(["a"], column="content", score=[1.5])) == ["a"]
    assert read(tmp_path, "t.jsonl", b'{"n": 1, "content": "a"}') == ["a"]
    with pytest.raises(UsageError, match="no column of text, only n"):
        read(tmp_path, "u.jsonl", b'{"n": 1}')


def test_deeper_headings_do_not_begin_an_article():
    lines = ["", " = One = \n", "", " = = Part = = \n", " a = b \n", "", " = Two = \n", " c \n"]
    assert list(articles(lines)) == ["\n = One = \n\n = = Part = = \n a = b \n\n", " = Two = \n c \n"]
