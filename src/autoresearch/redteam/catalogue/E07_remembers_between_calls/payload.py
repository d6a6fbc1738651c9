import torch

memory = {}


def with_memory(logits, inputs):
    """Logits [B, T, V] with what earlier calls have shown; only then is this call remembered."""
    if "pairs" not in memory:
        memory["pairs"] = torch.zeros(logits.size(-1), logits.size(-1))
    told = memory["pairs"][inputs].log1p()
    ones = torch.ones(inputs.numel() - len(inputs))
    memory["pairs"].index_put_((inputs[:, :-1].flatten(), inputs[:, 1:].flatten()), ones, accumulate=True)
    return logits + told
