"""train_optimal.py is train.py with what its docstring and docs/optimal.md name, and nothing else."""

from __future__ import annotations

import ast
import re

import pytest
import torch
from both_experiments import ROOT, fake_prepare, load_experiment

from autoresearch.contract.rules import PRESETS

TEXTS = {name: (ROOT / f"{name}.py").read_text(encoding="utf-8") for name in ("train", "train_optimal")}
NEW_CONSTANTS = {
    *("INIT_SCALE", "QK_SCALE", "PAIRED_HEADS", "BIGRAM_FACTOR", "BIGRAM_LAMBDA_INIT", "BIGRAM_LR"),
    *("HEAD_DECAY", "EMBEDDING_DECAY", "VALUE_DECAY", "MUON_MOMENTUM_END"),
}
# What the new constants need: the table of pairs, the scale, the pairing, the decays, the fall of momentum.
CHANGED_CODE = {
    *("GPTConfig", "config_from_hyperparameters", "pair_rows", "Attention", "GPT", "build_optimizer"),
    *("muon_momentum_at", "warm_up", "train", "main"),  # main: it runs on torch, wherever MLX is in force
}
PLAIN = {"qk_scale": 1.0, "paired_heads": False, "bigram_rows": 0}


def constants(text):
    """Name to (value, its line with the margin comment) of the literals at the top of an experiment file."""
    lines = text.splitlines()
    return {
        node.targets[0].id: (ast.literal_eval(node.value), lines[node.lineno - 1])
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and node.targets[0].id.isupper() and node.targets[0].id != "PRESET_OVERRIDES"
    }


def definitions(text):
    return {
        node.name: ast.dump(node) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


@pytest.fixture(scope="module")
def optimal():
    return load_experiment("train_optimal", fake_prepare(torch.as_tensor))


@pytest.fixture(scope="module")
def train():
    return load_experiment("train", fake_prepare(torch.as_tensor))


def small_config(optimal, **changes):
    shape = dict(sequence_len=16, vocab_size=24, n_layer=3, n_head=4, n_kv_head=2, n_embd=48, window_pattern="SLS")
    return optimal.GPTConfig(**(shape | {"bigram_rows": 120} | changes))


def with_random_weights(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.0, 0.3, generator=generator)
    return model


def test_every_constant_that_differs_says_where_it_comes_from():
    ours, theirs = constants(TEXTS["train_optimal"]), constants(TEXTS["train"])
    assert set(ours) - set(theirs) == NEW_CONSTANTS
    assert set(theirs) <= set(ours)
    for name, (value, line) in ours.items():
        if name in NEW_CONSTANTS or value != theirs[name][0]:
            assert re.search(r"# .*\[[1-7]\]", line), f"{name} has no source"
        else:
            assert line == theirs[name][1]


def test_the_page_has_a_row_for_every_constant_that_differs():
    ours, theirs = constants(TEXTS["train_optimal"]), constants(TEXTS["train"])
    page = (ROOT / "docs" / "optimal.md").read_text(encoding="utf-8")
    rows = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| "))
    differing = {name for name, (value, _) in ours.items() if name not in theirs or value != theirs[name][0]}
    # how far a pair's embedding weighs in and how fast it learns is part of its row; the device batch follows the total
    part_of_a_row = {"BIGRAM_LAMBDA_INIT", "BIGRAM_LR", "DEVICE_BATCH_SIZE"}
    assert {name for name in differing - part_of_a_row if name not in rows} == set()


def test_code_differs_where_a_new_constant_needs_it_and_nowhere_else():
    ours, theirs = definitions(TEXTS["train_optimal"]), definitions(TEXTS["train"])
    differing = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    assert differing == CHANGED_CODE


@pytest.mark.parametrize(
    "changes", [{}, {"n_kv_head": 4}, {"softcap": 0.0, "value_embeddings": False, "x0_mix": False}]
)
def test_with_its_additions_off_it_computes_what_train_computes(optimal, train, changes):
    ours = with_random_weights(optimal.GPT(small_config(optimal, **PLAIN, **changes)))
    plain = {name: value for name, value in vars(ours.config).items() if name in train.GPTConfig.__annotations__}
    theirs = train.GPT(train.GPTConfig(**plain))
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.arange(32).view(2, 16) % 24
    with torch.no_grad():
        assert torch.equal(ours(inputs), theirs(inputs))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("position", [1, 7, 15])
def test_a_token_never_changes_logits_before_it(optimal, paired, position):
    model = with_random_weights(optimal.GPT(small_config(optimal, paired_heads=paired)))
    inputs = torch.arange(32).view(2, 16) % 24
    changed = inputs.clone()
    changed[:, position:] = (changed[:, position:] + 5) % 24
    with torch.no_grad():
        before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :position], after[:, :position])
    assert (before[:, position:] != after[:, position:]).any()


