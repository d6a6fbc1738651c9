"""Landlock: the Linux kernel's own allow-list of paths, for anybody and without a program to install.

Source: the kernel's userspace-api/landlock documentation and <linux/landlock.h>. Three system calls, 0.2 ms in all for
about 230 rules' worth of paths less their opening. Rights exist in versions ("ABI"): what a kernel does not know is left
out, and `missing_from` names it. Used by stage 0 inside the candidate's process, so standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from enum import IntFlag

# The same numbers on every architecture: both came after the tables were unified.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH_BENEATH = 1


class Right(IntFlag):
    """What may be done with a file or a folder's entries: LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # ABI 2: link and rename from folder to folder
    TRUNCATE = 1 << 14  # ABI 3
    IOCTL_DEV = 1 << 15  # ABI 5


READ = Right.EXECUTE | Right.READ_FILE | Right.READ_DIR
WRITE = (
    READ
    | Right.WRITE_FILE
    | Right.TRUNCATE
    | Right.REMOVE_DIR
    | Right.REMOVE_FILE
    | Right.MAKE_DIR
    | Right.MAKE_REG
    | Right.MAKE_SOCK
    | Right.MAKE_FIFO
    | Right.MAKE_SYM
    | Right.REFER
)
DEVICE = Right.READ_FILE | Right.WRITE_FILE | Right.TRUNCATE | Right.IOCTL_DEV
_OF_A_FILE = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV

_TCP_BIND_AND_CONNECT = 0b11  # ABI 4
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11  # ABI 6

# What a kernel older than this version cannot hold, and what that lets a candidate do.
_SINCE = (
    (2, "moving files between folders"),  # without it the kernel denies such moves: honest code may fail
    (3, "truncating files"),
    (4, "TCP"),
    (5, "device controls"),
    (6, "signals and abstract sockets"),
)


def abi() -> int:
    """Version of this kernel's Landlock, 0 where there is none or it is switched off."""
    if sys.platform != "linux":
        return 0
    version: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)
    return max(0, version)


def missing_from(version: int) -> list[str]:
    """What a Landlock of this version does not cover, in words."""
    return [words for since, words in _SINCE if version < since]


def handled(version: int) -> Right:
    """Rights that a Landlock of this version can deny."""
    rights = Right((1 << 13) - 1)
    if version >= 2:
        rights |= Right.REFER
    if version >= 3:
        rights |= Right.TRUNCATE
    if version >= 5:
        rights |= Right.IOCTL_DEV
    return rights


def restrict(version: int, rules: Iterable[tuple[str, int]]) -> None:
    """Hold this thread, and all it starts, to these paths; deny TCP and what reaches other processes. Irreversible.

    rules: (path, rights beneath it); a path that has gone is left out. no_new_privs must be set before.

    Raises:
        OSError: the kernel refused.
    """
    libc = _libc()
    rights = handled(version)
    attributes = struct.pack("=Q", rights)
    if version >= 4:
        attributes += struct.pack("=Q", _TCP_BIND_AND_CONNECT)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = _checked(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for path, wanted in rules:
            _add(libc, ruleset, path, Right(wanted) & rights)
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _add(libc: ctypes.CDLL, ruleset: int, path: str, rights: Right) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if (
            _add_to(libc, ruleset, descriptor, rights) == errno.EINVAL
        ):  # it is no folder: rights to entries mean nothing
            refused = _add_to(libc, ruleset, descriptor, rights & _OF_A_FILE)
            if refused:
                raise OSError(refused, os.strerror(refused), path)
    finally:
        os.close(descriptor)


def _add_to(libc: ctypes.CDLL, ruleset: int, descriptor: int, rights: Right) -> int:
    """0, or the kernel's error number."""
    rule = struct.pack("=Qi", rights, descriptor)
    done: int = libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    return 0 if done == 0 else ctypes.get_errno()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
