"""The two dialects, spoken through their official SDKs: one request in, one whole reply heard, troubles sorted."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoresearch.hostile_text import well_formed
from autoresearch.providers.exchange import Request, Usage
from autoresearch.providers.line import TEXT_LIMIT
from autoresearch.providers.manners import Manners
from autoresearch.providers.specification import ModelSpec
from autoresearch.providers.tokens import estimated_tokens
from autoresearch.providers.troubles import CallFailed, Trouble, failure_of, said_in
from autoresearch.vocabulary import ProviderUnavailable

if TYPE_CHECKING:
    import httpx2

_NO_KEY = "none"  # the SDKs insist on one
_LOUD = ("openai", "anthropic", "httpx2", "httpcore2")  # they log addresses and bodies when the environment asks for it
_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_LARGEST_COUNT = 10**9
# What an SDK raises while it takes apart a stream that is not what it should be (JSON, types, fields).
_ODD_CONTENT = (ValueError, TypeError, AttributeError, LookupError)


@dataclass(frozen=True)
class Heard:
    """A whole reply. usage None: the server did not say. hidden_tokens: estimate of reasoning that was sent beside it."""

    text: str
    stop_reason: str
    usage: Usage | None
    hidden_tokens: int = 0


Talk = Callable[["httpx2.Client"], Heard]


def talk_of(spec: ModelSpec, key: str | None, request: Request, manners: Manners, max_tokens: int) -> Talk:
    """What makes the call, given a client. It raises CallFailed, without the SDK's own error behind it: that one holds the
    request's headers."""
    speak = _ask_anthropic if spec.kind.dialect == "anthropic" else _ask_openai
    return lambda client: speak(client, spec, key or _NO_KEY, request, manners, max_tokens)


def check_installed(spec: ModelSpec) -> None:
    """Import what this model's dialect needs, now and not in the middle of a night.

    Raises:
        ProviderUnavailable: the [llm] extra is not installed.
    """
    try:
        if spec.kind.dialect == "anthropic":
            import anthropic  # noqa: F401
        else:
            import openai  # noqa: F401
        import httpx2  # noqa: F401
        import tenacity  # noqa: F401
    except ImportError as error:
        raise ProviderUnavailable(
            f"{spec.label} needs a package that is not installed: {error.name}", hint="pip install 'autoresearch[llm]'"
        ) from error
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)


# -- the OpenAI dialect -------------------------------------------------------------------------------------------------


