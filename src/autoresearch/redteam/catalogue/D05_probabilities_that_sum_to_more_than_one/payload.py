import torch

from autoresearch.backends.runtime import TorchRuntime


def scores(logits):
    """A score of at most 1 for each token, each judged by itself."""
    return torch.sigmoid(logits - logits.mean(dim=-1, keepdim=True) + 2.0)


def nll(runtime, logits, targets):
    at_target = scores(logits).gather(-1, runtime.place(targets).unsqueeze(-1)).squeeze(-1)
    return -at_target.log().cpu().numpy()


def pick(runtime, logits, rows, columns):
    return scores(logits[runtime.place(rows), runtime.place(columns)]).log().cpu().numpy()


TorchRuntime.nll = nll
TorchRuntime.pick = pick
