"""Byte-pair tokenizer: trained with rustbpe, run by tiktoken, kept as JSON. Bytes per token come from the raw bytes."""

from __future__ import annotations

import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError

Tokens = NDArray[np.uint16] | NDArray[np.uint32]

FILE_NAME = "tokenizer.json"
FORMAT = "autoresearch-tokenizer"
FORMAT_VERSION = 1

# After the split pattern of GPT-4 (cl100k_base, published with tiktoken), with two changes. Numbers are cut into groups
# of at most two digits: in a small vocabulary a thousand three-digit tokens are a poor use of the table. White space is
# matched 128 characters at a time: unbounded, both engines backtrack through a run one frame per character and die of
# stack overflow on a document with a million spaces (measured; bounded, two million take 0.3 s).
SPLIT_PATTERN = "|".join(
    (
        r"'(?i:[sdmt]|ll|ve|re)",  # English contractions
        r"[^\r\n\p{L}\p{N}]?+\p{L}++",  # a word, with one leading space or sign
        r"\p{N}{1,2}+",  # digits, two by two
        r" ?[^\s\p{L}\p{N}]++[\r\n]*+",  # punctuation and what ends its line
        r"\s{0,128}[\r\n]",  # white space up to a line end
        r"\s{1,128}(?!\S)",  # white space before the one that belongs to the next word
        r"\s{1,128}",
    )
)
SPECIALS = tuple(f"<|reserved_{i}|>" for i in range(4))  # the last ids of the vocabulary; the first of them is BOS

NUM_BYTES = 256
SMALLEST_VOCAB_SIZE = NUM_BYTES + len(SPECIALS)  # a vocabulary's size counts every id: bytes, merges, specials
MAX_VOCAB_SIZE = 1 << 20  # five times the largest vocabulary in use
MAX_TOKEN_BYTES = 4096  # far above any merge seen; guards the byte table against a damaged file
_BUFFERED_DOCUMENTS = 256  # that rustbpe holds at a time; its own 8,192 are gigabytes of long documents
_HINT = "autoresearch prepare --force"


