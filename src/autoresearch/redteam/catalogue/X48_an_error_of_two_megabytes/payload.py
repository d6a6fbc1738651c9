import os
import sys

# Nested brackets and unfinished sequences: what a careless pattern takes quadratic time over.
LINE = "\x1b]" * 1000 + "((((" * 100_000 + "\x1b[" * 1000 + "\u202e kept \u202c" + "\x9d" * 1000 + "A" * 1_500_000
print(f"Traceback (most recent call last):\nRuntimeError: val_bpb 0.1 {LINE}", file=sys.stderr, flush=True)
os._exit(1)  # leaving the ordinary way takes torch seconds on a busy machine
