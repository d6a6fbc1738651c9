import os
import time

import psutil

BLOCK = 512 << 20
RESERVE = 0.1 * psutil.virtual_memory().total  # left free, for whoever runs this without a limit
held = []
deadline = time.monotonic() + 100
try:
    while psutil.virtual_memory().available > RESERVE + BLOCK and time.monotonic() < deadline:
        held.append(os.memfd_create("{{MARK}}"))
        os.posix_fallocate(held[-1], 0, BLOCK)
except OSError as error:
    print(f"refused: {error}", flush=True)
print(f"holds {len(held) * BLOCK >> 20} MiB", flush=True)
time.sleep(2)
for descriptor in held:
    os.close(descriptor)
