"""Every request and reply, content-addressed: `exchanges/ab/ab….json`, named by the SHA-256 of its bytes.

What is given here is already redacted. Canonical JSON (sorted keys, no spaces, ASCII), so that the same exchange has the
same name everywhere; a replay finds its answers by it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoresearch.files import write_whole
from autoresearch.hostile_text import json_text
from autoresearch.providers.exchange import Message, Reply, Request, Usage

FORMAT = 1


def request_json(request: Request) -> str:
    """Canonical text of what is asked: without the purpose, and whichever model answers."""
    return _canonical(
        {
            "format": FORMAT,
            "kind": "request",
            "system": request.system,
            "messages": [{"role": message.role, "text": message.text} for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "schema": request.schema,
        }
    )


def reply_json(reply: Reply) -> str:
    """Canonical text of an answer. Price and seconds are in the book of calls: they are not the same twice."""
    return _canonical(
        {
            "format": FORMAT,
            "kind": "reply",
            "text": reply.text,
            "provider": reply.provider,
            "model": reply.model,
            "usage": asdict(reply.usage),
            "stop_reason": reply.stop_reason,
        }
    )


def _canonical(value: dict[str, Any]) -> str:
    # json_text first: it makes odd characters and numbers into what every reader takes
    return json.dumps(json.loads(json_text(value)), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class ExchangeStore:
    """The folder of exchanges."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "exchanges"

    def put(self, text: str) -> str:
        """Store canonical text, once; returns its hash.

        Raises:
            DiskError: it cannot be written.
        """
        name = sha256_of(text)
        path = self._path(name)
        if not path.is_file():
            write_whole(path, text)
        return name

    def text(self, name: str) -> str | None:
        """What was stored under this hash, or None when it is gone or altered."""
        try:
            data = self._path(name).read_bytes()
        except OSError:
            return None
        return data.decode() if hashlib.sha256(data).hexdigest() == name else None

    def request(self, name: str) -> Request | None:
        """A stored request, without its purpose; None as for `text`."""
        value = self._read(name, "request")
        if value is None:
            return None
        return Request(
            system=value["system"],
            messages=tuple(Message(**message) for message in value["messages"]),
            max_tokens=value["max_tokens"],
            temperature=value["temperature"],
            schema=value["schema"],
        )

    def reply(self, name: str) -> Reply | None:
        """A stored reply; None as for `text`. It costs nothing and takes no time."""
        value = self._read(name, "reply")
        if value is None:
            return None
        return Reply(
            text=value["text"],
            provider=value["provider"],
            model=value["model"],
            usage=Usage(**value["usage"]),
            usd=0.0,
            seconds=0.0,
            stop_reason=value["stop_reason"],
        )

    def _read(self, name: str, kind: str) -> dict[str, Any] | None:
        text = self.text(name)
        value = json.loads(text) if text is not None else None
        return value if isinstance(value, dict) and value.get("kind") == kind else None

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.json"
