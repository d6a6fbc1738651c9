"""One call's connection: bounded in bytes and seconds, cut when the user stops, carrying nothing but request and key."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from autoresearch.providers.exchange import Interrupted
from autoresearch.providers.troubles import CallFailed, Trouble

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

TEXT_LIMIT = 512 * 1024  # bytes of one reply's text
# A token of 4 letters travels in about 250 bytes of JSON, so 64 KiB tokens of reasoning and reply fit in 16 MiB
_WIRE_LIMIT = 16 * 1024 * 1024
_ERROR_LIMIT = 64 * 1024
_POLL_SECONDS = 0.1  # how soon a stop or a deadline is noticed
# What may be sent. The SDKs add the machine's system and Python version, and headers of the caller's environment.
_HEADERS = frozenset(
    ("host", "accept", "connection", "user-agent", "content-type", "content-length", "transfer-encoding")
) | {"authorization", "x-api-key", "anthropic-version"}
_OWN_HEADERS = frozenset({"openai-organization", "openai-project"})  # only to the provider's own address


@dataclass(frozen=True)
class Patience:
    """Seconds: for a connection, for the next byte of a reply, and for a whole call."""

    connect: float = 10.0
    silence: float = 300.0  # reasoning models send nothing while they think
    whole: float = 600.0


class Line:
    """Makes one call. `talk` runs in a thread of its own, so that it can be given up whatever the server does."""

    def __init__(self, patience: Patience, *, key: str | None, address: str, private: bool, own_address: bool) -> None:
        self._patience = patience
        self._key = key
        self._private = private
        self._plain = address.startswith("http://")
        self._allowed = _HEADERS | _OWN_HEADERS if own_address else _HEADERS
        self._socket: socket.socket | None = None

    def call(self, talk: Callable[[httpx2.Client], T], stopped: Callable[[], bool]) -> T:
        """What `talk` returns with a client that only it uses.

        Raises:
            CallFailed: SLOW, when the whole call took too long; TOO_LARGE; and whatever `talk` raises.
            Interrupted: `stopped` says that the user asked to stop.
        """
        executor = ThreadPoolExecutor(1, thread_name_prefix="model-call")
        try:
            future = executor.submit(self._talk, talk)
            self._await(future, stopped)
            return future.result()
        finally:
            self._cut()
            executor.shutdown(wait=False)

    def _talk(self, talk: Callable[[httpx2.Client], T]) -> T:
        with self._client() as client:
            return talk(client)

    def _await(self, future: Future[Any], stopped: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._patience.whole
        while not wait([future], timeout=min(_POLL_SECONDS, self._patience.whole)).done:
            if stopped():
                raise Interrupted("stopped while a language model was being asked")
            if time.monotonic() > deadline:
                raise CallFailed(Trouble.SLOW, f"no whole reply within {self._patience.whole:g} s")

    def _client(self) -> httpx2.Client:
        import httpx2

        patience = self._patience
        timeout = httpx2.Timeout(patience.silence, connect=patience.connect)
        return httpx2.Client(
            timeout=timeout,
            follow_redirects=False,  # a redirect would carry x-api-key to another host
            # reading the certificates takes 60 ms; without them no other side is trusted
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self._plain else True,
            trust_env=not self._private,  # a proxy cannot reach this machine's servers
            event_hooks={"request": [self._on_request], "response": [_on_response]},
        )

    def _on_request(self, request: httpx2.Request) -> None:
        for name in list(request.headers):
            if name.lower() not in self._allowed:
                del request.headers[name]
        for name, value in (("authorization", f"Bearer {self._key}"), ("x-api-key", self._key)):
            if name in request.headers:  # the SDKs may have taken another one from the environment
                del request.headers[name]
                if self._key:
                    request.headers[name] = str(value)
        request.headers["accept-encoding"] = "identity"  # what is packed small could unpack to anything
        request.extensions["trace"] = self._on_trace

    def _on_trace(self, event: str, values: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = values["return_value"].get_extra_info("socket")

    def _cut(self) -> None:
        """End the connection under a reader that waits: closing a socket wakes nobody, shutting it down does."""
        line, self._socket = self._socket, None
        if line is None or line.fileno() < 0:
            return
        try:
            with socket.socket(fileno=os.dup(line.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side or the reader was first


def _on_response(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise CallFailed(Trouble.GARBLED, "a compressed reply was not asked for")
    if response.is_redirect:
        target = urlsplit(response.headers.get("location", "")).hostname or "another address"
        raise CallFailed(Trouble.MODEL, f"the address redirects to {target}", status=response.status_code)
    failed = response.status_code >= 400
    response.stream = _bounded(response.stream, _ERROR_LIMIT if failed else _WIRE_LIMIT, quiet=failed)


def _bounded(stream: Any, limit: int, *, quiet: bool) -> Any:
    """`stream`, read to `limit` bytes: then it ends (`quiet`), or the call fails."""
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            num_bytes = 0
            for chunk in stream:
                num_bytes += len(chunk)
                if num_bytes > limit and quiet:
                    return
                if num_bytes > limit:
                    raise CallFailed(Trouble.TOO_LARGE, f"more than {limit:,} bytes")
                yield chunk

        def close(self) -> None:
            stream.close()

    return Bounded()
