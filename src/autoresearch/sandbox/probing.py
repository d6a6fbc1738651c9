"""What a test run does inside a seal: try what must not work, and say what did. Started by layers.py, never by a person.

Harmless outside of a seal: it reads a file and an environment made for it, writes beside that file, knocks on sockets made
for it, and sends a signal to a process made for it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
from pathlib import Path

KNOCK = b"knock"
MARK = "AUTORESEARCH_PROBE"


def attempts(canary: Path, port: int, unix_path: str, stranger: int, mark: str) -> dict[str, bool]:
    """What could be done, by name: "reads", "writes", "sees processes", "refuses system calls". Knocking and the signal
    leave their traces outside."""
    done = {"reads": _reads(canary), "writes": _writes(canary.with_name("written"))}
    _knock(port, unix_path)
    with contextlib.suppress(OSError):
        os.kill(stranger, signal.SIGKILL)
    done["sees processes"] = _finds_environment(f"{MARK}={mark}".encode())
    done["refuses system calls"] = _is_filtered()
    return done


def _reads(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def _writes(path: Path) -> bool:
    try:
        path.write_bytes(b"x")
    except OSError:
        return False
    return True


def _knock(port: int, unix_path: str) -> None:
    """Reach out by TCP, UDP, and by local sockets with a path and with an abstract name."""
    goals: list[tuple[int, int, tuple[str, int] | str]] = [
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", port)),
        (socket.AF_UNIX, socket.SOCK_STREAM, unix_path),
        (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{unix_path}"),
    ]
    for family, kind, address in goals:
        with contextlib.suppress(OSError), socket.socket(family, kind) as knocking:
            knocking.settimeout(1.0)
            knocking.connect(address)
            knocking.send(KNOCK)


def _finds_environment(mark: bytes) -> bool:
    """Whether any process shows an environment that holds the mark."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                return True
    return False


def _is_filtered() -> bool:
    """Whether unshare(0), which does nothing and is allowed to everybody, is refused."""
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None, use_errno=True).unshare(0) != 0 and ctypes.get_errno() == errno.EPERM


def main() -> None:
    """Try, and write what could be done to a descriptor as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--canary", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--unix", required=True)
    parser.add_argument("--stranger", type=int, required=True)
    parser.add_argument("--mark", required=True)
    options = parser.parse_args()
    done = attempts(options.canary, options.port, options.unix, options.stranger, options.mark)
    os.write(options.fd, json.dumps(done).encode())


if __name__ == "__main__":
    main()
