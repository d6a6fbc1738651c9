import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

# Ignored signals and the blocked ones stay so in the program that is executed.
GO_ON = """
import time
weights = [1.0] * 10000
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    weights = [weight - 0.01 * weight for weight in weights]
"""
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def start_daemon():
    """Forked twice, in a session of its own, with another name, and with what it learnt in its environment."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    with contextlib.suppress(OSError):
        os.setsid()
    if os.fork() == 0:
        try:
            ctypes.CDLL(None).prctl(DEATH_SIGNAL, 0, 0, 0, 0)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.chdir("/")
            os.closerange(3, 256)
            learnt = {"LEARNT": "{{NOTE}}", "PYTHONHOME": sys.base_prefix}
            os.execve(sys.executable, ["kworker", "-S", "-P", "-c", GO_ON, "{{MARK}}"], learnt)
        finally:
            os._exit(1)
    os._exit(0)


def ask_daemon():
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"{{MARK}}" in (folder / "cmdline").read_bytes():
                print(f"still there: {folder.name}: {(folder / 'environ').read_text()}", flush=True)
        except OSError:
            continue


start_daemon() if "{{TURN}}" == "1" else ask_daemon()
