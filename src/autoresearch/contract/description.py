"""What a model says of itself beside its weights: its configuration, so that a checkpoint can be built again later."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

CONFIG_KEY = "config"  # in the metadata of a safetensors header
MAX_CONFIG_BYTES = 1 << 14  # the shipped model's takes 350


def description_of(model: Any) -> dict[str, str]:
    """Metadata for the model's weights: {"config": JSON of `model.config`}, or nothing.

    Nothing where `config` is no dataclass instance, has a field that is not a plain scalar, or is beyond reason: whoever
    reads half a configuration builds another model. Sorted keys, so that equal models have equal files.
    """
    config = getattr(model, "config", None)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return {}
    values = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(config)}
    if not all(_is_plain(value) for value in values.values()):
        return {}
    text = json.dumps(values, sort_keys=True)
    return {CONFIG_KEY: text} if len(text) <= MAX_CONFIG_BYTES else {}


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)
