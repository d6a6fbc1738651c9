"""Our tokenizer in the forms that others read: GPT-2's letters for bytes, merges by rank, tokenizers' JSON, GGUF fields.

Our table ranks byte strings and merges whatever adjacent pair makes the string of lowest rank. The other forms rank pairs,
so a string that several pairs of known strings make is listed once for each of them, one after the other.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from autoresearch.contract.tokenizer import MAX_VOCAB_SIZE, SPECIALS, SPLIT_PATTERN, Tokenizer
from autoresearch.vocabulary import DataCorrupt

# The contract's pattern for engines without possessive quantifiers: Oniguruma, which `tokenizers` uses, reads {1,2}+ as
# a repeated group. No alternative can match less than possessively and still succeed, so greedy ones split the same.
PLAIN_PATTERN = "|".join(
    (
        r"'(?i:[sdmt]|ll|ve|re)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s{0,128}[\r\n]",
        r"\s{1,128}(?!\S)",
        r"\s{1,128}",
    )
)

# The stock pre-tokenizer of llama.cpp that splits most like ours; it has digits in groups of three instead of two, and
# white space without a bound. So numbers of one or two digits, and all text without longer numbers, encode the same.
STOCK_PRE = "llama-bpe"
STOCK_DIFFERENCE = (
    "llama.cpp has no pre-tokenizer with digits two by two: numbers of three digits and more, and runs of more than 128"
    " spaces, become other tokens there than in training (still exact text)"
)

NORMAL, CONTROL = 1, 3  # GGUF's token types


@cache
def letters() -> dict[int, str]:
    """The letter that stands for each byte in vocabularies of GPT-2's kind: itself if printable, else one from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


@cache
def _bytes_of_letters() -> dict[str, int]:
    return {letter: byte for byte, letter in letters().items()}


def spelled(token: bytes) -> str:
    """A byte string in those letters."""
    table = letters()
    return "".join([table[byte] for byte in token])


def unspelled(text: str) -> bytes:
    """Back again.

    Raises:
        DataCorrupt: a letter that stands for no byte.
    """
    table = _bytes_of_letters()
    try:
        return bytes([table[letter] for letter in text])
    except KeyError as error:
        raise DataCorrupt(
            f"token {text!r:.60} is not spelled in byte letters", hint="export the checkpoint again"
        ) from error


def byte_strings(tokenizer: Tokenizer) -> list[bytes]:
    """The tokens in rank order, specials not included."""
    return [tokenizer.decode_bytes([token]) for token in range(tokenizer.get_bos_token_id())]


def merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Pairs in the order in which they are merged: for each string by rank, every pair of strings of lower rank that
    makes it; of these first the one that merging by rank itself arrives at."""
    rank = {token: at for at, token in enumerate(tokens)}
    found = []
    for at, token in enumerate(tokens):
        if len(token) < 2:
            continue
        cuts = [
            (left, right)
            for cut in range(1, len(token))
            if rank.get(left := token[:cut], at) < at and rank.get(right := token[cut:], at) < at
        ]
        usual = _last_merge(token, rank, at)
        found += sorted(cuts, key=lambda pair: (pair != usual, -len(pair[0])))
    return found


def _last_merge(token: bytes, rank: dict[bytes, int], below: int) -> tuple[bytes, bytes] | None:
    """The two parts that are left of a string when merging by rank stops before the string itself; None if more are."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranks = [rank.get(a + b, below) for a, b in itertools.pairwise(parts)]
        best = min(ranks)
        if best >= below:
            return None
        at = ranks.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


# -- tokenizers (Hugging Face) ------------------------------------------------------------------------------------------


