"""train_mlx.py on its own: what earlier MLX versions of this experiment got wrong, its memory, its warm-up, its summary."""

from __future__ import annotations

import ast
import gc
import io
import math
import re
import sys
import types
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from both_experiments import ROOT, FakeLoader, fake_prepare, load_experiment, random_weights, small_shape

mx = pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'mlx[cpu]'")


from autoresearch.contract.rules import PRESETS  # noqa: E402
from autoresearch.workspace import banner_for  # noqa: E402

pytestmark = pytest.mark.mlx

STEP_LINE = re.compile(
    r"step \d{5} \(\d+\.\d%\) \| loss: \d+\.\d{6} \| lrm: \d\.\d\d \| dt: \d+ms \| tok/sec: [\d,]+ \| epoch: \d+ \| "
    r"remaining: \d+s"
)


@pytest.fixture(scope="module")
def train():
    module = load_experiment("train_mlx", fake_prepare(mx.array))
    module.settings_for_machine()
    return module


def random_model(train, dtype=mx.float32, **changes):
    model = train.GPT(train.GPTConfig(**small_shape(**changes)), dtype)
    model.load_state_dict({name: mx.array(value) for name, value in random_weights(model.shapes()).items()})
    return model


def random_tokens(rows=2, length=16, vocab_size=24):
    return np.random.default_rng(3).integers(0, vocab_size, (rows, length))


# -------------------------------------------------------------------------- what earlier MLX versions of this got wrong


@pytest.mark.parametrize("pattern", ["L", "S", "SLS"])
@pytest.mark.parametrize("position", [1, 8, 15])
def test_a_token_never_changes_logits_before_it(train, pattern, position):
    """Full layers had no causal mask: loss fell below the entropy of random text."""
    model = random_model(train, window_pattern=pattern)
    tokens = random_tokens()
    changed = tokens.copy()
    changed[:, position:] = (changed[:, position:] + 1) % 24
    before, after = np.array(model(mx.array(tokens))), np.array(model(mx.array(changed)))
    np.testing.assert_allclose(before[:, :position], after[:, :position], rtol=0, atol=1e-5)
    assert np.abs(before[:, position] - after[:, position]).max() > 1e-3


def test_a_short_window_sees_exactly_its_keys(train):
    model = random_model(train, n_layer=2, window_pattern="SL")
    last = "layers.1.attn.c_proj.weight"  # the last layer is always full: silence its attention
    model.weights[last] = mx.zeros_like(model.weights[last])
    tokens = random_tokens(rows=1)
    changed = tokens.copy()
    changed[:, 3] = (changed[:, 3] + 1) % 24
    moved = np.abs(np.array(model(mx.array(tokens))) - np.array(model(mx.array(changed)))).max(axis=(0, 2))
    assert (moved[3:11] > 1e-4).all()
    assert (moved[11:] < 1e-5).all()


