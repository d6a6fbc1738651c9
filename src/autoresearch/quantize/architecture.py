"""The shipped GPT as data: its configuration, and which tensors of which shapes it has.

train.py is free to become another model; what is here describes the one that this program ships, in both of its forms:
full, and portable (value embeddings, x0 mixing, windows and softcap off). A checkpoint of an edited architecture can be
quantized and scored by its own file; to be exported or sampled it has to be this one.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from autoresearch.vocabulary import AutoresearchError, DataCorrupt

GATE_CHANNELS = 32  # train.py's: a value-embedding gate reads at most this many channels of its layer's input
RMS_EPS = 2.0**-23  # torch's rms_norm without eps: float32's epsilon, for bfloat16 inputs too (measured on 2.13)
MAX_CONFIG_BYTES = 1 << 16
_LARGEST = 1 << 24  # of any size in a configuration: a vocabulary of 16 million


class ArchitectureEdited(AutoresearchError):
    """The checkpoint is not of the shipped architecture."""


WHAT_STILL_WORKS = "autoresearch quantize CHECKPOINT   (scores any architecture by its own experiment file)"


class Shaped(Protocol):
    """An array of any library."""

    @property
    def shape(self) -> Any:
        """Its sizes."""


@dataclass(frozen=True)
class ModelConfig:
    """train.py's GPTConfig. resid_init and x0_init are only history: the lambdas are tensors.

    normalised_embeddings: the embedding rows enter as they are, because a file for a stock runtime holds them normalised.
    """

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
    normalised_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def kv_width(self) -> int:
        return self.n_kv_head * self.head_dim

    @property
    def windows(self) -> list[int]:
        """Keys that each layer's queries see, themselves included; the last layer sees all."""
        short = max(1, self.sequence_len // self.short_window_divisor)
        letters = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.n_layer)]
        letters[-1] = "L"
        return [short if letter == "S" else self.sequence_len for letter in letters]

    def has_value_embedding(self, layer: int) -> bool:
        """Every other layer, counted so that the last one does."""
        return self.value_embeddings and layer % 2 == (self.n_layer - 1) % 2

    def to_json(self) -> str:
        """The configuration as `config_from_json` reads it; the same text for the same model."""
        return json.dumps(asdict(self), sort_keys=True)


