import subprocess
import sys
import time

CODE = """
import os
line = b"step 00001 | loss: 0.000001 | val_bpb: 0.1\\n" * 2048
for _ in range(8000):
    os.write(1, line)
"""
writers = [subprocess.Popen([sys.executable, "-I", "-S", "-c", CODE, "{{MARK}}"]) for _ in range(3)]
deadline = time.monotonic() + 20
while time.monotonic() < deadline and any(writer.poll() is None for writer in writers):
    time.sleep(0.1)
