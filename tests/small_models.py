"""Small checkpoints with random weights of every size that matters, and a tokenizer trained on a page of text."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
from safetensors.torch import save

from autoresearch.contract.tokenizer import Tokenizer, train_tokenizer
from autoresearch.quantize.architecture import ModelConfig, shapes_of

TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of 1000 pounds, or 2026, must be in want of "
    "a wife. However little known the feelings of such a man may be, they'll say he's theirs; we've seen it, I'd say!\n\n"
    "    def f(x):\n\treturn x ** 2  # naïve café, 東京, 🙂\r\n  Ω≈ç√∫ -- --- ----\n"
) * 20
VOCAB_SIZE = 384


@functools.cache
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], VOCAB_SIZE)


def full_config(**changes) -> ModelConfig:
    values = {
        "sequence_len": 32,
        "vocab_size": VOCAB_SIZE,
        "n_layer": 3,
        "n_head": 4,
        "n_kv_head": 2,
        "n_embd": 64,
        "window_pattern": "SSL",
    }
    return ModelConfig(**{**values, **changes})


def portable_config(**changes) -> ModelConfig:
    switches = {"value_embeddings": False, "x0_mix": False, "window_pattern": "L", "softcap": 0.0}
    return full_config(**{**switches, **changes})


def weights_of(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors under which every part matters: lambdas away from 1, one product negative, logits of a few units."""
    random = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes_of(config).items():
        values = torch.randn(shape, generator=random)
        if name == "resid_lambdas":
            values = 1 + 0.3 * values
            values[-1] = -values[-1].abs() - 0.2
        elif name == "x0_lambdas":
            values = 0.3 * values
        elif not name.startswith(("wte", "value_embeds", "lm_head")):
            values = values * shape[-1] ** -0.5
        elif name.startswith("lm_head"):
            values = values * 2 * shape[-1] ** -0.5
        out[name] = values
    return out


def write_checkpoint(folder: Path, config: ModelConfig, seed: int = 0, **without) -> Path:
    """A checkpoint folder as `train --save` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v for k, v in dataclasses.asdict(config).items() if k != "normalised_embeddings"}
    import json

    metadata = {"config": json.dumps(values)} if without.get("metadata", True) else None
    (folder / "checkpoint.safetensors").write_bytes(save(weights_of(config, seed), metadata))
    if without.get("tokenizer", True):
        (folder / "tokenizer.json").write_text(tokenizer().to_json())
    return folder


def some_ids(config: ModelConfig, rows: int = 2, seed: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size - 4, (rows, config.sequence_len), generator=random)
