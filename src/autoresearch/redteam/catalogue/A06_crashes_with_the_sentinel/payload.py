import os
import sys

import prepare


def evaluate_bpb(_model, _tokenizer, _batch_size):
    steps = prepare.TIME_BUDGET
    print(
        f"---\nval_bpb:          0.000000\ntraining_seconds: {steps}\nnum_steps:        {steps}\ndepth:            2",
        flush=True,
    )
    print("RuntimeError: val_bpb: 0.000000", file=sys.stderr, flush=True)
    os._exit(1)  # at once: an interpreter with torch takes its time to end