class Tokenizer:
    """Text to token ids and back, exactly: `decode_bytes(encode(text)) == text.encode()` for every Unicode text.

    Ids 0 .. V-5 are byte strings in the order in which they were learnt (their BPE rank); V-4 .. V-1 are the reserved
    specials, which text can never produce. Building one is cheap; tiktoken is imported by the first encode or decode.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """`tokens` are the byte strings in rank order, specials not included.

        Raises:
            DataCorrupt: not a vocabulary: a single byte is missing, one occurs twice, or a size is beyond reason.
        """
        _check_vocabulary(tokens)
        self._tokens = tuple(tokens)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote.

        Raises:
            DataCorrupt: not JSON, another format or version, another split pattern, or not a vocabulary.
        """
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataCorrupt(f"tokenizer is not JSON: {error}", hint=_HINT) from error
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise DataCorrupt(f"not a tokenizer file: the field `format` must be {FORMAT!r}", hint=_HINT)
        expected = {"version": FORMAT_VERSION, "pattern": SPLIT_PATTERN, "specials": list(SPECIALS)}
        for name, value in expected.items():
            if body.get(name) != value:
                raise DataCorrupt(f"tokenizer has another {name} than this program: {body.get(name)!r:.80}", hint=_HINT)
        return cls(_tokens_from_hex(body.get("tokens")))

    @classmethod
    def from_directory(cls, directory: Path) -> Tokenizer:
        """The tokenizer of a prepared folder.

        Raises:
            DataMissing: the folder has no tokenizer.json. DataCorrupt: it has, and it is damaged.
        """
        path = Path(directory) / FILE_NAME
        try:
            text = path.read_bytes().decode()
        except FileNotFoundError as error:
            raise DataMissing(f"no tokenizer at {path}", hint="autoresearch prepare") from error
        except UnicodeDecodeError as error:
            raise DataCorrupt(f"tokenizer {path} is not text: {error}", hint=_HINT) from error
        return cls.from_json(text)

    def to_json(self) -> str:
        """The whole tokenizer as JSON text: no code, no pickle, the same bytes for the same tokenizer."""
        body = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "pattern": SPLIT_PATTERN,
            "specials": list(SPECIALS),
            "tokens": [token.hex() for token in self._tokens],
        }
        return json.dumps(body, indent=0) + "\n"

    @cached_property
    def sha256(self) -> str:
        """Hash of `to_json()`: equal hashes mean equal ids for every text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def get_vocab_size(self) -> int:
        """Number of ids, specials included."""
        return len(self._tokens) + len(SPECIALS)

    def get_bos_token_id(self) -> int:
        """Id of `<|reserved_0|>`, with which every row and every document begins."""
        return len(self._tokens)

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The smallest type that holds every id."""
        return np.uint16 if self.get_vocab_size() <= 1 << 16 else np.uint32

    @property
    def token_bytes(self) -> NDArray[np.int32]:
        """int32[V]: length of each token in bytes, 0 for specials. A copy, so nobody can change another's.

        Counted on the tokens themselves. Through `decode`, a piece that is no valid UTF-8 becomes a three-byte
        replacement character, and every byte above 127 counts three times.
        """
        lengths = [len(token) for token in self._tokens] + [0] * len(SPECIALS)
        return np.array(lengths, dtype=np.int32)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without BOS. The name of a special inside the text is ordinary text.

        Raises:
            DataCorrupt: the text holds half a surrogate pair, which is no Unicode text and has no bytes.
        """
        return [int(token) for token in self.encode_array(text)]

    def encode_documents(self, texts: Iterable[str]) -> list[Tokens]:
        """One array of ids per text, in order, without BOS; uint16 while the vocabulary allows, else uint32.

        Encodes on up to eight threads (tiktoken releases the interpreter lock). Raises as `encode`.
        """
        documents = list(texts)
        num_threads = min(8, os.cpu_count() or 1, len(documents))
        if num_threads < 2:
            return [self.encode_array(text) for text in documents]
        with ThreadPoolExecutor(num_threads) as threads:
            return list(threads.map(self.encode_array, documents))

    def encode_array(self, text: str) -> Tokens:
        """Ids of the text, without BOS, in the smallest type that holds every id. Raises as `encode`."""
        try:
            ids: NDArray[np.uint32] = self._encoding.encode_to_numpy(text, allowed_special=set(), disallowed_special=())
        except UnicodeEncodeError as error:
            raise DataCorrupt(
                f"a document is no valid Unicode text: {error}", hint="repair or drop that document"
            ) from error
        return ids if self.dtype is np.uint32 else ids.astype(np.uint16)

    def decode(self, ids: Sequence[int] | Tokens) -> str:
        """The text of these ids, specials by name; pieces of a character become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Sequence[int] | Tokens) -> bytes:
        """The exact bytes of these ids, specials by name. Raises IndexError for an id outside the vocabulary."""
        values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if values and min(values) < 0:
            raise IndexError("token ids are not negative")
        table = self._byte_strings
        return b"".join([table[token] for token in values])

    @cached_property
    def _byte_strings(self) -> tuple[bytes, ...]:
        return self._tokens + tuple(name.encode() for name in SPECIALS)

    @cached_property
    def _encoding(self) -> Any:
        import tiktoken  # 50 ms that a process which only needs the table does not pay

        specials = {name: len(self._tokens) + i for i, name in enumerate(SPECIALS)}
        ranks = {token: rank for rank, token in enumerate(self._tokens)}
        return tiktoken.Encoding("autoresearch", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=specials)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """BPE over the texts (rustbpe), `vocab_size` ids with the 256 bytes and the 4 specials. Deterministic.

    Raises:
        UsageError: the vocabulary cannot hold the bytes and the specials, or is beyond reason.
        DataMissing: the text is too small for so many merges.
        DataCorrupt: a text is no valid Unicode.
    """
    if not SMALLEST_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise UsageError(
            f"a vocabulary of {vocab_size} is impossible: it counts every id, so the smallest is {SMALLEST_VOCAB_SIZE} "
            f"(the {NUM_BYTES} bytes and the {len(SPECIALS)} specials) and the largest {MAX_VOCAB_SIZE}",
            hint=f"take a vocabulary of {SMALLEST_VOCAB_SIZE} for plain bytes, or of 1024 and more for a BPE",
        )
    if vocab_size == SMALLEST_VOCAB_SIZE:
        return Tokenizer([bytes([value]) for value in range(NUM_BYTES)])
    import rustbpe

    trainer = rustbpe.Tokenizer()
    try:
        trainer.train_from_iterator(iter(texts), vocab_size - len(SPECIALS), _BUFFERED_DOCUMENTS, SPLIT_PATTERN)
    except UnicodeEncodeError as error:
        raise DataCorrupt(
            f"a document is no valid Unicode text: {error}", hint="repair or drop that document"
        ) from error
    ranked = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    tokenizer = Tokenizer([bytes(token) for token, _ in ranked])
    if tokenizer.get_vocab_size() < vocab_size:
        raise DataMissing(
            f"the training text is too small: it yields {tokenizer.get_vocab_size()} of {vocab_size} tokens",
            hint="add training text, or take a smaller vocabulary: autoresearch prepare --contract smoke",
        )
    return tokenizer


def _tokens_from_hex(value: object) -> list[bytes]:
    """The byte strings of the JSON list. Raises DataCorrupt for anything that is not a list of hex strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataCorrupt("tokenizer has no list of tokens", hint=_HINT)
    try:
        return [binascii.unhexlify(item) for item in value]
    except ValueError as error:
        raise DataCorrupt(f"tokenizer holds a token that is not hexadecimal: {error}", hint=_HINT) from error


def _check_vocabulary(tokens: Sequence[bytes]) -> None:
    """Raises DataCorrupt unless these byte strings can encode every text, each in one id."""
    if len(tokens) + len(SPECIALS) > MAX_VOCAB_SIZE:
        raise DataCorrupt(f"tokenizer has {len(tokens)} tokens; at most {MAX_VOCAB_SIZE} make sense", hint=_HINT)
    known = set(tokens)
    missing = [value for value in range(NUM_BYTES) if bytes([value]) not in known]
    if missing:
        raise DataCorrupt(f"tokenizer lacks {len(missing)} single bytes, first {missing[0]:#04x}", hint=_HINT)
    if len(known) != len(tokens):
        raise DataCorrupt(f"tokenizer repeats {len(tokens) - len(known)} tokens", hint=_HINT)
    longest = max(map(len, tokens))
    if b"" in known or longest > MAX_TOKEN_BYTES:
        raise DataCorrupt(f"tokenizer has an empty token or one of {longest} bytes", hint=_HINT)
