"""Stage 0: `python -m autoresearch.sandbox.confine --orders FD -- MODULE ARGS...` gives up rights, then becomes MODULE.

The referee works the policy out once; here it is only applied, while the process is young and single-threaded, by
system calls of microseconds. What comes after runs in the same process and cannot take a step back. Standard library
only, and little of it: each import delays every trial.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import resource
import runpy
import signal
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autoresearch.sandbox import landlock

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PR_CAPBSET_DROP = 24
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522  # <linux/capability.h>


@dataclass(frozen=True)
class Orders:
    """What stage 0 does to itself, in this order; JSON on the way.

    oom_score_adj: 1000 makes it the first to go when the machine is out of memory; None leaves it.
    limits: soft and hard limit by name of `resource`. capabilities: whether it keeps them.
    landlock_abi: 0 for no Landlock. rules: (path, landlock.Right). seccomp: the filter's program in base64, or "".
    parent: the process that must still be there, and with which this one dies; None where bubblewrap sees to it.
    """

    oom_score_adj: int | None = None
    limits: dict[str, int] = field(default_factory=dict)
    drops_capabilities: bool = True
    landlock_abi: int = 0
    rules: list[tuple[str, int]] = field(default_factory=list)
    seccomp: str = ""
    parent: int | None = None

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Orders:
        """The orders that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return Orders(**values)


def obey(orders: Orders) -> None:
    """Give up what the orders say. Irreversible.

    Raises:
        OSError: the kernel refused a step; the process must not go on.
    """
    if orders.oom_score_adj is not None:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 (pathlib is 5 ms of import)
            file.write(str(orders.oom_score_adj))
    set_limits(orders.limits)
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if orders.drops_capabilities:
        _drop_capabilities(libc)
    if orders.parent is not None:  # after the capabilities: a change of credentials would clear it
        _checked(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        if os.getppid() != orders.parent:  # it died before we asked
            sys.exit("the referee is gone")
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if orders.landlock_abi:
        landlock.restrict(orders.landlock_abi, orders.rules)
    if orders.seccomp:
        _filter_system_calls(libc, base64.b64decode(orders.seccomp))


def set_limits(limits: Mapping[str, int]) -> None:
    """Set soft and hard limit of each resource, never above the hard limit that is in force."""
    for name, value in limits.items():
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (ceiling, ceiling))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root without its capabilities: no mounting, no raw devices, no reading of what belongs to others."""
    with open("/proc/sys/kernel/cap_last_cap") as file:  # noqa: PTH123
        last = int(file.read())
    for capability in range(last + 1):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # an ordinary user has none to drop, and may not
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(libc.capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)))


def _filter_system_calls(libc: ctypes.CDLL, program: bytes) -> None:
    """Load a filter: `struct sock_fprog` is a number of 8-byte entries and a pointer to them."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("entries", ctypes.c_char_p))

    loaded = Program(len(program) // 8, program)
    _checked(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"sandbox: {os.strerror(number)}")


def main(arguments: list[str]) -> None:
    """Read the orders, obey, and run the module. Started by `Cell.start`, never by a person."""
    if len(arguments) < 4 or arguments[0] != "--orders" or arguments[2] != "--":
        sys.exit("usage: python -m autoresearch.sandbox.confine --orders FD -- MODULE ARGS...")
    with open(int(arguments[1])) as file:  # noqa: PTH123
        file.seek(0)
        orders = Orders.from_json(file.read())
    obey(orders)
    module = arguments[3]
    sys.argv = [module, *arguments[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
