"""Text from machines, made safe for the files that people and tools read: bounded, without control characters."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def one_line(text: str, limit: int = 200) -> str:
    """One line of printable text: escapes, control, format (bidi, zero-width) and surrogate characters removed."""
    plain = " ".join(_ESCAPE_SEQUENCE.sub("", text).split())
    kept = "".join(char for char in plain if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def markdown(text: str, limit: int = 200) -> str:
    """`one_line`, with everything that Markdown or HTML would act on escaped."""
    return _MARKDOWN.sub(r"\\\1", one_line(text, limit))


def quoted_block(text: str) -> str:
    """Several lines as quoted data: an indented block, which nothing inside can close."""
    lines = [one_line(line, 240) for line in text.splitlines()]
    return "\n".join(f"    {line}" for line in lines)
