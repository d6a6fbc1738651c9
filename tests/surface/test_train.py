"""train.py is the published model and optimizer: proven against float64 references that are written here."""

from __future__ import annotations

import ast
import importlib.util
import io
import math
import re
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE

from autoresearch.backends.attention import Present, attention_for
from autoresearch.backends.runtime import TorchRuntime
from autoresearch.contract.rules import PRESETS

TRAIN_PATH = Path(__file__).resolve().parents[2] / "train.py"
STEP_LINE = re.compile(
    r"step \d{5} \(\d+\.\d%\) \| loss: \d+\.\d{6} \| lrm: \d\.\d\d \| dt: \d+ms \| tok/sec: [\d,]+ \| epoch: \d+ \| "
    r"remaining: \d+s"
)


class FakeTokenizer:
    vocab_size = 64

    @classmethod
    def from_directory(cls):
        return cls()

    def get_vocab_size(self):
        return self.vocab_size


class FakeLoader:
    """`num_batches` of arithmetic sequences modulo the vocabulary: random, and learnable from two tokens."""

    def __init__(self, num_batches, rows, length, vocab_size=64):
        self.num_batches, self.rows, self.length, self.vocab_size = num_batches, rows, length, vocab_size
        self.progress = 0.0
        self.training_seconds = 0.0

    def synthetic_batch(self):
        tokens = torch.randint(
            self.vocab_size, (self.rows, self.length + 1), generator=torch.Generator().manual_seed(9)
        )
        return tokens[:, :-1], tokens[:, 1:]

    def __iter__(self):
        generator = torch.Generator().manual_seed(5)
        for i in range(self.num_batches):
            self.progress = i / self.num_batches
            self.training_seconds = 0.5 * (i + 1)
            start = torch.randint(self.vocab_size, (self.rows, 1), generator=generator)
            slope = torch.randint(1, 4, (self.rows, 1), generator=generator)
            tokens = (start + slope * torch.arange(self.length + 1)) % self.vocab_size
            yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), 1


def fake_prepare(preset="smoke", sequence_len=64, num_batches=6):
    prepare = types.ModuleType("prepare")
    prepare.MAX_SEQ_LEN, prepare.TIME_BUDGET, prepare.SEED, prepare.PRESET = sequence_len, 20.0, 1234, preset
    prepare.MAX_DEVICE_BATCH_SIZE = 0
    prepare.Tokenizer = FakeTokenizer
    prepare.asked = []

    def make_dataloader(tokenizer, rows, length, split):
        prepare.asked.append((rows, length, split))
        return FakeLoader(num_batches, rows, length)

    def evaluate_bpb(model, tokenizer, batch_size):
        prepare.weights = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            prepare.logits = model(torch.zeros(batch_size, sequence_len, dtype=torch.int64))
        return 1.25

    prepare.make_dataloader, prepare.evaluate_bpb = make_dataloader, evaluate_bpb
    return prepare


