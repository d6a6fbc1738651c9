"""
A yardstick: the published train.py of karpathy/autoresearch as it would run on a CPU, as a candidate file.

`benchmarks/step_speed.py` measures the experiment file of this repository against it. It was written anew from the
published file's structure (a GPT of nanochat's with rotary embedding, QK norm, squared ReLU, value embeddings behind gates,
resid and x0 lambdas, softcap 15; MuonAdamW with Polar Express, NorMuon and cautious decay; its groups, rates, schedules and loop)
and is kept as it was on the day when tuning for the CPU began.

Ported as published: a forward pass in separate operations; logits of the whole batch in float32, then softcap, then cross-entropy;
AdamW parameter by parameter; Muon stacked by shape; the loss read at every step; garbage collection frozen after the first step.
Ported for a CPU, each time the cheaper way where there is a choice, so that a ratio to this file flatters nobody:

    attention     PyTorch's fused SDPA in place of FlashAttention 3: causal where the window is the row (no mask), a bool mask
                  that is made once where it is shorter
    numbers       float32 instead of bfloat16 (no autocast: it is 2x slower here), no torch.compile (45 s cold), plain floats
                  for learning rates where the published file fills 0-D tensors for the compiler
    threads       OMP_NUM_THREADS, or one, as in train.py

Three things differ because they are this repository's: clock, text and score come from `prepare` (the loop ends when the loader
does); the hyperparameters and presets are train.py's of that day; a window of w means w keys, not w + 1, so that both files
compute the same function and can be compared weight by weight. Names of parameters and the order in which they are drawn
are train.py's too: the same seed gives the same weights.
"""

from __future__ import annotations

import gc
import math
import os
import time
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from prepare import MAX_SEQ_LEN, PRESET, SEED, Tokenizer, evaluate_bpb, make_dataloader

# Hyperparameters: those of train.py, for `standard` and for each other preset.
DEPTH = 8
ASPECT_RATIO = 64
HEAD_DIM = 128
WINDOW_PATTERN = "SSSL"
TOTAL_BATCH_SIZE = 524288
DEVICE_BATCH_SIZE = 128
EMBEDDING_LR = 0.6
UNEMBEDDING_LR = 0.004
SCALAR_LR = 0.5
MATRIX_LR = 0.04
ADAM_BETAS = (0.8, 0.95)
WEIGHT_DECAY = 0.2
WARMUP_RATIO = 0.0
WARMDOWN_RATIO = 0.5
FINAL_LR_FRAC = 0.0
PRESET_OVERRIDES = {
    "tiny": {"DEPTH": 2, "ASPECT_RATIO": 32, "HEAD_DIM": 64, "DEVICE_BATCH_SIZE": 8, "TOTAL_BATCH_SIZE": 2048},
    "small": {"DEPTH": 4, "DEVICE_BATCH_SIZE": 16, "TOTAL_BATCH_SIZE": 65536},
    "long": {"DEPTH": 4, "DEVICE_BATCH_SIZE": 2, "TOTAL_BATCH_SIZE": 8192},
    "smoke": {"DEPTH": 2, "ASPECT_RATIO": 16, "HEAD_DIM": 16, "DEVICE_BATCH_SIZE": 2, "TOTAL_BATCH_SIZE": 128},
}
globals().update(PRESET_OVERRIDES.get(PRESET, {}))


@dataclass
class GPTConfig:
    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    window_pattern: str


