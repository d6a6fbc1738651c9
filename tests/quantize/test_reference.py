"""The reference computes what train.py computes, and its cache changes nothing."""

import dataclasses
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from small_models import VOCAB_SIZE, full_config, portable_config, some_ids, weights_of

from autoresearch.contract.description import description_of
from autoresearch.quantize.architecture import ArchitectureEdited, config_from_json, shapes_of
from autoresearch.quantize.checkpoint import open_checkpoint
from autoresearch.quantize.reference import Cache, ReferenceGPT

TRAIN_PATH = Path(__file__).resolve().parents[2] / "train.py"


@pytest.fixture(scope="module")
def train():
    """train.py as a module, over a `prepare` that has its names."""
    prepare = types.ModuleType("prepare")
    prepare.MAX_SEQ_LEN, prepare.TIME_BUDGET, prepare.SEED, prepare.PRESET = 32, 1.0, 1, "smoke"
    prepare.MAX_DEVICE_BATCH_SIZE = 0
    prepare.Tokenizer = prepare.make_dataloader = prepare.evaluate_bpb = None
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "prepare", prepare)
    spec = importlib.util.spec_from_file_location("train_for_reference", TRAIN_PATH)
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    patch.undo()


def trained(train, config):
    """train.py's own model of this configuration with random weights of ours."""
    names = {field.name for field in dataclasses.fields(train.GPTConfig)}
    values = {name: value for name, value in dataclasses.asdict(config).items() if name in names}
    model = train.GPT(train.GPTConfig(**values))
    model.load_state_dict({name: weights_of(config).get(name, old) for name, old in model.state_dict().items()})
    return model


CONFIGS = {
    "full": full_config(),
    "full, one head, many layers": full_config(n_layer=4, n_head=1, n_kv_head=1, window_pattern="SL", softcap=30.0),
    "narrow": full_config(n_embd=16, n_head=2, n_kv_head=2, n_layer=1, rope_base=100.0),
    "portable": portable_config(),
    "portable with a softcap": portable_config(softcap=15.0),
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_logits_equal_those_of_train_py(train, name):
    config = CONFIGS[name]
    switches = {"value_embeddings", "x0_mix"}
    if not config.value_embeddings and not switches <= {f.name for f in dataclasses.fields(train.GPTConfig)}:
        pytest.skip("this train.py has no switches for a portable model")
    model = trained(train, config)
    ids = some_ids(config)
    with torch.no_grad():
        theirs = model(ids)
        ours = ReferenceGPT(config).take(model.state_dict())(ids)
    assert theirs.abs().max() > 2  # the comparison would be easy for logits near 0
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_shapes_are_those_of_train_py(train):
    model = trained(train, full_config())
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == shapes_of(full_config())


def test_a_checkpoint_of_train_py_describes_itself(train, tmp_path):
    """What evaluate_bpb hands over is enough for `open_checkpoint`."""
    from autoresearch.backends.runtime import TorchRuntime

    model = trained(train, full_config())
    (tmp_path / "c.safetensors").write_bytes(TorchRuntime().pack(model.state_dict(), description_of(model)))
    assert open_checkpoint(tmp_path / "c.safetensors").config == full_config()
    assert config_from_json(description_of(model)["config"]) == full_config()


@pytest.mark.parametrize("config", [full_config(), portable_config()], ids=["full", "portable"])
@pytest.mark.parametrize("cuts", [(1,), (5, 6, 20), tuple(range(1, 32))])
def test_a_cache_changes_nothing(config, cuts):
    model = ReferenceGPT(config).take(weights_of(config))
    ids = some_ids(config)
    cache = Cache(config, 2)
    pieces = torch.tensor_split(ids, cuts, dim=1)
    torch.testing.assert_close(torch.cat([model(piece, cache) for piece in pieces], 1), model(ids), atol=2e-5, rtol=0)


def test_no_position_sees_a_later_one():
    config = full_config()
    model = ReferenceGPT(config).take(weights_of(config))
    ids = some_ids(config)
    other = ids.clone()
    other[:, 20:] = (other[:, 20:] + 7) % VOCAB_SIZE
    assert torch.equal(model(ids)[:, :20], model(other)[:, :20])


def test_more_positions_than_it_was_built_for_are_refused():
    config = full_config()
    model = ReferenceGPT(config).take(weights_of(config))
    with pytest.raises(ValueError, match="33 positions"):
        model(torch.zeros(1, 33, dtype=torch.int64))


def test_tensors_of_another_model_are_refused():
    with pytest.raises(ArchitectureEdited):
        ReferenceGPT(full_config()).take(weights_of(portable_config()))


def test_hooks_find_the_inputs_of_a_matrix_under_its_own_name():
    config = full_config()
    model = ReferenceGPT(config).take(weights_of(config))
    modules = dict(model.named_modules())
    for name, shape in shapes_of(config).items():
        if name.endswith(".weight"):
            assert tuple(modules[name.removesuffix(".weight")].weight.shape) == shape
