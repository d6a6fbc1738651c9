# Edited by the model program (program.md). Everything in this file may change; no other file may.
"""
The experiment in MLX, for Apple silicon: the model, optimizer and schedules of train.py under the same names, so that
weights, settings and findings carry over. Run it with `python train_mlx.py`.

Covered: pretraining for a fixed budget on one device (Metal in bf16; the CPU build of MLX in float32, for tests), then
one score, val_bpb, lower is better. Not covered: the clock, the text and the score, which belong to the referee and come
through `prepare`:

    make_dataloader   hands out batches and ends when the budget is spent; its `.progress` drives the schedules
    evaluate_bpb      takes the weights over and asks `model(inputs)` for logits

MLX is lazy: arrays are promises until `mx.async_eval` queues the work. Steps are pure functions, weights and optimizer
state in, new ones out, so that `mx.compile` sees a whole step, gradient accumulation included, as one graph.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from dataclasses import dataclass

from autoresearch.backends.blas import find_openblas, load_blas

# By hand on Linux: the CPU build of MLX brings a BLAS 12x slower than OpenBLAS, which has to be loaded before it. In a
# trial `prepare` is there already, and so is the BLAS that the referee chose.
if "prepare" not in sys.modules and (openblas := find_openblas()):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a shared machine measured 4x to 10x slower
    load_blas(openblas)

import mlx.core as mx

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
ARCHITECTURE = "full"  # "portable" = without the four above, which stock llama.cpp cannot run: about 0.02 val_bpb worse
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
NORM_EPS = 1.1920929e-07  # of float32, as torch's rms_norm takes it


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
    """RMS norm over the last dimension, without weights; the dtype stays."""
    return mx.fast.rms_norm(x, None, NORM_EPS)


def linear(x, weight):
    """x [..., in] times weight [out, in] transposed, in the dtype of x: what autocast does in train.py."""
    return x @ weight.astype(x.dtype).T


def rotate(x, base):
    """Turn channel pairs (i, i + D/2) of x [B, H, T, D] by -t * base^(-2i/D) at position t.

    Rotary embedding (Su et al. 2021, arXiv:2104.09864), in the direction of train.py: scale -1 turns MLX's around.
    """
    return mx.fast.rope(x, x.shape[-1], traditional=False, base=base, scale=-1.0, offset=0)


def window_mask(length, window):
    """bool [T, T]: query i sees key j when i - window < j <= i."""
    distance = mx.arange(length)[:, None] - mx.arange(length)[None, :]
    return (distance >= 0) & (distance < window)


def attend(q, k, v, window):
    """Softmax attention with scale 1/sqrt(D). q [B, H, T, D], k and v [B, KV, T, D] -> [B, H, T, D].

    A window of T or more is full causal attention, for which Metal has a kernel that never holds T x T scores.
    """
    length = q.shape[2]
    mask = "causal" if window >= length else window_mask(length, window)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)


def capped(logits, cap):
    """cap * tanh(logits / cap); cap 0 leaves them."""
    return cap * mx.tanh(logits / cap) if cap else logits


def loss_and_gradients(x, weight, targets, cap):
    """Mean cross-entropy of capped x W^T against targets, and its gradients, in blocks of rows.

    x [N, C], weight [V, C], targets int [N] -> scalar, [N, C], [V, C]. The gradients are taken in the forward pass, so
    that float32 logits exist for one block only: at N 8192, V 8192 the three arrays that MLX would keep are 768 MiB.
    """
    num_rows = x.shape[0]
    tokens = mx.arange(weight.shape[0])
    nll, grad_x, grad_weight = mx.array(0.0), [], mx.zeros(weight.shape)
    for start in range(0, num_rows, LOSS_ROWS):
        rows = x[start : start + LOSS_ROWS]
        logits = capped((rows @ weight.T).astype(mx.float32), cap)  # [R, V]
        log_sum = mx.logsumexp(logits, axis=-1, keepdims=True)
        target = targets[start : start + LOSS_ROWS, None]
        nll = nll + (log_sum - mx.take_along_axis(logits, target, axis=-1)).sum()
        grad = (mx.exp(logits - log_sum) - (tokens == target)) / num_rows  # softmax minus one-hot
        if cap:
            grad = grad * (1 - mx.square(logits / cap))  # times 1 - tanh^2
        grad = grad.astype(x.dtype)
        grad_x.append(grad @ weight)
        grad_weight = grad_weight + (grad.T @ rows).astype(mx.float32)
    return nll / num_rows, mx.concatenate(grad_x), grad_weight.astype(weight.dtype)


# Rows of logits at a time. CPU: 128 stay in the cache. Metal: 4096 are 128 MiB at V 8192, large enough to fill the GPU;
# chosen by that arithmetic, not measured.
LOSS_ROWS = 4096 if mx.default_device() == mx.gpu else 128


def cross_entropy(x, weight, targets, cap):
    """Mean cross-entropy of capped logits, scalar float32, differentiable in x [N, C] and weight [V, C]."""

    @mx.custom_function
    def loss(x, weight):
        return loss_and_gradients(x, weight, targets, cap)

    @loss.vjp
    def loss_vjp(primals, cotangents, outputs):
        return outputs[1] * cotangents[0].astype(outputs[1].dtype), outputs[2] * cotangents[0].astype(outputs[2].dtype)

    return loss(x, weight)[0]


class GPT:
    """`model(inputs)` -> logits, float32 [B, T, V]; `model.loss(weights, inputs, targets)` -> mean cross-entropy, nats.

    `weights` is one flat dict with the names of train.py's state_dict. Matrices are kept in float32 and used in
    `dtype`, the number type of all activations; token and value embeddings are kept in `dtype`.
    """

    def __init__(self, config, dtype=mx.float32):
        self.config = config
        self.dtype = dtype
        self.windows = config.windows
        self.weights = {name: mx.zeros(shape, self.dtype_of(name)) for name, shape in self.shapes().items()}
        self.compiled_logits = mx.compile(self.logits)

    def shapes(self):
        """name -> shape of every weight."""
        c = self.config
        kv_width = c.n_kv_head * c.head_dim
        shapes = {"resid_lambdas": (c.n_layer,)} | ({"x0_lambdas": (c.n_layer,)} if c.x0_mix else {})
        shapes["wte.weight"] = shapes["lm_head.weight"] = (c.vocab_size, c.n_embd)
        for i in range(c.n_layer):
            at = f"layers.{i}."
            shapes[at + "attn.c_q.weight"] = shapes[at + "attn.c_proj.weight"] = (c.n_embd, c.n_embd)
            shapes[at + "attn.c_k.weight"] = shapes[at + "attn.c_v.weight"] = (kv_width, c.n_embd)
            if has_value_embedding(i, c):
                shapes[at + "attn.ve_gate.weight"] = (c.n_kv_head, min(GATE_CHANNELS, c.n_embd))
                shapes[f"value_embeds.{i}.weight"] = (c.vocab_size, kv_width)
            shapes[at + "mlp.c_fc.weight"] = (4 * c.n_embd, c.n_embd)
            shapes[at + "mlp.c_proj.weight"] = (c.n_embd, 4 * c.n_embd)
        return shapes

    def dtype_of(self, name):
        return self.dtype if name.startswith(("wte.", "value_embeds.")) else mx.float32

    def initialise(self):
        """Fill all weights: the published scheme. At the start every layer is the identity (zero projections)."""
        bound = math.sqrt(3 / self.config.n_embd)  # uniform +-bound has standard deviation 1/sqrt(C)
        for name, zeros in self.weights.items():
            if name == "wte.weight":
                value = mx.random.normal(zeros.shape)
            elif name == "lm_head.weight":
                value = mx.random.normal(zeros.shape) * 0.001
            elif name == "resid_lambdas":
                value = mx.full(zeros.shape, self.config.resid_init)
            elif name == "x0_lambdas":
                value = mx.full(zeros.shape, self.config.x0_init)
            elif name.endswith(("c_proj.weight", "ve_gate.weight")):
                value = zeros  # sigmoid(0) * 2 = 1: value embeddings enter at full weight
            else:
                value = mx.random.uniform(-bound, bound, zeros.shape)
            self.weights[name] = value.astype(zeros.dtype)
        mx.eval(self.weights)

    def attention(self, w, i, x, ve):  # x [B, T, C], ve [B, T, KV*D] or None
        B, T, _ = x.shape
        c, at = self.config, f"layers.{i}.attn."
        q = linear(x, w[at + "c_q.weight"]).reshape(B, T, c.n_head, c.head_dim)
        k = linear(x, w[at + "c_k.weight"]).reshape(B, T, c.n_kv_head, c.head_dim)
        v = linear(x, w[at + "c_v.weight"]).reshape(B, T, c.n_kv_head, c.head_dim)
        if ve is not None:
            gate_weight = w[at + "ve_gate.weight"]
            gate = 2 * mx.sigmoid(linear(x[..., : gate_weight.shape[1]], gate_weight))  # [B, T, KV], 1 at the start
            v = v + gate[..., None] * ve.reshape(B, T, c.n_kv_head, c.head_dim)
        q, k, v = (heads.transpose(0, 2, 1, 3) for heads in (q, k, v))  # [B, H or KV, T, D]
        q, k = norm(rotate(q, c.rope_base)), norm(rotate(k, c.rope_base))
        y = attend(q, k, v, self.windows[i])
        return linear(y.transpose(0, 2, 1, 3).reshape(B, T, -1), w[at + "c_proj.weight"])

    def mlp(self, w, i, x):
        hidden = mx.square(mx.maximum(linear(x, w[f"layers.{i}.mlp.c_fc.weight"]), 0))
        return linear(hidden, w[f"layers.{i}.mlp.c_proj.weight"])

    def hidden(self, w, inputs):
        """inputs int [B, T] -> normalised output of the last layer [B, T, C], in `dtype`."""
        T, limit = inputs.shape[1], self.config.sequence_len
        assert limit >= T, f"T is {T}, the model was built for {limit}: pass at most MAX_SEQ_LEN positions"
        x = x0 = norm(w["wte.weight"][inputs])
        for i in range(self.config.n_layer):
            # cast: a float32 scalar array would promote the whole stream to float32
            x = w["resid_lambdas"][i].astype(x.dtype) * x
            if self.config.x0_mix:
                x = x + w["x0_lambdas"][i].astype(x.dtype) * x0
            ve = w[f"value_embeds.{i}.weight"][inputs] if has_value_embedding(i, self.config) else None
            x = x + self.attention(w, i, norm(x), ve)
            x = x + self.mlp(w, i, norm(x))
        return norm(x)

    def logits(self, w, inputs):
        return capped(linear(self.hidden(w, inputs), w["lm_head.weight"]).astype(mx.float32), self.config.softcap)

    def loss(self, w, inputs, targets):
        x = self.hidden(w, inputs).reshape(-1, self.config.n_embd)
        return cross_entropy(x, w["lm_head.weight"].astype(x.dtype), targets.reshape(-1), self.config.softcap)

    def __call__(self, inputs, targets=None):
        if targets is not None:
            return self.loss(self.weights, inputs, targets)
        return self.compiled_logits(self.weights, inputs)

    def state_dict(self):
        return dict(self.weights)

    def load_state_dict(self, weights):
        """Take these weights over; names and shapes have to be the model's own."""
        shapes = self.shapes()
        assert set(weights) == set(shapes), f"weights of another model: {sorted(set(weights) ^ set(shapes))}"
        for name, shape in shapes.items():
            assert weights[name].shape == shape, f"{name} has shape {weights[name].shape}, the model's is {shape}"
            self.weights[name] = weights[name].astype(self.dtype_of(name))

    def num_parameters(self):
        """Parameters by category, and their total."""
        sizes = {name: value.size for name, value in self.weights.items()}

        def count(*starts):
            return sum(size for name, size in sizes.items() if name.startswith(starts))

        counts = {
            "wte": count("wte."),
            "value_embeds": count("value_embeds."),
            "lm_head": count("lm_head."),
            "matrices": count("layers."),
            "scalars": count("resid_lambdas", "x0_lambdas"),
        }
        counts["total"] = sum(counts.values())
        assert counts["total"] == sum(sizes.values()), "count the new parameters here too"
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
    """Nearest matrix with all singular values near 1 (0.7 to 1.2), for each matrix of g [K, rows, cols], in float32.

    Not in bf16: its Frobenius norm has given NaN on Metal.
    """
    x = g / (mx.sqrt(mx.square(g).sum(axis=(-2, -1), keepdims=True)) * 1.02 + 1e-6)  # 1.02: safety factor
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in POLAR_EXPRESS:
        s = x.swapaxes(-1, -2) @ x if tall else x @ x.swapaxes(-1, -2)  # Gram matrix of the shorter side: the cheap one
        polynomial = b * s + c * (s @ s)
        x = a * x + (x @ polynomial if tall else polynomial @ x)
    return x


