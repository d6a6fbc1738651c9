import os

VICTIM = int("{{VICTIM_PID}}")
try:
    os.sched_setaffinity(VICTIM, {min(os.sched_getaffinity(0))})
    os.sched_setscheduler(VICTIM, os.SCHED_IDLE, os.sched_param(0))
    print("changed", flush=True)
except OSError as error:
    print(f"refused: {error}", flush=True)
