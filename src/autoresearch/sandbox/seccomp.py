"""The system call filter: what no training needs, and attacks on a kernel or a neighbour start with, is refused.

Everything else is allowed: a list of what torch, CUDA, compilers and Python need would break with each release. The
program is compiled by libseccomp once per referee (55 to 99 ms with its import) and handed to each candidate as bytes.
Refused calls answer EPERM, so a library that only tries one goes on without it.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
from dataclasses import dataclass

ARCHITECTURES = ("x86_64", "aarch64")

# Names that libseccomp of this machine does not know are left out, unless their number follows: numbers from 424 on are
# the same on every architecture.
REFUSED: dict[str, tuple[str | tuple[str, int], ...]] = {
    "look into or steer another process": (
        *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp"),
        *(("pidfd_getfd", 438), ("process_madvise", 440)),
    ),
    "mount": (
        *("mount", "umount2", "pivot_root", "chroot"),
        *(("open_tree", 428), ("move_mount", 429), ("fsopen", 430), ("fsconfig", 431), ("fsmount", 432)),
        *(("fspick", 433), ("mount_setattr", 442), ("open_tree_attr", 467)),
    ),
    "make or enter namespaces": ("unshare", "setns"),
    "run code in the kernel": ("bpf", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load"),
    "kernel interfaces with a history of holes": (
        *("perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key"),
        *(("io_uring_setup", 425), ("io_uring_enter", 426), ("io_uring_register", 427)),
    ),
    "files by handle instead of by path": ("open_by_handle_at", "name_to_handle_at"),
    "the machine as a whole": (
        *("reboot", "swapon", "swapoff", "quotactl", "acct", "sethostname", "setdomainname", "settimeofday"),
        *("clock_settime", "adjtimex", "clock_adjtime", "iopl", "ioperm", "vhangup", "syslog", "nfsservctl", "uselib"),
        *("lookup_dcookie", "_sysctl", "vm86", "modify_ldt", ("quotactl_fd", 443)),
    ),
    "memory that outlives a process": (
        *(
            "shmget",
            "shmat",
            "shmctl",
            "semget",
            "semop",
            "semctl",
            "semtimedop",
            "msgget",
            "msgsnd",
            "msgrcv",
            "msgctl",
        ),
        *("mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr"),
    ),
}
# Landlock holds TCP and abstract names only. socketpair stays, but for datagrams: such a socket can be sent anywhere.
SOCKETS = ("socket", "connect", "bind", "listen")
_DATAGRAM_TYPES = (2, 3)  # SOCK_DGRAM, and SOCK_RAW, which is the same among local sockets

_CLONE_NEW_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type on the terminal that we run on
_QUERY_PERSONALITY = 0xFFFFFFFF
_CLONE3 = ("clone3", 435)  # its flags lie in memory, which a filter cannot read; glibc falls back to clone on ENOSYS


@dataclass(frozen=True)
class Filter:
    """A compiled filter: `struct sock_filter` entries one after the other; empty when `why_not` says what is missing."""

    program: bytes
    detail: str
    why_not: str = ""


@functools.cache
def compiled(*, without_sockets: bool, locked_session: bool) -> Filter:
    """The filter for this machine, compiled once.

    without_sockets: deny sockets of every family, where no network namespace makes them harmless.
    locked_session: setsid answers success and does nothing, so that every descendant keeps the root's session id and
    can be found by it, where no process namespace ends with the root; torch's compile workers ask for sessions.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return Filter(b"", "", f"no filter is written for {machine}")
    try:
        import pyseccomp
    except ImportError:
        return Filter(b"", "", "the package pyseccomp is missing")
    except (OSError, RuntimeError, AttributeError) as error:
        return Filter(b"", "", f"libseccomp is missing ({error})")
    made = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    eperm = pyseccomp.ERRNO(errno.EPERM)
    num_calls = 0
    for call in [*(call for group in REFUSED.values() for call in group), *(SOCKETS if without_sockets else ())]:
        number = _number(pyseccomp, call)
        if number is not None:
            made.add_rule(eperm, number)
            num_calls += 1
    for flag in _CLONE_NEW_NAMESPACES:
        made.add_rule(eperm, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    for request in _TERMINAL_INJECTION:  # the kernel reads 32 bits of it, and so must the filter
        made.add_rule(eperm, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    made.add_rule(eperm, "personality", pyseccomp.Arg(0, pyseccomp.NE, _QUERY_PERSONALITY))
    made.add_rule(pyseccomp.ERRNO(errno.ENOSYS), _number(pyseccomp, _CLONE3))
    if without_sockets:
        for kind in _DATAGRAM_TYPES:
            made.add_rule(eperm, "socketpair", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xF, kind))
    if locked_session:
        made.add_rule(pyseccomp.ERRNO(0), "setsid")
    return Filter(_exported(made), f"{num_calls} calls refused, on {machine}")


def _number(library: object, call: str | tuple[str, int]) -> int | None:
    """Number of a system call on this machine; None when this architecture has none or libseccomp knows none."""
    name, known = (call, None) if isinstance(call, str) else call
    number: int | None
    try:
        number = library.resolve_syscall(library.Arch.NATIVE, name)  # type: ignore[attr-defined]
    except (ValueError, OSError):
        return known
    return number if number is not None and number >= 0 else known


def _exported(made: object) -> bytes:
    """The filter's program as libseccomp writes it."""
    with os.fdopen(os.memfd_create("filter"), "rb+") as file:
        made.export_bpf(file)  # type: ignore[attr-defined]
        file.seek(0)
        return file.read()
