"""Frames on a socket: a JSON header and a binary payload, both bounded. Nothing is ever unpickled.

Layout: 4 bytes header length (big endian), header (UTF-8 JSON object), payload of header["n"] bytes.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

MAX_HEADER_BYTES = 65_536
_LENGTH = struct.Struct(">I")


class BrokenFrame(Exception):
    """The other side closed, or sent something that is not a frame we accept."""


class Closed(BrokenFrame):
    """The other side closed, or its end broke."""


def encode(header: dict[str, Any], payload_size: int = 0) -> bytes:
    """Header bytes of one frame, its length prefix included."""
    body = json.dumps({**header, "n": payload_size}, allow_nan=False, separators=(",", ":")).encode()
    if len(body) > MAX_HEADER_BYTES:
        raise BrokenFrame(f"header of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


def send(link: socket.socket, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Send one frame.

    Raises:
        BrokenFrame: the other side is gone, or did not read before the socket's timeout.
    """
    try:
        link.sendall(encode(header, len(payload)))
        if len(payload):
            link.sendall(payload)
    except (OSError, ValueError) as error:
        raise Closed(str(error)) from error


def receive(link: socket.socket, max_payload: int, seconds: float | None = None) -> tuple[dict[str, Any], bytes]:
    """Receive one frame, within `seconds` where given.

    Raises:
        BrokenFrame: the other side closed, timed out, or sent a malformed or oversized frame.
    """
    if seconds is None:
        return _frame(link, max_payload, None)
    usual = link.gettimeout()
    try:
        return _frame(link, max_payload, time.monotonic() + seconds)
    finally:
        link.settimeout(usual)  # or whoever sends next would inherit what was left of this deadline


def _frame(link: socket.socket, max_payload: int, deadline: float | None) -> tuple[dict[str, Any], bytes]:
    (size,) = _LENGTH.unpack(_exactly(link, _LENGTH.size, deadline))
    if size > MAX_HEADER_BYTES:
        raise BrokenFrame(f"header of {size} bytes, at most {MAX_HEADER_BYTES} are accepted")
    try:
        header = json.loads(_exactly(link, size, deadline))
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of more digits than Python reads
        raise BrokenFrame(f"header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise BrokenFrame("header is not a JSON object")
    length = header.get("n")
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= max_payload:
        raise BrokenFrame(f"payload of {length!r} bytes, at most {max_payload} are accepted")
    return header, _exactly(link, length, deadline)


def _exactly(link: socket.socket, size: int, deadline: float | None) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    filled = 0
    while filled < size:
        try:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:  # a sender that drips bytes is as late as one that is silent
                    raise TimeoutError("timed out")
                link.settimeout(left)
            got = link.recv_into(view[filled:])
        except OSError as error:
            kind = BrokenFrame if isinstance(error, TimeoutError) else Closed
            raise kind(str(error) or type(error).__name__) from error
        if got == 0:
            raise Closed("the other side closed the channel")
        filled += got
    return bytes(buffer)
