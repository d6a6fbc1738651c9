"""train.py where it is not the plain case: portable models, limits of memory, figures of memory, compiled parts."""

from __future__ import annotations

import ast
from types import SimpleNamespace

import pytest
import torch
from test_train import TRAIN_PATH, FakeLoader, FakeTokenizer, fake_prepare, load_train, random_tokens, run_main

from autoresearch.proposers.constants import read_constants
from autoresearch.proposers.search_space import infer


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load_edited(prepare, tmp_path, monkeypatch, **constants):
    """train.py with other literals at its top."""
    text = TRAIN_PATH.read_text(encoding="utf-8")
    for name, value in constants.items():
        old = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
        text = text.replace(old, f"{name} = {value!r}")
    edited = tmp_path / "train.py"
    edited.write_text(text, encoding="utf-8")
    monkeypatch.setattr("test_train.TRAIN_PATH", edited)
    return load_train(prepare)


# ---------------------------------------------------------------------------------------------------- portable models


@pytest.fixture
def portable(tmp_path, monkeypatch):
    return load_edited(fake_prepare(), tmp_path, monkeypatch, ARCHITECTURE="portable", WINDOW_PATTERN="SSSL")


def test_one_literal_sets_all_four_switches_of_a_portable_model(portable):
    config = portable.config_from_hyperparameters(64)
    assert (config.value_embeddings, config.x0_mix, config.softcap) == (False, False, 0.0)
    assert config.windows == [64, 64]


@pytest.mark.slow
def test_a_portable_model_has_no_parameters_of_what_it_goes_without_and_trains(portable, capsys):
    torch.manual_seed(0)
    model = portable.build_model(portable.config_from_hyperparameters(64), torch.device("cpu"))
    names = set(model.state_dict())
    assert not [name for name in names if "value_embeds" in name or "ve_gate" in name or "x0" in name]
    assert {"wte.weight", "lm_head.weight", "resid_lambdas", "layers.1.attn.c_q.weight"} < names
    assert model.num_parameters()["value_embeds"] == 0
    result = portable.train(model, portable.build_optimizer(model), FakeLoader(60, 4, 64), 1)
    assert result.losses[-1] < 0.3 * result.losses[0]
    again = portable.load_model(model.state_dict())
    tokens = random_tokens(model.config)
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens))
        model.lm_head.weight.mul_(1e4)
        assert model(tokens).abs().max() > 100  # no cap


@pytest.mark.parametrize(
    ("constant", "gone"), [("VALUE_EMBEDDINGS", ("value_embeds", "ve_gate")), ("X0_MIX", ("x0_lambdas",))]
)
def test_each_switch_works_alone(tmp_path, monkeypatch, constant, gone):
    train = load_edited(fake_prepare(), tmp_path, monkeypatch, **{constant: 0})
    model = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"))
    full = load_train(fake_prepare()).GPT(model.config.__class__(**{**vars(model.config), "n_layer": 2}))
    assert not [name for name in model.state_dict() if any(word in name for word in gone)]
    assert model.config.softcap == 15.0
    model(random_tokens(model.config), random_tokens(model.config, seed=4)).backward()
    assert full.config.n_layer == 2


def test_an_unknown_architecture_says_what_to_write(tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match='ARCHITECTURE: write "full" or "portable"'):
        load_edited(fake_prepare(), tmp_path, monkeypatch, ARCHITECTURE="small")


def test_the_search_leaves_the_switches_alone_and_keeps_the_constants_that_they_override():
    found = read_constants(TRAIN_PATH.read_text(encoding="utf-8"), "tiny").literals
    for name in ("ARCHITECTURE", "VALUE_EMBEDDINGS", "X0_MIX"):
        assert isinstance(infer(name, found[name].value), str), name
    for name in ("LOGIT_SOFTCAP", "WINDOW_PATTERN", "DEVICE_BATCH_SIZE"):
        assert not isinstance(infer(name, found[name].value), str), name


# --------------------------------------------------------------------------------------------------- limits of memory


