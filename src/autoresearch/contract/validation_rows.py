"""Validation rows: a slice's text, encoded exactly and packed in the order of its documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from autoresearch.contract.packing import pack_rows
from autoresearch.contract.rules import Rules
from autoresearch.contract.token_shards import Tokens
from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.vocabulary import DataCorrupt, DataMissing, Slice

_DOCUMENTS_AT_A_TIME = 256  # per round of the encoder's threads: some megabytes of text in memory


class ValidationText(Protocol):
    """What is needed of a corpus."""

    @property
    def name(self) -> str:
        """The dataset's name."""

    def validation_documents(self, part: Slice, /) -> Iterator[str]:
        """The documents of one slice in order."""


def validation_rows(tokenizer: Tokenizer, corpus: ValidationText, part: Slice, rules: Rules) -> Tokens:
    """[num_eval_rows, T+1]: the first rows that the packer makes of the slice's documents in order.

    Raises:
        DataMissing: the slice does not fill them. DataCorrupt: the tokenizer does not reproduce its text.
    """
    documents = _reproduced(tokenizer, corpus.validation_documents(part), part)
    packed = pack_rows(documents, rules.max_seq_len + 1, tokenizer.get_bos_token_id())
    rows = list(islice(packed, rules.num_eval_rows))
    if len(rows) < rules.num_eval_rows:
        raise DataMissing(
            f"the {part} slice of {corpus.name} fills {len(rows)} of the {rules.num_eval_rows} rows that a score needs",
            hint="add validation text, or take a contract that scores less of it: autoresearch prepare --contract tiny",
        )
    return np.stack(rows)


def _reproduced(tokenizer: Tokenizer, documents: Iterable[str], part: Slice) -> Iterator[Tokens]:
    """Tokens of each document, having seen that they decode to its very bytes: a score counts the text's own bytes.

    Raises:
        DataCorrupt: they do not.
    """
    for text, tokens in _encoded(tokenizer, documents):
        if tokenizer.decode_bytes(tokens) != text.encode():
            raise DataCorrupt(
                f"the tokenizer does not reproduce the {part} text: {text[:60]!r}…",
                hint="autoresearch doctor, and report the versions of rustbpe and tiktoken",
            )
        yield tokens


def _encoded(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[tuple[str, Tokens]]:
    """Each document with its tokens, encoded some at a time on the tokenizer's threads."""
    source = iter(documents)
    while texts := list(islice(source, _DOCUMENTS_AT_A_TIME)):
        yield from zip(texts, tokenizer.encode_documents(texts), strict=True)