def load_train(prepare):
    """train.py as a fresh module that has imported this `prepare`."""
    before = sys.modules.get("prepare")
    sys.modules["prepare"] = prepare
    spec = importlib.util.spec_from_file_location("train_under_test", TRAIN_PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
        if before is None:
            del sys.modules["prepare"]
        else:
            sys.modules["prepare"] = before
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def train():
    return load_train(fake_prepare())


def small_config(train, **changes):
    settings_ = dict(sequence_len=16, vocab_size=24, n_layer=3, n_head=4, n_kv_head=2, n_embd=48, window_pattern="SLS")
    return train.GPTConfig(**(settings_ | changes))


def random_model(train, config, seed=0, dtype=None):
    """Every weight drawn at random, the projections and gates that start at zero included."""
    model = train.GPT(config, dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.0, 0.3, generator=generator)
    return model


def attention_over(window, length, head_dim=16):
    """The kernel that a CPU gets for a window; None is the whole row."""
    here = {"present": Present("cpu"), "dtype": torch.float32, "head_dim": head_dim, "device": torch.device("cpu")}
    return attention_for(window or length, length, **here)


def random_tokens(config, rows=2, length=None, seed=3):
    length = length or config.sequence_len
    return torch.randint(config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- float64 references


def reference_norm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps)


def reference_rope(x, base):
    """x [T, D]: pair (i, i + D/2) of position t is turned by -t * base^(-2i/D)."""
    out = np.empty_like(x)
    half = x.shape[1] // 2
    for t in range(x.shape[0]):
        for i in range(half):
            angle = t * base ** (-2 * i / x.shape[1])
            rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            out[t, [i, i + half]] = rotation @ x[t, [i, i + half]]
    return out


def reference_attention(q, k, v, window):
    """q, k, v [T, D] of one head: each query sees itself and the window - 1 keys before it."""
    out = np.zeros_like(v)
    for t in range(q.shape[0]):
        keys = range(max(0, t - window + 1), t + 1)
        scores = np.array([q[t] @ k[j] / np.sqrt(q.shape[1]) for j in keys])
        weights = np.exp(scores - scores.max())
        out[t] = (weights / weights.sum()) @ v[list(keys)]
    return out


def reference_logits(model, tokens):
    """The published forward pass in float64, one row of tokens, loops over layers and heads."""
    config = model.config
    w = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    T, D = len(tokens), config.n_embd // config.n_head
    x = x0 = reference_norm(w["wte.weight"][tokens])
    for i in range(config.n_layer):
        x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * x0
        h = reference_norm(x)
        at = f"layers.{i}.attn."
        q, k, v = (h @ w[at + name + ".weight"].T for name in ("c_q", "c_k", "c_v"))
        last = i == config.n_layer - 1
        letter = "L" if last else config.window_pattern[i % len(config.window_pattern)]
        window = config.sequence_len // 2 if letter == "S" else config.sequence_len
        heads = []
        for head in range(config.n_head):
            kv = head // (config.n_head // config.n_kv_head)
            own, shared = slice(head * D, (head + 1) * D), slice(kv * D, (kv + 1) * D)
            values = v[:, shared]
            if (config.n_layer - 1 - i) % 2 == 0:
                gate = 2 / (1 + np.exp(-h[:, :32] @ w[at + "ve_gate.weight"][kv]))
                values = values + gate[:, None] * w[f"value_embeds.{i}.weight"][tokens][:, shared]
            turned_q = reference_norm(reference_rope(q[:, own], config.rope_base))
            turned_k = reference_norm(reference_rope(k[:, shared], config.rope_base))
            heads.append(reference_attention(turned_q, turned_k, values, window))
        x = x + np.concatenate(heads, -1) @ w[at + "c_proj.weight"].T
        hidden = np.maximum(reference_norm(x) @ w[f"layers.{i}.mlp.c_fc.weight"].T, 0) ** 2
        x = x + hidden @ w[f"layers.{i}.mlp.c_proj.weight"].T
    assert x.shape == (T, config.n_embd)
    return config.softcap * np.tanh(reference_norm(x) @ w["lm_head.weight"].T / config.softcap)


POLAR_EXPRESS = [  # as published; written again, so that a slip in train.py shows
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


class ReferenceMuon:
    """One matrix, numpy float64. The polynomial acts on singular values, so it is applied to them."""

    def __init__(self, shape):
        self.buffer = np.zeros(shape)
        self.second = np.zeros(shape[0] if shape[0] >= shape[1] else shape[1])

    def step(self, p, g, momentum, lr, decay, beta2):
        rows, cols = p.shape
        self.buffer = momentum * self.buffer + (1 - momentum) * g
        nesterov = (1 - momentum) * g + momentum * self.buffer
        u, s, vt = np.linalg.svd(nesterov, full_matrices=False)
        s = s / (np.linalg.norm(nesterov) * 1.02 + 1e-6)
        for a, b, c in POLAR_EXPRESS:
            s = a * s + b * s**3 + c * s**5
        update = u @ np.diag(s) @ vt
        by_row = rows >= cols
        mean_square = (update**2).mean(axis=1 if by_row else 0)
        self.second = beta2 * self.second + (1 - beta2) * mean_square
        factor = 1 / np.sqrt(np.maximum(self.second, 1e-10))
        scaled = update * (factor[:, None] if by_row else factor[None, :])
        scaled *= np.linalg.norm(update) / max(np.linalg.norm(scaled), 1e-10)
        lr = lr * np.sqrt(max(1.0, rows / cols))
        decays = np.where(scaled * p >= 0, p, 0.0)
        return p - lr * scaled - lr * decay * decays


class ReferenceAdamW:
    def __init__(self):
        self.m = self.v = 0.0
        self.t = 0

    def step(self, p, g, lr, beta1, beta2, eps, decay):
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m_hat, v_hat = self.m / (1 - beta1**self.t), self.v / (1 - beta2**self.t)
        return p * (1 - lr * decay) - lr * m_hat / (np.sqrt(v_hat) + eps)


# -------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_head": 4, "n_layer": 2, "window_pattern": "S"},
        {"n_kv_head": 1, "n_layer": 1, "window_pattern": "L"},
        {"rope_base": 500.0, "softcap": 5.0, "n_layer": 4, "window_pattern": "SSSL"},
    ],
)
def test_forward_equals_a_float64_reference(train, changes):
    config = small_config(train, **changes)
    model = random_model(train, config)
    tokens = random_tokens(config)
    logits = model(tokens)
    assert logits.shape == (2, config.sequence_len, config.vocab_size)
    assert logits.dtype == torch.float32
    expected = np.stack([reference_logits(model, row.numpy()) for row in tokens])
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=0, atol=2e-4)


def test_forward_on_fewer_positions_equals_the_reference(train):
    config = small_config(train)
    model = random_model(train, config)
    for length in (1, 7, 8, 9, 13):
        tokens = random_tokens(config, rows=1, length=length)
        expected = reference_logits(model, tokens[0].numpy())
        np.testing.assert_allclose(model(tokens)[0].detach().numpy(), expected, rtol=0, atol=2e-4)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    pattern=st.sampled_from(["S", "L", "SL", "SSSL", "LS"]),
    length=st.integers(2, 16),
    kv_heads=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
