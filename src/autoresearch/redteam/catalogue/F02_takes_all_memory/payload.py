import mmap
import time

import psutil

BLOCK = 256 << 20
RESERVE = 0.1 * psutil.virtual_memory().total  # left free, for whoever runs this without a limit
held = []
deadline = time.monotonic() + 100
while psutil.virtual_memory().available > RESERVE + BLOCK and time.monotonic() < deadline:
    held.append(mmap.mmap(-1, BLOCK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
time.sleep(2)
print(f"holds {len(held) * BLOCK >> 20} MiB", flush=True)
held.clear()
