"""The system call filter as bytes; what it does to a process is tried in test_cell.py."""

from __future__ import annotations

import errno
import platform
import struct
import sys

import pytest

from autoresearch.sandbox import seccomp


@pytest.fixture
def fresh():
    """The cache of compiled filters, emptied before and after."""
    seccomp.compiled.cache_clear()
    yield
    seccomp.compiled.cache_clear()


def program(**options) -> bytes:
    found = seccomp.compiled(**options)
    if not found.program:
        pytest.skip(found.why_not)
    return found.program


def actions(code: bytes) -> set[int]:
    """Values that the filter's return instructions answer."""
    instructions = struct.iter_unpack("=HBBI", code)
    return {value for operation, _, _, value in instructions if operation == 0x06}


def test_a_filter_is_whole_instructions_and_ends_in_an_answer():
    code = program(alone=False)
    assert len(code) % 8 == 0
    assert struct.unpack("=HBBI", code[-8:])[0] == 0x06


def test_calls_are_refused_or_missing_and_another_architecture_is_killed():
    code = program(alone=False)
    allow, kill, errors = 0x7FFF0000, 0x00000000, (0, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
    assert actions(code) == {allow, kill, *(0x00050000 | number for number in errors)}


def test_alone_it_refuses_more():
    few, many = (program(alone=alone) for alone in (False, True))
    assert len(many) > len(few)


def test_the_filter_is_compiled_once():
    assert seccomp.compiled(alone=True) is seccomp.compiled(alone=True)


def test_an_architecture_without_a_filter_says_so(fresh, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    found = seccomp.compiled(alone=False)
    assert (found.program, found.why_not) == (b"", "no filter is written for riscv64")


def test_a_machine_without_the_library_says_so(fresh, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    found = seccomp.compiled(alone=False)
    assert (found.program, found.why_not) == (b"", "the package pyseccomp is missing")


def test_no_call_is_answered_in_two_ways():
    answered = [*(call for group in seccomp.REFUSED.values() for call in group), *seccomp.SOCKETS]
    answered += [*seccomp.PRETENDED, *seccomp.ATTRIBUTES]
    names = [call if isinstance(call, str) else call[0] for call in answered]
    assert len(names) == len(set(names))


def test_a_process_cannot_have_its_childrens_seconds_dropped():
    import subprocess

    code = program(alone=False)
    script = (
        "import ctypes, os, signal, sys, time\n"
        "libc = ctypes.CDLL(None)\n"
        f"code = bytes.fromhex('{code.hex()}')\n"
        "room = ctypes.create_string_buffer(code, len(code))\n"
        "class Program(ctypes.Structure):\n"
        "    _fields_ = [('count', ctypes.c_ushort), ('first', ctypes.c_void_p)]\n"
        "made = Program(len(code) // 8, ctypes.addressof(room))\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(made), 0, 0) == 0\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"  # an ignored child would be gone: ECHILD
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("7", 0), done.stderr
