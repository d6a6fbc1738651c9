"""Text from a model: one token after the other, from a cache, on any device that torch has."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoresearch.contract.tokenizer import Tokenizer
from autoresearch.vocabulary import UsageError

if TYPE_CHECKING:
    import torch

    from autoresearch.quantize.reference import ReferenceGPT


@dataclass(frozen=True)
class Wish:
    """How to write. temperature 0: always the likeliest token. top_k None: of all tokens. seed: the same text again."""

    max_tokens: int = 256
    temperature: float = 0.8
    top_k: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises UsageError for numbers that make no sense."""
        if self.max_tokens < 1:
            raise UsageError(f"{self.max_tokens} tokens are none", hint="--tokens 256")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(
                f"a temperature of {self.temperature} is none", hint="--temperature 0.8   (0: always the likeliest)"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"the best {self.top_k} tokens are none", hint="--top-k 50")


def sample_ids(model: ReferenceGPT, prompt: Sequence[int], wish: Wish, *, stop_from: int) -> Iterator[int]:
    """The tokens that follow `prompt`, as they are made; ends before one >= stop_from (a special: the document is over).

    Drawn on the CPU, so that a seed means the same on every device up to the logits' rounding. When the model's length is
    reached, it reads the newer half of the text again and goes on: what lies before is forgotten.

    Raises:
        UsageError: an empty prompt, an id outside the vocabulary, or a wish that makes no sense.
    """
    import torch

    from autoresearch.quantize.reference import Cache

    wish.check()
    config = model.config
    if not prompt or not all(0 <= token < config.vocab_size for token in prompt):
        raise UsageError("the prompt is empty, or has ids that the model does not know", hint="begin with BOS")
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(wish.seed)
    text = list(prompt)
    waiting = text[-config.sequence_len :]
    cache = Cache(config, 1, device)
    for _ in range(wish.max_tokens):
        if cache.length + len(waiting) > config.sequence_len:
            cache, waiting = Cache(config, 1, device), text[-max(1, config.sequence_len // 2) :]
        with torch.no_grad():
            logits = model(torch.tensor([waiting], device=device), cache)[0, -1]
        token = _drawn(logits.float().cpu(), wish, random)
        if token >= stop_from:
            return
        text.append(token)
        waiting = [token]
        yield token


def _drawn(logits: torch.Tensor, wish: Wish, random: torch.Generator) -> int:
    """One token of logits [V]."""
    import torch

    if wish.temperature == 0:
        return int(logits.argmax())
    if wish.top_k is not None and wish.top_k < len(logits):
        best, ids = logits.topk(wish.top_k)
    else:
        best, ids = logits, torch.arange(len(logits))
    chances = torch.softmax(best.double() / wish.temperature, -1)
    return int(ids[torch.multinomial(chances, 1, generator=random)])


def sample_text(model: ReferenceGPT, tokenizer: Tokenizer, prompt: str, wish: Wish) -> Iterator[str]:
    """The text that follows `prompt` at the beginning of a document, in pieces as it is made; whole characters only.

    Bytes that are no UTF-8 become U+FFFD. Nothing is cleaned: whoever shows it cleans it (hostile_text).
    """
    bos = tokenizer.get_bos_token_id()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in sample_ids(model, [bos, *tokenizer.encode(prompt)], wish, stop_from=bos):
        piece = decoder.decode(tokenizer.decode_bytes([token]))
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest
