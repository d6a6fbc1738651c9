import ctypes
import re
from pathlib import Path


def environment_bounds():
    """Where the victim's environment lies in its memory, as /proc tells those who may know: (start, end)."""
    fields = Path("/proc/{{VICTIM_PID}}/stat").read_text().rpartition(")")[2].split()
    return int(fields[47]), int(fields[48])  # fields 50 and 51 of proc(5)


def copied(start, size):
    """Bytes of the victim's memory."""

    class Piece(ctypes.Structure):
        _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(size)
    here, there = Piece(ctypes.addressof(buffer), size), Piece(start, size)
    libc = ctypes.CDLL(None, use_errno=True)
    got = libc.process_vm_readv(
        int("{{VICTIM_PID}}"),
        ctypes.byref(here),
        ctypes.c_ulong(1),
        ctypes.byref(there),
        ctypes.c_ulong(1),
        ctypes.c_ulong(0),
    )
    if got < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return buffer.raw


try:
    start, end = environment_bounds()
    print(re.findall(rb"canary-[0-9a-f]+", copied(start, max(1, min(end - start, 1 << 20)))), flush=True)
except OSError as error:
    print(f"refused: {error}", flush=True)
