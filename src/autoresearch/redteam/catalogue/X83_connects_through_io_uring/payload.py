import ctypes
import mmap
import os
import socket
import struct

SETUP, ENTER = 425, 426  # the same on every architecture
MAKE_SOCKET, CONNECT, WAIT_FOR_ONE = 45, 16, 1  # <linux/io_uring.h>
RINGS_AT, REQUESTS_AT = 0, 0x10000000
libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    """One io_uring that takes one request at a time."""

    def __init__(self):
        parameters = ctypes.create_string_buffer(120)
        self.descriptor = libc.syscall(SETUP, 4, parameters)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        self.sent = struct.unpack_from(
            "10I", parameters, 40
        )  # offsets: head, tail, mask, entries, flags, dropped, array
        self.done = struct.unpack_from(
            "10I", parameters, 80
        )  # offsets: head, tail, mask, entries, overflow, completions
        self.rings = mmap.mmap(self.descriptor, 4096, offset=RINGS_AT)
        self.requests = mmap.mmap(self.descriptor, 4096, offset=REQUESTS_AT)

    def ask(self, operation, descriptor, offset, address, length):
        """Result of one request: a descriptor, 0, or a negative error number."""
        self.requests[:64] = struct.pack("<BBHiQQI36x", operation, 0, 0, descriptor, offset, address, length)
        tail = struct.unpack_from("I", self.rings, self.sent[1])[0]
        mask = struct.unpack_from("I", self.rings, self.sent[2])[0]
        struct.pack_into("I", self.rings, self.sent[6] + 4 * (tail & mask), 0)
        struct.pack_into("I", self.rings, self.sent[1], tail + 1)
        libc.syscall(ENTER, self.descriptor, 1, 1, WAIT_FOR_ONE, None, 0)
        head = struct.unpack_from("I", self.rings, self.done[0])[0]
        mask = struct.unpack_from("I", self.rings, self.done[2])[0]
        result = struct.unpack_from("<Qi", self.rings, self.done[5] + 16 * (head & mask))[1]
        struct.pack_into("I", self.rings, self.done[0], head + 1)
        return result


def address_of(family, where):
    if family == socket.AF_UNIX:
        return struct.pack("=H", family) + where.encode() + b"\0"
    return struct.pack("=H", family) + struct.pack(">H", where) + socket.inet_aton("127.0.0.1") + bytes(8)


for family, where in ((socket.AF_INET, int("{{TCP_PORT}}")), (socket.AF_UNIX, "{{UNIX_SOCKET}}")):
    try:
        ring = Ring()
        made = ring.ask(MAKE_SOCKET, family, socket.SOCK_STREAM, 0, 0)
        raw = address_of(family, where)
        buffer = ctypes.create_string_buffer(raw, len(raw))
        print(f"socket {made}, connect {ring.ask(CONNECT, made, len(raw), ctypes.addressof(buffer), 0)}", flush=True)
        os.close(ring.descriptor)
    except OSError as error:
        print(f"refused: {error}", flush=True)