def test_a_token_never_changes_logits_before_it(train, pattern, length, kv_heads, data):
    config = small_config(train, window_pattern=pattern, n_kv_head=kv_heads)
    model = random_model(train, config)
    t = data.draw(st.integers(1, length - 1))
    tokens = random_tokens(config, length=length)
    changed = tokens.clone()
    changed[:, t:] = (changed[:, t:] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :t], after[:, :t], rtol=0, atol=1e-5)
    assert (before[:, t] - after[:, t]).abs().max() > 1e-3


def test_a_short_window_sees_exactly_its_keys(train):
    config = small_config(train, n_layer=2, window_pattern="SL")
    model = random_model(train, config)
    with torch.no_grad():
        model.layers[1].attn.c_proj.weight.zero_()  # the last layer is always full: silence its attention
    tokens = random_tokens(config, rows=1)
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % config.vocab_size
    with torch.no_grad():
        moved = (model(tokens) - model(changed)).abs().amax(dim=(0, 2))
    window = config.sequence_len // 2
    assert (moved[3 : 3 + window] > 1e-4).all()
    assert (moved[3 + window :] < 1e-5).all()


def test_the_last_layer_is_full_whatever_the_pattern(train):
    assert small_config(train, window_pattern="S").windows == [8, 8, 16]
    assert small_config(train, window_pattern="SSSL", n_layer=8).windows == [8, 8, 8, 16, 8, 8, 8, 16]
    assert small_config(train, window_pattern="S", short_window_divisor=4).windows == [4, 4, 16]


@pytest.mark.parametrize("window", [None, 5])
def test_attention_scale_is_one_over_the_root_of_head_dim(train, window):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 12, 2, 32, generator=generator) for _ in range(3))
    got = train.attend(q, k, v, attention_over(window, 12))
    for head in range(2):
        one = [x[0, :, head].double().numpy() for x in (q, k, v)]
        np.testing.assert_allclose(got[0, :, head].numpy(), reference_attention(*one, window or 12), atol=1e-5)


def test_grouped_heads_equal_explicit_repetition(train):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 10, 6, 8, generator=generator)
    k, v = (torch.randn(2, 10, 2, 8, generator=generator) for _ in range(2))
    for window in (None, 4, 2):
        attention = attention_over(window, 10)
        repeated = train.attend(q, k.repeat_interleave(3, dim=2), v.repeat_interleave(3, dim=2), attention)
        torch.testing.assert_close(train.attend(q, k, v, attention), repeated)


def test_rotation_depends_on_the_distance_only(train):
    cos, sin = train.rotary_tables(40, 16, 10000.0)
    assert cos.dtype == torch.float32
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(16, generator=generator).expand(1, 40, 1, 16) for _ in range(2))
    q, k = train.rotate(q, cos, sin)[0, :, 0], train.rotate(k, cos, sin)[0, :, 0]
    for distance in (0, 1, 7):
        scores = (q[distance:] * k[: 40 - distance]).sum(-1)
        torch.testing.assert_close(scores, scores[:1].expand_as(scores), rtol=0, atol=1e-4)
    reference = reference_rope(np.tile(np.arange(16.0), (40, 1)), 10000.0)
    order = train.side_by_side(torch.arange(16.0)[:, None], 16)[:, 0]  # where each channel of a projection goes
    assert order[:4].tolist() == [0, 8, 1, 9]
    got = train.rotate(order.expand(1, 40, 1, 16), cos, sin)[0, :, 0]
    np.testing.assert_allclose(got.numpy(), reference[:, order.long()], atol=1e-4)
    two_heads = train.side_by_side(torch.arange(32.0)[:, None], 16)[:, 0]
    assert torch.equal(two_heads, torch.cat((order, order + 16)))


def test_value_embeddings_enter_through_a_gate_between_zero_and_two(train):
    config = small_config(train, n_layer=1, n_head=1, n_kv_head=1, n_embd=48)
    attention = train.Attention(config, 0)
    cos, sin = train.rotary_tables(1, 48, 10000.0)
    generator = torch.Generator().manual_seed(0)
    x, ve = torch.randn(1, 1, 48, generator=generator), torch.randn(1, 1, 48, generator=generator)
    with torch.no_grad():  # one position: attention hands its value through
        attention.c_proj.weight.copy_(torch.eye(48))
        whole = attention_over(None, 1, 48)
        plain = attention(x, None, cos, sin, whole)
        for weight, gate in ((0.0, 1.0), (1e3, 2.0), (-1e3, 0.0)):
            attention.ve_gate.weight.copy_(weight * x[0, :, :32])
            torch.testing.assert_close(attention(x, ve, cos, sin, whole), plain + gate * ve)
            far = x.clone()
            far[..., 32:] = 7.0  # the gate reads the first 32 channels only
            difference = attention(far, ve, cos, sin, whole) - attention(far, None, cos, sin, whole)
            torch.testing.assert_close(difference, gate * ve)


def test_value_embeddings_sit_on_every_other_layer_and_the_last(train):
    for n_layer, layers in ((1, ["0"]), (2, ["1"]), (3, ["0", "2"]), (8, ["1", "3", "5", "7"])):
        model = train.GPT(small_config(train, n_layer=n_layer))
        assert list(model.value_embeds) == layers
        assert [str(i) for i, b in enumerate(model.layers) if b.attn.ve_gate is not None] == layers


