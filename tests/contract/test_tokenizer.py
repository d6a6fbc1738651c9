"""The tokenizer: exact, honest about bytes, safe to load."""

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.contract import tokenizer as module
from autoresearch.contract.tokenizer import SPECIALS, SPLIT_PATTERN, Tokenizer, train_tokenizer
from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError

TEXTS = [
    "It is a truth universally acknowledged, that a single man must be in want of a wife.",
    "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about a little.",
    "Καλημέρα κόσμε! 漢字とかな 😀 in 1851 and 1813; they're here, don't go.\n\n  The end.\r\n",
] * 3
BYTES = [bytes([value]) for value in range(256)]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(TEXTS, 400)


def body_of(tokenizer: Tokenizer) -> dict[str, object]:
    body: dict[str, object] = json.loads(tokenizer.to_json())
    return body


def test_the_vocabulary_counts_the_specials_and_bos_is_the_first_of_the_last_four(trained: Tokenizer) -> None:
    assert trained.get_vocab_size() == 400
    assert trained.get_bos_token_id() == 396
    assert trained.decode([396, 397, 398, 399]) == "".join(SPECIALS)


def test_training_twice_gives_the_same_tokenizer(trained: Tokenizer) -> None:
    assert train_tokenizer(iter(TEXTS), 400).sha256 == trained.sha256


def test_training_shortens_the_text_it_learnt_from(trained: Tokenizer) -> None:
    text = TEXTS[0]
    assert len(trained.encode(text)) < 0.5 * len(text.encode())


def test_json_brings_back_identical_ids(trained: Tokenizer) -> None:
    again = Tokenizer.from_json(trained.to_json())
    assert again.sha256 == trained.sha256
    for text in TEXTS:
        assert again.encode(text) == trained.encode(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_unicode_text_comes_back_byte_for_byte(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert trained.decode_bytes(ids) == text.encode()
    assert trained.decode(ids) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_lengths_of_the_tokens_add_up_to_the_bytes_of_the_text(trained: Tokenizer, text: str) -> None:
    assert trained.token_bytes[trained.encode(text)].sum() == len(text.encode())


def test_bytes_above_127_count_one_each() -> None:
    """Counted through decode, as earlier programs did, each would count three."""
    assert Tokenizer(BYTES).token_bytes.tolist() == [1] * 256 + [0] * 4
    assert Tokenizer(BYTES).token_bytes.dtype == np.int32


def test_changing_a_byte_table_changes_no_other(trained: Tokenizer) -> None:
    trained.token_bytes[:] = 7
    assert trained.token_bytes[65] == 1


def test_the_name_of_a_special_in_the_text_is_text(trained: Tokenizer) -> None:
    text = "a <|reserved_0|> b"
    assert max(trained.encode(text)) < trained.get_bos_token_id()
    assert trained.decode(trained.encode(text)) == text


def test_numbers_are_cut_into_groups_of_two_digits() -> None:
    tokenizer = train_tokenizer(["1234567 1234567 1234567"] * 5, 263)  # three merges: 12, 34, 56
    assert [len(tokenizer.decode([i])) for i in tokenizer.encode("1234567")] == [2, 2, 2, 1]


@pytest.mark.parametrize("text", [" " * 300_000 + "x", "\n" * 300_000, " \n" * 150_000, "a" * 300_000, "\t" * 300_000])
def test_a_long_run_of_one_character_neither_crashes_training_nor_encoding(text: str) -> None:
    tokenizer = train_tokenizer([text], 261)
    assert tokenizer.decode_bytes(tokenizer.encode_documents([text])[0]) == text.encode()


def test_documents_are_encoded_in_order_without_bos(trained: Tokenizer) -> None:
    texts = [*TEXTS, "", "x"] * 20
    documents = trained.encode_documents(iter(texts))
    assert [document.tolist() for document in documents] == [trained.encode(text) for text in texts]
    assert {document.dtype for document in documents} == {np.dtype(np.uint16)}


def test_a_vocabulary_above_65536_takes_four_bytes_per_token() -> None:
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    large = Tokenizer([*BYTES, *pairs])
    assert large.encode_documents(["ab", "c"])[0].dtype == np.uint32
    assert Tokenizer([*BYTES, *pairs[: 65536 - 260]]).encode_documents(["ab"])[0].dtype == np.uint16


def test_half_a_surrogate_pair_is_refused_and_not_replaced(trained: Tokenizer) -> None:
    with pytest.raises(DataCorrupt, match="Unicode"):
        trained.encode_documents(["fine", "\ud800"])
    with pytest.raises(DataCorrupt, match="Unicode"):
        train_tokenizer(["\ud800"], 300)


def test_an_id_outside_the_vocabulary_is_refused(trained: Tokenizer) -> None:
    for token in (400, -1):
        with pytest.raises(IndexError):
            trained.decode_bytes([65, token])


def test_the_file_format_is_this() -> None:
    text = Tokenizer([*BYTES, b"th", "é".encode()]).to_json()
    lines = text.splitlines()
    assert lines[:5] == [
        "{",
        '"format": "autoresearch-tokenizer",',
        '"version": 1,',
        '"pattern": "\'(?i:[sdmt]|ll|ve|re)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?+\\\\p{L}++|\\\\p{N}{1,2}+'
        '| ?[^\\\\s\\\\p{L}\\\\p{N}]++[\\\\r\\\\n]*+|\\\\s{0,128}[\\\\r\\\\n]|\\\\s{1,128}(?!\\\\S)|\\\\s{1,128}",',
        '"specials": [',
    ]
    assert lines[5:9] == [f'"<|reserved_{i}|>"' + ("," if i < 3 else "") for i in range(4)]
    assert lines[9:13] == ["],", '"tokens": [', '"00",', '"01",']
    assert lines[-5:] == ['"ff",', '"7468",', '"c3a9"', "]", "}"]


def test_a_file_of_this_format_is_read() -> None:
    tokens = [f"{value:02x}" for value in range(256)] + ["7468", "746865"]
    body = {
        "format": "autoresearch-tokenizer",
        "version": 1,
        "pattern": SPLIT_PATTERN,
        "specials": ["<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"],
        "tokens": tokens,
    }
    assert Tokenizer.from_json(json.dumps(body)).encode("thee") == [257, 101]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "other"}, "not a tokenizer file"),
        ({"version": 2}, "another version"),
        ({"pattern": "."}, "another pattern"),
        ({"specials": ["<|bos|>"]}, "another specials"),
        ({"tokens": None}, "no list of tokens"),
        ({"tokens": [1, 2]}, "no list of tokens"),
        ({"tokens": []}, "lacks 256 single bytes"),
        ({"tokens": [token.hex() for token in BYTES[:65] + BYTES[66:]]}, "lacks 1 single bytes, first 0x41"),
        ({"tokens": [token.hex() for token in [*BYTES, b"A"]]}, "repeats 1 tokens"),
        ({"tokens": [token.hex() for token in [*BYTES, b""]]}, "empty token"),
        ({"tokens": [token.hex() for token in [*BYTES, b"x" * 5000]]}, "5000 bytes"),
        ({"tokens": ["zz"] + [token.hex() for token in BYTES]}, "hexadecimal"),
        ({"tokens": ["é"] + [token.hex() for token in BYTES]}, "hexadecimal"),
    ],
)
def test_a_damaged_file_is_refused_with_what_to_type(
    trained: Tokenizer, change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(DataCorrupt, match=complaint) as caught:
        Tokenizer.from_json(json.dumps(body_of(trained) | change))
    assert "autoresearch prepare" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "\x00", "[" * 100_000])
