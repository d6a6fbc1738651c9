"""The tokenizer in the forms that others read gives the same ids, and comes back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import TEXT, tokenizer

from autoresearch.contract.tokenizer import SPECIALS, Tokenizer
from autoresearch.quantize.token_table import (
    byte_strings,
    gguf_fields,
    huggingface_json,
    letters,
    merges,
    spelled,
    tokenizer_from_gguf,
    tokenizer_from_huggingface,
    unspelled,
)
from autoresearch.vocabulary import DataCorrupt

TRICKY = [
    "",
    " ",
    "It's 12 o'clock; they'LL 'tis 'S 're",
    "1 12 123 1234 12345 in 2026, 3.14159",
    "a  b   c    \n\n  \t x\r\n\r \r\r\n",
    "naïve café 東京 🙂 👩‍👩‍👧 é ﷺ Ǆ ⅷ ²½ ٣٤٥ ६७८",
    "<|reserved_0|> <|reserved_3|>",
    " " * 127 + "x" + " " * 128 + "y" + " " * 129 + "z" + " " * 400,
    "\u00a0\u2003\u2028\u3000x\u0085y\x1c z\x00\x7f",
    "x" * 300 + "!?" * 100 + "\n" * 200,
    TEXT,
]


def test_every_byte_has_a_letter_of_its_own_and_comes_back():
    assert len(set(letters().values())) == 256
    assert letters()[ord("A")] == "A" and letters()[ord(" ")] == "Ġ" and letters()[ord("\n")] == "Ċ"  # GPT-2's
    everything = bytes(range(256))
    assert unspelled(spelled(everything)) == everything
    with pytest.raises(DataCorrupt):
        unspelled("東")


def test_merges_rebuild_every_token_from_its_bytes():
    made = {bytes([value]) for value in range(256)}
    for left, right in merges(byte_strings(tokenizer())):
        assert left in made and right in made
        made.add(left + right)
    assert made == set(byte_strings(tokenizer()))


def test_merges_of_a_small_table_are_these():
    tokens = [b"a", b"b", b"c", b"ab", b"bc", b"abc"]
    assert merges(tokens) == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc")]


@pytest.fixture(scope="module")
def theirs():
    library = pytest.importorskip("tokenizers", reason="pip install 'autoresearch[export]'")
    return library.Tokenizer.from_str(huggingface_json(tokenizer()))


@pytest.mark.parametrize("text", TRICKY)
def test_ids_are_ours(theirs, text):
    theirs.encode_special_tokens = True
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ids == tokenizer().encode(text)
    assert theirs.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs", "Cn"]), max_size=60))
def test_ids_are_ours_for_any_text(theirs, text):
    theirs.encode_special_tokens = True
    assert theirs.encode(text, add_special_tokens=False).ids == tokenizer().encode(text)


def test_a_text_begins_with_bos(theirs):
    assert theirs.encode("a").ids == [tokenizer().get_bos_token_id(), ord("a")]


def test_our_tokenizer_comes_back_from_their_file():
    assert tokenizer_from_huggingface(huggingface_json(tokenizer())).sha256 == tokenizer().sha256


@pytest.mark.parametrize("damage", ["not json", "{}", '{"model": {"vocab": []}}', "pattern", "vocab"])
def test_another_tokenizers_file_is_refused(damage):
    body = json.loads(huggingface_json(tokenizer()))
    if damage == "pattern":
        body["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
        damage = json.dumps(body)
    elif damage == "vocab":
        body["model"]["vocab"].popitem()
        body["model"]["vocab"]["a"] = 5
        damage = json.dumps(body)
    with pytest.raises(DataCorrupt):
        tokenizer_from_huggingface(damage)


def test_the_fields_of_a_gguf_are_these_and_give_the_tokenizer_back():
    fields = {key: value for key, _, value in gguf_fields(tokenizer())}
    assert fields["tokenizer.ggml.model"] == "gpt2" and fields["tokenizer.ggml.pre"] == "llama-bpe"
    assert fields["tokenizer.ggml.tokens"][32] == "Ġ"
    assert fields["tokenizer.ggml.tokens"][-4:] == list(SPECIALS)
    assert fields["tokenizer.ggml.token_type"][-5:] == [1, 3, 3, 3, 3]
    assert fields["tokenizer.ggml.bos_token_id"] == fields["tokenizer.ggml.eos_token_id"] == 380
    assert tokenizer_from_gguf(fields).sha256 == tokenizer().sha256
    for key, value in (
        ("tokenizer.ggml.tokens", fields["tokenizer.ggml.tokens"][1:]),
        ("tokenizer.ggml.tokens", None),
        ("autoresearch.tokenizer.pattern", r"\s+"),
        ("autoresearch.tokenizer.sha256", "0" * 64),
    ):
        with pytest.raises(DataCorrupt):
            tokenizer_from_gguf(fields | {key: value})


def test_a_vocabulary_of_plain_bytes_still_has_a_merge_for_llama_cpp():
    fields = {key: value for key, _, value in gguf_fields(Tokenizer([bytes([i]) for i in range(256)]))}
    (pair,) = fields["tokenizer.ggml.merges"]
    assert unspelled(pair.replace(" ", "")) == b"\0\0"  # makes no token, so nothing is merged
