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
import signal
from dataclasses import dataclass
from typing import Any

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
    "which pages of a file are in memory: notes that outlive a process": ("mincore", ("cachestat", 451)),
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
# What namespaces hold and Landlock does not; refused where it stands alone. TCP and abstract names are all of the network
# that Landlock knows. socketpair stays, but for datagrams: such a socket can be sent anywhere.
SOCKETS = ("socket", "connect", "bind", "listen")
_DATAGRAM_TYPES = (2, 3)  # SOCK_DGRAM, and SOCK_RAW, which is the same among local sockets
# Landlock looks at no change of a mode, an owner or a time: a candidate could close the ledger to us, or leave notes in the
# times of files it only reads. Answered with success, because linkers and copies set modes and need not see it done.
PRETENDED: tuple[str | tuple[str, int], ...] = (
    *("chmod", "fchmod", "fchmodat", ("fchmodat2", 452), "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat"),
    # every descendant keeps the root's session and process group, and is found and killed by them where no process
    # namespace ends with the root; torch's compile workers ask for sessions of their own
    *("setsid", "setpgid"),
)
ATTRIBUTES: tuple[str | tuple[str, int], ...] = (
    *("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"),
    *(("setxattrat", 463), ("removexattrat", 466), ("file_setattr", 469)),
)
# Calls that reach another process of the same user unless this argument is 0, the caller itself: its limits, its priority,
# its processors (a referee that is slowed down is a clock that is slowed down).
ABOUT_ITSELF_ONLY = (
    *(("prlimit64", 0), ("setpriority", 0), ("setpriority", 1), ("ioprio_set", 1), ("sched_setaffinity", 0)),
    *(("sched_setscheduler", 0), ("sched_setparam", 0), ("sched_setattr", 0), ("migrate_pages", 0), ("move_pages", 0)),
)

_CLONE_NEW_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type on the terminal that we run on
_LOW_32_BITS = 0xFFFFFFFF  # the kernel reads no more of a request, and so must the filter
_NOTES_IN_THE_PAGE_CACHE = (  # (call, argument, value): pages sent out of memory, in files that others read too
    *(("fadvise64", 3, 4), ("madvise", 2, 20), ("madvise", 2, 21)),  # POSIX_FADV_DONTNEED, MADV_COLD, MADV_PAGEOUT
)
_READS_WITH_FLAGS = ("preadv2", "pwritev2")  # flags are argument 5; RWF_NOWAIT tells whether a page is in memory
# Who ignores SIGCHLD, or asks not to keep its children, has the kernel drop their CPU seconds: children of 50 ms hid 80 % of
# what they trained from the CPU clock. Setting it up is answered with success and does nothing; asking stays.
_SIGCHLD = int(signal.SIGCHLD)
_SET_DUMPABLE = 4  # a process that is not dumpable hides its open files, and what they hold, from an ordinary user
_QUERY_PERSONALITY = 0xFFFFFFFF
_CLONE3 = ("clone3", 435)  # its flags lie in memory, which a filter cannot read; glibc falls back to clone on ENOSYS


@dataclass(frozen=True)
class Filter:
    """A compiled filter: `struct sock_filter` entries one after the other; empty when `why_not` says what is missing."""

    program: bytes
    detail: str
    why_not: str = ""


@functools.cache
def compiled(*, alone: bool) -> Filter:
    """The filter for this machine, compiled once.

    alone: no namespaces are around the candidate, and the filter also refuses what they would hold: sockets, changes of
    files that Landlock does not see, sessions of its own, and calls about other processes.
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
    eperm, success = pyseccomp.ERRNO(errno.EPERM), pyseccomp.ERRNO(0)
    refused = [call for group in REFUSED.values() for call in group] + (list(SOCKETS) if alone else [])
    for call in refused:
        _answer(pyseccomp, made, eperm, call)
    for flag in _CLONE_NEW_NAMESPACES:
        made.add_rule(eperm, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    for request in _TERMINAL_INJECTION:
        made.add_rule(eperm, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _LOW_32_BITS, request))
    made.add_rule(eperm, "personality", pyseccomp.Arg(0, pyseccomp.NE, _QUERY_PERSONALITY))
    _answer(pyseccomp, made, pyseccomp.ERRNO(errno.ENOSYS), _CLONE3)
    for name, argument, value in _NOTES_IN_THE_PAGE_CACHE:
        made.add_rule(success, name, pyseccomp.Arg(argument, pyseccomp.EQ, value))
    for name in _READS_WITH_FLAGS:
        made.add_rule(pyseccomp.ERRNO(errno.EOPNOTSUPP), name, pyseccomp.Arg(5, pyseccomp.NE, 0))
    made.add_rule(
        success,
        "rt_sigaction",
        pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _LOW_32_BITS, _SIGCHLD),
        pyseccomp.Arg(1, pyseccomp.NE, 0),
    )
    made.add_rule(success, "prctl", pyseccomp.Arg(0, pyseccomp.EQ, _SET_DUMPABLE))
    if alone:
        for kind in _DATAGRAM_TYPES:
            made.add_rule(eperm, "socketpair", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xF, kind))
        for name, argument in ABOUT_ITSELF_ONLY:
            made.add_rule(eperm, name, pyseccomp.Arg(argument, pyseccomp.NE, 0))
        for call in PRETENDED:
            _answer(pyseccomp, made, success, call)
        for call in ATTRIBUTES:
            _answer(pyseccomp, made, pyseccomp.ERRNO(errno.EOPNOTSUPP), call)
    return Filter(_exported(made), f"{len(refused)} calls refused, on {machine}")


def _answer(library: Any, made: Any, action: int, call: str | tuple[str, int]) -> None:
    """Answer a system call so, whatever its arguments; nothing where this architecture or libseccomp has none."""
    name, known = (call, None) if isinstance(call, str) else call
    number = library.resolve_syscall(library.Arch.NATIVE, name)
    if number < 0 and known is not None:
        number = known
    if number >= 0:
        made.add_rule(action, number)


def _exported(made: Any) -> bytes:
    """The filter's program as libseccomp writes it."""
    with os.fdopen(os.memfd_create("filter"), "rb+") as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()
