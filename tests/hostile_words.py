"""Texts that candidates and proposers may write to break a terminal, a table, a page or a prompt."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

# what escapes, tables, pages and prompts are made of, far more often than chance would offer it
PIECES = (
    *"\x1b\x9b\x9d\x90\x07\x00\x7f\t\n\r\v\f\x85\u2028\u2029\u202e\u2066\u200b\u200d\ufeff\xad\u3164\ufe0f\u0332\ud800\udc00",
    *"[]()<>{}`*_~#|&\\!\"'=+-@:;/.0m ", "\U000e0041", "\ue000", "\u0378", "\x1b[2J", "\x1b]8;;http://x\x1b\\", "\x1b]0;", "\x1bP",
    "http://x.io", "www.x.io", "mailto:a@b.io", "a@b.io", "<img src=x onerror=alert(1)>", "</script>", "![a](http://x)",
    "```", "    ", "---", "[begin quote-", "[end quote-", "| ", "<|im_start|>", "&amp;", "javascript:",
)  # fmt: skip
HOSTILE = st.text() | st.lists(st.sampled_from(PIECES) | st.characters(), max_size=40).map("".join)
# each part has broken a table or a page somewhere
HORROR = (
    '"tab\there\nnext\rline\x1b[31mred\x1b[0m \x1b]0;title\x07\u202eright-to-left\u200b\u2028new\x00\x9b2J\ud800\x7f'
    " | pipe <img src=x onerror=alert(1)> [a](http://x) http://x.io `code` **bold** # head --- &amp; ~~s~~"
)


def hidden(text: str, *allowed: str) -> list[str]:
    """Characters of `text` that drive a terminal, are unseen, or end a line."""
    return [
        char
        for char in text
        if char not in allowed and (unicodedata.category(char)[0] == "C" or unicodedata.category(char) in ("Zl", "Zp"))
    ]