def muon_step(params, grads, momentum_buffer, variance, momentum, lr, decay, beta2):
    """One Muon step on K matrices of one shape, all arrays float32 [K, rows, cols] -> params, buffer, variance.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): Nesterov momentum, then orthogonalisation.
    NorMuon (Li et al. 2025, arXiv:2510.05491): rows (or columns, of a wide matrix) are scaled to equal size by a
    running second moment; the whole keeps its Frobenius norm. Cautious weight decay (Chen et al. 2025,
    arXiv:2510.12402): decays only where the update already shrinks the weight, and never through the gradient.
    """
    rows, cols = params.shape[-2:]
    momentum_buffer = momentum_buffer * momentum + grads * (1 - momentum)
    update = orthogonalise(grads * (1 - momentum) + momentum_buffer * momentum)

    along = -1 if rows >= cols else -2
    mean_square = mx.square(update).mean(axis=along, keepdims=True)  # [K, rows, 1] or [K, 1, cols]
    variance = variance * beta2 + mean_square * (1 - beta2)
    scale = mx.rsqrt(mx.maximum(variance, 1e-10))
    size = mx.sqrt(mean_square.sum(axis=(-2, -1), keepdims=True))  # Frobenius norms, up to one common factor
    new_size = mx.sqrt((mean_square * mx.square(scale)).sum(axis=(-2, -1), keepdims=True))
    update = update * (scale * (size / mx.maximum(new_size, 1e-10)))

    lr = lr * max(1.0, rows / cols) ** 0.5
    agrees = (update * params) >= 0
    return params - lr * update - (lr * decay) * (params * agrees), momentum_buffer, variance


