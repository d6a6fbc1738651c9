import ctypes
import os
from pathlib import Path

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # <linux/sched.h>
RECURSIVE, PRIVATE, REMOUNT, BIND = 1 << 14, 1 << 18, 1 << 5, 1 << 12  # <linux/mount.h>


def in_a_world_of_our_own(libc):
    """Whether mounts can be changed without changing the machine's: in a new namespace, or in the sandbox's own."""
    if libc.unshare(NEW_USER | NEW_MOUNTS) == 0:
        return libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None) == 0
    print(f"unshare refused: {os.strerror(ctypes.get_errno())}", flush=True)
    return not Path("/proc/{{REFEREE_PID}}").exists()


def make_writable():
    libc = ctypes.CDLL(None, use_errno=True)
    ours = in_a_world_of_our_own(libc)
    for place in ("{{SITE_PACKAGES}}", "{{PACKAGE}}", "/"):
        target = place.encode()
        if ours:
            bound = libc.mount(target, target, None, BIND, None)
            again = libc.mount(None, target, None, REMOUNT | BIND, None)
            print(f"{place}: bind {bound}, remount {again}", flush=True)
        try:
            if place != "/":
                Path(place, "{{MARK}}").touch()
        except OSError as error:
            print(f"refused: {error}", flush=True)


child = os.fork()  # a process with one thread: others may not leave their user namespace
if child == 0:
    try:
        make_writable()
    finally:
        os._exit(0)
os.waitpid(child, 0)
