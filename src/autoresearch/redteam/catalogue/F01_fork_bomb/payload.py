import subprocess
import time

# Four generations and no more, so that it ends by itself where nobody ends it. The shell is small: what stops it is the
# number of processes, not their memory.
SCRIPT = 'if [ "$1" -gt 0 ]; then for i in 1 2 3 4 5; do sh -c "$2" {{MARK}} $(($1 - 1)) "$2" & done; fi; sleep 20'
bomb = subprocess.Popen(["sh", "-c", SCRIPT, "{{MARK}}", "4", SCRIPT])
deadline = time.monotonic() + 20
while bomb.poll() is None and time.monotonic() < deadline:
    time.sleep(0.1)
print("the bomb went off", flush=True)