def adamw_step(param, grad, mean, mean_square, step, lr, beta1, beta2, eps, decay):
    """One AdamW step with bias correction (Kingma & Ba 2015; Loshchilov & Hutter 2019) -> param, mean, mean_square.

    Moments and arithmetic in float32; the parameter keeps its dtype.
    """
    grad = grad.astype(mx.float32)
    mean = mean * beta1 + grad * (1 - beta1)
    mean_square = mean_square * beta2 + mx.square(grad) * (1 - beta2)
    denominator = mx.sqrt(mean_square / (1 - beta2**step)) + eps
    new = param.astype(mx.float32) * (1 - lr * decay) - mean / denominator * (lr / (1 - beta1**step))
    return new.astype(param.dtype), mean, mean_square


class MuonAdamW:
    """Muon for the layers' matrices, AdamW for the rest.

    `groups` is a list of dicts: kind, names of weights, settings. `state` holds one dict of arrays per group.
    """

    def __init__(self, groups, weights):
        self.groups = groups
        self.num_steps = 0
        self.state = []
        for group in groups:
            if group["kind"] == "muon":
                shapes = {weights[name].shape for name in group["names"]}
                assert len(shapes) == 1, "a Muon group is stacked: give it matrices of one shape"
                rows, cols = shapes.pop()
                num = len(group["names"])
                variance = mx.zeros((num, rows, 1) if rows >= cols else (num, 1, cols))
                self.state.append({"momentum_buffer": mx.zeros((num, rows, cols)), "variance": variance})
            else:
                zeros = {name: mx.zeros(weights[name].shape) for name in group["names"]}
                self.state.append({"mean": zeros, "mean_square": dict(zeros)})
        mx.eval(self.state)

    def numbers(self, lr_multiplier, muon_momentum, weight_decay):
        """What changes from step to step, as arrays: compiled code would take Python numbers for constants."""
        values = {"lr": lr_multiplier, "momentum": muon_momentum, "decay": weight_decay, "step": self.num_steps + 1}
        return {name: mx.array(value, mx.float32) for name, value in values.items()}

    def update(self, weights, grads, state, numbers):
        """One step as a pure function -> new weights, new state. Every group's rates are times numbers["lr"]."""
        weights, new_state = dict(weights), []
        for group, old in zip(self.groups, state, strict=True):
            lr = group["lr"] * numbers["lr"]
            if group["kind"] == "muon":
                stack = mx.stack([weights[name] for name in group["names"]])
                grad = mx.stack([grads[name] for name in group["names"]])
                stack, buffer, variance = muon_step(
                    stack,
                    grad,
                    old["momentum_buffer"],
                    old["variance"],
                    numbers["momentum"],
                    lr,
                    numbers["decay"],
                    group["beta2"],
                )
                weights.update(zip(group["names"], stack, strict=True))
                new_state.append({"momentum_buffer": buffer, "variance": variance})
                continue
            new = {"mean": {}, "mean_square": {}}
            for name in group["names"]:
                weights[name], new["mean"][name], new["mean_square"][name] = adamw_step(
                    weights[name],
                    grads[name],
                    old["mean"][name],
                    old["mean_square"][name],
                    numbers["step"],
                    lr,
                    *group["betas"],
                    group["eps"],
                    group["decay"],
                )
            new_state.append(new)
        return weights, new_state


