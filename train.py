# Edited by the model program (program.md). Everything in this file may change; no other file may.
"""
The experiment: a GPT, its optimizer and its training loop, in one file. Run it with `python train.py`.

Covered: pretraining for a fixed budget on one device (CUDA, Apple's MPS, or CPU), then one score, val_bpb, lower is
better. Not covered: the clock, the text and the score, which belong to the referee and come through `prepare`:

    make_dataloader   hands out batches and ends when the budget is spent; its `.progress` drives the schedules
    evaluate_bpb      takes the weights over and asks `model(inputs)` for logits

The model and its optimizer are the published ones of karpathy/autoresearch and nanochat, written anew. Two differences:
a window of w means exactly w keys (theirs w + 1), and the reported loss is the mean over all micro-steps of a step.
benchmarks/step_speed.py measures the step against the published one on a CPU: numerics, speed, val_bpb.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

# Plumbing: which attention kernel runs here, and plain expressions with a backward pass that is faster on a CPU. Each may
# be replaced by the expression that it stands for.
from autoresearch.backends.attention import attention_for, describe, present_on
from autoresearch.backends.fused import relu_squared_linear, rms_norm, turn_pairs
from autoresearch.backends.loss import softcapped_cross_entropy
from autoresearch.backends.memory import keep_freed_memory
from prepare import (
    MAX_DEVICE_BATCH_SIZE,
    MAX_SEQ_LEN,
    PRESET,
    SEED,
    TIME_BUDGET,
    Tokenizer,
    evaluate_bpb,
    make_dataloader,
)

# ----------------------------------------------------------------------------------------------------------------------
# Hyperparameters
# Plain literals, for the preset `standard`. The search reads and edits them here and in the table below.

# Model
DEPTH = 8  # layers
ASPECT_RATIO = 64  # width = DEPTH * ASPECT_RATIO, rounded up to a multiple of HEAD_DIM
HEAD_DIM = 128  # channels per attention head
KV_GROUPS = 1  # query heads that share one key/value head; 1 = a key/value head each
WINDOW_PATTERN = "SSSL"  # one letter per layer, repeated: S short window, L full; the last layer is always L
SHORT_WINDOW_DIVISOR = 2  # S sees the last MAX_SEQ_LEN / 2 positions
ROPE_BASE = 10000.0  # slowest rotation: one radian per ROPE_BASE positions
LOGIT_SOFTCAP = 15.0  # logits stay within +-15; 0 = no cap
VALUE_EMBEDDINGS = 1  # 1 = every other layer mixes embeddings of the tokens into its values, 0 = none does
X0_MIX = 1  # 1 = every layer adds the embedding to the residual stream that it reads, 0 = none does
ARCHITECTURE = "full"  # "portable" = without the four above, which stock llama.cpp cannot run; costs val_bpb
RESID_LAMBDA_INIT = 1.0  # weight of the residual stream going into each layer
X0_LAMBDA_INIT = 0.1  # weight of the embedding added to it

# Batch
TOTAL_BATCH_SIZE = 524288  # tokens per optimizer step
DEVICE_BATCH_SIZE = 128  # rows per forward pass at most; halved by itself when memory runs out

# Optimizer
EMBEDDING_LR = 0.6  # AdamW: token and value embeddings, times (width / 768) ** -0.5
UNEMBEDDING_LR = 0.004  # AdamW: output head, times (width / 768) ** -0.5
SCALAR_LR = 0.5  # AdamW: x0_lambdas; resid_lambdas get a hundredth of it
ADAM_BETAS = (0.8, 0.95)
X0_BETAS = (0.96, 0.95)  # x0_lambdas only
MATRIX_LR = 0.04  # Muon: every matrix of the layers
WEIGHT_DECAY = 0.2  # Muon, cautious; falls to 0 over the budget
MUON_MOMENTUM = 0.95
MUON_MOMENTUM_START = 0.85  # rises to MUON_MOMENTUM ...
MUON_MOMENTUM_STEPS = 300  # ... over this many steps
MUON_BETA2 = 0.95  # memory of the variance reduction

# Schedule, in parts of the budget
WARMUP_RATIO = 0.0
WARMDOWN_RATIO = 0.5
FINAL_LR_FRAC = 0.0

# What the other presets change. Learning rates stay the published ones: the width rule above scales them.
PRESET_OVERRIDES = {
    "tiny": {"DEPTH": 2, "ASPECT_RATIO": 32, "HEAD_DIM": 64, "DEVICE_BATCH_SIZE": 8, "TOTAL_BATCH_SIZE": 2048},
    "small": {"DEPTH": 4, "DEVICE_BATCH_SIZE": 16, "TOTAL_BATCH_SIZE": 65536},
    "long": {"DEPTH": 4, "DEVICE_BATCH_SIZE": 2, "TOTAL_BATCH_SIZE": 8192},
    "smoke": {"DEPTH": 2, "ASPECT_RATIO": 16, "HEAD_DIM": 16, "DEVICE_BATCH_SIZE": 2, "TOTAL_BATCH_SIZE": 128},
}
globals().update(PRESET_OVERRIDES.get(PRESET, {}))

assert ARCHITECTURE in ("full", "portable"), 'ARCHITECTURE: write "full" or "portable"'
if ARCHITECTURE == "portable":
    globals().update({"VALUE_EMBEDDINGS": 0, "X0_MIX": 0, "LOGIT_SOFTCAP": 0.0, "WINDOW_PATTERN": "L"})

# ----------------------------------------------------------------------------------------------------------------------
# Model
# Letters in shape comments: B rows, T positions, C width, V vocabulary, H query heads, KV key/value heads, D head_dim.

GATE_CHANNELS = 32  # the value-embedding gate reads the first 32 channels of its layer's input


@dataclass(frozen=True)
class GPTConfig:
    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    window_pattern: str
    softcap: float = 15.0
    rope_base: float = 10000.0
    short_window_divisor: int = 2
    resid_init: float = 1.0
    x0_init: float = 0.1
    value_embeddings: bool = True
    x0_mix: bool = True

    @property
    def head_dim(self):
        return self.n_embd // self.n_head

    @property
    def windows(self):
        """Keys that each layer's queries see, themselves included: one int per layer."""
        short = max(1, self.sequence_len // self.short_window_divisor)
        letters = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.n_layer)]
        letters[-1] = "L"
        return [short if letter == "S" else self.sequence_len for letter in letters]