def test_initial_weights_follow_the_published_scheme(train):
    config = small_config(train, n_embd=192, vocab_size=512)
    torch.manual_seed(0)
    model = train.GPT(config)
    model.initialise()
    bound = math.sqrt(3 / 192)
    assert abs(model.wte.weight.std() - 1) < 0.02
    assert abs(model.lm_head.weight.std() - 0.001) < 0.00002
    for block in model.layers:
        for linear in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.c_fc):
            assert 0.99 * bound < linear.weight.abs().max() <= bound
            assert abs(linear.weight.std() * math.sqrt(192) - 1) < 0.02
        for zero in (block.attn.c_proj, block.mlp.c_proj, block.attn.ve_gate):
            assert zero is None or not zero.weight.any()
    for table in model.value_embeds.values():
        assert 0.99 * bound < table.weight.abs().max() <= bound
    assert model.resid_lambdas.tolist() == [1.0] * 3
    assert model.x0_lambdas.tolist() == pytest.approx([0.1] * 3)
    first = model(random_tokens(config), random_tokens(config, seed=4))
    assert first.item() == pytest.approx(math.log(512), abs=0.01)


@pytest.mark.parametrize("softcap", [15.0, 100.0, 0.0])
def test_loss_is_the_mean_negative_log_likelihood_of_the_logits(train, softcap):
    config = small_config(train, softcap=softcap)
    model = random_model(train, config)
    inputs, targets = random_tokens(config), random_tokens(config, seed=4)
    log_p = torch.log_softmax(model(inputs).double(), dim=-1)
    expected = -log_p.gather(-1, targets[..., None]).mean()
    assert model(inputs, targets).item() == pytest.approx(expected.item(), rel=1e-5)
    assert not softcap or model(inputs).abs().max() <= softcap


def test_bfloat16_products_keep_float32_logits_near_the_float32_ones(train):
    config = small_config(train)
    exact = random_model(train, config)
    rough = train.build_model(config, torch.device("cpu"), torch.bfloat16)
    assert rough.wte.weight.dtype == rough.value_embeds["0"].weight.dtype == torch.bfloat16
    rough.load_state_dict(exact.state_dict())
    tokens, targets = random_tokens(config), random_tokens(config, seed=4)
    logits = rough(tokens)
    assert logits.dtype == torch.float32
    difference = (logits - exact(tokens)).abs().max().item()
    assert 0 < difference < 0.2 * exact(tokens).abs().max().item()
    optimizer = train.build_optimizer(rough, muon_dtype=torch.bfloat16)
    before = rough(tokens, targets)
    before.backward()
    optimizer.step(0.1, 0.9, 0.0)
    assert rough(tokens, targets).item() < before.item()


def test_too_many_positions_are_refused(train):
    with pytest.raises(AssertionError, match="pass at most MAX_SEQ_LEN"):
        train.GPT(small_config(train))(torch.zeros(1, 17, dtype=torch.int64))


def test_state_dict_holds_parameters_only(train):
    model = train.GPT(small_config(train))
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16])
def test_a_model_loaded_from_its_weights_gives_the_same_logits_bit_for_bit(train, monkeypatch, autocast_dtype):
    """The weights as they come from another process: as safetensors, on a device, and without a gradient."""
    monkeypatch.setattr(train, "settings_for", lambda device: (autocast_dtype, False))
    model = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"), autocast_dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    runtime = TorchRuntime()
    runtime.device = torch.device("cpu")
    again = train.load_model(runtime.unpack(runtime.pack(model.state_dict())))
    tokens = random_tokens(model.config)
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens))
        again.lm_head.weight[0] += 1
    assert not torch.equal(again(tokens), model(tokens)), "it has storage of its own"
    assert again.autocast_dtype is autocast_dtype


def test_a_model_is_not_loaded_from_weights_of_another_shape(train):
    weights = dict(train.build_model(train.config_from_hyperparameters(64), torch.device("cpu")).state_dict())
    weights["extra.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"extra\.weight"):
        train.load_model(weights)


# --------------------------------------------------------------------------------------------------------- accounting


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "parameters", "flops"), [(8, 50_332_176, 239_078_400), (4, 11_534_472, 47_186_688)])
def test_standard_model_has_the_published_size_and_cost(depth, parameters, flops):
    train = load_train(fake_prepare("standard", 2048))
    train.DEPTH = depth
    with torch.device("meta"):
        model = train.GPT(train.config_from_hyperparameters(8192))
    counts = model.num_parameters()
    assert counts["total"] == parameters
    assert model.flops_per_token() == flops
    assert counts["wte"] == counts["lm_head"] == 8192 * model.config.n_embd
    assert counts["scalars"] == 2 * depth


# ---------------------------------------------------------------------------------------------------------- optimizer


