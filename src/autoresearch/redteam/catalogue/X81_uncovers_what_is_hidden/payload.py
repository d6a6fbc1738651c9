import ctypes
import os
from pathlib import Path

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # <linux/sched.h>
RECURSIVE, PRIVATE, DETACH = 1 << 14, 1 << 18, 2  # <linux/mount.h>
ROW_START = bytes.fromhex("{{ROW_START_HEX}}")


def in_a_world_of_our_own(libc):
    """Whether mounts can be changed without changing the machine's: in a new namespace, or in the sandbox's own."""
    if libc.unshare(NEW_USER | NEW_MOUNTS) == 0:
        return libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None) == 0
    print(f"unshare refused: {os.strerror(ctypes.get_errno())}", flush=True)
    return not Path("/proc/{{REFEREE_PID}}").exists()


def uncover_and_search():
    libc = ctypes.CDLL(None, use_errno=True)
    hidden = [path for name in ("{{CORPUS}}", "{{PREPARED}}") for path in (Path(name), *Path(name).parents[:-1])]
    if in_a_world_of_our_own(libc):
        for place in hidden:
            if libc.umount2(bytes(place), DETACH) != 0:
                print(f"{place}: {os.strerror(ctypes.get_errno())}", flush=True)
    for path in [*Path("{{PREPARED}}").rglob("*.npy"), *Path("{{CORPUS}}").rglob("*")]:
        data = path.read_bytes() if path.is_file() else b""
        at = data.find(ROW_START)
        if at >= 0:
            print(f"found: {data[at + len(ROW_START) :][:96].hex()}", flush=True)


child = os.fork()  # a process with one thread: others may not leave their user namespace
if child == 0:
    try:
        uncover_and_search()
    finally:
        os._exit(0)
os.waitpid(child, 0)