def config_from_hyperparameters(vocab_size):
    """The GPTConfig that the constants above describe."""
    assert WINDOW_PATTERN and set(WINDOW_PATTERN) <= {"S", "L"}, 'WINDOW_PATTERN: write S and L only, like "SSSL"'
    assert HEAD_DIM % 2 == 0, "HEAD_DIM: choose an even number, rotary embedding turns channels in pairs"
    n_embd = math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM) * HEAD_DIM
    n_head = n_embd // HEAD_DIM
    assert n_head % KV_GROUPS == 0, f"KV_GROUPS: choose a divisor of the {n_head} heads that DEPTH and HEAD_DIM give"
    return GPTConfig(
        sequence_len=MAX_SEQ_LEN,
        vocab_size=vocab_size,
        n_layer=DEPTH,
        n_head=n_head,
        n_kv_head=n_head // KV_GROUPS,
        n_embd=n_embd,
        window_pattern=WINDOW_PATTERN,
        softcap=LOGIT_SOFTCAP,
        rope_base=ROPE_BASE,
        short_window_divisor=SHORT_WINDOW_DIVISOR,
        resid_init=RESID_LAMBDA_INIT,
        x0_init=X0_LAMBDA_INIT,
        value_embeddings=bool(VALUE_EMBEDDINGS),
        x0_mix=bool(X0_MIX),
    )


def has_value_embedding(layer, config):
    """Every other layer mixes value embeddings in, counted so that the last layer does."""
    return config.value_embeddings and layer % 2 == (config.n_layer - 1) % 2


def norm(x):
    """RMS norm over the last dimension, without weights."""
    return rms_norm(x)  # F.rms_norm(x, (x.size(-1),))


def rotary_tables(length, head_dim, base):
    """cos and sin of the rotary angles (Su et al. 2021, arXiv:2104.09864), each float32 [1, T, 1, D/2]."""
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)[None, :, None, :]
    return angle.cos().float(), angle.sin().float()