def build_optimizer(model):
    """The published groups with the learning rates above."""
    width_scale = (model.config.n_embd / 768) ** -0.5  # the AdamW rates were tuned at width 768
    shapes = model.shapes()

    def adamw(start, lr, betas=ADAM_BETAS):
        names = [name for name in shapes if name.startswith(start)]
        return {"kind": "adamw", "names": names, "lr": lr, "betas": betas, "eps": 1e-10, "decay": 0.0}

    groups = [
        adamw("lm_head.", UNEMBEDDING_LR * width_scale),
        adamw("wte.", EMBEDDING_LR * width_scale),
        adamw("value_embeds.", EMBEDDING_LR * width_scale),
        adamw("resid_lambdas", SCALAR_LR * 0.01),  # a small change there moves every layer above
        adamw("x0_lambdas", SCALAR_LR, X0_BETAS),
    ]
    matrices = [name for name in shapes if name.startswith("layers.")]
    for shape in sorted({shapes[name] for name in matrices}):
        same = [name for name in matrices if shapes[name] == shape]
        groups.append({"kind": "muon", "names": same, "lr": MATRIX_LR, "beta2": MUON_BETA2})
    return MuonAdamW([group for group in groups if group["names"]], model.weights)


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


def num_micro_steps_for(device_batch_size, sequence_len, total_batch_size):
    """Forward passes per optimizer step."""
    tokens = device_batch_size * sequence_len
    assert total_batch_size % tokens == 0, (
        f"TOTAL_BATCH_SIZE ({total_batch_size}) must be a multiple of DEVICE_BATCH_SIZE * MAX_SEQ_LEN = "
        f"{device_batch_size} * {sequence_len} = {tokens}: change one of them"
    )
    return total_batch_size // tokens


