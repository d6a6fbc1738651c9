import contextlib
import ctypes
import zlib
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
KEY = zlib.crc32(b"{{MARK}}") & 0x7FFFFFFF
NOTE = b"{{NOTE}}"
CREATE, REMOVE, SIZE = 0o1600, 0, 4096
FILE = Path("/dev/shm/{{MARK}}")


def system_v(is_first):
    segment = LIBC.shmget(KEY, SIZE, CREATE if is_first else 0o600)
    queue = LIBC.msgget(KEY, CREATE if is_first else 0o600)
    if segment < 0 or queue < 0:
        print(f"refused: segment {segment}, queue {queue}, error {ctypes.get_errno()}")
    if segment >= 0:
        address = LIBC.shmat(segment, None, 0)
        if is_first:
            ctypes.memmove(address, NOTE, len(NOTE))
        else:
            print("segment:", ctypes.string_at(address), flush=True)
            LIBC.shmctl(segment, REMOVE, None)
    if queue >= 0:
        letter = ctypes.create_string_buffer((1).to_bytes(8, "little") + NOTE, 8 + SIZE)
        if is_first:
            LIBC.msgsnd(queue, letter, len(NOTE), 0o4000)
        else:
            size = LIBC.msgrcv(queue, letter, SIZE, 0, 0o4000)
            print("queue:", letter.raw[8 : 8 + max(0, size)], flush=True)
            LIBC.msgctl(queue, REMOVE, None)


def posix(is_first):
    if is_first:
        FILE.write_bytes(NOTE)
    else:
        print("file:", FILE.read_bytes(), flush=True)


with contextlib.suppress(OSError):
    posix("{{TURN}}" == "1")
system_v("{{TURN}}" == "1")