def test_what_is_no_tokenizer_at_all_is_refused(text: str) -> None:
    with pytest.raises(DataCorrupt):
        Tokenizer.from_json(text)


def test_no_truncation_of_the_file_is_accepted(trained: Tokenizer) -> None:
    text = trained.to_json().rstrip()
    for length in range(0, len(text), 97):
        with pytest.raises(DataCorrupt):
            Tokenizer.from_json(text[:length])


def test_a_folder_without_or_with_a_broken_tokenizer_says_which(tmp_path, trained: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataMissing, match=r"tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataCorrupt, match="not text"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text(trained.to_json())
    assert Tokenizer.from_directory(tmp_path).sha256 == trained.sha256


@pytest.mark.parametrize("size", [0, 256, 259, 1 << 21])
def test_an_impossible_vocabulary_is_refused_before_training_and_the_smallest_one_named(size: int) -> None:
    with pytest.raises(
        UsageError, match=rf"{size} is impossible: .* smallest is 260 \(the 256 bytes and the 4 specials"
    ):
        train_tokenizer(["text"], size)


def test_the_smallest_vocabulary_is_the_bytes_and_reads_no_text() -> None:
    def never() -> Iterator[str]:
        raise AssertionError("read")
        yield ""

    tokenizer = train_tokenizer(never(), 260)
    assert tokenizer.encode("é!") == [0xC3, 0xA9, 0x21]
    assert tokenizer.get_bos_token_id() == 256
    assert tokenizer.encode_array("é!").dtype == np.uint16


@pytest.mark.parametrize("size", [261, 300, 420])
def test_a_vocabulary_has_the_size_that_was_asked_for(size: int) -> None:
    assert train_tokenizer(TEXTS, size).get_vocab_size() == size


def test_the_text_is_streamed_and_how_much_is_held_does_not_change_the_tokenizer(
    trained: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    held: set[int] = set()

    class Text(str):
        def __init__(self, _: object) -> None:
            held.add(id(self))

        def __del__(self) -> None:
            held.discard(id(self))

    def texts() -> Iterator[str]:
        for number in range(400):
            yield Text(TEXTS[number % len(TEXTS)])
            alive.append(len(held))

    monkeypatch.setattr(module, "_BUFFERED_DOCUMENTS", 16)
    few = train_tokenizer(texts(), 400)
    assert max(alive) <= 2 * 16
    monkeypatch.setattr(module, "_BUFFERED_DOCUMENTS", 8192)
    assert train_tokenizer((TEXTS[number % len(TEXTS)] for number in range(400)), 400).sha256 == few.sha256


def test_too_little_text_for_the_vocabulary_is_an_error_that_counts() -> None:
    with pytest.raises(DataMissing, match="yields 261 of 300"):
        train_tokenizer(["ab"], 300)


def test_the_table_alone_loads_neither_tiktoken_nor_rustbpe(tmp_path, trained: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "tokenizer.json").write_text(trained.to_json())
    program = (
        "import sys; from autoresearch.contract.tokenizer import Tokenizer; from pathlib import Path;"
        "t = Tokenizer.from_directory(Path(sys.argv[1])); t.token_bytes; t.get_bos_token_id();"
        "print(t.get_vocab_size(), sorted({'tiktoken', 'rustbpe', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "400 []"