class Narrow(torch.nn.Module):
    """A model for whose memory more than `most_rows` rows are too many."""

    def __init__(self, model, most_rows, error):
        super().__init__()
        self.model, self.most_rows, self.error = model, most_rows, error
        self.tried = []

    def forward(self, inputs, targets=None):
        self.tried.append(inputs.size(0))
        if inputs.size(0) > self.most_rows:
            raise self.error
        return self.model(inputs, targets)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_memory_that_runs_out_in_warm_up_halves_the_rows_and_opens_the_loader_again(error, capsys):
    prepare = fake_prepare()
    train = load_train(prepare)
    train.DEVICE_BATCH_SIZE, train.TOTAL_BATCH_SIZE = 16, 16 * 64
    torch.manual_seed(0)
    model = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"))
    optimizer = train.build_optimizer(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    narrow = Narrow(model, 5, error)
    loader, rows = train.warm_up_what_fits(
        FakeTokenizer(), narrow, optimizer, prepare.make_dataloader(None, 16, 64, "train"), 16
    )
    assert (rows, loader.rows) == (4, 4)
    assert narrow.tried == [16, 8, 4, 4]  # the last is the evaluation
    assert prepare.asked == [(16, 64, "train"), (8, 64, "train"), (4, 64, "train")]
    assert train.num_micro_steps_for(rows, 64, train.TOTAL_BATCH_SIZE) == 4
    assert "out of memory with 8 rows per forward pass: trying 4" in capsys.readouterr().out
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert optimizer.num_steps == 0


def test_memory_that_runs_out_in_the_optimizer_leaves_no_trace():
    train = load_train(fake_prepare())
    torch.manual_seed(0)
    model = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"))
    optimizer = train.build_optimizer(model)
    before = [t.clone() for t in [*model.parameters(), *optimizer.state_tensors()]]
    step = optimizer.step

    def half_a_step(*arguments):
        step(*arguments)
        raise torch.OutOfMemoryError("CUDA out of memory")

    optimizer.step = half_a_step
    with pytest.raises(torch.OutOfMemoryError):
        train.warm_up(model, optimizer, FakeLoader(1, 2, 64).synthetic_batch())
    after = [*model.parameters(), *optimizer.state_tensors()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert optimizer.num_steps == 0


@pytest.mark.parametrize(
    ("error", "rows"), [(RuntimeError("shapes cannot be multiplied"), 16), (OUT_OF_MEMORY[0], 1), (ValueError("no"), 4)]
)
def test_any_other_error_and_one_row_that_does_not_fit_end_the_run(error, rows):
    prepare = fake_prepare()
    train = load_train(prepare)
    model = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"))
    with pytest.raises(type(error)):
        train.warm_up_what_fits(
            None, Narrow(model, 0, error), train.build_optimizer(model), FakeLoader(1, rows, 64), rows
        )
    assert prepare.asked == []


def test_rows_stay_within_the_limit_and_divide_the_batch():
    train = load_train(fake_prepare())
    train.DEVICE_BATCH_SIZE, train.TOTAL_BATCH_SIZE = 24, 24 * 64
    rows = {0: 24, 100: 24, 24: 24, 23: 2, 12: 12, 7: 3, 5: 2, 1: 1}
    assert {limit: train.device_batch_size_within(limit) for limit in rows} == rows


def test_the_limit_of_the_machine_is_in_force_from_the_start(monkeypatch):
    prepare = fake_prepare("smoke")
    prepare.MAX_DEVICE_BATCH_SIZE = 1
    _, out = run_main(prepare, monkeypatch)
    assert prepare.asked == [(1, 64, "train")]
    assert prepare.logits.shape[0] == 1
    assert "micro-steps per step: 2" in out
    assert "num_steps:        3" in out  # 6 batches of half the rows


def test_the_log_names_the_attention_in_force(monkeypatch):
    _, out = run_main(fake_prepare("smoke"), monkeypatch)
    assert "\nattention: 32 keys by sdpa_mask, 64 keys by sdpa\n" in out


# -------------------------------------------------------------------------------------------------- figures of memory


def test_the_peak_on_mps_is_the_largest_sample(monkeypatch):
    train = load_train(fake_prepare())
    held = iter([3 * 2**20, 9 * 2**20, 5 * 2**20, 4 * 2**20])
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: next(held))
    weight = torch.ones((), requires_grad=True)

    class Batches(list):
        progress = 0.5

    batch = SimpleNamespace(device=SimpleNamespace(type="mps"), numel=lambda: 8)
    optimizer = SimpleNamespace(step=lambda *_: None, zero_grad=lambda: None)
    result = train.train(lambda inputs, _: weight * 1.0, optimizer, Batches([(batch, batch, 1)] * 3), 1)
    assert result.peak_memory == 9 * 2**20
    assert train.peak_memory_mb(torch.device("mps"), result.peak_memory) == 9.0


# ------------------------------------------------------------------------------------------------------ compiled parts


def test_compiling_keeps_the_names_of_weights_and_leaves_the_loss_outside(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled.append(function.__name__) or function)
    train = load_train(fake_prepare())
    torch.manual_seed(0)
    model = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"))
    names, tokens = list(model.state_dict()), random_tokens(model.config)
    before = model(tokens)
    model.speed_up(torch.device("cpu"), compiled=True)
    assert compiled == ["hidden", "capped"]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(tokens), before)
    assert model.compiled


def test_the_optimizer_takes_standing_and_lying_matrices_in_one_stack():
    train = load_train(fake_prepare("tiny", 256))
    model = train.build_model(train.config_from_hyperparameters(64), torch.device("cpu"))
    muon = [group for group in train.build_optimizer(model).groups if group["kind"] == "muon"]
    assert [(len(g["params"]), tuple(g["momentum_buffer"].shape[1:])) for g in muon] == [
        (1, (32, 1)),
        (8, (64, 64)),
        (4, (256, 64)),
    ]
    with pytest.raises(AssertionError, match="one shape, standing or lying"):
        train.MuonAdamW([{"kind": "muon", "params": [torch.zeros(2, 3), torch.zeros(2, 4)]}])


def test_the_file_stays_short_enough_to_be_read_in_one_sitting():
    text = TRAIN_PATH.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 900
    assert ast.parse(text)
