"""Keys are taken out of every text before it is stored or shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

REDACTED = "[redacted]"
# Shorter values ("none", "EMPTY", "ollama") are what keyless servers are given; taking those out would spoil plain words.
_LEAST = 8
_SECRET_NAMES = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$")
# What keys look like, for those whose value we never held. Each is bounded, and starts where a word starts.
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"sk-(?=[A-Za-z_-]{0,64}[0-9])[A-Za-z0-9_-]{16,256}"  # OpenAI, Anthropic, OpenRouter
    r"|gsk_[A-Za-z0-9]{20,128}"  # Groq
    r"|AIza[A-Za-z0-9_-]{30,64}"  # Google
    r"|hf_[A-Za-z0-9]{20,64}"
    r"|gh[pousr]_[A-Za-z0-9]{20,255}"
    r"|eyJ[A-Za-z0-9_-]{8,1024}\.[A-Za-z0-9_-]{8,2048}\.[A-Za-z0-9_-]{8,1024}"  # a JSON web token
    r")"
    r"|(?i:(?<![a-z])bearer\s{1,4})(?=[A-Za-z._~+/-]{0,64}[0-9])[A-Za-z0-9._~+/-]{12,1024}=*"
)


class Redactor:
    """Takes the keys in play, and what looks like a key, out of texts. Holds key values: never print or store one."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values if len(value) >= _LEAST for form in _forms_of(value)}
        self._values = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None

    def __repr__(self) -> str:
        return "Redactor()"

    def values_out(self, text: str) -> str:
        """`text` without the very keys in play: for what is sent, so that no key reaches another provider."""
        return self._values.sub(REDACTED, text) if self._values else text

    def __call__(self, text: str) -> str:
        """`text` without those, and without anything that has the shape of a key: for what is stored or shown."""
        return _SHAPES.sub(REDACTED, self.values_out(text))


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Values of variables whose names say that they are secret, ours or not."""
    return [
        value.strip() for name, value in environment.items() if _SECRET_NAMES.search(name.upper()) and value.strip()
    ]


def _forms_of(value: str) -> set[str]:
    """A value as it stands in plain text, in a URL, in JSON and in a Python literal."""
    return {value, quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1]}
