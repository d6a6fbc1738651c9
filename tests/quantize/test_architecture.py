"""The shipped model as data: what configurations may say, and which tensors go with them."""

import json

import pytest
import torch
from small_models import full_config, portable_config, weights_of

from autoresearch.quantize.architecture import (
    ArchitectureEdited,
    ModelConfig,
    check_tensors,
    config_from_json,
    obstacles,
    shapes_of,
)
from autoresearch.vocabulary import DataCorrupt

PLAIN = json.loads(full_config().to_json())


def test_a_configuration_survives_its_own_json():
    for config in (full_config(), portable_config(rope_base=500.0)):
        assert config_from_json(config.to_json()) == config


def test_a_configuration_without_the_switches_is_a_full_model():
    values = {k: v for k, v in PLAIN.items() if k not in ("value_embeddings", "x0_mix", "normalised_embeddings")}
    config = config_from_json(json.dumps(values))
    assert config.value_embeddings and config.x0_mix and not config.normalised_embeddings


@pytest.mark.parametrize(
    "changes",
    [
        {"n_embd": 65},  # no multiple of the heads
        {"n_head": 3},
        {"n_kv_head": 3},
        {"n_layer": 0},
        {"n_layer": 10**6},
        {"vocab_size": 2**40},
        {"window_pattern": "SX"},
        {"window_pattern": ""},
        {"softcap": -1.0},
        {"rope_base": 0.5},
        {"n_embd": "64"},
        {"n_embd": True},
        {"softcap": "inf"},
        {"value_embeddings": 1},
        {"short_window_divisor": 0},
    ],
)
def test_impossible_values_are_refused(changes):
    with pytest.raises(DataCorrupt):
        config_from_json(json.dumps(PLAIN | changes))


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, '{"softcap": NaN}', " " * 70_000 + "{}"])
def test_what_is_no_configuration_is_refused_without_a_crash(text):
    with pytest.raises((DataCorrupt, ArchitectureEdited)):
        config_from_json(text)


def test_a_field_that_the_shipped_model_lacks_says_that_it_was_edited():
    with pytest.raises(ArchitectureEdited, match="qk_scale") as raised:
        config_from_json(json.dumps(PLAIN | {"qk_scale": 1.1}))
    assert "autoresearch quantize" in raised.value.hint


def test_a_missing_field_is_named():
    with pytest.raises(ArchitectureEdited, match="n_embd"):
        config_from_json(json.dumps({k: v for k, v in PLAIN.items() if k != "n_embd"}))


def test_tensors_of_the_model_pass_and_others_are_named():
    config = full_config()
    tensors = weights_of(config)
    check_tensors(config, tensors)
    with pytest.raises(ArchitectureEdited, match=r"lacks lm_head\.weight"):
        check_tensors(config, {k: v for k, v in tensors.items() if k != "lm_head.weight"})
    with pytest.raises(ArchitectureEdited, match=r"layers\.0\.mlp\.gate"):
        check_tensors(config, tensors | {"layers.0.mlp.gate": torch.zeros(2)})
    with pytest.raises(ArchitectureEdited, match=r"\[9\] where the shipped model has \[3\]"):
        check_tensors(config, tensors | {"resid_lambdas": torch.zeros(9)})


def test_a_portable_model_may_carry_unused_x0_lambdas():
    config = portable_config()
    check_tensors(config, weights_of(config) | {"x0_lambdas": torch.zeros(3)})


def test_what_keeps_a_model_from_stock_runtimes_is_listed():
    assert obstacles(portable_config()) == []
    assert obstacles(full_config()) == ["value embeddings", "x0 mixing", "sliding windows", "softcap 15"]
    assert obstacles(portable_config(window_pattern="S", n_layer=1)) == []  # the last layer is always full


def test_the_windows_are_those_of_train_py():
    assert ModelConfig(64, 300, 4, 1, 1, 32, "SSSL", short_window_divisor=4).windows == [16, 16, 16, 64]
    assert ModelConfig(64, 300, 5, 1, 1, 32, "SL", short_window_divisor=2).windows == [32, 64, 32, 64, 64]


def test_every_other_layer_has_value_embeddings_and_the_last_one_does():
    names = [name for name in shapes_of(full_config(n_layer=4)) if name.startswith("value_embeds")]
    assert names == ["value_embeds.1.weight", "value_embeds.3.weight"]