def huggingface_json(tokenizer: Tokenizer) -> str:
    """tokenizer.json of the `tokenizers` library: byte-level BPE that gives the same ids, after BOS unless special tokens are off."""
    tokens = byte_strings(tokenizer)
    vocab = {spelled(token): at for at, token in enumerate(tokens)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    body = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": len(tokens) + at, "content": name, **flags} for at, name in enumerate(SPECIALS)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PLAIN_PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": SPECIALS[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": SPECIALS[0], "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {SPECIALS[0]: {"id": SPECIALS[0], "ids": [len(tokens)], "tokens": [SPECIALS[0]]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece that is a token is that token, as in our own encoder
            "vocab": vocab,
            "merges": [[spelled(left), spelled(right)] for left, right in merges(tokens)],
        },
    }
    return json.dumps(body, ensure_ascii=False, indent=0) + "\n"


def tokenizer_from_huggingface(text: str) -> Tokenizer:
    """Our tokenizer from what `huggingface_json` wrote.

    Raises:
        DataCorrupt: another tokenizer's file, or a damaged one.
    """
    hint = "give our own tokenizer.json, or a folder that autoresearch export wrote"
    try:
        body = json.loads(text)
        vocab = body["model"]["vocab"]
        pattern = body["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        added = [entry["content"] for entry in sorted(body["added_tokens"], key=lambda entry: int(entry["id"]))]
        ids = sorted((int(at), str(name)) for name, at in vocab.items())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DataCorrupt(f"not a tokenizer that export wrote: {error!r:.120}", hint=hint) from error
    if pattern != PLAIN_PATTERN or added != list(SPECIALS) or [at for at, _ in ids] != list(range(len(ids))):
        raise DataCorrupt("the tokenizer splits text in another way than ours, or has other specials", hint=hint)
    return Tokenizer([unspelled(name) for _, name in ids])


# -- GGUF ---------------------------------------------------------------------------------------------------------------


def gguf_fields(tokenizer: Tokenizer) -> Iterator[tuple[str, str, Any]]:
    """(key, kind, value) of every tokenizer field of a GGUF; kinds are string, uint32, bool, strings and int32s."""
    tokens = byte_strings(tokenizer)
    bos = tokenizer.get_bos_token_id()
    pairs = [f"{spelled(left)} {spelled(right)}" for left, right in merges(tokens)]
    # llama.cpp refuses a vocabulary without merges, and empty arrays are dropped by the writer. This pair makes a string
    # that is no token, which llama.cpp then takes apart into its bytes again.
    nothing = f"{spelled(bytes(1))} {spelled(bytes(1))}"
    yield "tokenizer.ggml.model", "string", "gpt2"
    yield "tokenizer.ggml.pre", "string", STOCK_PRE
    yield "tokenizer.ggml.tokens", "strings", [*map(spelled, tokens), *SPECIALS]
    yield "tokenizer.ggml.token_type", "int32s", [NORMAL] * len(tokens) + [CONTROL] * len(SPECIALS)
    yield "tokenizer.ggml.merges", "strings", pairs or [nothing]
    yield "tokenizer.ggml.bos_token_id", "uint32", bos
    # a document ends where the next one begins: BOS is what a model writes when it is done
    yield "tokenizer.ggml.eos_token_id", "uint32", bos
    yield "tokenizer.ggml.add_bos_token", "bool", True
    yield "tokenizer.ggml.add_eos_token", "bool", False
    yield "autoresearch.tokenizer.pattern", "string", SPLIT_PATTERN
    yield "autoresearch.tokenizer.sha256", "string", tokenizer.sha256


def tokenizer_from_gguf(fields: dict[str, Any]) -> Tokenizer:
    """Our tokenizer from those fields.

    Raises:
        DataCorrupt: they are damaged, or another tokenizer's.
    """
    hint = "export the checkpoint again"
    names = fields.get("tokenizer.ggml.tokens")
    if not isinstance(names, list) or not len(SPECIALS) < len(names) <= MAX_VOCAB_SIZE:
        raise DataCorrupt("the file holds no tokens", hint=hint)
    if fields.get("autoresearch.tokenizer.pattern") != SPLIT_PATTERN or names[-len(SPECIALS) :] != list(SPECIALS):
        raise DataCorrupt("the file's tokenizer splits text in another way than this program's", hint=hint)
    tokenizer = Tokenizer([unspelled(str(name)) for name in names[: -len(SPECIALS)]])
    if tokenizer.sha256 != fields.get("autoresearch.tokenizer.sha256"):
        raise DataCorrupt("the file's tokenizer was altered: its hash is another", hint=hint)
    return tokenizer
