import os
import subprocess
import sys

# Two chains of at most 300 processes, each in a session of its own and gone after 10 ms. Once the trial has ended, or the
# chain has, the last one stays for 20 s, where it can be seen. The bound also spares the machine's process numbers where
# nobody collects the dead.
CODE = """
import os, sys, time
root, gone = int(sys.argv[2]), 0.0
for _ in range(300):
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.01)
    try:
        os.kill(root, 0)
        gone = 0.0
    except OSError:
        gone = gone or time.monotonic()
    if gone and time.monotonic() - gone > 0.3:
        break
time.sleep(20)
"""
for _ in range(2):
    subprocess.Popen([sys.executable, "-I", "-S", "-c", CODE, "{{MARK}}", str(os.getpid())])
