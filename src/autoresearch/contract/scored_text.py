"""The text that a data session is scored on: whole documents, the same bytes whatever the tokenizer.

A model session scores a fixed number of rows. Under another tokenizer the same number of rows holds other text, so where
a recipe brings its own tokenizer the documents are fixed instead: of each slice, the first that fit into the contract's rows under
the contract's own tokenizer. However a recipe cuts them into tokens, val_bpb divides by the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from autoresearch.contract.packing import Packer, Tokens
from autoresearch.contract.rules import Rules
from autoresearch.contract.tokenizer import Tokenizer

_DOCUMENTS_AT_A_TIME = 64


class TextNotReproduced(Exception):
    """A tokenizer that does not give the text back, byte for byte; the message says where."""


def documents_scored(documents: Iterable[str], tokenizer: Tokenizer, rules: Rules) -> list[str]:
    """The first documents that fit into `rules.num_eval_rows` rows of T+1 tokens, BOS included; one at least."""
    room = rules.num_eval_rows * (rules.max_seq_len + 1)
    found: list[str] = []
    source = iter(documents)
    while texts := list(islice(source, _DOCUMENTS_AT_A_TIME)):
        for text, tokens in zip(texts, tokenizer.encode_documents(texts), strict=True):
            room -= len(tokens) + 1
            if room < 0 and found:
                return found
            found.append(text)
    return found


def rows_of(documents: Sequence[str], tokenizer: Tokenizer, rules: Rules) -> Tokens:
    """[num_rows, T+1]: every byte of the documents as a target, packed; the last row is filled up with BOS.

    BOS stands for no bytes, so nothing is scored there. Every document is decoded again and compared first.

    Raises:
        TextNotReproduced: the tokenizer does not give a document back.
    """
    packer = Packer(_reproduced(documents, tokenizer), tokenizer.get_bos_token_id())
    rows: list[Tokens] = []
    while True:
        row = np.full(rules.max_seq_len + 1, tokenizer.get_bos_token_id(), dtype=packer.dtype)
        filled = packer.fill(row)
        if filled or (row != tokenizer.get_bos_token_id()).any():
            rows.append(row)
        if not filled:
            return np.stack(rows)


def _reproduced(documents: Sequence[str], tokenizer: Tokenizer) -> Iterator[Tokens]:
    for text, tokens in zip(documents, tokenizer.encode_documents(documents), strict=True):
        if tokenizer.decode_bytes(tokens) != text.encode():
            raise TextNotReproduced(f"the tokenizer does not give the validation text back: {text[:60]!r}…")
        yield tokens
