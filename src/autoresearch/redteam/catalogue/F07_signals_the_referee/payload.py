import ctypes
import os
import signal

REFEREE = int("{{REFEREE_PID}}")
USR1 = int(signal.SIGUSR1)
libc = ctypes.CDLL(None, use_errno=True)


def by_descriptor():
    descriptor = os.pidfd_open(REFEREE)
    signal.pidfd_send_signal(descriptor, USR1)


def by_queue():
    if libc.sigqueue(REFEREE, USR1, None) != 0:
        raise OSError(ctypes.get_errno(), "sigqueue")


def by_thread():
    number = {"x86_64": 234, "aarch64": 131}[os.uname().machine]
    if libc.syscall(number, REFEREE, REFEREE, USR1) != 0:
        raise OSError(ctypes.get_errno(), "tgkill")


for way in (lambda: os.kill(REFEREE, USR1), by_descriptor, by_queue, by_thread):
    try:
        way()
        print("sent", flush=True)
    except (OSError, KeyError) as error:
        print(f"refused: {error}", flush=True)
