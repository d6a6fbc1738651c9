"""The tokenizer of a recipe: a table, trained on the chosen text, at any vocabulary from single bytes up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from autoresearch.contract.token_store import MAX_TOKENIZER_CHARACTERS
from autoresearch.contract.tokenizer import NUM_BYTES, SPECIALS, Tokenizer, train_tokenizer
from autoresearch.vocabulary import DataMissing

BYTES_VOCAB_SIZE = NUM_BYTES + len(SPECIALS)  # 260: every byte is a token


def train_table(documents: Iterable[str], vocab_size: int, max_characters: int = MAX_TOKENIZER_CHARACTERS) -> Tokenizer:
    """BPE of `vocab_size` ids, specials included, on the first `max_characters` of the documents, streaming.

    At `BYTES_VOCAB_SIZE` every token is a byte and no text is read.

    Raises:
        UsageError: fewer ids than bytes and specials, or a vocabulary beyond reason.
        DataMissing: no text, or too little for so many merges. DataCorrupt: a document is no valid Unicode.
    """
    if vocab_size == BYTES_VOCAB_SIZE:
        return Tokenizer([bytes([value]) for value in range(NUM_BYTES)])
    return train_tokenizer(_first(documents, max_characters), vocab_size)


def _first(documents: Iterable[str], characters: int) -> Iterator[str]:
    """The documents up to so many characters in all, the last one cut."""
    source = iter(documents)
    first = next((text for text in source if text), None)
    if first is None:
        raise DataMissing("the recipe keeps no text to train a tokenizer on", hint="loosen the filters")
    for text in chain([first], source):
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
