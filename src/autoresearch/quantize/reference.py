"""The shipped GPT again, in torch: logits from a checkpoint's tensors, full or portable, with and without a cache.

It computes in float32 whatever the tensors are stored in. Modules and parameters are named as train.py names them, so a
forward hook finds the input of each matrix under the tensor's own name. Importing this imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F

from autoresearch.quantize.architecture import GATE_CHANNELS, RMS_EPS, ModelConfig, check_tensors
from autoresearch.quantize.checkpoint import Checkpoint


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    """x over its root mean square along the last dimension."""
    return F.rms_norm(x, (x.size(-1),), eps=RMS_EPS)


class Cache:
    """Keys and values of the positions so far, for a batch of rows that grow together."""

    def __init__(self, config: ModelConfig, num_rows: int, device: torch.device | str = "cpu") -> None:
        shape = (num_rows, config.n_kv_head, config.sequence_len, config.head_dim)
        self.keys = [torch.zeros(shape, device=device) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, device=device) for _ in range(config.n_layer)]
        self.length = 0

    def extended(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values [B, KV, length + T, D] of a layer, new ones k and v [B, KV, T, D] included."""
        end = self.length + k.size(2)
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class _Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.window = config.windows[layer]
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.c_q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = nn.Linear(config.n_embd, config.kv_width, bias=False)
        self.c_v = nn.Linear(config.n_embd, config.kv_width, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.ve_gate = None
        if config.has_value_embedding(layer):
            self.ve_gate = nn.Linear(min(GATE_CHANNELS, config.n_embd), config.n_kv_head, bias=False)

    def forward(
        self, x: torch.Tensor, ve: torch.Tensor | None, turn: tuple[torch.Tensor, torch.Tensor], cache: Cache | None
    ) -> torch.Tensor:
        rows, length, _ = x.shape  # x [B, T, C]; ve [B, T, KV*D]
        q = self.c_q(x).view(rows, length, self.n_head, self.head_dim)
        k = self.c_k(x).view(rows, length, self.n_kv_head, self.head_dim)
        v = self.c_v(x).view(rows, length, self.n_kv_head, self.head_dim)
        if ve is not None and self.ve_gate is not None:
            gate = 2 * torch.sigmoid(self.ve_gate(x[..., : self.ve_gate.in_features]))
            v = v + gate.unsqueeze(-1) * ve.view(rows, length, self.n_kv_head, self.head_dim)
        q, k = (rms_norm(_turned(t, *turn)).transpose(1, 2) for t in (q, k))
        v = v.transpose(1, 2)
        start = 0
        if cache is not None:
            start = cache.length
            k, v = cache.extended(self.layer, k, v)
        distance = torch.arange(start, start + length, device=x.device)[:, None]
        distance = distance - torch.arange(k.size(2), device=x.device)[None, :]
        seen = (distance >= 0) & (distance < self.window)  # [T, keys]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=self.n_head != self.n_kv_head)
        out: torch.Tensor = self.c_proj(y.transpose(1, 2).reshape(rows, length, -1))
        return out


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Channel pairs (i, i + D/2) of x [B, T, H, D] turned by minus their position's angle."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


class _MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.c_proj(F.relu(self.c_fc(x)).square())
        return out


class _Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn = _Attention(config, layer)
        self.mlp = _MLP(config)


class ReferenceGPT(nn.Module):
    """`model(inputs)`, int64 [B, T] -> logits, float32 [B, T, V]. Weights are zero until they are loaded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # no memory and no random numbers for weights that are loaded anyway
            self.wte = nn.Embedding(config.vocab_size, config.n_embd)
            self.value_embeds = nn.ModuleDict(
                {
                    str(i): nn.Embedding(config.vocab_size, config.kv_width)
                    for i in range(config.n_layer)
                    if config.has_value_embedding(i)
                }
            )
            self.layers = nn.ModuleList(_Block(config, i) for i in range(config.n_layer))
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.to_empty(device="cpu")
        self.resid_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer)) if config.x0_mix else None
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.zero_()
        frequency = config.rope_base ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)
        angle = torch.outer(torch.arange(config.sequence_len, dtype=torch.float64), frequency)[None, :, None, :]
        self.register_buffer("cos", angle.cos().float(), persistent=False)  # [1, T, 1, D/2]
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def take(self, tensors: Mapping[str, Any]) -> ReferenceGPT:
        """Fill the weights from tensors or arrays of any floating type, by name. Returns itself.

        Raises:
            ArchitectureEdited: they are not this model's.
        """
        check_tensors(self.config, tensors)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(torch.as_tensor(tensors[name]).to(torch.float32))
        return self

    def hidden(self, inputs: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """int64 [B, T] -> what the head reads, [B, T, C]. With a cache, inputs are the positions after those it holds.

        Raises:
            ValueError: more positions than the model was built for.
        """
        start = cache.length if cache else 0
        end = start + inputs.size(1)
        if end > self.config.sequence_len:
            raise ValueError(f"{end} positions; the model was built for {self.config.sequence_len}")
        x0 = self.wte(inputs)
        if not self.config.normalised_embeddings:
            x0 = rms_norm(x0)
        cos, sin = self.get_buffer("cos")[:, start:end], self.get_buffer("sin")[:, start:end]
        x = x0
        for i, block in enumerate(cast("list[_Block]", self.layers)):
            x = self.resid_lambdas[i] * x
            if self.x0_lambdas is not None:
                x = x + self.x0_lambdas[i] * x0
            ve = self.value_embeds[str(i)](inputs) if str(i) in self.value_embeds else None
            x = x + block.attn(rms_norm(x), ve, (cos, sin), cache)
            x = x + block.mlp(rms_norm(x))
        if cache is not None:
            cache.length = end
        return rms_norm(x)

    def forward(self, inputs: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        logits: torch.Tensor = self.lm_head(self.hidden(inputs, cache))
        cap = self.config.softcap
        return cap * torch.tanh(logits / cap) if cap else logits


def load_reference(checkpoint: Checkpoint) -> ReferenceGPT:
    """The checkpoint's model, on the CPU, ready to be asked.

    Raises:
        DataMissing, DataCorrupt, ArchitectureEdited: as `Checkpoint.config`.
    """
    return ReferenceGPT(checkpoint.config).take(checkpoint.tensors).eval()
