"""What a candidate hands over, before anything else looks at it."""

from __future__ import annotations

import json

from autoresearch.hostile_text import one_line
from autoresearch.loop.conversation import Ended
from autoresearch.loop.orders import MAX_WEIGHTS_HEADER_BYTES
from autoresearch.vocabulary import Outcome


def check_weights(weights: bytes) -> None:
    """Refuse what is not a safetensors file: 8 bytes header size, a JSON header, the tensors.

    Raises:
        Ended: it is none, or its header is beyond reason.
    """
    from safetensors import SafetensorError, deserialize

    header_bytes = int.from_bytes(weights[:8], "little")
    if header_bytes > MAX_WEIGHTS_HEADER_BYTES:
        raise Ended(
            Outcome.REJECTED,
            f"the weights' header has {header_bytes:,} bytes, {MAX_WEIGHTS_HEADER_BYTES:,} are accepted",
        )
    try:
        deserialize(weights)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise Ended(
            Outcome.REJECTED, f"the weights handed over are not safetensors: {one_line(str(error), 120)}"
        ) from error


def bare(weights: bytes) -> bytes:
    """The same safetensors file without metadata: what a process packs that knows the tensors alone.

    The header is JSON without white space, filled up with blanks to a multiple of 8 bytes, as the library writes it.
    """
    size = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + size])
    if header.pop("__metadata__", None) is None:
        return weights
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + weights[8 + size :]
