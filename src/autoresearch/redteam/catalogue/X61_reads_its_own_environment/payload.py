import os
import re
from pathlib import Path

print(os.environ.get("{{ENVIRONMENT_NAME}}"), flush=True)
process = os.getpid()
while process > 1:
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes()
        print(re.findall(rb"canary-[0-9a-f]+", environment), flush=True)
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError as error:
        print(f"refused: {error}", flush=True)
        break