class Steps:
    """The two compiled graphs of a training step: all micro-steps but the last, and the last with the optimizer.

    `total` is what the micro-steps so far have summed up, {} before the first: loss and gradients, each divided by the
    number of micro-steps.
    """

    def __init__(self, model, optimizer, num_micro_steps):
        value_and_grad = mx.value_and_grad(model.loss)

        def add(weights, total, inputs, targets):
            loss, grads = value_and_grad(weights, inputs, targets)
            if num_micro_steps > 1:
                loss, grads = loss / num_micro_steps, {name: g / num_micro_steps for name, g in grads.items()}
            if total:
                loss, grads = total["loss"] + loss, {name: total["grads"][name] + g for name, g in grads.items()}
            return {"loss": loss, "grads": grads}

        def last(weights, state, total, inputs, targets, numbers):
            total = add(weights, total, inputs, targets)
            return *optimizer.update(weights, total["grads"], state, numbers), total["loss"]

        self.add, self.last = mx.compile(add), mx.compile(last)


def warm_up(model, optimizer, batch, num_micro_steps):
    """Every graph of training and evaluation once, on a batch that is not text; the results are dropped.

    Compiles, allocates and loads kernels before the referee's clock starts.
    """
    inputs, targets = batch
    steps, total = Steps(model, optimizer, num_micro_steps), {}
    for _ in range(min(2, num_micro_steps - 1)):  # the first micro-step and one that adds to it
        total = steps.add(model.weights, total, inputs, targets)
        mx.eval(total)
    numbers = optimizer.numbers(lr_multiplier_at(0.5), muon_momentum_at(0), weight_decay_at(0.0))
    mx.eval(steps.last(model.weights, optimizer.state, total, inputs, targets, numbers))
    del total
    mx.eval(model(inputs))  # what evaluate_bpb will run: compiling it then would be too late
    return steps


