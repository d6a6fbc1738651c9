"""Scripted models behind the interfaces that `gemini` and `opencode` speak, on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import Quiet, served

Turn = str | tuple[str, dict[str, Any]]  # last words, or (tool, its arguments)


@dataclass
class Scripted:
    """A running server: where it is, and what came back from the tools, in order."""

    url: str
    results: list[str] = field(default_factory=list)
    tools: set[str] = field(default_factory=set)


Dialect = Callable[[Scripted, Callable[[str], Sequence[Turn]], dict[str, Any]], bytes]


def _turn(script: Callable[[str], Sequence[Turn]], body: dict[str, Any], done: int) -> Turn:
    turns = script(json.dumps(body))
    return turns[min(done, len(turns) - 1)]


def gemini(found: Scripted, script: Callable[[str], Sequence[Turn]], body: dict[str, Any]) -> bytes:
    """generateContent, streamed."""
    parts = [part for content in body["contents"] for part in content["parts"]]
    answers = [json.dumps(part["functionResponse"]["response"]) for part in parts if "functionResponse" in part]
    found.results[:] = answers
    found.tools |= {f["name"] for tool in body.get("tools", []) for f in tool.get("functionDeclarations", [])}
    turn = _turn(script, body, len(answers))
    said = {"text": turn} if isinstance(turn, str) else {"functionCall": {"name": turn[0], "args": turn[1]}}
    value = {
        "candidates": [{"content": {"role": "model", "parts": [said]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 50, "totalTokenCount": 1050},
    }
    return f"data: {json.dumps(value)}\n\n".encode()


def chat(found: Scripted, script: Callable[[str], Sequence[Turn]], body: dict[str, Any]) -> bytes:
    """OpenAI chat completions, streamed."""
    turn: Turn = "a title"
    if body.get("tools"):
        found.results[:] = [json.dumps(message["content"]) for message in body["messages"] if message["role"] == "tool"]
        found.tools |= {tool["function"]["name"] for tool in body["tools"]}
        turn = _turn(script, body, len(found.results))
    delta: dict[str, Any] = {"role": "assistant"}
    if isinstance(turn, str):
        delta["content"] = turn
    else:
        function = {"name": turn[0], "arguments": json.dumps(turn[1])}
        delta["tool_calls"] = [
            {"index": 0, "id": f"call_{len(found.results)}", "type": "function", "function": function}
        ]
    end = "stop" if isinstance(turn, str) else "tool_calls"
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {
            **base,
            "choices": [{"index": 0, "delta": {}, "finish_reason": end}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050},
        },
    ]
    return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


@contextmanager
def scripted(dialect: Dialect, script: Callable[[str], Sequence[Turn]]) -> Iterator[Scripted]:
    """The server, on a free port of loopback, until the block ends. `script` makes the turns from a request's text."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = dialect(found, script, body)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(answer)

    with served(Handler) as url:
        found = Scripted(url)
        yield found
