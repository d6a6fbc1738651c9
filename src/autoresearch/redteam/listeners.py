"""Sockets on this machine that write down who reaches them: TCP and UDP on the loopback, Unix by path and by name."""

from __future__ import annotations

import contextlib
import secrets
import selectors
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_TICK = 0.2  # seconds between looks at whether to end


class Listeners:
    """Listening sockets and one thread that serves them. `contacts` says what was reached, oldest first."""

    def __init__(self) -> None:
        self.contacts: list[str] = []
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        # a folder of its own with a short name: the path of a Unix socket has at most 107 bytes
        self._folder = Path(tempfile.mkdtemp(prefix="art-"))
        self._sockets: dict[str, socket.socket] = {}
        self._names: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            for name, made in (
                ("TCP", socket.create_server(("127.0.0.1", 0))),
                ("UDP", socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
                ("Unix socket", socket.socket(socket.AF_UNIX)),
            ):
                stack.callback(made.close)
                self._sockets[name] = made
            self._sockets["UDP"].bind(("127.0.0.1", 0))
            self._sockets["Unix socket"].bind(str(self._folder / "s"))
            self._sockets["Unix socket"].listen()
            self._names["ABSTRACT_SOCKET"] = f"autoresearch-redteam-{secrets.token_hex(8)}"
            if sys.platform == "linux":
                abstract = socket.socket(socket.AF_UNIX)
                stack.callback(abstract.close)
                abstract.bind("\0" + self._names["ABSTRACT_SOCKET"])
                abstract.listen()
                self._sockets["abstract Unix socket"] = abstract
            thread = threading.Thread(target=self._serve, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._ending.set)
            self._exits = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def fields(self) -> dict[str, str]:
        """Where they are: TCP_PORT, UDP_PORT, UNIX_SOCKET, ABSTRACT_SOCKET (without its leading null byte)."""
        return {
            "TCP_PORT": str(self._sockets["TCP"].getsockname()[1]),
            "UDP_PORT": str(self._sockets["UDP"].getsockname()[1]),
            "UNIX_SOCKET": str(self._folder / "s"),
            **self._names,
        }

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for name, listening in self._sockets.items():
                listening.setblocking(False)
                selector.register(listening, selectors.EVENT_READ, name)
            while not self._ending.is_set():
                for key, _ in selector.select(_TICK):
                    self._take(self._sockets[key.data], key.data)

    def _take(self, listening: socket.socket, name: str) -> None:
        with contextlib.suppress(OSError):  # who called may have gone: the contact counts all the same
            self.contacts.append(name)
            if name == "UDP":
                listening.recv(4096)
            else:
                listening.accept()[0].close()