def config_from_hyperparameters(vocab_size):
    n_embd = math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM) * HEAD_DIM
    return GPTConfig(MAX_SEQ_LEN, vocab_size, DEPTH, n_embd // HEAD_DIM, n_embd, WINDOW_PATTERN)


def has_value_embedding(layer, n_layer):
    return layer % 2 == (n_layer - 1) % 2


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x, cos, sin):  # [B, T, H, D]
    half = x.size(-1) // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=3)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.n_head, self.head_dim = config.n_head, config.n_embd // config.n_head
        for name in ("c_q", "c_k", "c_v", "c_proj"):
            setattr(self, name, nn.Linear(config.n_embd, config.n_embd, bias=False))
        self.ve_gate = None
        if has_value_embedding(layer, config.n_layer):
            self.ve_gate = nn.Linear(min(32, config.n_embd), self.n_head, bias=False)

    def forward(self, x, ve, cos, sin, mask):
        B, T, C = x.shape
        q = self.c_q(x).view(B, T, self.n_head, self.head_dim)
        k = self.c_k(x).view(B, T, self.n_head, self.head_dim)
        v = self.c_v(x).view(B, T, self.n_head, self.head_dim)
        if ve is not None:
            gate = 2 * torch.sigmoid(self.ve_gate(x[..., : self.ve_gate.in_features]))
            v = v + gate.unsqueeze(-1) * ve.view(B, T, self.n_head, self.head_dim)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, is_causal=mask is None
        )
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


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

    def forward(self, x, ve, cos, sin, mask):
        x = x + self.attn(norm(x), ve, cos, sin, mask)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        length, short = config.sequence_len, config.sequence_len // 2
        letters = [config.window_pattern[i % len(config.window_pattern)] for i in range(config.n_layer)]
        letters[-1] = "L"
        self.windows = [length if letter == "L" else short for letter in letters]
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        with_table = [i for i in range(config.n_layer) if has_value_embedding(i, config.n_layer)]
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(config.vocab_size, config.n_embd) for i in with_table})
        self.layers = nn.ModuleList([Block(config, i) for i in range(config.n_layer)])
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        head_dim = config.n_embd // config.n_head
        frequency = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)[None, :, None, :]
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        self.register_buffer("short_mask", (distance >= 0) & (distance < short), persistent=False)

    @torch.no_grad()
    def initialise(self):
        bound = 3**0.5 * self.config.n_embd**-0.5
        nn.init.normal_(self.wte.weight, mean=0.0, std=1.0)
        nn.init.normal_(self.lm_head.weight, mean=0.0, std=0.001)
        for block in self.layers:
            for linear in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.c_fc):
                nn.init.uniform_(linear.weight, -bound, bound)
            nn.init.zeros_(block.attn.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)
            if block.attn.ve_gate is not None:
                nn.init.zeros_(block.attn.ve_gate.weight)
        for table in self.value_embeds.values():
            nn.init.uniform_(table.weight, -bound, bound)
        self.resid_lambdas.fill_(1.0)
        self.x0_lambdas.fill_(0.1)

    def forward(self, inputs, targets=None):
        T = inputs.size(1)
        cos, sin = self.cos[:, :T], self.sin[:, :T]
        x = x0 = norm(self.wte(inputs))
        for i, block in enumerate(self.layers):
            x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            ve = self.value_embeds[str(i)](inputs) if str(i) in self.value_embeds else None
            mask = None if self.windows[i] >= T else self.short_mask[:T, :T]
            x = block(x, ve, cos, sin, mask)
        softcap = 15.0
        logits = self.lm_head(norm(x)).float()
        logits = softcap * torch.tanh(logits / softcap)
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1), ignore_index=-1)


# Polar Express (Amsel et al. 2025, arXiv:2505.16932), five iterations, safety factor 0.02.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def adamw_step(param, grad, mean, mean_square, step, lr, beta1, beta2, eps):
    mean.lerp_(grad, 1 - beta1)
    mean_square.lerp_(grad.square(), 1 - beta2)
    denominator = (mean_square / (1 - beta2**step)).sqrt() + eps
    param.add_(mean / denominator, alpha=-lr / (1 - beta1**step))


def muon_step(params, grads, momentum_buffer, variance, momentum, lr, decay, beta2, along):
    """One step on matrices of one shape, stacked [K, rows, cols]; `params` is updated in place."""
    momentum_buffer.lerp_(grads, 1 - momentum)
    x = grads.lerp_(momentum_buffer, momentum)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        if x.size(-2) > x.size(-1):
            s = x.mT @ x
            x = a * x + x @ (b * s + c * (s @ s))
        else:
            s = x @ x.mT
            x = a * x + (b * s + c * (s @ s)) @ x
    mean_square = x.square().mean(dim=along, keepdim=True)
    width = x.size(along)
    size = (mean_square.sum(dim=(-2, -1), keepdim=True) * width).sqrt()
    variance.lerp_(mean_square, 1 - beta2)
    scale = variance.clamp_min(1e-10).rsqrt()
    new_size = ((mean_square * width * scale.square()).sum(dim=(-2, -1), keepdim=True)).sqrt()
    x = x * (scale * (size / new_size.clamp_min(1e-10)))
    agrees = (x * params) >= 0
    params.sub_(lr * x + lr * decay * params * agrees)


class MuonAdamW:
    def __init__(self, groups):
        self.groups, self.num_steps = groups, 0
        for group in groups:
            params = group["params"]
            if group["kind"] == "muon":
                stack = torch.zeros(len(params), *params[0].shape)
                group["along"] = -1 if stack.size(-2) >= stack.size(-1) else -2
                group["momentum_buffer"] = stack
                group["variance"] = stack.narrow(group["along"], 0, 1).clone()
            else:
                group["mean"] = [torch.zeros_like(p) for p in params]
                group["mean_square"] = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self, lr_multiplier, muon_momentum, weight_decay):
        self.num_steps += 1
        for group in self.groups:
            params, lr = group["params"], group["lr"] * lr_multiplier
            if group["kind"] == "adamw":
                for p, mean, mean_square in zip(params, group["mean"], group["mean_square"], strict=True):
                    adamw_step(p, p.grad, mean, mean_square, self.num_steps, lr, *group["betas"], 1e-10)
                continue
            grads, stacked = torch.stack([p.grad for p in params]), torch.stack(params)
            lr *= max(1.0, stacked.size(-2) / stacked.size(-1)) ** 0.5
            state = group["momentum_buffer"], group["variance"]
            muon_step(stacked, grads, *state, muon_momentum, lr, weight_decay, 0.95, group["along"])
            torch._foreach_copy_(params, list(stacked.unbind(0)))

    def zero_grad(self):
        for group in self.groups:
            for p in group["params"]:
                p.grad = None


