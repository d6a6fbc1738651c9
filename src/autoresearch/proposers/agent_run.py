"""One run of a coding agent's process: bounded in time and output, stopped when the user asks, ended as a tree."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch.backends.hardware import hide_accelerators_environment
from autoresearch.proposers.agent_clients import Client
from autoresearch.providers.exchange import Interrupted
from autoresearch.sandbox.process_tree import Orphans, ProcessTree
from autoresearch.vocabulary import InstallationError

# What is kept of an agent's output, bytes from its end. The account comes last; Claude Code's is one line that repeats every
# refused call with its whole text, so it must be larger than a few surface files.
KEPT_OUTPUT = 2**20
_CHUNK = 2**16
_LOOK_SECONDS = 0.1
_DRAIN_CHUNKS = 64  # after the end: more than a pipe holds

_ALWAYS = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
_ALWAYS_PREFIXES = ("LC_", "XDG_CONFIG_", "XDG_DATA_", "XDG_STATE_", "XDG_CACHE_")
# Set by an agent for what it starts. Ours may have been started by one, and its own agent is another session.
_OF_ANOTHER_SESSION = ("CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT", "CLAUDE_CODE_SESSION_ID", "CLAUDE_PROJECT_DIR")


@dataclass(frozen=True)
class Ran:
    """How it went. code: exit code, negative for a signal; None when it was ended at its limit. output: the end of it."""

    code: int | None
    output: str
    seconds: float


def agent_environment(client: Client, environment: Mapping[str, str]) -> dict[str, str]:
    """The agent's whole environment, by allow-list: the system's, its login's and its own keys; no accelerators.

    Of another provider's keys, of AUTORESEARCH_ settings and of whatever else the user's shell holds it gets nothing.
    """
    prefixes = [*client.variables, *_ALWAYS_PREFIXES]
    for name, more in client.with_variable.items():
        prefixes += more if environment.get(name) else ()
    # a whole name ends in "=", which no name holds
    made = {
        name: value
        for name, value in environment.items()
        if (name in _ALWAYS or f"{name}=".startswith(tuple(prefixes))) and name not in _OF_ANOTHER_SESSION
    }
    return {**made, **hide_accelerators_environment(), **client.set_by_user}


def run_agent(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    seconds: float,
    wait: Callable[[float], bool],
    wrapped: bool,
) -> Ran:
    """Run it in `folder` until it ends, `seconds` are over, or `wait` says that the user asked to stop.

    Its output is read while it runs, so that no pipe fills, and only the end of it is kept. However this ends, nothing
    of the agent still runs afterwards. `wrapped`: the command is bubblewrap's.

    Raises:
        Interrupted: the user asked to stop.
        InstallationError: the program does not start.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    began = time.monotonic()
    tail = _Tail(KEPT_OUTPUT)
    tree: ProcessTree | None = None
    try:
        try:
            tree = ProcessTree(
                command,
                directory=folder,
                environment=environment,
                output=writer,
                orphans=Orphans.SESSION if wrapped else Orphans.NOBODYS,
                wrapped=wrapped,
            )
        except OSError as error:
            raise InstallationError(
                f"{command[0]} does not start: {error.strerror}", hint="autoresearch doctor"
            ) from error
        finally:
            os.close(writer)
        code = None
        while (code := tree.poll()) is None and time.monotonic() - began < seconds:
            if wait(0.0):
                raise Interrupted("stopped while a coding agent was at work")
            if select.select([reader], [], [], _LOOK_SECONDS)[0] and not tail.take(reader):
                code = tree.wait(_LOOK_SECONDS)  # it closed its output: ended, or about to
        tree.kill()
        for _ in range(_DRAIN_CHUNKS):
            if not tail.take(reader):
                break
        return Ran(code, tail.text(), time.monotonic() - began)
    finally:
        if tree is not None:
            tree.kill()
        os.close(reader)


class _Tail:
    """The last bytes of a stream."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = bytearray()

    def take(self, descriptor: int) -> bool:
        """Read once; False when nothing more is there."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        self._kept += data
        if len(self._kept) > 2 * self._most:
            del self._kept[: -self._most]
        return bool(data)

    def text(self) -> str:
        return bytes(self._kept[-self._most :]).decode("utf-8", "replace")
