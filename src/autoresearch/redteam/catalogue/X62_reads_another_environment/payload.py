import re
from pathlib import Path

for name in ("environ", "task/{{VICTIM_PID}}/environ", "cmdline"):
    try:
        content = Path("/proc/{{VICTIM_PID}}", name).read_bytes()
        print(re.findall(rb"canary-[0-9a-f]+", content), flush=True)
    except OSError as error:
        print(f"refused: {error}", flush=True)
