import resource

VICTIM = int("{{VICTIM_PID}}")
try:
    resource.prlimit(VICTIM, resource.RLIMIT_NOFILE, (32, 32))
    print("changed", flush=True)
except OSError as error:
    print(f"refused: {error}", flush=True)