@pytest.mark.parametrize("window", [12, 5])
def test_attention_scale_is_one_over_the_root_of_head_dim(train, window):
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(1, 2, 12, 32)).astype("f") for _ in range(3))
    got = np.array(train.attend(*map(mx.array, (q, k, v)), window))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(32)
    distance = np.arange(12)[:, None] - np.arange(12)
    scores = np.where((distance >= 0) & (distance < window), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(got, weights / weights.sum(-1, keepdims=True) @ v, atol=1e-5)


def muon_change(train, params, grads, decay, lr=0.1):
    """What one Muon step from fresh state does to one matrix."""
    zeros = mx.zeros((1, *params.shape))
    rows, cols = params.shape
    variance = mx.zeros((1, rows, 1) if rows >= cols else (1, 1, cols))
    number = lambda value: mx.array(value, mx.float32)  # noqa: E731
    new, _, _ = train.muon_step(
        mx.array(params)[None], mx.array(grads)[None], zeros, variance, number(0.9), number(lr), number(decay), 0.95
    )
    return np.array(new[0]) - params


def test_weight_decay_is_decoupled_and_cautious(train):
    """Decay was added to the gradient before it was orthogonalised, where it drowned the gradient."""
    random = np.random.default_rng(1)
    params, grads = random.normal(size=(6, 4)).astype("f"), (1e-4 * random.normal(size=(6, 4))).astype("f")
    plain, decayed = muon_change(train, params, grads, 0.0), muon_change(train, params, grads, 0.2)
    lr = 0.1 * (6 / 4) ** 0.5
    expected = np.where(plain * params <= 0, -lr * 0.2 * params, 0)  # only where the update shrinks the weight already
    np.testing.assert_allclose(decayed - plain, expected, atol=1e-6)
    assert 0 < (expected == 0).sum() < expected.size


def losses_and_weights(train, numbers, num_steps=2):
    """Weights after some compiled steps whose optimizer is given these numbers."""
    mx.random.seed(0)
    model = random_model(train, vocab_size=64, sequence_len=64)
    optimizer = train.build_optimizer(model)
    steps = train.Steps(model, optimizer, 1)
    for inputs, targets, _ in FakeLoader(mx.array, num_steps, 2, 64):
        model.weights, optimizer.state, _ = steps.last(
            model.weights, optimizer.state, {}, inputs, targets, optimizer.numbers(*numbers)
        )
        optimizer.num_steps += 1
    return {name: np.array(value) for name, value in model.weights.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ((0.5, 0.9, 0.1), lambda name: True),  # the learning rate reaches every weight,
        ((1.0, 0.5, 0.1), lambda name: name.startswith("layers.")),  # momentum and decay every matrix,
        ((1.0, 0.9, 0.5), lambda name: name.startswith("layers.")),  # and nothing else in the first step
    ],
)
def test_every_schedule_reaches_the_weights_it_is_for(train, changed, moves):
    """Momentum and decay schedules wrote to a place that the optimizer never read."""
    num_steps = 2 if changed[1] == 0.5 else 1  # momentum 0.9 or 0.5: the first step has one direction only
    before = losses_and_weights(train, (1.0, 0.9, 0.1), num_steps)
    after = losses_and_weights(train, changed, num_steps)
    for name in before:
        if num_steps == 2 and not moves(name):
            continue  # follows the matrices through the second step's gradient
        assert (np.abs(before[name] - after[name]).max() > 1e-7) == moves(name), name