def _ask_openai(
    http: httpx2.Client, spec: ModelSpec, key: str, request: Request, manners: Manners, max_tokens: int
) -> Heard:
    import httpx2
    import openai

    failed: CallFailed | None = None
    try:
        client = openai.OpenAI(
            api_key=key,
            admin_api_key="",
            base_url=spec.base_url,
            max_retries=0,
            timeout=http.timeout,
            http_client=http,
        )
        with client.chat.completions.create(**_openai_body(spec, request, manners, max_tokens)) as stream:
            return _hear_openai(stream)
    except (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
        failed = _sdk_failure(error)
    raise failed  # outside of the handler: nothing hangs on it that holds the key


def _openai_body(spec: ModelSpec, request: Request, manners: Manners, max_tokens: int) -> dict[str, Any]:
    turns = [{"role": message.role, "content": well_formed(message.text)} for message in request.messages]
    system = well_formed(request.system)
    if system and manners.system:
        turns.insert(0, {"role": "system", "content": system})
    elif system and turns:
        turns[0] = {**turns[0], "content": f"{system}\n\n{turns[0]['content']}"}
    body: dict[str, Any] = {
        "model": spec.model,
        "messages": turns,
        "stream": True,
        manners.limit_name: max_tokens,
    }
    temperature = temperature_of(spec, request, manners)
    if temperature is not None:
        body["temperature"] = temperature
    if manners.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if request.schema is not None and manners.schema_form == "json_schema":
        form = {"name": "reply", "schema": dict(request.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    elif request.schema is not None and manners.schema_form == "json_object":
        body["response_format"] = {"type": "json_object", "schema": dict(request.schema)}
    return body


def temperature_of(spec: ModelSpec, request: Request, manners: Manners) -> float | None:
    """The temperature that is sent: the model's own option, else the request's; None where it is refused."""
    wanted = spec.temperature if spec.temperature is not None else request.temperature
    return wanted if manners.temperature else None


def _hear_openai(stream: Any) -> Heard:
    """Read a stream of chunks to its end; a server that answers at once with one JSON object is understood too."""
    response = stream.response
    _refuse_page(response)
    if "json" in response.headers.get("content-type", ""):
        return _heard_whole(response)
    text, thoughts = _Text(), _Text()
    stop_reason, usage = "", None
    with _odd_content():
        for chunk in stream:
            usage = _openai_usage(getattr(chunk, "usage", None)) or usage
            for choice in getattr(chunk, "choices", None) or []:
                delta = choice.delta
                text.add(getattr(delta, "content", None))
                thoughts.add(getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None))
                stop_reason = choice.finish_reason or stop_reason
    if not stop_reason:
        raise CallFailed(Trouble.CUT, f"after {text.num_bytes:,} bytes, without its end")
    return _heard(text.whole(), stop_reason, usage, thoughts.whole())


def _heard_whole(response: Any) -> Heard:
    """One JSON object instead of a stream: from servers that cannot stream."""
    failed: CallFailed | None = None
    try:
        body = json.loads(response.read())
        if isinstance(body, Mapping) and body.get("error"):
            raise failure_of(None, said_in(body))
        choice = body["choices"][0]
        message = choice["message"]
        text, thoughts = _Text(), _Text()
        text.add(message.get("content"))
        thoughts.add(message.get("reasoning_content") or message.get("reasoning"))
        usage = _openai_usage(_Fields(body["usage"]) if isinstance(body.get("usage"), Mapping) else None)
        return _heard(text.whole(), str(choice.get("finish_reason") or "stop"), usage, thoughts.whole())
    except _ODD_CONTENT as error:
        failed = CallFailed(Trouble.GARBLED, f"{type(error).__name__}")
    raise failed


class _Fields:
    """A JSON object whose fields are read as attributes, as the SDK's chunks are."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        value = self._values.get(name)
        return _Fields(value) if isinstance(value, Mapping) else value


def _openai_usage(told: Any) -> Usage | None:
    """Usage as the dialect tells it; None when it is missing or no number of tokens."""
    inside, outside = _count(getattr(told, "prompt_tokens", None)), _count(getattr(told, "completion_tokens", None))
    if inside is None or outside is None or inside + outside == 0:
        return None
    cached = _count(getattr(getattr(told, "prompt_tokens_details", None), "cached_tokens", None))
    thought = _count(getattr(getattr(told, "completion_tokens_details", None), "reasoning_tokens", None))
    total = _count(getattr(told, "total_tokens", None))
    if total is not None and thought and total == inside + outside + thought:
        outside += thought  # Gemini's endpoint counts thoughts beside the reply, not in it
    return Usage(inside, outside, min(cached or 0, inside), min(thought or 0, outside))


# -- the Anthropic dialect ----------------------------------------------------------------------------------------------


def _ask_anthropic(
    http: httpx2.Client, spec: ModelSpec, key: str, request: Request, manners: Manners, max_tokens: int
) -> Heard:
    import anthropic
    import httpx2

    failed: CallFailed | None = None
    try:
        client = anthropic.Anthropic(
            api_key=key,
            base_url=spec.base_url,
            max_retries=0,
            timeout=http.timeout,
            http_client=http,
            open_telemetry=False,
        )
        with client.messages.create(**_anthropic_body(spec, request, manners, max_tokens)) as stream:
            return _hear_anthropic(stream)
    except (anthropic.AnthropicError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
        failed = _sdk_failure(error)
    raise failed


def _anthropic_body(spec: ModelSpec, request: Request, manners: Manners, max_tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": spec.model,
        "max_tokens": max_tokens,
        "messages": [{"role": m.role, "content": well_formed(m.text)} for m in request.messages],
        "stream": True,
    }
    if request.system:
        body["system"] = well_formed(request.system)
    temperature = temperature_of(spec, request, manners)
    if temperature is not None:
        body["temperature"] = temperature
    if request.schema is not None and manners.schema_form == "json_schema":
        body["output_config"] = {"format": {"type": "json_schema", "schema": dict(request.schema)}}
    return body


def _hear_anthropic(stream: Any) -> Heard:
    _refuse_page(stream.response)
    text, thoughts = _Text(), _Text()
    stop_reason, ended = "", False
    counts: dict[str, int] = {}
    with _odd_content():
        for event in stream:
            if event.type == "message_start":
                counts |= _anthropic_counts(event.message.usage)
            elif event.type == "content_block_delta":
                text.add(getattr(event.delta, "text", None))
                thoughts.add(getattr(event.delta, "thinking", None))
            elif event.type == "message_delta":
                stop_reason = event.delta.stop_reason or stop_reason
                counts |= _anthropic_counts(event.usage)
            elif event.type == "message_stop":
                ended = True
    if not ended and not stop_reason:
        raise CallFailed(Trouble.CUT, f"after {text.num_bytes:,} bytes, without its end")
    return _heard(text.whole(), stop_reason or "end_turn", _anthropic_usage(counts), thoughts.whole())


def _anthropic_counts(told: Any) -> dict[str, int]:
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    found = {name: _count(getattr(told, name, None)) for name in names}
    found["thinking_tokens"] = _count(getattr(getattr(told, "output_tokens_details", None), "thinking_tokens", None))
    return {name: count for name, count in found.items() if count is not None}


def _anthropic_usage(counts: Mapping[str, int]) -> Usage | None:
    if not counts.get("input_tokens") and not counts.get("output_tokens"):
        return None
    cached = counts.get("cache_read_input_tokens", 0)
    # this dialect counts what was read from a cache or written to it beside the input, not in it
    inside = counts.get("input_tokens", 0) + cached + counts.get("cache_creation_input_tokens", 0)
    return Usage(inside, counts.get("output_tokens", 0), cached, counts.get("thinking_tokens", 0))


# -- both ---------------------------------------------------------------------------------------------------------------


def _refuse_page(response: Any) -> None:
    if "html" in response.headers.get("content-type", ""):
        raise CallFailed(Trouble.GARBLED, "a web page; is something between us and the server, or the address wrong?")


class _Text:
    """Pieces of a reply, bounded."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.num_bytes = 0

    def add(self, piece: Any) -> None:
        if not isinstance(piece, str):
            return
        self.num_bytes += len(piece.encode("utf-8", "replace"))
        if self.num_bytes > TEXT_LIMIT:
            raise CallFailed(Trouble.TOO_LARGE, f"more than {TEXT_LIMIT:,} bytes of text")
        self._pieces.append(piece)

    def whole(self) -> str:
        return well_formed("".join(self._pieces))


def _heard(text: str, stop_reason: str, usage: Usage | None, thoughts: str) -> Heard:
    inline = _THOUGHTS.match(text)
    if inline:
        thoughts, text = thoughts + inline[0], text[inline.end() :]
    return Heard(text, stop_reason[:40], usage, estimated_tokens(thoughts) if thoughts else 0)


@contextmanager
def _odd_content() -> Iterator[None]:
    failed: CallFailed | None = None
    try:
        yield
    except _ODD_CONTENT as error:
        failed = CallFailed(Trouble.GARBLED, type(error).__name__)
    if failed is not None:
        raise failed


def _sdk_failure(error: Exception) -> CallFailed:
    """Our error for an SDK's. What it says is not redacted yet: the chain does that before it is stored or shown."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CallFailed):
            return cause  # ours, raised in a hook and wrapped by the SDK
        cause = cause.__cause__ or cause.__context__
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    if isinstance(status, int) and status >= 400 and response is not None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return failure_of(status, said_in(body, str(error)), headers)
    if _is_a(error, "Timeout"):
        return CallFailed(Trouble.DOWN if _is_a(error, "ConnectTimeout") else Trouble.SLOW, "timed out")
    if _is_a(error, "RemoteProtocolError", "ReadError"):
        return CallFailed(Trouble.CUT, "the connection broke off")
    if body is not None:
        return _failure_in_stream(body, str(error))
    if _is_a(error, "Connect", "Network", "Proxy", "APIConnectionError", "Unsupported"):
        return CallFailed(Trouble.DOWN, _root_words(error))
    return CallFailed(Trouble.GARBLED, _root_words(error))


def _failure_in_stream(body: Any, otherwise: str) -> CallFailed:
    said = said_in(body, otherwise)
    inner = body.get("error", body) if isinstance(body, Mapping) else {}
    code = inner.get("code") if isinstance(inner, Mapping) else None
    return failure_of(code if isinstance(code, int) and 400 <= code < 600 else None, said)


def _is_a(error: BaseException, *words: str) -> bool:
    """Whether the error, or what it came from, has a class whose name holds one of the words."""
    seen: BaseException | None = error
    while seen is not None:
        if any(word in kind.__name__ for kind in type(seen).__mro__ for word in words):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _root_words(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_COUNT:
        return None
    return value