@settings(max_examples=20, deadline=None)
@given(
    shape=st.sampled_from([(8, 8), (24, 6), (6, 24), (1, 32), (2, 32), (5, 4)]),
    num_matrices=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    decay=st.sampled_from([0.0, 0.2]),
)
def test_muon_steps_equal_a_float64_reference(train, shape, num_matrices, seed, decay):
    random = np.random.default_rng(seed)
    params = random.normal(size=(num_matrices, *shape))
    references = [ReferenceMuon(shape) for _ in range(num_matrices)]
    stacked = torch.tensor(params)
    buffer = torch.zeros_like(stacked)
    variance = torch.zeros(num_matrices, *((shape[0], 1) if shape[0] >= shape[1] else (1, shape[1]))).double()
    for momentum, lr in ((0.85, 0.04), (0.9, 0.03), (0.95, 0.5)):
        grads = random.normal(size=params.shape)
        stacked = train.muon_step(
            stacked, torch.tensor(grads), buffer, variance, momentum, lr, decay, 0.95, torch.float64
        )
        params = np.stack(
            [r.step(p, g, momentum, lr, decay, 0.95) for r, p, g in zip(references, params, grads, strict=True)]
        )
        np.testing.assert_allclose(stacked.numpy(), params, rtol=1e-8, atol=1e-10)


def test_orthogonalisation_keeps_directions_and_evens_out_sizes(train):
    generator = torch.Generator().manual_seed(0)
    for shape in ((32, 32), (64, 16), (16, 64)):
        g = torch.randn(2, *shape, generator=generator)
        u, s, vt = torch.linalg.svd(g, full_matrices=False)
        keep = s[0] > 0.05 * s[0].max()
        core = u.mT @ train.orthogonalise(g) @ vt.mT
        sizes = core[0].diagonal()[keep]
        assert ((sizes > 0.6) & (sizes < 1.3)).all()
        assert (core[0] - torch.diag(core[0].diagonal())).abs().max() < 1e-3
    assert not train.orthogonalise(torch.zeros(1, 4, 4)).any()


def test_decay_is_applied_only_where_the_update_shrinks_the_weight(train):
    generator = torch.Generator().manual_seed(0)
    params, grads = (torch.randn(1, 6, 6, generator=generator) for _ in range(2))

    def after(decay):
        return train.muon_step(
            params, grads, torch.zeros(1, 6, 6), torch.zeros(1, 6, 1), 0.9, 0.1, decay, 0.95, torch.float32
        )

    without, with_decay = after(0.0), after(0.5)
    agrees = (params - without) * params >= 0
    assert 0 < agrees.sum() < 36
    torch.testing.assert_close(with_decay[agrees], without[agrees] - 0.1 * 0.5 * params[agrees])
    assert torch.equal(with_decay[~agrees], without[~agrees])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_steps_equal_a_float64_reference(train, decay):
    random = np.random.default_rng(0)
    for shape in ((7,), (5, 3), (3, 5)):
        p = random.normal(size=shape)
        param, mean, square = torch.tensor(p, dtype=torch.float32), torch.zeros(shape), torch.zeros(shape)
        reference = ReferenceAdamW()
        for step in range(1, 5):
            g = random.normal(size=shape)
            p = reference.step(p, g, 0.3, 0.8, 0.95, 1e-10, decay)
            gradient = torch.tensor(g, dtype=torch.float32)
            train.adamw_step(param, gradient, mean, square, step, 0.3, 0.8, 0.95, 1e-10, decay)
            np.testing.assert_allclose(param.numpy(), p, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_step_of_the_whole_optimizer_moves_each_parameter_as_its_group_says(train):
    config = small_config(train)
    model = random_model(train, config)
    optimizer = train.build_optimizer(model)
    adamw_settings = {  # name -> rate and betas; the width is 48
        "lm_head.weight": (0.004 * (48 / 768) ** -0.5, 0.8, 0.95),
        "wte.weight": (0.6 * (48 / 768) ** -0.5, 0.8, 0.95),
        "value_embeds.0.weight": (0.6 * (48 / 768) ** -0.5, 0.8, 0.95),
        "value_embeds.2.weight": (0.6 * (48 / 768) ** -0.5, 0.8, 0.95),
        "resid_lambdas": (0.005, 0.8, 0.95),
        "x0_lambdas": (0.5, 0.96, 0.95),
    }
    references = {}
    values = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    random = np.random.default_rng(0)
    for multiplier, momentum, decay in ((1.0, 0.85, 0.2), (0.5, 0.9, 0.1)):
        for name, p in model.named_parameters():
            g = random.normal(size=p.shape).astype(np.float32)
            p.grad = torch.tensor(g)
            if name in adamw_settings:
                lr, beta1, beta2 = adamw_settings[name]
                r = references.setdefault(name, ReferenceAdamW())
                values[name] = r.step(values[name], g.astype(np.float64), lr * multiplier, beta1, beta2, 1e-10, 0.0)
            else:
                r = references.setdefault(name, ReferenceMuon(p.shape))
                values[name] = r.step(values[name], g.astype(np.float64), momentum, 0.04 * multiplier, decay, 0.95)
        optimizer.step(multiplier, momentum, decay)
        assert all(p.grad is None for p in model.parameters())
    for name, p in model.named_parameters():
        close = np.isclose(p.detach().numpy(), values[name], rtol=1e-3, atol=1e-4)
        assert close.mean() > 0.999, name  # where an update is nearly 0, float32 may decide otherwise about decay
    assert sum(isinstance(r, ReferenceMuon) for r in references.values()) == 3 * 6 + 2  # the gates are Muon's too


# ----------------------------------------------------------------------------------------------------------- schedule


def test_schedules_at_the_start_the_middle_and_the_end(train):
    assert [train.lr_multiplier_at(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0, 1.01)] == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert [train.weight_decay_at(p) for p in (0.0, 0.5, 1.0, 1.01)] == [0.2, 0.1, 0.0, 0.0]
    assert [train.muon_momentum_at(s) for s in (0, 150, 300, 900)] == pytest.approx([0.85, 0.90, 0.95, 0.95])


def test_schedules_follow_their_constants():
    train = load_train(fake_prepare())
    train.WARMUP_RATIO, train.WARMDOWN_RATIO, train.FINAL_LR_FRAC = 0.1, 0.4, 0.2
    got = [train.lr_multiplier_at(p) for p in (0.0, 0.05, 0.1, 0.6, 0.8, 1.0)]
    assert got == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.6, 0.2])
    train.WARMDOWN_RATIO = 0.0
    assert train.lr_multiplier_at(1.0) == train.lr_multiplier_at(1.001) == 1.0


