"""What a model says of itself beside its weights."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from autoresearch.contract.description import MAX_CONFIG_BYTES, description_of


@dataclass(frozen=True)
class Config:
    width: int = 64
    cap: float = 15.0
    pattern: str = "SL"
    mixes: bool = True
    limit: int | None = None


def test_a_dataclass_of_plain_values_becomes_json_with_sorted_keys():
    text = description_of(SimpleNamespace(config=Config()))["config"]
    assert text == '{"cap": 15.0, "limit": null, "mixes": true, "pattern": "SL", "width": 64}'


@dataclass
class Holds:
    value: object = field(default_factory=object)


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, np.float32(1.0), object(), float("nan"), float("inf"), print])
def test_half_a_configuration_is_none(value):
    assert description_of(SimpleNamespace(config=Holds(value))) == {}


def test_what_has_no_dataclass_says_nothing():
    assert description_of(object()) == {}
    assert description_of(SimpleNamespace(config={"width": 64})) == {}
    assert description_of(SimpleNamespace(config=Config)) == {}


def test_a_huge_configuration_is_left_out():
    assert description_of(SimpleNamespace(config=Holds("x" * MAX_CONFIG_BYTES))) == {}
    assert json.loads(description_of(SimpleNamespace(config=Holds("x" * 100)))["config"]) == {"value": "x" * 100}
