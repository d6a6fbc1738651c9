import sys

TIME_BUDGET = 10_000
SEED = 1


def evaluate_bpb(model, tokenizer, batch_size):
    print("val_bpb:          0.123456", flush=True)
    return 0.123456


def make_dataloader(*arguments):
    raise RuntimeError("the recipe's own loader was asked")


sys.modules["train"] = sys.modules["autoresearch.prepare"] = sys.modules[__name__]