@pytest.mark.slow
def test_training_follows_the_schedules_of_the_loader(train, monkeypatch, capsys):
    model = random_model(train, vocab_size=64, sequence_len=64)
    optimizer = train.build_optimizer(model)
    seen = []
    numbers = optimizer.numbers
    monkeypatch.setattr(optimizer, "numbers", lambda *given: seen.append(given) or numbers(*given))
    train.train(model, optimizer, FakeLoader(mx.array, 8, 2, 64), 2)
    progress = [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    assert [given[0] for given in seen] == pytest.approx([1, 1, 0.75, 0.25])
    assert [given[1] for given in seen] == pytest.approx([0.85 + 0.1 * step / 300 for step in range(4)])
    assert [given[2] for given in seen] == pytest.approx([0.2 * (1 - part) for part in progress])


def test_bf16_stays_bf16_through_the_whole_model(train, monkeypatch):
    """A float32 scalar turned the residual stream, and so all of training, into float32."""
    model = random_model(train, mx.bfloat16)
    seen = {}

    def watch(name):
        original = getattr(train, name)

        def watched(*arguments):
            result = original(*arguments)
            seen.setdefault(name, set()).update(
                value.dtype for value in [*arguments[:1], result] if isinstance(value, mx.array)
            )
            return result

        monkeypatch.setattr(train, name, watched)

    for name in ("norm", "linear", "rotate", "attend"):
        watch(name)
    hidden = model.hidden(model.weights, mx.array(random_tokens()))
    assert seen == {name: {mx.bfloat16} for name in ("norm", "linear", "rotate", "attend")}
    assert hidden.dtype == mx.bfloat16
    assert model(mx.array(random_tokens())).dtype == mx.float32
    kept = {name: value.dtype for name, value in model.weights.items()}
    assert {name for name, dtype in kept.items() if dtype == mx.bfloat16} == {
        *("wte.weight", "value_embeds.0.weight", "value_embeds.2.weight"),
    }


def test_a_step_in_bf16_keeps_every_dtype_and_the_optimizers_arithmetic_in_float32(train):
    model = random_model(train, mx.bfloat16, vocab_size=64, sequence_len=64)
    optimizer = train.build_optimizer(model)
    before = {name: value.dtype for name, value in model.weights.items()}
    inputs, targets, _ = next(iter(FakeLoader(mx.array, 1, 2, 64)))
    steps = train.Steps(model, optimizer, 2)
    total = steps.add(model.weights, {}, inputs, targets)
    weights, state, loss = steps.last(
        model.weights, optimizer.state, total, inputs, targets, optimizer.numbers(1.0, 0.9, 0.1)
    )
    assert {name: value.dtype for name, value in weights.items()} == before
    leaves = [leaf for group in state for leaf in leaves_of(group)]
    assert {leaf.dtype for leaf in leaves} == {mx.float32}
    assert loss.dtype == mx.float32 and math.isfinite(loss.item())
    for group in optimizer.groups:
        if group["kind"] == "muon":
            assert {total["grads"][name].dtype for name in group["names"]} == {mx.float32}


def test_adamw_corrects_its_bias(train):
    """Without the correction the first step is ten times too small."""
    number = lambda value: mx.array(value, mx.float32)  # noqa: E731
    zeros = mx.zeros((3,))
    new, _, _ = train.adamw_step(
        zeros, mx.array([1.0, -2.0, 1e-3]), zeros, zeros, number(1), number(0.1), 0.9, 0.95, 1e-10, 0.0
    )
    np.testing.assert_allclose(np.array(new), [-0.1, 0.1, -0.1], rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.slow
def test_micro_steps_add_up_to_the_gradient_and_loss_of_one_large_batch(train):
    seen = []
    for num_micro_steps, rows in ((1, 4), (2, 2), (4, 1)):
        model = random_model(train, vocab_size=64, sequence_len=64)
        steps, total = train.Steps(model, train.build_optimizer(model), num_micro_steps), {}
        inputs, targets, _ = next(iter(FakeLoader(mx.array, 1, 4, 64)))
        for start in range(0, 4, rows):
            total = steps.add(model.weights, total, inputs[start : start + rows], targets[start : start + rows])
        seen.append(total)
    for total in seen[1:]:
        assert total["loss"].item() == pytest.approx(seen[0]["loss"].item(), rel=1e-5)
        for name, grad in total["grads"].items():
            np.testing.assert_allclose(np.array(grad), np.array(seen[0]["grads"][name]), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("num_micro_steps", [1, 2, 3])
def test_warm_up_leaves_no_trace(train, num_micro_steps):
    model = random_model(train, vocab_size=64, sequence_len=64)
    optimizer = train.build_optimizer(model)
    before = {name: np.array(value) for name, value in model.weights.items()}
    state = [np.array(group["momentum_buffer"]) for group in optimizer.state if "momentum_buffer" in group]
    train.warm_up(model, optimizer, FakeLoader(mx.array, 1, 2, 64).synthetic_batch(), num_micro_steps)
    assert optimizer.num_steps == 0
    assert all(np.array_equal(value, np.array(model.weights[name])) for name, value in before.items())
    after = [np.array(group["momentum_buffer"]) for group in optimizer.state if "momentum_buffer" in group]
    assert all(np.array_equal(a, b) for a, b in zip(state, after, strict=True))


@pytest.mark.slow
def test_an_incomplete_step_is_dropped(train, capsys):
    model = random_model(train, vocab_size=64, sequence_len=64)
    result = train.train(model, train.build_optimizer(model), FakeLoader(mx.array, 5, 2, 64), 2)
    assert (result.num_steps, result.num_tokens, len(result.losses)) == (2, 2 * 2 * 128, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 100.5])
@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_lost_run_fails_at_once(train, bad, position, capsys):
    losses = iter([3.0] * position + [bad] + [3.0] * (3 - position))
    steps = SimpleNamespace(last=lambda weights, state, *_: (weights, state, mx.array(next(losses))))
    model, optimizer = random_model(train), SimpleNamespace(state=[], num_steps=0, numbers=lambda *_: {})
    with pytest.raises(SystemExit) as stop:
        train.train(model, optimizer, FakeLoader(mx.array, 4, 2, 64), 1, steps)
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAIL"


@pytest.mark.slow
def test_the_state_of_the_optimizer_uses_its_memory_again(train, monkeypatch, capsys):
    """Weights and state are handed to the graph, not kept beside it: else every step would hold both twice."""
    monkeypatch.setattr(mx, "async_eval", mx.eval)  # one step at a time, so that the peak does not depend on timing
    gc.collect()
    base = mx.get_active_memory()
    model = random_model(train, vocab_size=4096)
    optimizer = train.build_optimizer(model)
    train.train(model, optimizer, FakeLoader(mx.array, 1, 1, 16), 1)  # both moments begin as the same zeros
    mx.reset_peak_memory()
    train.train(model, optimizer, FakeLoader(mx.array, 3, 1, 16), 1)
    weights = grads = sum(value.nbytes for value in model.weights.values())
    held = weights + sum(leaf.nbytes for group in optimizer.state for leaf in leaves_of(group))
    assert mx.get_peak_memory() - base < 1.6 * held + grads  # 1.46 measured; 2 where the old ones are kept


def leaves_of(group):
    return [leaf for part in group.values() for leaf in (part.values() if isinstance(part, dict) else [part])]


# ------------------------------------------------------------------------------------------------------ start and end


def run_main(monkeypatch, prepare, peak_flops=None, **constants):
    """stdout of main(), with a machine of a known name."""
    hardware = types.ModuleType("autoresearch.backends.hardware")
    hardware.detect = lambda **_: SimpleNamespace(backend="mlx", chip="Test Chip", peak_flops=peak_flops)
    monkeypatch.setitem(sys.modules, hardware.__name__, hardware)
    module = load_experiment("train_mlx", prepare)
    for name, value in constants.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module.gc, "freeze", lambda: None)  # this process goes on
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    module.main()
    return module, out.getvalue()


@pytest.mark.slow
def test_main_trains_hands_the_weights_over_and_ends_with_the_summary(monkeypatch):
    handed = []
    prepare = fake_prepare(mx.array, on_evaluation=lambda model, rows: handed.append((model.state_dict(), rows)))
    train, out = run_main(monkeypatch, prepare, peak_flops=1e12)
    assert prepare.asked == [(2, 64, "train")]
    mx.random.seed(1234)
    fresh = train.build_model(train.config_from_hyperparameters(64))
    ((weights, rows),) = handed
    assert rows == 2
    assert set(weights) == set(fresh.state_dict())
    assert not mx.array_equal(weights["wte.weight"], fresh.weights["wte.weight"])
    again = train.load_model(weights)
    assert mx.array_equal(again.weights["lm_head.weight"], weights["lm_head.weight"])

    log, _, block = out.partition("\n---\n")
    assert len(STEP_LINE.findall(log)) == 6
    assert "device: cpu, mlx.core.float32, not compiled\n" in log or mx.metal.is_available()
    rows = dict(line.split(":", 1) for line in block.splitlines())
    assert list(rows) == [
        *("val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "train_peak_mb", "peak_memory_mb"),
        *("mfu_percent", "total_tokens_M", "num_steps", "num_params_M", "depth", "backend", "chip"),
    ]
    said = {key: value.strip() for key, value in rows.items()}
    assert (said["val_bpb"], said["training_seconds"], said["num_steps"]) == ("1.250000", "3.0", "6")
    assert (said["depth"], said["backend"], said["chip"]) == ("2", "mlx", "Test Chip")
    assert 0.5 < float(said["train_peak_mb"]) <= float(said["peak_memory_mb"]) == float(said["peak_vram_mb"]) < 10_000
    assert float(said["mfu_percent"]) == pytest.approx(100 * fresh.flops_per_token() * 6 * 128 / 3.0 / 1e12, abs=0.006)


def test_the_peak_of_the_evaluation_is_told_apart_from_that_of_training(monkeypatch):
    def large(model, rows):
        mx.eval(mx.ones((2**24,)))  # 64 MiB

    _, out = run_main(monkeypatch, fake_prepare(mx.array, num_batches=2, on_evaluation=large))
    said = {key: float(value) for key, value in re.findall(r"^(\w+_mb): +([\d.]+)$", out, re.M)}
    assert said["peak_memory_mb"] > said["train_peak_mb"] + 50


def test_the_optimizer_is_gone_before_the_evaluation(monkeypatch):
    seen = {}

    def look(model, rows):
        seen["optimizer"] = optimizers[0]()
        seen["active"] = mx.get_active_memory()
        seen["cache"] = mx.get_cache_memory()
        seen["weights"] = sum(value.nbytes for value in model.weights.values())

    optimizers = []
    prepare = fake_prepare(mx.array, num_batches=2, on_evaluation=look)
    before = mx.get_active_memory()
    original = load_experiment

    def loaded(name, prepare_):
        module = original(name, prepare_)
        build = module.build_optimizer
        module.build_optimizer = lambda model: optimizers.append(weakref.ref(made := build(model))) or made
        return module

    monkeypatch.setattr(sys.modules[__name__], "load_experiment", loaded)
    run_main(monkeypatch, prepare)
    assert seen["optimizer"] is None
    assert seen["active"] - before < 1.5 * seen["weights"]  # its state is twice the weights
    assert seen["cache"] == 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_bit_for_bit(monkeypatch):
    handed = []
    for seed in (1234, 1234, 4321):
        prepare = fake_prepare(
            mx.array, num_batches=3, on_evaluation=lambda model, _: handed.append(model.state_dict())
        )
        prepare.SEED = seed
        run_main(monkeypatch, prepare)
    assert all(mx.array_equal(value, handed[1][name]) for name, value in handed[0].items())
    assert not mx.array_equal(handed[0]["wte.weight"], handed[2]["wte.weight"])


@pytest.mark.parametrize(
    "message",
    [
        "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size of 8 bytes.",
        "[malloc] Unable to allocate 9 bytes.",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    ],
)
def test_too_little_memory_halves_the_rows_and_keeps_the_batch(train, monkeypatch, capsys, message):
    prepare = fake_prepare(mx.array)
    monkeypatch.setattr(train, "make_dataloader", prepare.make_dataloader)
    monkeypatch.setattr(train, "DEVICE_BATCH_SIZE", 8)
    monkeypatch.setattr(train, "TOTAL_BATCH_SIZE", 16 * 64)

    def warm_up(model, optimizer, batch, num_micro_steps):
        if len(batch[0]) > 2:
            raise RuntimeError(message)
        return "warm"

    monkeypatch.setattr(train, "warm_up", warm_up)
    loader, steps, rows, num_micro_steps = train.start(None, None, None)
    assert (steps, rows, num_micro_steps) == ("warm", 2, 8)
    assert prepare.asked == [(rows, 64, "train") for rows in (8, 4, 2)]
    assert loader.shape == (2, 64)
    assert "out of memory with 8 rows per forward pass: trying 4" in capsys.readouterr().out


def test_another_error_of_the_warm_up_is_not_taken_for_memory(train, monkeypatch):
    monkeypatch.setattr(train, "make_dataloader", fake_prepare(mx.array).make_dataloader)
    asked = []

    def warm_up(*_):
        asked.append(1)
        raise RuntimeError("shapes (2,3) and (4,5) do not match")

    monkeypatch.setattr(train, "warm_up", warm_up)
    with pytest.raises(RuntimeError, match="do not match"):
        train.start(None, None, None)
    assert len(asked) == 1


@pytest.mark.parametrize(("limit", "rows"), [(0, 8), (100, 8), (5, 2), (4, 4), (3, 1)])
def test_rows_stay_within_the_machines_limit_and_divide_the_batch(train, monkeypatch, limit, rows):
    monkeypatch.setattr(train, "DEVICE_BATCH_SIZE", 8)
    monkeypatch.setattr(train, "TOTAL_BATCH_SIZE", 16 * 64)
    assert train.device_batch_size_within(limit) == rows


def test_a_small_mac_keeps_memory_for_its_owner(train, monkeypatch):
    asked = {}
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx, "device_info", lambda: {"memory_size": 8 * 2**30})
    monkeypatch.setattr(mx, "set_memory_limit", lambda size: asked.update(memory=size))
    monkeypatch.setattr(mx, "set_cache_limit", lambda size: asked.update(cache=size))
    assert train.settings_for_machine() == (mx.bfloat16, True)
    assert asked == {}
    monkeypatch.setattr(train, "PRESET", "long")
    train.settings_for_machine()
    assert asked == {"memory": int(0.7 * 8 * 2**30), "cache": int(0.1 * 8 * 2**30)}


# ---------------------------------------------------------------------------------------------------- the file itself


def literals(name):
    """name -> value of every UPPER_CASE literal from the Hyperparameters heading to the overrides, in order."""
    text = (ROOT / name).read_text(encoding="utf-8")
    heading = text[: text.index("# Hyperparameters\n")].count("\n") + 1
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and node.lineno > heading and node.targets[0].id.isupper():
            found[node.targets[0].id] = ast.literal_eval(node.value)
            if node.targets[0].id == "PRESET_OVERRIDES":
                break
    return found


def test_line_one_is_the_banner():
    assert (ROOT / "train_mlx.py").read_text(encoding="utf-8").splitlines()[0] == banner_for("model")


def test_hyperparameters_are_those_of_train_py():
    ours, theirs = literals("train_mlx.py"), literals("train.py")
    assert {name: ours.get(name) for name in theirs} == theirs
    assert set(ours["PRESET_OVERRIDES"]) == set(PRESETS) - {"standard"}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_gives_a_model_and_whole_steps(preset):
    rules = PRESETS[preset]
    train = load_experiment("train_mlx", fake_prepare(mx.array, preset, rules.max_seq_len))
    config = train.config_from_hyperparameters(rules.vocab_size)
    assert config.sequence_len == rules.max_seq_len
    assert config.n_embd == config.n_head * train.HEAD_DIM
    assert train.num_micro_steps_for(train.device_batch_size_within(0), rules.max_seq_len, train.TOTAL_BATCH_SIZE) >= 1


def test_a_portable_model_has_no_weights_that_others_do_not_know(train):
    model = random_model(train, value_embeddings=False, x0_mix=False, softcap=0.0, window_pattern="L")
    parts = {re.sub(r"\d+", "N", name) for name in model.weights}
    assert parts == {
        *("resid_lambdas", "wte.weight", "lm_head.weight", "layers.N.mlp.c_fc.weight", "layers.N.mlp.c_proj.weight"),
        *(f"layers.N.attn.{name}.weight" for name in ("c_q", "c_k", "c_v", "c_proj")),
    }
    model.weights["lm_head.weight"] = 10 * model.weights["lm_head.weight"]
    assert np.abs(np.array(model(mx.array(random_tokens())))).max() > 15  # no cap
    names = {name for group in train.build_optimizer(model).groups for name in group["names"]}
    assert names == set(model.weights)