# ----------------------------------------------------------------------------------------------------------- training


def start(train, seed=0):
    torch.manual_seed(seed)
    model = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"))
    return model, train.build_optimizer(model)


def everything(model, optimizer):
    return [t.detach().clone() for t in [*model.parameters(), *optimizer.state_tensors()]]


def test_warm_up_leaves_no_trace(train, capsys):
    model, optimizer = start(train)
    loader = FakeLoader(3, 2, 64)
    train.train(model, optimizer, loader, 1)  # so that weights and state are not the initial ones
    before, random_state = everything(model, optimizer), torch.get_rng_state()
    train.warm_up(model, optimizer, loader.synthetic_batch())
    assert all(torch.equal(a, b) for a, b in zip(before, everything(model, optimizer), strict=True))
    assert torch.equal(random_state, torch.get_rng_state())
    assert optimizer.num_steps == 3
    assert all(p.grad is None for p in model.parameters())

    other_model, other_optimizer = start(train)
    train.warm_up(other_model, other_optimizer, loader.synthetic_batch())
    train.train(other_model, other_optimizer, loader, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(other_model, other_optimizer), strict=True))


@pytest.mark.slow
def test_short_training_lowers_the_loss(train, capsys):
    model, optimizer = start(train)
    result = train.train(model, optimizer, FakeLoader(60, 4, 64), 1)
    assert result.losses[0] == pytest.approx(math.log(64), abs=0.05)
    assert result.losses[-1] < 0.3 * result.losses[0]
    assert (result.num_steps, result.num_tokens, len(result.losses)) == (60, 60 * 4 * 64, 60)