def build_optimizer(model):
    scale = (model.config.n_embd / 768) ** -0.5

    def adamw(params, lr, betas=ADAM_BETAS):
        return {"kind": "adamw", "params": list(params), "lr": lr, "betas": betas}

    groups = [
        adamw([model.lm_head.weight], UNEMBEDDING_LR * scale),
        adamw([model.wte.weight], EMBEDDING_LR * scale),
        adamw(model.value_embeds.parameters(), EMBEDDING_LR * scale),
        adamw([model.resid_lambdas], SCALAR_LR * 0.01),
        adamw([model.x0_lambdas], SCALAR_LR, (0.96, 0.95)),
    ]
    matrices = list(model.layers.parameters())
    for shape in sorted({tuple(p.shape) for p in matrices}):
        groups.append({"kind": "muon", "params": [p for p in matrices if tuple(p.shape) == shape], "lr": MATRIX_LR})
    return MuonAdamW(groups)


def lr_multiplier_at(progress):
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress < 1.0 - WARMDOWN_RATIO:
        return 1.0
    left = max(0.0, (1.0 - progress) / WARMDOWN_RATIO)
    return left + (1 - left) * FINAL_LR_FRAC


def muon_momentum_at(step):
    part = min(step / 300, 1)
    return (1 - part) * 0.85 + part * 0.95


def weight_decay_at(progress):
    return WEIGHT_DECAY * max(0.0, 1 - progress)


def set_threads():
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def build_model(config, device):
    model = GPT(config)
    model.initialise()
    return model.to(device)


def load_model(weights):
    """The model again, from what evaluate_bpb handed over."""
    set_threads()
    model = build_model(config_from_hyperparameters(len(weights["lm_head.weight"])), torch.device("cpu"))
    model.load_state_dict(weights)
    return model


def warm_up(model, batch):
    """One forward and backward pass before the clock; nothing stays of it."""
    model(*batch[:2]).backward()
    for p in model.parameters():
        p.grad = None


def train(model, optimizer, loader, num_micro_steps):
    """Train until the loader ends; optimizer steps taken."""
    step = micro_step = 0
    smooth_loss, last_time = 0.0, time.time()
    for inputs, targets, epoch in loader:
        loss = model(inputs, targets)
        train_loss = loss.detach()
        (loss / num_micro_steps).backward()
        micro_step += 1
        if micro_step < num_micro_steps:
            continue
        micro_step = 0
        progress = min(loader.progress, 1.0)
        multiplier = lr_multiplier_at(progress)
        optimizer.step(multiplier, muon_momentum_at(step), weight_decay_at(progress))
        optimizer.zero_grad()
        step += 1
        value = train_loss.item()
        if math.isnan(value) or value > 100:
            print("FAIL")
            raise SystemExit(1)
        now = time.time()
        seconds, last_time = now - last_time, now
        smooth_loss = 0.9 * smooth_loss + 0.1 * value
        print(
            f"\rstep {step:05d} ({100 * progress:.1f}%) | loss: {smooth_loss / (1 - 0.9**step):.6f} | "
            f"lrm: {multiplier:.2f} | dt: {seconds * 1000:.0f}ms | tok/sec: {int(TOTAL_BATCH_SIZE / seconds):,} | "
            f"epoch: {epoch}    ",
            end="",
            flush=True,
        )
        if step == 1:
            gc.collect()
            gc.freeze()
            gc.disable()
    print()
    optimizer.zero_grad()
    return step


def main():
    set_threads()
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_directory()
    model = build_model(config_from_hyperparameters(tokenizer.get_vocab_size()), torch.device("cpu"))
    optimizer = build_optimizer(model)
    loader = make_dataloader(tokenizer, DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train")
    warm_up(model, loader.synthetic_batch())
    num_steps = train(model, optimizer, loader, TOTAL_BATCH_SIZE // (DEVICE_BATCH_SIZE * MAX_SEQ_LEN))
    val_bpb = evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)
    print("---")
    print(f"val_bpb:          {val_bpb:.6f}")
    print(f"training_seconds: {loader.training_seconds:.1f}")
    print(f"total_tokens_M:   {num_steps * TOTAL_BATCH_SIZE / 1e6:.1f}")
    print(f"num_steps:        {num_steps}")
    print(f"num_params_M:     {sum(p.numel() for p in model.parameters()) / 1e6:.1f}")
    print(f"depth:            {DEPTH}")


if __name__ == "__main__":
    main()
