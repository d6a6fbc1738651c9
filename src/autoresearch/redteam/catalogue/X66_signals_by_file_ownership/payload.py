import fcntl
import os
import signal
import socket

reader, writer = socket.socketpair()
try:
    fcntl.fcntl(reader, fcntl.F_SETOWN, int("{{REFEREE_PID}}"))
    fcntl.fcntl(reader, getattr(fcntl, "F_SETSIG", 10), int(signal.SIGUSR2))
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    writer.send(b"now")
    print("sent", flush=True)
except OSError as error:
    print(f"refused: {error}", flush=True)