def test_a_pair_of_heads_attends_to_both_heads_keys(optimal):
    """Against a plain softmax over the keys of both heads, position by position."""
    config = small_config(optimal, paired_heads=True, n_kv_head=4, n_layer=1, window_pattern="L", qk_scale=1.0)
    attention = with_random_weights(optimal.GPT(config)).layers[0].attn
    model = optimal.GPT(config)
    x = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(2))
    q, k, v = (torch.randn(1, 16, 4, 12, generator=torch.Generator().manual_seed(s)) for s in (3, 4, 5))
    folded = [t.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2) for t in (q, k, v)]
    y = optimal.attend(*folded, model.attentions[0]).unflatten(1, (16, 2)).transpose(2, 3).reshape(1, 16, 4, 12)
    for head in range(4):
        for t in (0, 1, 9):
            partner = head - head % 2
            keys = [(u, h) for u in range(t + 1) for h in (partner, partner + 1) if (u, h) <= (t, head)]
            scores = torch.stack([q[0, t, head] @ k[0, u, h] / 12**0.5 for u, h in keys]).softmax(0)
            expected = sum(w * v[0, u, h] for w, (u, h) in zip(scores, keys, strict=True))
            torch.testing.assert_close(y[0, t, head], expected, rtol=1e-5, atol=1e-5)
    assert attention(x, None, model.cos, model.sin, model.attentions[0]).shape == (1, 16, 48)


def test_a_row_of_the_table_depends_on_the_token_and_the_one_before(optimal):
    inputs = torch.tensor([[3, 5, 7, 5, 7]])
    rows = optimal.pair_rows(inputs, 1000)
    assert rows.shape == inputs.shape
    assert rows[0, 0] == 0
    assert rows[0, 2] == rows[0, 4]
    assert len({int(r) for r in optimal.pair_rows(torch.tensor([[1, 2, 3, 4, 2, 1, 3, 1]]), 100_003)[0]}) == 8
    assert int(rows.min()) >= 0
    assert int(rows.max()) < 1000


def test_pairs_change_nothing_at_the_start_and_learn_from_the_first_step(optimal):
    model = optimal.GPT(small_config(optimal))
    model.initialise(torch.Generator().manual_seed(0))
    assert not model.bigrams.weight.any()
    inputs = torch.arange(33)[None] % 24
    model.lm_head.weight.data.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    model(inputs[:, :16], inputs[:, 1:17]).backward()
    assert model.bigrams.weight.grad.any()


def test_momentum_rises_stays_and_falls(optimal):
    high, low = optimal.MUON_MOMENTUM, optimal.MUON_MOMENTUM_END
    assert optimal.muon_momentum_at(0, 0.0) == optimal.MUON_MOMENTUM_START
    assert optimal.muon_momentum_at(10**6, 0.0) == pytest.approx(high)
    assert optimal.muon_momentum_at(10**6, 1.0) == pytest.approx(low)
    assert low < optimal.muon_momentum_at(10**6, 1 - optimal.WARMDOWN_RATIO / 2) < high


def test_every_group_decays_as_its_constant_says(optimal):
    model = optimal.GPT(small_config(optimal))
    decay_of = {
        id(p): group["decay"]
        for group in optimal.build_optimizer(model).groups
        if group["kind"] == "adamw"
        for p in group["params"]
    }
    assert decay_of[id(model.lm_head.weight)] == optimal.HEAD_DECAY
    assert decay_of[id(model.wte.weight)] == optimal.EMBEDDING_DECAY
    assert {decay_of[id(p)] for p in model.value_embeds.parameters()} == {optimal.VALUE_DECAY}
    assert decay_of[id(model.bigrams.weight)] == 0.0


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_gives_a_model_and_whole_steps(preset):
    rules = PRESETS[preset]
    module = load_experiment(
        "train_optimal", fake_prepare(torch.as_tensor, preset=preset, sequence_len=rules.max_seq_len)
    )
    config = module.config_from_hyperparameters(rules.vocab_size)
    assert config.n_embd % config.n_head == 0
    rows = module.device_batch_size_within(0)
    assert module.num_micro_steps_for(rows, rules.max_seq_len, module.TOTAL_BATCH_SIZE) >= 1
