import re
import time
from pathlib import Path

ROW_START = bytes.fromhex("{{ROW_START_HEX}}")
PIECE = 16 << 20


def search(memory, start, end):
    """Print what one stretch of memory holds of secrets and of what follows the known start of a row."""
    for at in range(start, end, PIECE):
        memory.seek(at)
        data = memory.read(min(PIECE, end - at))
        for secret in set(re.findall(rb"canary-[0-9a-f]{32}", data)):
            print(secret.decode(), flush=True)
        found = data.find(ROW_START)
        if found >= 0:
            rest = data[found + len(ROW_START) :][:96]
            print(f"found: {rest.hex()}", flush=True)


deadline = time.monotonic() + float("{{SECONDS}}")
try:
    with Path("/proc/{{REFEREE_PID}}/mem").open("rb", buffering=0) as memory:
        for line in Path("/proc/{{REFEREE_PID}}/maps").read_text().splitlines():
            bounds, rights = line.split()[:2]
            if rights.startswith("rw") and time.monotonic() < deadline:
                try:
                    search(memory, *(int(bound, 16) for bound in bounds.split("-")))
                except (OSError, OverflowError, ValueError) as error:
                    print(f"{bounds}: {error}", flush=True)
except OSError as error:
    print(f"refused: {error}", flush=True)
