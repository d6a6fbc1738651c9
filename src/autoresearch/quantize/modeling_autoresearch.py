# mypy: ignore-errors
"""The GPT of autoresearch for the `transformers` library. `autoresearch export --format hf` copies this file beside the
weights, and `AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)` imports it.

RMS norms without weights, rotary embedding turning by minus the angle with the QK norm after it, value embeddings on every
other layer, x0 mixing, squared ReLU, sliding windows, softcapped logits. Padding on either side is masked out.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

RMS_EPS = 2.0**-23
GATE_CHANNELS = 32


class AutoresearchConfig(PretrainedConfig):
    """Fields as in train.py's GPTConfig; `windows` is one number of keys per layer."""

    model_type = "autoresearch"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  (a protocol of transformers)
    attribute_map = {  # noqa: RUF012
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_kv_head",
        "max_position_embeddings": "sequence_len",
    }

    def __init__(
        self,
        sequence_len=2048,
        vocab_size=8192,
        n_layer=8,
        n_head=4,
        n_kv_head=4,
        n_embd=512,
        windows=None,
        softcap=15.0,
        rope_base=10000.0,
        value_embeddings=True,
        x0_mix=True,
        use_cache=True,
        **kwargs,
    ):
        self.sequence_len = sequence_len
        self.vocab_size = vocab_size
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_kv_head = n_kv_head
        self.n_embd = n_embd
        self.windows = windows or [sequence_len] * n_layer
        self.softcap = softcap
        self.rope_base = rope_base
        self.value_embeddings = value_embeddings
        self.x0_mix = x0_mix
        self.use_cache = use_cache
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

    def has_value_embedding(self, layer):
        return self.value_embeddings and layer % 2 == (self.n_layer - 1) % 2


def rms_norm(x):
    return F.rms_norm(x.float(), (x.size(-1),), eps=RMS_EPS).to(x.dtype)


def turned(x, cos, sin):
    """Channel pairs (i, i + D/2) of x [B, T, H, D]."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer = layer
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.head_dim = config.n_embd // config.n_head
        kv_width = self.n_kv_head * self.head_dim
        self.c_q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = nn.Linear(config.n_embd, kv_width, bias=False)
        self.c_v = nn.Linear(config.n_embd, kv_width, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.ve_gate = None
        if config.has_value_embedding(layer):
            self.ve_gate = nn.Linear(min(GATE_CHANNELS, config.n_embd), self.n_kv_head, bias=False)

    def forward(self, x, ve, cos, sin, seen, past):
        B, T, _ = x.shape
        q = self.c_q(x).view(B, T, self.n_head, self.head_dim)
        k = self.c_k(x).view(B, T, self.n_kv_head, self.head_dim)
        v = self.c_v(x).view(B, T, self.n_kv_head, self.head_dim)
        if ve is not None:
            gate = 2 * torch.sigmoid(self.ve_gate(x[..., : self.ve_gate.in_features]))
            v = v + gate.unsqueeze(-1) * ve.view(B, T, self.n_kv_head, self.head_dim)
        q, k = (rms_norm(turned(t, cos, sin)).transpose(1, 2) for t in (q, k))
        v = v.transpose(1, 2)
        if past is not None:
            k, v = past.update(k, v, self.layer)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=self.n_head != self.n_kv_head)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)


class AutoresearchForCausalLM(PreTrainedModel, GenerationMixin):
    """`model(input_ids)` -> logits, float32 [B, T, V]."""

    config_class = AutoresearchConfig
    base_model_prefix = ""
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        kv_width = config.n_kv_head * (config.n_embd // config.n_head)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.value_embeds = nn.ModuleDict(
            {
                str(i): nn.Embedding(config.vocab_size, kv_width)
                for i in range(config.n_layer)
                if config.has_value_embedding(i)
            }
        )
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
        if config.x0_mix:
            self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        # Worked out when first used and kept outside the buffers: from_pretrained leaves what is in no file empty.
        self._tables = {}
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, value):
        self.wte = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def rotary(self, end, device):
        """cos and sin of positions 0 .. end - 1, float32 [1, end, 1, D/2]; worked out in float64 on the CPU."""
        key = str(device)
        if key not in self._tables or self._tables[key][0].size(1) < end:
            dim = self.config.n_embd // self.config.n_head
            length = max(end, self.config.sequence_len)
            frequency = self.config.rope_base ** (-torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim)
            angle = torch.outer(torch.arange(length, dtype=torch.float64, device="cpu"), frequency)[None, :, None, :]
            self._tables[key] = angle.cos().float().to(device), angle.sin().float().to(device)
        return self._tables[key]

    def forward(
        self, input_ids=None, attention_mask=None, past_key_values=None, labels=None, use_cache=None, **_unused
    ):
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        end = start + input_ids.size(1)
        cos, sin = (table[:, start:end] for table in self.rotary(end, input_ids.device))
        at = torch.arange(end, device=input_ids.device)
        distance = at[start:, None] - at[None, :]  # [T, keys]

        x0 = rms_norm(self.wte(input_ids))
        x = x0
        for i, block in enumerate(self.layers):
            x = self.resid_lambdas[i] * x
            if self.config.x0_mix:
                x = x + self.x0_lambdas[i] * x0
            ve = self.value_embeds[str(i)](input_ids) if str(i) in self.value_embeds else None
            # a full window has no limit, so that texts longer than those of training can be tried
            window = self.config.windows[i]
            seen = (distance >= 0) & (distance < (window if window < self.config.sequence_len else end))
            seen = seen[None, None]
            if attention_mask is not None:
                seen = (seen & attention_mask[:, None, None, :end].bool()) | (distance == 0)
            x = x + block.attn(rms_norm(x), ve, cos, sin, seen, past_key_values)
            x = x + block.mlp(rms_norm(x))
        logits = self.lm_head(rms_norm(x)).float()
        if self.config.softcap:
            logits = self.config.softcap * torch.tanh(logits / self.config.softcap)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