def stop_if_diverged(loss):
    """A lost run ends here: the budget is better spent on the next idea."""
    if not loss <= 100:  # NaN too
        print("\nFAIL", flush=True)
        raise SystemExit(1)


def train(model, optimizer, loader, num_micro_steps, steps=None):
    """Train until the loader ends. A step whose micro-steps are not complete by then is dropped."""
    steps = steps or Steps(model, optimizer, num_micro_steps)
    result = Result()
    losses = []
    smooth_loss = 0.0  # running mean; divided by 1 - 0.9^n it starts unbiased
    waiting = None  # loss of the step before, not read yet
    total, micro_step = {}, 0
    last_time = time.perf_counter()
    for inputs, targets, epoch in loader:
        micro_step += 1
        if micro_step < num_micro_steps:
            total = steps.add(model.weights, total, inputs, targets)
            mx.async_eval(total)
            continue

        progress = loader.progress
        multiplier = lr_multiplier_at(progress)
        numbers = optimizer.numbers(multiplier, muon_momentum_at(result.num_steps), weight_decay_at(progress))
        # the old weights and state are let go before the new ones are worked out, so that their memory is used again
        model.weights, optimizer.state, loss = steps.last(
            model.weights, optimizer.state, total, inputs, targets, numbers
        )
        total, micro_step = {}, 0
        mx.async_eval(model.weights, optimizer.state, loss)
        optimizer.num_steps += 1
        result.num_steps += 1
        result.num_tokens += num_micro_steps * inputs.size

        # The queue is worked through while we read the loss of the step before: reading the newest would stall it.
        ready = loss if result.num_steps == 1 else waiting
        waiting = None if ready is loss else loss
        if ready is not None:
            losses.append(ready.item())
            stop_if_diverged(losses[-1])
            smooth_loss = 0.9 * smooth_loss + 0.1 * losses[-1]
        shown_loss = smooth_loss / (1 - 0.9 ** len(losses))
        tokens = num_micro_steps * inputs.size
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
    if waiting is not None:
        losses.append(waiting.item())
        stop_if_diverged(losses[-1])
    result.losses = tuple(losses)
    return result