def test_an_unfinished_accumulation_is_dropped(train, capsys):
    ends = []
    for num_batches in (4, 5):
        model, optimizer = start(train)
        loader = FakeLoader(num_batches, 2, 64)
        train.lr_multiplier_at, real = (lambda progress: 1.0), train.lr_multiplier_at
        train.weight_decay_at, real_decay = (lambda progress: 0.2), train.weight_decay_at
        result = train.train(model, optimizer, loader, 2)
        train.lr_multiplier_at, train.weight_decay_at = real, real_decay
        assert (result.num_steps, result.num_tokens) == (2, 2 * 2 * 2 * 64)
        assert all(p.grad is None for p in model.parameters())
        ends.append(everything(model, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_micro_steps_add_up_to_the_gradient_and_loss_of_one_large_batch(train):
    seen = []
    for num_micro_steps, rows in ((1, 4), (2, 2)):
        model, _ = start(train)
        with torch.no_grad():
            model.lm_head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        whole = next(iter(FakeLoader(1, 4, 64)))[0]
        batches = [(whole[i : i + rows], whole[i : i + rows], 1) for i in range(0, 4, rows)]
        grads = {}

        class Recorder:
            def step(self, *_):
                grads.update({name: p.grad.clone() for name, p in model.named_parameters()})  # noqa: B023

            def zero_grad(self):
                pass

        class Batches(list):
            progress = 0.0

        result = train.train(model, Recorder(), Batches(batches), num_micro_steps)
        seen.append((result.losses, grads))
    assert seen[0][0] == pytest.approx(seen[1][0], rel=1e-5)
    for name, grad in seen[0][1].items():
        torch.testing.assert_close(grad, seen[1][1][name], rtol=1e-3, atol=1e-6, msg=name)


class QueuedBatches:
    """Batches that say they live on a GPU, for a model that hands out the given losses."""

    progress = 0.5

    def __init__(self, losses):
        self.losses = losses

    def __iter__(self):
        for loss in self.losses:
            batch = SimpleNamespace(device=SimpleNamespace(type="cuda"), numel=lambda: 8, loss=loss)
            yield batch, batch, 1


def queued_training(train, losses):
    weight = torch.ones((), requires_grad=True)
    optimizer = SimpleNamespace(step=lambda *_: None, zero_grad=lambda: None)
    return train.train(lambda inputs, _: weight * inputs.loss, optimizer, QueuedBatches(losses), 1)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_every_loss_is_read_although_an_accelerator_is_a_step_behind(train, num_steps, capsys):
    losses = tuple(float(i) for i in range(1, num_steps + 1))
    assert queued_training(train, losses).losses == losses


@pytest.mark.parametrize("bad", [math.nan, math.inf, 100.5])
@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_lost_run_fails_at_once_on_an_accelerator(train, bad, position, capsys):
    losses = [3.0] * 4
    losses[position] = bad
    with pytest.raises(SystemExit) as stop:
        queued_training(train, losses)
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAIL"


def test_a_nan_weight_fails_at_the_first_step(train, capsys):
    model, optimizer = start(train)
    with torch.no_grad():
        model.wte.weight.fill_(math.nan)
    with pytest.raises(SystemExit) as stop:
        train.train(model, optimizer, FakeLoader(5, 2, 64), 1)
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines() == ["", "FAIL"]


def test_indivisible_batch_says_what_to_change(train):
    assert train.num_micro_steps_for(128, 2048, 524288) == 2
    with pytest.raises(AssertionError, match=r"TOTAL_BATCH_SIZE \(1000\).*8 \* 64 = 512: change one of them"):
        train.num_micro_steps_for(8, 64, 1000)


def test_mfu_is_unknown_where_the_peak_is(train):
    assert train.mfu_percent(5e12, 10.0, 1e12) == 50.0
    assert train.mfu_percent(5e12, 10.0, None) is None
    assert train.mfu_percent(0, 0.0, 1e12) is None


def test_summary_block_has_the_published_form(train):
    values = {
        "val_bpb": 0.9979,
        "training_seconds": 300.14,
        "total_seconds": 325.93,
        "peak_vram_mb": 45060.24,
        "mfu_percent": 39.8,
        "total_tokens_M": 499.6,
        "num_steps": 953,
        "num_params_M": 50.332176,
        "depth": 8,
        "backend": "cuda",
        "chip": "NVIDIA H100",
    }
    golden = """\
---
val_bpb:          0.997900
training_seconds: 300.1
total_seconds:    325.9
peak_vram_mb:     45060.2
mfu_percent:      39.80
total_tokens_M:   499.6
num_steps:        953
num_params_M:     50.3
depth:            8
backend:          cuda
chip:             NVIDIA H100"""
    assert train.summary_text(values) == golden
    assert "mfu_percent:      n/a\n" in train.summary_text(values | {"mfu_percent": None})


def run_main(prepare, monkeypatch, peak_flops=None):
    """stdout of main(), with a machine of a known name."""

    def detect(allow_accelerator, file):
        assert file == "train.py"
        assert not allow_accelerator  # the loader put us on the CPU: that is what the summary names
        return SimpleNamespace(backend="cpu", chip="Test Chip", peak_flops=peak_flops)

    monkeypatch.setattr("autoresearch.backends.hardware.detect", detect)
    module = load_train(prepare)
    monkeypatch.setattr(module.gc, "freeze", lambda: None)  # this process goes on
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    module.main()
    return module, out.getvalue()


def test_main_trains_hands_the_weights_over_and_ends_with_the_summary(monkeypatch):
    prepare = fake_prepare(num_batches=6)
    train, out = run_main(prepare, monkeypatch, peak_flops=1e12)
    assert prepare.asked == [(2, 64, "train")]
    assert prepare.logits.shape == (2, 64, 64)
    torch.manual_seed(1234)
    fresh = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"))
    assert set(prepare.weights) == set(fresh.state_dict())
    assert not torch.equal(prepare.weights["wte.weight"], fresh.wte.weight)

    log, _, block = out.partition("\n---\n")
    assert len(STEP_LINE.findall(log)) == 6
    assert "step 00006 (83.3%)" in log
    rows = dict(line.split(":", 1) for line in block.splitlines())
    assert list(rows) == [
        *("val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M"),
        *("num_steps", "num_params_M", "depth", "backend", "chip"),
    ]
    said = {key: value.strip() for key, value in rows.items()}
    assert (said["val_bpb"], said["training_seconds"], said["num_steps"]) == ("1.250000", "3.0", "6")
    assert (said["depth"], said["backend"], said["chip"]) == ("2", "cpu", "Test Chip")
    assert 10 < float(said["peak_vram_mb"]) < 100_000
    assert float(said["mfu_percent"]) == pytest.approx(100 * fresh.flops_per_token() * 6 * 128 / 3.0 / 1e12, abs=0.006)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_bit_for_bit(monkeypatch):
    first, second, other = fake_prepare(), fake_prepare(), fake_prepare()
    other.SEED = 4321
    for prepare in (first, second, other):
        run_main(prepare, monkeypatch)
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())
    assert not torch.equal(first.weights["wte.weight"], other.weights["wte.weight"])


def test_threads_follow_the_environment_and_are_one_without_it(train, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert train.settings_for(torch.device("cpu")) == (None, False)
    assert asked == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    train.settings_for(torch.device("cpu"))
    assert asked == [1]


def test_devices_choose_their_precision_and_compiler(train, monkeypatch):
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
    assert train.settings_for(torch.device("cuda")) == (torch.bfloat16, True)
    fractions = []
    monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", fractions.append)
    assert train.settings_for(torch.device("mps")) == (None, False)
    assert fractions == []
    monkeypatch.setattr(train, "PRESET", "long")
    train.settings_for(torch.device("mps"))
    assert fractions == [0.7]


# ---------------------------------------------------------------------------------------------------- the file itself


def test_line_one_is_the_banner():
    first = TRAIN_PATH.read_text(encoding="utf-8").splitlines()[0]
    assert first == (
        "# Edited by the model program (program.md). Everything in this file may change; no other file may."
    )


def hyperparameters():
    """name -> value of every UPPER_CASE literal from the Hyperparameters heading to the overrides, in order."""
    text = TRAIN_PATH.read_text(encoding="utf-8")
    heading = text[: text.index("# Hyperparameters\n")].count("\n") + 1
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and node.lineno > heading and node.targets[0].id.isupper():
            found[node.targets[0].id] = ast.literal_eval(node.value)
            if node.targets[0].id == "PRESET_OVERRIDES":
                break
    return found


def test_hyperparameters_are_plain_literals_with_the_published_values():
    found = hyperparameters()
    overrides = found.pop("PRESET_OVERRIDES")
    published = {
        "DEPTH": 8,
        "ASPECT_RATIO": 64,
        "HEAD_DIM": 128,
        "WINDOW_PATTERN": "SSSL",
        "TOTAL_BATCH_SIZE": 524288,
        "DEVICE_BATCH_SIZE": 128,
        "EMBEDDING_LR": 0.6,
        "UNEMBEDDING_LR": 0.004,
        "MATRIX_LR": 0.04,
        "SCALAR_LR": 0.5,
        "WEIGHT_DECAY": 0.2,
        "ADAM_BETAS": (0.8, 0.95),
        "WARMUP_RATIO": 0.0,
        "WARMDOWN_RATIO": 0.5,
        "FINAL_LR_FRAC": 0.0,
    }
    assert {name: found[name] for name in published} == published
    source = TRAIN_PATH.read_text(encoding="utf-8")
    assert "TOTAL_BATCH_SIZE = 524288  " in source  # a number, not a sum: the search edits it in place
    assert set(overrides) == set(PRESETS) - {"standard"}
    for values in overrides.values():
        assert set(values) <= set(found)
        assert not {name for name in values if name.endswith("_LR")}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_gives_a_model_and_whole_steps(preset):
    rules = PRESETS[preset]
    train = load_train(fake_prepare(preset, rules.max_seq_len))
    for name, value in hyperparameters()["PRESET_OVERRIDES"].get(preset, {}).items():
        assert getattr(train, name) == value
    config = train.config_from_hyperparameters(rules.vocab_size)
    assert config.sequence_len == rules.max_seq_len
    assert config.n_embd == config.n_head * train.HEAD_DIM
    assert config.n_embd >= train.DEPTH * train.ASPECT_RATIO
    assert train.num_micro_steps_for(train.DEVICE_BATCH_SIZE, rules.max_seq_len, train.TOTAL_BATCH_SIZE) >= 1
    with torch.device("meta"):
        train.GPT(config)


def test_tiny_is_the_small_model_the_noise_was_measured_on():
    train = load_train(fake_prepare("tiny", 256))
    config = train.config_from_hyperparameters(1024)
    assert (config.n_layer, config.n_embd, config.n_head) == (2, 64, 1)
    assert train.TOTAL_BATCH_SIZE == train.DEVICE_BATCH_SIZE * 256 == 2048


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WINDOW_PATTERN", "SXL", "WINDOW_PATTERN: write S and L only"),
        ("HEAD_DIM", 15, "HEAD_DIM: choose an even number"),
        ("KV_GROUPS", 3, "KV_GROUPS: choose a divisor of the 2 heads"),
    ],
)
def test_an_impossible_shape_says_what_to_write(name, value, message):
    train = load_train(fake_prepare())
    setattr(train, name, value)
    with pytest.raises(AssertionError, match=message):
        train.config_from_hyperparameters(64)


@pytest.mark.slow
def test_importing_trains_nothing_and_an_eager_run_never_loads_the_compiler(tmp_path):
    script = tmp_path / "launch.py"
    script.write_text(
        f"import sys; sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}\n"
        "from test_train import *\n"
        "torch.set_num_threads(1)\n"
        "module = load_train(fake_prepare())\n"
        "model, optimizer = start(module)\n"
        "module.warm_up(model, optimizer, FakeLoader(1, 2, 64).synthetic_batch())\n"
        "assert module.train(model, optimizer, FakeLoader(2, 2, 64), 1).num_steps == 2\n"
        "assert 'torch._dynamo' not in sys.modules, 'importing the compiler costs a second of every start-up'\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    broken = fake_prepare()
    broken.make_dataloader = broken.evaluate_bpb = None
    load_train(broken)