def side_by_side(weight, head_dim):
    """Rows of a projection to heads [H*D, C], in each head in the order 0, D/2, 1, D/2 + 1, ...

    Rotary embedding turns the pairs (i, i + D/2). Queries and keys may have their channels in any order, as long as it is the
    same, and pairs that stand side by side turn as one complex number: 0.13 ms instead of 1.05 ms for `tiny` on a CPU.
    """
    return weight.view(-1, 2, head_dim // 2, weight.size(1)).transpose(1, 2).reshape(weight.shape)


def rotate(x, cos, sin):
    """Turn the channel pairs (2i, 2i + 1) of x [B, T, H, D] by their position's angles."""
    return turn_pairs(x, cos, sin)


def attend(q, k, v, attention):
    """Softmax attention with scale 1/sqrt(D). q [B, T, H, D], k and v [B, T, KV, D] -> [B, T, H, D].

    Query i sees the keys j with i - attention.window < j <= i. The kernel is the fastest that is here and has this window,
    see autoresearch/backends/attention.py; the log names it. The one place to put another kind of attention.
    """
    return attention(q, k, v)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        kv_width = self.n_kv_head * self.head_dim
        self.c_q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = nn.Linear(config.n_embd, kv_width, bias=False)
        self.c_v = nn.Linear(config.n_embd, kv_width, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.ve_gate = None
        if has_value_embedding(layer, config):
            self.ve_gate = nn.Linear(min(GATE_CHANNELS, config.n_embd), self.n_kv_head, bias=False)

    def forward(self, x, ve, cos, sin, attention):  # x [B, T, C], ve [B, T, KV*D] or None
        B, T, _ = x.shape
        H, KV = self.n_head, self.n_kv_head
        # One matrix product instead of three. The matrices stay apart for Muon, which would mix their singular vectors.
        to_q, to_k = (side_by_side(linear.weight, self.head_dim) for linear in (self.c_q, self.c_k))
        qkv = F.linear(x, torch.cat((to_q, to_k, self.c_v.weight)))
        qk, v = qkv.view(B, T, H + 2 * KV, self.head_dim).split((H + KV, KV), dim=2)
        if ve is not None:
            gate = 2 * torch.sigmoid(self.ve_gate(x[..., : self.ve_gate.in_features]))  # [B, T, KV], 1 at the start
            v = v + gate.unsqueeze(-1) * ve.view(B, T, KV, self.head_dim)
        qk = norm(rotate(qk, cos, sin)).to(v.dtype)  # under autocast the norm may answer in float32
        q, k = qk.split((H, KV), dim=2)
        return self.c_proj(attend(q, k, v, attention).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return self.c_proj(relu_squared_linear(x, self.c_fc.weight))  # F.relu(self.c_fc(x)).square()


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, ve, cos, sin, attention):
        x = x + self.attn(norm(x), ve, cos, sin, attention)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """`model(inputs)` -> logits, float32 [B, T, V]; `model(inputs, targets)` -> mean cross-entropy in nats, scalar.

    `autocast_dtype` is the dtype of the matrix products (None: float32 throughout). `speed_up` comes after `to(device)`.
    """

    def __init__(self, config, autocast_dtype=None):
        super().__init__()
        self.config = config
        self.autocast_dtype = autocast_dtype
        self.windows = config.windows
        kv_width = config.n_kv_head * config.head_dim
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.value_embeds = nn.ModuleDict(
            {
                str(i): nn.Embedding(config.vocab_size, kv_width)
                for i in range(config.n_layer)
                if has_value_embedding(i, config)
            }
        )
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.resid_lambdas = nn.Parameter(torch.full((config.n_layer,), config.resid_init))
        self.x0_lambdas = nn.Parameter(torch.full((config.n_layer,), config.x0_init)) if config.x0_mix else None

        # Derived from the config, so not part of state_dict.
        cos, sin = rotary_tables(config.sequence_len, config.head_dim, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.speed_up(torch.device("cpu"))

    def speed_up(self, device, compiled=False):
        """Choose each layer's attention kernel for a device and, if so wished, compile: in place, state_dict keeps its names.

        The loss stays outside of what is compiled: it goes through the rows block by block, and compiles its blocks.
        """
        present = present_on(device, compiles=compiled)
        dtype = self.autocast_dtype or torch.float32
        length, head_dim = self.config.sequence_len, self.config.head_dim
        of_window = {
            window: attention_for(window, length, present=present, dtype=dtype, head_dim=head_dim, device=device)
            for window in set(self.windows)
        }
        self.attentions = [of_window[window] for window in self.windows]
        self.compiled = compiled
        if compiled:
            self.hidden = torch.compile(self.hidden, dynamic=False)
            self.capped = torch.compile(self.capped, dynamic=False)

    @torch.no_grad()
    def initialise(self, generator=None):
        """Fill all weights: the published scheme. At the start every layer is the identity (zero projections)."""
        bound = math.sqrt(3 / self.config.n_embd)  # uniform +-bound has standard deviation 1/sqrt(C)
        self.wte.weight.normal_(0.0, 1.0, generator=generator)
        self.lm_head.weight.normal_(0.0, 0.001, generator=generator)
        for block in self.layers:
            for linear in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.c_fc):
                linear.weight.uniform_(-bound, bound, generator=generator)
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
            if block.attn.ve_gate is not None:
                block.attn.ve_gate.weight.zero_()  # sigmoid(0) * 2 = 1: value embeddings enter at full weight
        for table in self.value_embeds.values():
            table.weight.uniform_(-bound, bound, generator=generator)
        self.resid_lambdas.fill_(self.config.resid_init)
        if self.x0_lambdas is not None:
            self.x0_lambdas.fill_(self.config.x0_init)

    def hidden(self, inputs):
        """inputs int64 [B, T] -> normalised output of the last layer [B, T, C]."""
        T = inputs.size(1)
        limit = self.config.sequence_len
        assert limit >= T, f"T is {T}, the model was built for {limit}: pass at most MAX_SEQ_LEN positions"
        x0 = norm(self.wte(inputs))
        cos, sin = self.cos[:, :T].to(x0.dtype), self.sin[:, :T].to(x0.dtype)
        x = x0
        for i, (block, attention) in enumerate(zip(self.layers, self.attentions, strict=True)):
            x = self.resid_lambdas[i] * x
            if self.x0_lambdas is not None:
                x = x + self.x0_lambdas[i] * x0
            ve = self.value_embeds[str(i)](inputs) if str(i) in self.value_embeds else None
            x = block(x, ve, cos, sin, attention)
        return norm(x)

    def capped(self, x):
        """Logits of normalised outputs x [B, T, C], float32 [B, T, V]."""
        cap = self.config.softcap
        logits = self.lm_head(x).float()
        return cap * torch.tanh(logits / cap) if cap else logits

    def forward(self, inputs, targets=None):
        with torch.autocast(inputs.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            x = self.hidden(inputs)  # [B, T, C]
            logits = self.capped(x) if targets is None else None
        if targets is None:
            return logits
        x = x.to(self.autocast_dtype or x.dtype).flatten(0, 1)
        return softcapped_cross_entropy(
            x, self.lm_head.weight, targets.flatten(), self.config.softcap, compiled=self.compiled
        )

    def num_parameters(self):
        """Parameters by category, and their total."""
        counts = {
            "wte": self.wte.weight.numel(),
            "value_embeds": sum(p.numel() for p in self.value_embeds.parameters()),
            "lm_head": self.lm_head.weight.numel(),
            "matrices": sum(p.numel() for p in self.layers.parameters()),
            "scalars": sum(p.numel() for p in (self.resid_lambdas, self.x0_lambdas) if p is not None),
        }
        counts["total"] = sum(counts.values())
        assert counts["total"] == sum(p.numel() for p in self.parameters()), "count the new parameters here too"
        return counts

    def flops_per_token(self):
        """FLOPs of forward and backward per token: 6 per matrix parameter, 12 per channel and visible key.

        Embeddings are look-ups and scalars are noise: neither is counted. The head is a matrix product and is.
        Kaplan et al. 2020 (arXiv:2001.08361) for the 6, PaLM (arXiv:2204.02311, appendix B) for the 12.
        """
        counts = self.num_parameters()
        attention = 12 * self.config.n_embd * sum(self.windows)
        return 6 * (counts["matrices"] + counts["lm_head"]) + attention


# ----------------------------------------------------------------------------------------------------------------------
# Optimizer

# Five quintic steps that drive all singular values towards 1. Polar Express (Amsel et al. 2025, arXiv:2505.16932),
# computed for 5 iterations with safety factor 0.02; the numbers are those of modded-nanogpt and nanochat.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalise(g):
    """Nearest matrix with all singular values near 1 (0.7 to 1.2), for each matrix of g [K, rows, cols]."""
    x = g / (g.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)  # 1.02: the safety factor of the coefficients
    tall = x.size(-2) > x.size(-1)
    for a, b, c in POLAR_EXPRESS:
        s = x.mT @ x if tall else x @ x.mT  # Gram matrix of the shorter side: the cheap one
        polynomial = torch.baddbmm(s, s, s, beta=b, alpha=c)  # b s + c s^2
        left, right = (x, polynomial) if tall else (polynomial, x)
        x = torch.baddbmm(
            x, left, right, beta=a
        )  # sums within the products: 1.1 ms instead of 1.6 ms for `tiny`'s MLPs
    return x


def muon_step(params, grads, momentum_buffer, variance, momentum, lr, decay, beta2, dtype):
    """One Muon step on K matrices of one shape, all tensors [K, rows, cols]. Updates the buffers, returns new params.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): Nesterov momentum, then orthogonalisation in `dtype`.
    NorMuon (Li et al. 2025, arXiv:2510.05491): rows (or columns, of a wide matrix) are scaled to equal size by a
    running second moment; the whole keeps its Frobenius norm. Cautious weight decay (Chen et al. 2025,
    arXiv:2510.12402): decays only where the update already shrinks the weight. lr: a number, or one per matrix [K, 1, 1].
    """
    rows, cols = params.shape[-2:]
    momentum_buffer.lerp_(grads, 1 - momentum)
    update = orthogonalise(grads.lerp(momentum_buffer, momentum).to(dtype)).to(params.dtype)

    along = -1 if rows >= cols else -2
    mean_square = update.square().mean(dim=along, keepdim=True)  # [K, rows, 1] or [K, 1, cols]
    variance.mul_(beta2).add_(mean_square * (1 - beta2))
    scale = variance.clamp_min(1e-10).rsqrt()
    size = mean_square.sum(dim=(-2, -1), keepdim=True).sqrt()  # Frobenius norms, up to one common factor
    new_size = (mean_square * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    lr = lr * max(1.0, rows / cols) ** 0.5
    update = update * (scale * (size / new_size.clamp_min(1e-10)) * lr)

    agrees = (update * params) >= 0
    return params - update - params * agrees * (lr * decay)


def adamw_step(param, grad, mean, mean_square, step, lr, beta1, beta2, eps, decay):
    """One AdamW step with bias correction (Kingma & Ba 2015; Loshchilov & Hutter 2019), in place, float32 moments."""
    grad = grad.float()
    mean.lerp_(grad, 1 - beta1)
    mean_square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = (mean_square / (1 - beta2**step)).sqrt_().add_(eps)
    if decay:
        param.mul_(1 - lr * decay)
    param.sub_((mean / denominator).mul_(lr / (1 - beta1**step)).to(param.dtype))


def standing(matrix):
    """A view of the matrix with at least as many rows as columns."""
    return matrix if matrix.size(0) >= matrix.size(1) else matrix.mT


class MuonAdamW:
    """Muon for the layers' matrices, AdamW for the rest.

    A plain class: torch.optim.Optimizer imports the compiler on first use, 1 s of start-up that an eager run has no
    use for. `groups` is a list of dicts; each holds its parameters, its settings and its state. A Muon group is stacked: its
    matrices have one shape, or that shape lying down, which is stacked transposed.
    """

    def __init__(self, groups, *, muon_dtype=torch.float32, compiled=False):
        self.groups = groups
        self.muon_dtype = muon_dtype
        self.num_steps = 0
        self.muon_step, self.adamw_step = muon_step, adamw_step
        # Compiled code takes its numbers as tensors, or each new learning rate would compile it again.
        self.number = float
        if compiled:
            self.muon_step = torch.compile(muon_step, dynamic=False, fullgraph=True)
            self.adamw_step = torch.compile(adamw_step, dynamic=False, fullgraph=True)
            self.number = torch.tensor
        for group in groups:
            params = group["params"]
            if group["kind"] == "muon":
                shapes = {tuple(sorted(p.shape)) for p in params}
                assert len(shapes) == 1, "a Muon group is stacked: give it matrices of one shape, standing or lying"
                cols, rows = shapes.pop()
                group["momentum_buffer"] = torch.zeros(len(params), rows, cols, device=params[0].device)
                group["variance"] = torch.zeros(len(params), rows, 1, device=params[0].device)
                # muon_step raises the rate of a tall matrix. One that lies down is not to have that.
                rates = [1.0 if p.size(0) >= p.size(1) else (cols / rows) ** 0.5 for p in params]
                group["rate"] = torch.tensor(rates, device=params[0].device)[:, None, None]
            else:
                group["mean"] = [torch.zeros_like(p, dtype=torch.float32) for p in params]
                group["mean_square"] = [torch.zeros_like(p, dtype=torch.float32) for p in params]

    def state_tensors(self):
        """Every tensor that a step changes, apart from the parameters."""
        tensors = []
        for group in self.groups:
            if group["kind"] == "muon":
                tensors += [group["momentum_buffer"], group["variance"]]
            else:
                tensors += group["mean"] + group["mean_square"]
        return tensors

    @torch.no_grad()
    def step(self, lr_multiplier, muon_momentum, weight_decay):
        """Update all parameters that have a gradient, then drop the gradients."""
        self.num_steps += 1
        for group in self.groups:
            lr = self.number(group["lr"] * lr_multiplier)
            if group["kind"] == "muon":
                self._muon(group, lr, self.number(muon_momentum), self.number(weight_decay))
            else:
                self._adamw(group, lr)
        self.zero_grad()

    def _muon(self, group, lr, momentum, decay):
        params = [standing(p.detach()) for p in group["params"]]
        new = self.muon_step(
            torch.stack(params),
            torch.stack([standing(p.grad) for p in group["params"]]),
            group["momentum_buffer"],
            group["variance"],
            momentum,
            lr * group["rate"],
            decay,
            group["beta2"],
            self.muon_dtype,
        )
        torch._foreach_copy_(params, list(new.unbind(0)))

    def _adamw(self, group, lr):
        step = self.number(float(self.num_steps))
        for param, mean, mean_square in zip(group["params"], group["mean"], group["mean_square"], strict=True):
            self.adamw_step(
                param.detach(), param.grad, mean, mean_square, step, lr, *group["betas"], group["eps"], group["decay"]
            )

    def zero_grad(self):
        for group in self.groups:
            for param in group["params"]:
                param.grad = None


def build_optimizer(model, *, muon_dtype=torch.float32, compiled=False):
    """The published groups with the learning rates above."""
    width_scale = (model.config.n_embd / 768) ** -0.5  # the AdamW rates were tuned at width 768

    def adamw(params, lr, betas=ADAM_BETAS):
        return {"kind": "adamw", "params": list(params), "lr": lr, "betas": betas, "eps": 1e-10, "decay": 0.0}

    groups = [
        adamw([model.lm_head.weight], UNEMBEDDING_LR * width_scale),
        adamw([model.wte.weight], EMBEDDING_LR * width_scale),
        adamw(model.value_embeds.parameters(), EMBEDDING_LR * width_scale),
        adamw([model.resid_lambdas], SCALAR_LR * 0.01),  # a small change there moves every layer above
    ]
    if model.x0_lambdas is not None:
        groups.append(adamw([model.x0_lambdas], SCALAR_LR, X0_BETAS))
    matrices = list(model.layers.parameters())
    for shape in sorted({tuple(sorted(p.shape)) for p in matrices}):
        same = [p for p in matrices if tuple(sorted(p.shape)) == shape]
        groups.append({"kind": "muon", "params": same, "lr": MATRIX_LR, "beta2": MUON_BETA2})
    return MuonAdamW(groups, muon_dtype=muon_dtype, compiled=compiled)


# ----------------------------------------------------------------------------------------------------------------------
# Schedules. progress is the part of the budget that is spent, 0 to 1, by the referee's clock.


def lr_multiplier_at(progress):
    """Linear warm-up, constant, linear warm-down to FINAL_LR_FRAC."""
    progress = min(1.0, progress)
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


def muon_momentum_at(step):
    """From MUON_MOMENTUM_START to MUON_MOMENTUM over the first MUON_MOMENTUM_STEPS steps."""
    part = min(1.0, step / MUON_MOMENTUM_STEPS)
    return MUON_MOMENTUM_START + part * (MUON_MOMENTUM - MUON_MOMENTUM_START)


def weight_decay_at(progress):
    """Linear from WEIGHT_DECAY to 0."""
    return WEIGHT_DECAY * max(0.0, 1 - progress)


# ----------------------------------------------------------------------------------------------------------------------
# Training


@dataclass
class Result:
    num_steps: int = 0
    num_tokens: int = 0
    losses: tuple = ()  # one mean per step, nats per token
    peak_memory: int = 0  # bytes, sampled at each step, where the device keeps no peak itself


def num_micro_steps_for(device_batch_size, sequence_len, total_batch_size):
    """Forward passes per optimizer step."""
    tokens = device_batch_size * sequence_len
    assert total_batch_size % tokens == 0, (
        f"TOTAL_BATCH_SIZE ({total_batch_size}) must be a multiple of DEVICE_BATCH_SIZE * MAX_SEQ_LEN = "
        f"{device_batch_size} * {sequence_len} = {tokens}: change one of them"
    )
    return total_batch_size // tokens


def device_batch_size_within(limit):
    """Rows per forward pass: DEVICE_BATCH_SIZE, within the limit (0: none), halved until TOTAL_BATCH_SIZE divides."""
    rows = min(DEVICE_BATCH_SIZE, limit or DEVICE_BATCH_SIZE)
    while rows > 1 and TOTAL_BATCH_SIZE % (rows * MAX_SEQ_LEN):
        rows //= 2
    return rows


def warm_up(model, optimizer, batch):
    """One whole training step and one evaluation on a batch that is not text, then everything put back bit for bit.

    Compiles, allocates and loads kernels before the referee's clock starts: 25 to 60 s with torch.compile on the cards
    that reported it, 0.1 s on a CPU. What is put back is put back when memory runs out, too.
    """
    inputs, targets = batch[:2]
    tensors = [p.detach() for p in model.parameters()] + optimizer.state_tensors()
    saved = [t.clone() for t in tensors]
    num_steps = optimizer.num_steps
    accelerator = {"cuda": torch.cuda, "mps": torch.mps}.get(inputs.device.type)
    random_states = torch.get_rng_state(), accelerator and accelerator.get_rng_state()
    try:
        model(inputs, targets).backward()
        optimizer.step(lr_multiplier_at(0.5), muon_momentum_at(0), weight_decay_at(0.0))
        with torch.no_grad():
            model(inputs)  # what evaluate_bpb will run: compiling it then would be too late
        if accelerator:
            accelerator.synchronize()
    finally:
        optimizer.zero_grad()
        for tensor, old in zip(tensors, saved, strict=True):
            tensor.copy_(old)
        optimizer.num_steps = num_steps
        torch.set_rng_state(random_states[0])
        if accelerator:
            accelerator.set_rng_state(random_states[1])
            accelerator.synchronize()


def is_out_of_memory(error):
    """Whether the device's memory was too small. MPS says so in a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in str(error)


def warm_up_what_fits(tokenizer, model, optimizer, loader, rows):
    """Warm up, with half the rows per forward pass whenever memory runs out -> loader, rows. Before the clock starts."""
    while True:
        try:
            warm_up(model, optimizer, loader.synthetic_batch())
            return loader, rows
        except RuntimeError as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        # Outside of the except block, whose traceback holds the tensors that did not fit.
        print(
            f"out of memory with {rows} rows per forward pass: trying {device_batch_size_within(rows // 2)}", flush=True
        )
        rows = device_batch_size_within(rows // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
        loader = make_dataloader(tokenizer, rows, MAX_SEQ_LEN, "train")


def stop_if_diverged(loss):
    """A lost run ends here: the budget is better spent on the next idea."""
    if not loss <= 100:  # NaN too
        print("\nFAIL", flush=True)
        raise SystemExit(1)


def train(model, optimizer, loader, num_micro_steps):
    """Train until the loader ends. A step whose micro-steps are not complete by then is dropped."""
    result = Result()
    losses = []
    smooth_loss = 0.0  # running mean; divided by 1 - 0.9^n it starts unbiased
    waiting = None  # loss of the step before, not read yet
    loss_sum, micro_step = 0.0, 0
    last_time = time.perf_counter()
    for inputs, targets, epoch in loader:
        loss = model(inputs, targets) / num_micro_steps
        loss.backward()
        loss_sum = loss_sum + loss.detach()
        micro_step += 1
        if micro_step < num_micro_steps:
            continue

        progress = loader.progress
        multiplier = lr_multiplier_at(progress)
        optimizer.step(multiplier, muon_momentum_at(result.num_steps), weight_decay_at(progress))
        result.num_steps += 1
        result.num_tokens += num_micro_steps * inputs.numel()
        if inputs.device.type == "mps":
            result.peak_memory = max(result.peak_memory, torch.mps.driver_allocated_memory())

        # An accelerator works through its queue while we read the loss of the step before: reading the newest would
        # stall it. A CPU has no queue.
        ready = loss_sum if inputs.device.type == "cpu" or result.num_steps == 1 else waiting
        waiting = None if ready is loss_sum else loss_sum
        loss_sum, micro_step = 0.0, 0
        if ready is not None:
            losses.append(ready.item())
            stop_if_diverged(losses[-1])
            smooth_loss = 0.9 * smooth_loss + 0.1 * losses[-1]
        shown_loss = smooth_loss / (1 - 0.9 ** len(losses))
        tokens = num_micro_steps * inputs.numel()
        now = time.perf_counter()
        seconds, last_time = now - last_time, now
        print(
            f"\rstep {result.num_steps:05d} ({100 * progress:.1f}%) | loss: {shown_loss:.6f} | lrm: {multiplier:.2f} | "
            f"dt: {1000 * seconds:.0f}ms | tok/sec: {tokens / seconds:,.0f} | "
            f"epoch: {epoch} | remaining: {(1 - progress) * TIME_BUDGET:.0f}s    ",
            end="",
            flush=True,
        )
    print()
    optimizer.zero_grad()
    if waiting is not None:
        losses.append(waiting.item())
        stop_if_diverged(losses[-1])
    result.losses = tuple(losses)
    return result


def peak_memory_mb(device, sampled=0):
    """MiB: the device's own peak on CUDA, the largest sample (bytes) on MPS, which keeps none, the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if device.type == "mps":
        return max(sampled, torch.mps.driver_allocated_memory()) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def summary_text(values):
    """The block that other programs read: a line `---`, then `key:   value` lines, values in column 19."""
    formats = {
        "val_bpb": ".6f",
        "training_seconds": ".1f",
        "total_seconds": ".1f",
        "peak_vram_mb": ".1f",
        "mfu_percent": ".2f",
        "total_tokens_M": ".1f",
        "num_steps": "d",
        "num_params_M": ".1f",
        "depth": "d",
        "backend": "s",
        "chip": "s",
    }
    lines = ["---"]
    for key, form in formats.items():
        value = values[key]
        lines.append(f"{key + ':':<18}{'n/a' if value is None else format(value, form)}")
    return "\n".join(lines)


def mfu_percent(flops, seconds, peak_flops):
    """Part of the device's dense bf16 peak that training used, in %; None where the peak is not known."""
    return 100 * flops / (seconds * peak_flops) if peak_flops and seconds else None


def settings_for(device):
    """Set the process up for a device -> (dtype of matrix products, None for float32; whether to compile)."""
    if device.type == "cuda":  # ROCm too
        torch.set_float32_matmul_precision("high")  # TF32, under whichever name the release has for it
        return torch.bfloat16, True
    if device.type == "mps" and PRESET == "long":
        torch.mps.set_per_process_memory_fraction(0.7)  # an 8 GB Mac: leave the rest to its owner
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Two threads on a shared machine measured 1.5x faster when it was quiet, 4x to 10x slower when it was not.
        torch.set_num_threads(1)
    if device.type == "cpu":
        keep_freed_memory()
    # float32 and no compiler: bf16 measured 2.3x slower on a CPU without bf16 units, a cold compile 45 s.
    return None, False


def build_model(config, device, autocast_dtype=None):
    """A GPT with fresh weights. They are drawn on the CPU, so that a seed means the same on every device."""
    model = GPT(config, autocast_dtype)
    model.initialise()
    if autocast_dtype is not None:
        model.wte.to(autocast_dtype)  # the residual stream takes the dtype of the embeddings
        model.value_embeds.to(autocast_dtype)
    model.to(device)
    model.speed_up(device)
    return model


def load_model(weights):
    """The model again, from `state_dict` as evaluate_bpb handed it over: a fresh process is asked what it can do.

    Before a keep is final the referee calls this where no validation text was ever seen (docs/contract.md). Whatever the
    model needs to predict has to be in the weights, or follow from the constants above.
    """
    device = weights["lm_head.weight"].device
    autocast_dtype, _ = settings_for(device)  # not compiled: the few prefixes asked take less time than compiling
    model = build_model(config_from_hyperparameters(len(weights["lm_head.weight"])), device, autocast_dtype)
    model.load_state_dict(weights)
    return model


def main():
    start_time = time.perf_counter()
    from autoresearch.backends.handover import hand_over_to_mlx
    from autoresearch.backends.hardware import detect

    hand_over_to_mlx(__file__)  # by hand, where MLX is the backend in force, train_mlx.py goes on from here
    torch.manual_seed(SEED)
    if torch.version.cuda:  # segments that grow hold what fragments of fixed size could not; ROCm has none
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    tokenizer = Tokenizer.from_directory()
    config = config_from_hyperparameters(tokenizer.get_vocab_size())
    rows = device_batch_size_within(MAX_DEVICE_BATCH_SIZE)
    num_micro_steps_for(rows, MAX_SEQ_LEN, TOTAL_BATCH_SIZE)
    loader = make_dataloader(tokenizer, rows, MAX_SEQ_LEN, "train")
    device = loader.synthetic_batch()[0].device  # the loader decides where we run
    autocast_dtype, compiled = settings_for(device)

    model = build_model(config, device, autocast_dtype)
    optimizer = build_optimizer(model, muon_dtype=autocast_dtype or torch.float32, compiled=compiled)
    if compiled:
        model.speed_up(device, compiled)

    counts = model.num_parameters()
    print(config)
    print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    print(f"attention: {describe(model.attentions)}")
    loader, rows = warm_up_what_fits(tokenizer, model, optimizer, loader, rows)
    num_micro_steps = num_micro_steps_for(rows, MAX_SEQ_LEN, TOTAL_BATCH_SIZE)
    print(f"FLOPs per token: {model.flops_per_token():.3e}, micro-steps per step: {num_micro_steps}")
    print(f"start-up: {time.perf_counter() - start_time:.1f}s")

    gc.freeze()  # what lives now lives to the end: the collector need not walk through it again
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # the peak of warm-up, which kept old and new weights, is not training's
    result = train(model, optimizer, loader, num_micro_steps)
    training_seconds = loader.training_seconds
    del optimizer  # its memory serves the evaluation
    val_bpb = evaluate_bpb(model, tokenizer, rows)

    hardware = detect(allow_accelerator=device.type != "cpu", file="train.py")
    flops = model.flops_per_token() * result.num_tokens
    print(
        summary_text(
            {
                "val_bpb": val_bpb,
                "training_seconds": training_seconds,
                "total_seconds": time.perf_counter() - start_time,
                "peak_vram_mb": peak_memory_mb(device, result.peak_memory),
                "mfu_percent": mfu_percent(flops, training_seconds, hardware.peak_flops),
                "total_tokens_M": result.num_tokens / 1e6,
                "num_steps": result.num_steps,
                "num_params_M": counts["total"] / 1e6,
                "depth": config.n_layer,
                "backend": hardware.backend,
                "chip": hardware.chip,
            }
        )
    )


if __name__ == "__main__":
    main()