def summary_text(values):
    """The block that other programs read: a line `---`, then `key:   value` lines, values in column 19."""
    formats = {
        "val_bpb": ".6f",
        "training_seconds": ".1f",
        "total_seconds": ".1f",
        "peak_vram_mb": ".1f",
        "train_peak_mb": ".1f",
        "peak_memory_mb": ".1f",
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


def settings_for_machine():
    """Set the process up for the device -> (dtype of activations, whether to compile)."""
    if mx.default_device() != mx.gpu:
        # The CPU build of MLX compiles with g++: 27 CPU seconds of start-up for `tiny`, for steps that are 1.1x faster.
        mx.disable_compile()
        return mx.float32, False
    if PRESET == "long":  # an 8 GB Mac: leave the rest to its owner
        memory = mx.device_info()["memory_size"]
        mx.set_memory_limit(int(0.7 * memory))  # beyond it an allocation waits for the queue to give memory back
        mx.set_cache_limit(int(0.1 * memory))  # freed buffers that are kept for the next step
    return mx.bfloat16, True


def build_model(config, dtype=mx.float32):
    """A GPT with fresh weights. MLX draws the same numbers for a seed on every device."""
    model = GPT(config, dtype)
    model.initialise()
    return model


def load_model(weights):
    """The model again, from `state_dict` as evaluate_bpb handed it over: a fresh process is asked what it can do.

    Before a keep is final the referee calls this where no validation text was ever seen (docs/contract.md). Whatever the
    model needs to predict has to be in the weights, or follow from the constants above.
    """
    dtype, _ = settings_for_machine()
    model = GPT(config_from_hyperparameters(len(weights["lm_head.weight"])), dtype)
    model.load_state_dict(weights)
    return model


def device_batch_size_within(limit):
    """Rows per forward pass: DEVICE_BATCH_SIZE, at most `limit` (0: none), halved until TOTAL_BATCH_SIZE divides."""
    rows = min(DEVICE_BATCH_SIZE, limit or DEVICE_BATCH_SIZE)
    while rows > 1 and TOTAL_BATCH_SIZE % (rows * MAX_SEQ_LEN):
        rows //= 2
    return rows


def is_out_of_memory(error):
    """Whether MLX could not get memory: `[metal::malloc]`, `[malloc]`, or the GPU's own `Insufficient Memory`."""
    said = str(error).lower()
    return "malloc]" in said or "insufficient memory" in said or "unable to allocate" in said


def start(tokenizer, model, optimizer):
    """A loader and warm compiled steps for the largest device batch that fits -> loader, steps, rows, micro-steps."""
    rows = device_batch_size_within(MAX_DEVICE_BATCH_SIZE)
    while True:
        num_micro_steps = num_micro_steps_for(rows, MAX_SEQ_LEN, TOTAL_BATCH_SIZE)
        loader = make_dataloader(tokenizer, rows, MAX_SEQ_LEN, "train")
        try:
            return loader, warm_up(model, optimizer, loader.synthetic_batch(), num_micro_steps), rows, num_micro_steps
        except RuntimeError as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        # Outside of the except block, whose traceback holds the arrays that did not fit.
        fewer = device_batch_size_within(rows // 2)
        print(f"out of memory with {rows} rows per forward pass: trying {fewer}", flush=True)
        rows = fewer
        mx.clear_cache()


def main():
    start_time = time.perf_counter()
    from autoresearch.backends.hardware import detect

    mx.random.seed(SEED)
    tokenizer = Tokenizer.from_directory()
    config = config_from_hyperparameters(tokenizer.get_vocab_size())
    dtype, compiled = settings_for_machine()
    model = build_model(config, dtype)
    optimizer = build_optimizer(model)

    counts = model.num_parameters()
    print(config)
    print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    print(f"device: {mx.default_device().type.name}, {dtype}, {'compiled' if compiled else 'not compiled'}")
    loader, steps, rows, num_micro_steps = start(tokenizer, model, optimizer)
    print(f"FLOPs per token: {model.flops_per_token():.3e}, micro-steps per step: {num_micro_steps}")
    print(f"start-up: {time.perf_counter() - start_time:.1f}s")

    gc.freeze()  # what lives now lives to the end: the collector need not walk through it again
    mx.reset_peak_memory()  # the peak of warm-up, which kept old and new weights, is not training's
    result = train(model, optimizer, loader, num_micro_steps, steps)
    training_seconds = loader.training_seconds
    train_peak_mb = mx.get_peak_memory() / 2**20
    del optimizer, steps  # their memory serves the evaluation
    mx.clear_cache()
    val_bpb = evaluate_bpb(model, tokenizer, rows)

    hardware = detect(allow_accelerator=mx.default_device() == mx.gpu, file="train_mlx.py")
    flops = model.flops_per_token() * result.num_tokens
    peak_memory_mb = mx.get_peak_memory() / 2**20
    print(
        summary_text(
            {
                "val_bpb": val_bpb,
                "training_seconds": training_seconds,
                "total_seconds": time.perf_counter() - start_time,
                "peak_vram_mb": peak_memory_mb,
                "train_peak_mb": train_peak_mb,
                "peak_memory_mb": peak_memory_mb,
                "mfu_percent": mfu_percent(flops, training_seconds, hardware.peak_flops),
                "total_tokens_M": result.num_tokens / 1e6,
                "num_steps": result.num_steps,
                "num_params_M": counts["total"] / 1e6,
                "depth": config.n_layer,
                "backend": "mlx",
                "chip": hardware.chip,
            }
        )
    )


if __name__ == "__main__":
    main()
