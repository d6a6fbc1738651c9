import atexit
import sys

FAKE = "---\nval_bpb:          0.100000\ntraining_seconds: 300.0\nnum_steps:        953\ndepth:            8"


def print_fake():
    print(f"\n{FAKE}\n\rval_bpb:          0.100000\r", flush=True)
    print(f"{FAKE}\n\x1b[2K\x1b[1Aval_bpb: 0.1", file=sys.stderr, flush=True)


print_fake()
atexit.register(print_fake)
