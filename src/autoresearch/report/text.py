"""Clean text (`hostile_text`) on a terminal: measured in columns, cut to fit; and numbers the way people read them."""

from __future__ import annotations

import math
import unicodedata

from autoresearch.hostile_text import ELLIPSIS

# What a terminal that speaks only ASCII gets instead. Each stands for one column and stays one.
_ASCII = str.maketrans(
    {
        "…": "~", "→": ">", "─": "-", "│": "|", "┐": "+", "┘": "+", "┌": "+", "└": "+", "┤": "+", "┴": "+", "●": "O",
        "·": ".", "×": "x", "▲": "^", "▼": "v", "±": "~", "▏": "|",
    }
)  # fmt: skip


def columns(text: str) -> int:
    """Terminal columns that clean `text` takes: two for wide East Asian characters and emoji, none for marks."""
    return sum(_columns_of(char) for char in text)


def cut(text: str, width: int) -> str:
    """`text` if it fits `width` columns, else its beginning and an ellipsis; never wider than `width`."""
    if columns(text) <= width:
        return text
    if width <= 0:
        return ""
    kept: list[str] = []
    room = width - 1
    for char in text:
        room -= _columns_of(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept).rstrip() + ELLIPSIS


def pad(text: str, width: int, *, right: bool = False) -> str:
    """`text` filled with spaces to `width` columns; `right` puts the text at the right."""
    fill = " " * max(0, width - columns(text))
    return fill + text if right else text + fill


def for_encoding(text: str, encoding: str | None) -> str:
    """`text` with what `encoding` cannot express replaced, column for column where a likeness is known, else by `?`."""
    name = encoding or "utf-8"
    try:
        text.encode(name)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(name, "replace").decode(name)
    return text


def duration(seconds: float) -> str:
    """Seconds as people say them: `11s`, `3m`, `1h05m`, `2d03h`. Above a minute, rounded to the unit shown."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, math.floor(seconds + 0.5))
    if whole < 60:
        return f"{whole}s"
    minutes = (whole + 30) // 60
    if minutes < 60:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 48:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{hours // 24}d{hours % 24:02d}h"


def count(number: float) -> str:
    """A large number in at most five characters: `950`, `14.2k`, `1.20M`, `3.1G`."""
    if not math.isfinite(number):
        return "?"
    for limit, divisor, suffix in ((999.5, 1.0, ""), (999_500.0, 1e3, "k"), (999.5e6, 1e6, "M")):
        if abs(number) < limit:
            scaled = number / divisor
            digits = 0 if not suffix or abs(scaled) >= 99.95 else 1
            return f"{scaled:.{digits}f}{suffix}"
    return f"{number / 1e9:.1f}G"


def _columns_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