def config_from_json(text: str) -> ModelConfig:
    """The configuration in a checkpoint's header or in a file of ours. The text is not trusted.

    Raises:
        DataCorrupt: not JSON, or values that no model can have. ArchitectureEdited: fields that the shipped model lacks.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise DataCorrupt(f"the model's configuration has {len(text):,} characters", hint=WHAT_STILL_WORKS)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataCorrupt(f"the model's configuration is not JSON: {error}", hint=WHAT_STILL_WORKS) from error
    if not isinstance(values, dict):
        raise DataCorrupt("the model's configuration is no JSON object", hint=WHAT_STILL_WORKS)
    return config_from_values(values)


def config_from_values(values: Mapping[str, Any]) -> ModelConfig:
    """As `config_from_json`, from its values."""
    types = typing.get_type_hints(ModelConfig)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise ArchitectureEdited(
            f"the model's configuration has {', '.join(unknown)[:200]}, which the shipped architecture lacks: it was edited",
            hint=WHAT_STILL_WORKS,
        )
    missing = [f.name for f in fields(ModelConfig) if f.name not in values and f.name in _REQUIRED]
    if missing:
        raise ArchitectureEdited(f"the model's configuration lacks {', '.join(missing)}", hint=WHAT_STILL_WORKS)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        kind = types[name]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            raise DataCorrupt(f"the model's configuration has {name} = {value!r:.60}", hint=WHAT_STILL_WORKS)
        checked[name] = value
    config = ModelConfig(**checked)
    why = _why_impossible(config)
    if why:
        raise DataCorrupt(f"the model's configuration is impossible: {why}", hint=WHAT_STILL_WORKS)
    return config


_REQUIRED = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "window_pattern")


def _why_impossible(config: ModelConfig) -> str:
    sizes = [getattr(config, name) for name in (*_REQUIRED[:-1], "short_window_divisor")]
    if not all(1 <= size <= _LARGEST for size in sizes) or config.n_layer > 4096:
        return f"a size is below 1 or beyond reason ({config.to_json()})"
    if config.n_embd % config.n_head or config.n_head % config.n_kv_head or config.head_dim % 2:
        return f"width {config.n_embd}, {config.n_head} heads and {config.n_kv_head} key/value heads do not fit"
    if not config.window_pattern or len(config.window_pattern) > 4096 or set(config.window_pattern) - {"S", "L"}:
        return f"window pattern {config.window_pattern!r:.60}"
    if config.softcap < 0 or config.rope_base <= 1:
        return f"softcap {config.softcap}, rope base {config.rope_base}"
    return ""


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model and its shape, in the order of train.py's state_dict."""
    width, kv_width, vocab = config.n_embd, config.kv_width, config.vocab_size
    gate = min(GATE_CHANNELS, width)
    shapes: dict[str, tuple[int, ...]] = {"resid_lambdas": (config.n_layer,)}
    if config.x0_mix:
        shapes["x0_lambdas"] = (config.n_layer,)
    shapes["wte.weight"] = (vocab, width)
    layers = range(config.n_layer)
    shapes |= {f"value_embeds.{i}.weight": (vocab, kv_width) for i in layers if config.has_value_embedding(i)}
    for i in layers:
        at = f"layers.{i}"
        shapes[f"{at}.attn.c_q.weight"] = (width, width)
        shapes[f"{at}.attn.c_k.weight"] = (kv_width, width)
        shapes[f"{at}.attn.c_v.weight"] = (kv_width, width)
        shapes[f"{at}.attn.c_proj.weight"] = (width, width)
        if config.has_value_embedding(i):
            shapes[f"{at}.attn.ve_gate.weight"] = (config.n_kv_head, gate)
        shapes[f"{at}.mlp.c_fc.weight"] = (4 * width, width)
        shapes[f"{at}.mlp.c_proj.weight"] = (width, 4 * width)
    shapes["lm_head.weight"] = (vocab, width)
    return shapes


def check_tensors(config: ModelConfig, tensors: Mapping[str, Shaped]) -> None:
    """Refuse tensors that are not the shipped model's. x0_lambdas may be there unused.

    Raises:
        ArchitectureEdited: a name is missing or unknown, or a shape is another; the message names the first.
    """
    expected = shapes_of(config)
    found = {name: tuple(int(size) for size in tensor.shape) for name, tensor in tensors.items()}
    if not config.x0_mix:
        found.pop("x0_lambdas", None)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    other = [name for name in expected if name in found and found[name] != expected[name]]
    if not (missing or unknown or other):
        return
    said = [
        *(f"lacks {name}" for name in missing[:2]),
        *(f"has {name[:80]}, which the shipped model lacks" for name in unknown[:2]),
        *(
            f"has {name} of shape {list(found[name])} where the shipped model has {list(expected[name])}"
            for name in other[:2]
        ),
    ]
    raise ArchitectureEdited(
        f"the architecture was edited: the checkpoint {'; it '.join(said)}"
        f" ({len(missing)} missing, {len(unknown)} unknown, {len(other)} of another shape)",
        hint=WHAT_STILL_WORKS,
    )


def obstacles(config: ModelConfig) -> list[str]:
    """Why no stock runtime can compute this model: one phrase a feature. Empty for a portable one."""
    found = []
    if config.value_embeddings:
        found.append("value embeddings")
    if config.x0_mix:
        found.append("x0 mixing")
    if any(window < config.sequence_len for window in config.windows):
        found.append("sliding windows")
    if config.softcap:
        found.append(f"softcap {config.softcap:g}")
    return found
