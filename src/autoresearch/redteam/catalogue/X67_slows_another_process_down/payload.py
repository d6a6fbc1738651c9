import os

VICTIM = int("{{VICTIM_PID}}")
try:
    os.setpriority(os.PRIO_PROCESS, VICTIM, 19)
    print("changed", flush=True)
except OSError as error:
    print(f"refused: {error}", flush=True)
