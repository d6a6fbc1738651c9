"""Front matter of a Markdown page: plain `key: value` lines between two `---`."""

from __future__ import annotations


def read(text: str) -> dict[str, str]:
    first, front, _body = text.split("---\n", 2)
    assert first == ""
    pairs = (line.split(": ", 1) for line in front.splitlines())
    return {key: value.strip('"') for key, value in pairs}
