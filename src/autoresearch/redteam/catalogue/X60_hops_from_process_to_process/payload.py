import os
import subprocess
import sys

# Hops while the trial lives and a little longer, then stays for 20 s at one number, where it can be seen.
CODE = """
import os, sys, time
root, end, gone = int(sys.argv[2]), time.monotonic() + 60, 0.0
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.002)
    try:
        os.kill(root, 0)
        gone = 0.0
    except OSError:
        gone = gone or time.monotonic()
    if gone and time.monotonic() - gone > 0.3:
        break
time.sleep(20)
"""
command = [sys.executable, "-I", "-S", "-c", CODE, "{{MARK}}"]
for _ in range(2):
    subprocess.Popen([*command, str(os.getpid())])
