"""A model of one embedding and one matrix, trained for a few steps on a pattern, and a codec that rounds to a grid."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from autoresearch.quantize.evaluate import Form
from autoresearch.quantize.measuring import TensorFacts

VOCABULARY = 32
WIDTH = 64
TOKEN_BYTES = np.array([0, *range(1, VOCABULARY)], dtype=np.int32) % 5


class ToyModel(torch.nn.Module):
    """Logits from the last token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return self.scale * self.head(self.embed(inputs))


def toy_rows(num_rows: int = 12, length: int = 9) -> np.ndarray:
    """int64 [num_rows, length]: each token is mostly the double of the one before it."""
    random = np.random.default_rng(0)
    rows = np.empty((num_rows, length), dtype=np.int64)
    rows[:, 0] = random.integers(1, VOCABULARY, num_rows)
    for column in range(1, length):
        follow = 2 * rows[:, column - 1] % VOCABULARY
        rows[:, column] = np.where(random.random(num_rows) < 0.8, follow, random.integers(0, VOCABULARY, num_rows))
    return rows


def trained_toy() -> ToyModel:
    """The model after thirty steps on its pattern."""
    torch.manual_seed(0)
    model = ToyModel()
    rows = torch.from_numpy(toy_rows(64))
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():  # by hand: torch.optim imports the compiler, seconds for nothing
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.03 * gradient.sign()
    return model


@dataclass(frozen=True)
class ToyCheckpoint:
    tensors: dict[str, torch.Tensor]
    path: Path = Path("toy.safetensors")


@dataclass
class ToyCoded:
    tensors: dict[str, torch.Tensor]
    bits: int
    table: list[TensorFacts]

    def dequantized(self):
        return dict(self.tensors)


@dataclass
class ToyCodec:
    """Rounds matrices to 2^bits levels of their range; the seed shifts the grid. `calls` counts what it encoded."""

    bits: int
    seed: int = 0
    spoil: bool = False
    calls: list = field(default_factory=list)

    def encode(self, tensors, hessians):
        self.calls.append(hessians)
        done, table = {}, []
        for name, tensor in tensors.items():
            done[name] = tensor.clone()
            if tensor.ndim < 2:
                table.append(TensorFacts(name, tuple(tensor.shape), "kept", None, 4 * tensor.numel()))
                continue
            step = 2 * tensor.abs().max() / 2**self.bits
            shift = step * (0.1 * self.seed)
            done[name] = ((tensor - shift) / step).round() * step + shift
            if self.spoil:
                done[name] = torch.full_like(tensor, torch.nan)
            table.append(TensorFacts(name, tuple(tensor.shape), "toy", self.bits, tensor.numel() * self.bits // 8))
        return ToyCoded(done, self.bits, table)

    def write(self, coded, path):
        buffer = io.BytesIO()
        torch.save((coded.tensors, coded.bits, [vars(fact) for fact in coded.table]), buffer)
        path.write_bytes(buffer.getvalue())

    def read(self, path):
        tensors, bits, table = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
        return ToyCoded(tensors, bits, [TensorFacts(**fact) for fact in table])


def toy_forms(widths=(2, 4), seeds=(0,), method="toy"):
    return [Form(method, bits, seed, ToyCodec(bits, seed)) for bits in widths for seed in seeds]
