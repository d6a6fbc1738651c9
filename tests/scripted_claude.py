"""A scripted model behind the Anthropic messages interface, for the real `claude` client on loopback.

The script is a function of one request's body; it returns content blocks. Streaming as the client asks for it: the event
names and their order are those of the public streaming format.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import Quiet, served

Block = dict[str, Any]
Script = Callable[[dict[str, Any]], Sequence[Block]]

USAGE = {"input_tokens": 1000, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 200, "output_tokens": 50}


def say(text: str) -> Block:
    return {"type": "text", "text": text}


def use(tool: str, **arguments: Any) -> Block:
    return {"type": "tool_use", "name": tool, "input": arguments}


def in_order(*turns: Sequence[Block]) -> Script:
    """The n-th turn of every conversation; the last one again when there are no more.

    A turn that waits for servers is said again until they are there, as the client advises: on a slow machine one wait is too short.
    """

    def script(body: dict[str, Any]) -> Sequence[Block]:
        done = sum(message["role"] == "assistant" for message in body["messages"])
        in_vain = sum(
            "ready: false" in str(block.get("content"))
            for message in body["messages"]
            if message["role"] == "user" and not isinstance(message["content"], str)
            for block in message["content"]
            if block["type"] == "tool_result"
        )
        return turns[min(done - in_vain, len(turns) - 1)]

    return script


@dataclass
class ScriptedClaude:
    """A running server: where it is, and what it was asked (bodies and headers of requests that offered tools)."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def tool_results(self) -> list[str]:
        """Text of every tool result that came back, in order, from the last request of each conversation."""
        last: dict[int, dict[str, Any]] = {}
        conversation = -1
        for body in self.asked:
            conversation += all(message["role"] != "assistant" for message in body["messages"])
            last[conversation] = body
        return [
            json.dumps(block["content"])
            for body in last.values()
            for message in body["messages"]
            if isinstance(message["content"], list)
            for block in message["content"]
            if block["type"] == "tool_result"
        ]

    def tools_offered(self) -> set[str]:
        return {tool["name"] for body in self.asked for tool in body.get("tools", [])}


@contextmanager
def scripted_claude(script: Script) -> Iterator[ScriptedClaude]:
    """The server, on a free port of loopback, until the block ends."""
    lock = threading.Lock()

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._plain(200, {})

        def do_GET(self) -> None:
            self._plain(404, {"type": "error", "error": {"type": "not_found_error", "message": "scripted"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.startswith("/v1/messages") or "count_tokens" in self.path:
                self._plain(200, {"input_tokens": 1})
                return
            blocks: Sequence[Block] = [say("ok")]
            if body.get("tools"):  # without tools it asks for a title or warms up
                with lock:
                    found.asked.append(body)
                    found.headers.append(dict(self.headers))
                blocks = script(body)
            message = _message(body, blocks, len(found.asked))
            self._stream(message) if body.get("stream") else self._plain(200, message)

        def _stream(self, message: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for event in _events(message):
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.close_connection = True

        def _plain(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    with served(Handler) as url:
        found = ScriptedClaude(url)
        yield found


def _message(body: dict[str, Any], blocks: Sequence[Block], number: int) -> dict[str, Any]:
    """One reply. Its id is its own: the client takes messages of one id for pieces of one."""
    content = [
        {**block, "id": f"toolu_{number}_{index}"} if block["type"] == "tool_use" else block
        for index, block in enumerate(blocks)
    ]
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    for index, block in enumerate(message["content"]):
        if block["type"] == "text":
            yield {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
            delta = {"type": "text_delta", "text": block["text"]}
        else:
            yield {"type": "content_block_start", "index": index, "content_block": {**block, "input": {}}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {"output_tokens": USAGE["output_tokens"]}}
    yield {"type": "message_stop"}
