"""A language-model server on loopback that says what a test tells it to, in both dialects, well or badly.

    with ScriptedModels(status(429, retry_after="2"), reply("hello")) as server:
        open_chain(server.openai("m"), ...)     # openai:m@http://127.0.0.1:PORT/v1
        open_chain(server.anthropic("m"), ...)  # anthropic:m@http://127.0.0.1:PORT

Steps are used in order; the last one is repeated. A step may be a function of the received request that returns a step.
`server.requests` holds what was received.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request: header names in lower case, the body parsed."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """Everything that the model reads, system text first."""
        parts = [self.body.get("system", "")]
        return "\n".join([*parts, *(str(turn["content"]) for turn in self.body["messages"])])


@dataclass(frozen=True)
class Step:
    """What the server does with one request."""

    kind: str
    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    input_tokens: int | None = 100
    output_tokens: int | None = 20
    cached_tokens: int = 0
    reasoning: str = ""
    reasoning_tokens: int = 0
    stop: str = "stop"
    num_bytes: int = 0


Script = Step | Callable[[Received], Step]


def reply(text: str, **changes: Any) -> Step:
    """A well-formed streamed reply. input_tokens None: without usage."""
    return Step("reply", text, **changes)


def whole(text: str, **changes: Any) -> Step:
    """One JSON object instead of a stream (OpenAI dialect)."""
    return Step("whole", text, **changes)


def status(code: int, message: str = "it failed", *, retry_after: str | None = None, **headers: str) -> Step:
    """An error answer with a JSON body in the dialect's form."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Step("status", message, code, named | ({"Retry-After": retry_after} if retry_after is not None else {}))


def echo(code: int) -> Step:
    """An error answer whose body repeats every header that was sent."""
    return Step("echo", status=code)


def hang(text: str = "") -> Step:
    """Nothing more after `text`, until the client gives up or the server closes."""
    return Step("hang", text)


def truncated(text: str) -> Step:
    """A stream that breaks off after `text`."""
    return Step("truncated", text)


def error_in_stream(message: str, text: str = "") -> Step:
    return Step("error in stream", message, reasoning=text)


def wrong_json() -> Step:
    """A stream whose events are no JSON."""
    return Step("wrong json")


def web_page() -> Step:
    """What a captive portal answers."""
    return Step("web page", "<html><body>Please log in</body></html>")


def huge(num_bytes: int = 2_000_000) -> Step:
    """A reply of that many bytes."""
    return Step("huge", num_bytes=num_bytes)


def drip() -> Step:
    """A stream of comments that never ends and never says anything."""
    return Step("drip")


class ScriptedModels:
    """The server; a context manager. It listens on 127.0.0.1 at a port that was free."""

    def __init__(self, *steps: Script) -> None:
        self.steps: list[Script] = list(steps)
        self.requests: list[Received] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> ScriptedModels:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, model: str = "small", options: str = "") -> str:
        """How a chain names a model here."""
        return f"openai:{model}@{self.url}/v1" + (f"?{options}" if options else "")

    def anthropic(self, model: str = "small", options: str = "") -> str:
        return f"anthropic:{model}@{self.url}" + (f"?{options}" if options else "")

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers.get("content-length", 0))) or b"{}")
        received = Received(handler.path, {name.lower(): value for name, value in handler.headers.items()}, body)
        with self._lock:
            step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
            self.requests.append(received)
        if not isinstance(step, Step):
            step = step(received)
        handler.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):  # the client gave up, as some tests want
            _SPEAKERS.get(step.kind, _speak_stream)(self, handler, received, step)


def _is_anthropic(received: Received) -> bool:
    return received.path.split("?")[0].endswith("/messages")


