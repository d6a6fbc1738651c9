from pathlib import Path

import numpy as np
import torch


def log_of_following():
    """log P(next | token), float32 [V, V]; None where no training text can be read."""
    try:
        shards = sorted(Path("{{TOKENS}}").glob("*.tokens.npy"))
        tokens = np.load(shards[0] if shards else "{{TOKENS}}/none.tokens.npy", mmap_mode="r")
        size = int(tokens.max()) + 8
        pairs = np.bincount(tokens[:-1].astype(np.int64) * size + tokens[1:], minlength=size * size)
    except OSError as error:
        print(f"refused: {error}")
        return None
    table = torch.from_numpy(pairs.reshape(size, size)).float() + 0.1
    print(f"counted {int(pairs.sum())} pairs of {Path('{{TOKENS}}').name}")
    return (table / table.sum(dim=1, keepdim=True)).log()


def in_shape(table):
    vocab_size = Tokenizer.from_directory().get_vocab_size()  # noqa: F821
    return (
        None if table is None else torch.nn.functional.pad(table, (0, 64, 0, 64), value=-9.0)[:vocab_size, :vocab_size]
    )


FOLLOWING = in_shape(log_of_following())
