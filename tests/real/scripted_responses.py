"""A scripted model behind the OpenAI responses interface, for the real `codex` client on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import Quiet, served

Item = dict[str, Any]
Script = Callable[[dict[str, Any]], Sequence[Item]]

USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 200},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 10},
    "total_tokens": 1050,
}


def say(text: str) -> Item:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def call(tool: str, **arguments: Any) -> Item:
    return {"type": "function_call", "name": tool, "arguments": json.dumps(arguments)}


def patch(text: str) -> Item:
    return {"type": "custom_tool_call", "name": "apply_patch", "input": text}


def in_order(*turns: Sequence[Item]) -> Script:
    """The n-th turn of every conversation; the last one again when there are no more."""

    def script(body: dict[str, Any]) -> Sequence[Item]:
        done = sum(str(item.get("type", "")).endswith("_call_output") for item in body["input"])
        return turns[min(done, len(turns) - 1)]

    return script


@dataclass
class ScriptedResponses:
    """A running server: where it is, and what it was asked."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)

    def tool_results(self) -> list[str]:
        """Every tool result that came back with the last request, in order."""
        items = self.asked[-1]["input"]
        return [str(item["output"]) for item in items if str(item.get("type", "")).endswith("_call_output")]

    def tools_offered(self) -> set[str]:
        return {tool.get("name", tool["type"]) for body in self.asked for tool in body.get("tools", [])}


@contextmanager
def scripted_responses(script: Script) -> Iterator[ScriptedResponses]:
    """The server, on a free port of loopback, until the block ends."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append(body)
            number = len(found.asked)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for event in _events(script(body), number):
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    with served(Handler) as url:
        found = ScriptedResponses(f"{url}/v1")
        yield found


def _events(items: Sequence[Item], number: int) -> Iterator[dict[str, Any]]:
    response = {"id": f"resp_{number}", "object": "response"}
    yield {"type": "response.created", "response": response}
    for index, item in enumerate(items):
        named = {"id": f"item_{number}_{index}", **item}
        if item["type"].endswith("_call"):
            named["call_id"] = f"call_{number}_{index}"
        yield {"type": "response.output_item.done", "output_index": index, "item": named}
    yield {"type": "response.completed", "response": {**response, "status": "completed", "usage": USAGE}}