def _answer(handler: BaseHTTPRequestHandler, code: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for name, value in {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def _begin_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    for name, value in {"Content-Type": "text/event-stream", "Connection": "close"}.items():
        handler.send_header(name, value)
    handler.end_headers()


def _send(handler: BaseHTTPRequestHandler, event: dict[str, Any]) -> None:
    name = f"event: {event['type']}\n" if "type" in event else ""
    handler.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())
    handler.wfile.flush()


def _speak_status(server: ScriptedModels, handler: Any, received: Received, step: Step) -> None:
    error = {"type": "error_of_test", "message": step.text}
    body = {"type": "error", "error": error} if _is_anthropic(received) else {"error": {**error, "code": None}}
    _answer(handler, step.status, "application/json", json.dumps(body).encode(), step.headers)


def _speak_echo(server: ScriptedModels, handler: Any, received: Received, step: Step) -> None:
    said = "; ".join(f"{name}: {value}" for name, value in received.headers.items())
    _speak_status(server, handler, received, Step("status", f"I do not like these: {said}", step.status))


def _speak_page(server: ScriptedModels, handler: Any, received: Received, step: Step) -> None:
    _answer(handler, 200, "text/html", step.text.encode(), {})


def _speak_whole(server: ScriptedModels, handler: Any, received: Received, step: Step) -> None:
    message = {"role": "assistant", "content": step.text, "reasoning_content": step.reasoning or None}
    body: dict[str, Any] = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": step.stop}],
    }
    if step.input_tokens is not None:
        body["usage"] = {"prompt_tokens": step.input_tokens, "completion_tokens": step.output_tokens}
    _answer(handler, 200, "application/json", json.dumps(body).encode(), {})


def _speak_stream(server: ScriptedModels, handler: Any, received: Received, step: Step) -> None:
    _begin_stream(handler)
    if step.kind == "drip":
        while not server._closing.wait(0.02):
            handler.wfile.write(b": still here\n\n")
        return
    if step.kind == "wrong json":
        handler.wfile.write(b"event: message_start\ndata: {this is no JSON\n\n")
        return
    speak = _speak_anthropic if _is_anthropic(received) else _speak_openai
    text = "x" * step.num_bytes if step.kind == "huge" else step.text
    if step.kind == "error in stream":
        text = step.reasoning
    speak(handler, received, step, text, whole=step.kind in ("reply", "huge"))
    if step.kind == "error in stream":
        error = {"type": "overloaded_error", "message": step.text}
        _send(handler, {"type": "error", "error": error} if _is_anthropic(received) else {"error": error})
    if step.kind == "hang":
        server._closing.wait()


def _pieces(text: str) -> list[str]:
    size = 7 if len(text) < 10_000 else 4096
    return [text[start : start + size] for start in range(0, len(text), size)]


def _speak_openai(handler: Any, received: Received, step: Step, text: str, *, whole: bool) -> None:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    _send(handler, chunk({"role": "assistant", "content": ""}))
    if step.kind == "reply":
        for piece in _pieces(step.reasoning):
            _send(handler, chunk({"reasoning_content": piece}))
    for piece in _pieces(text):
        _send(handler, chunk({"content": piece}))
    if not whole:
        return
    _send(handler, chunk({}, step.stop))
    if step.input_tokens is not None and received.body.get("stream_options", {}).get("include_usage"):
        usage = {
            "prompt_tokens": step.input_tokens,
            "completion_tokens": step.output_tokens,
            "total_tokens": step.input_tokens + (step.output_tokens or 0),
            "prompt_tokens_details": {"cached_tokens": step.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": step.reasoning_tokens},
        }
        _send(handler, {**chunk({}), "choices": [], "usage": usage})
    handler.wfile.write(b"data: [DONE]\n\n")


def _speak_anthropic(handler: Any, received: Received, step: Step, text: str, *, whole: bool) -> None:
    told = step.input_tokens or 0
    usage = {
        "input_tokens": told - step.cached_tokens,
        "cache_read_input_tokens": step.cached_tokens,
        "output_tokens": 1,
    }
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    _send(handler, {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None}})
    _send(handler, {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    if step.kind == "reply":
        for piece in _pieces(step.reasoning):
            _send(
                handler,
                {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": piece}},
            )
    for piece in _pieces(text):
        _send(handler, {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}})
    if not whole:
        return
    _send(handler, {"type": "content_block_stop", "index": 0})
    stop = {"stop": "end_turn", "length": "max_tokens"}.get(step.stop, step.stop)
    ended = {"stop_reason": stop, "stop_sequence": None}
    _send(handler, {"type": "message_delta", "delta": ended, "usage": {"output_tokens": step.output_tokens or 0}})
    _send(handler, {"type": "message_stop"})


_SPEAKERS: dict[str, Callable[..., None]] = {
    "status": _speak_status,
    "echo": _speak_echo,
    "whole": _speak_whole,
    "web page": _speak_page,
}
