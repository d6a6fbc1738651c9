"""Constants to start from on a machine: depth and batches by memory, for each contract, and the memory that they take.

Suggestions for whoever brings a file of their own to a machine that the shipped one was not tuned on; nothing applies them by
itself. Earlier tables of this kind suggested batches that did not divide (8 rows of 2048 tokens in steps of 8192) or were never
checked against memory; here a test holds every line against both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch.backends.hardware import GIB, Hardware


@dataclass(frozen=True)
class Shape:
    """What of a contract and of train.py decides about memory. Lengths in tokens; width = depth * aspect_ratio."""

    seq_len: int
    vocab_size: int
    aspect_ratio: int = 64
    head_dim: int = 128


@dataclass(frozen=True)
class Suggestion:
    """Constants of train.py: layers, rows per forward pass, tokens per optimizer step."""

    depth: int
    device_batch_size: int
    total_batch_size: int


@dataclass(frozen=True)
class Tier:
    """The suggestion for machines with at least so much memory, in GiB as the device reports it."""

    min_memory_gb: float
    suggestion: Suggestion


# A test compares these with contract/rules.py and with the shipped train.py.
SHAPES: Mapping[str, Shape] = {
    "standard": Shape(2048, 8192),
    "small": Shape(512, 2048),
    "long": Shape(512, 2048),
    "tiny": Shape(256, 1024, aspect_ratio=32, head_dim=64),
    "smoke": Shape(64, 512, aspect_ratio=16, head_dim=16),
}


def _tiers(*rows: tuple[float, int, int, int]) -> tuple[Tier, ...]:
    return tuple(Tier(memory, Suggestion(depth, device, total)) for memory, depth, device, total in rows)


# Largest memory first. Cards report a few percent less than their name says. Of the accelerators that compile in bf16, the first
# line of `standard` is the published run; smaller cards get smaller steps as well, because the number of steps within the
# budget counts for more than their size. Apple's and other eager devices follow what their users reported to work.
COMPILED: Mapping[str, tuple[Tier, ...]] = {
    "standard": _tiers(
        (70, 8, 128, 2**19), (37, 8, 64, 2**18), (22, 8, 32, 2**17), (14, 8, 16, 2**17), (0, 4, 8, 2**16)
    ),
    "small": _tiers((14, 4, 64, 2**16), (0, 4, 16, 2**16)),
    "long": _tiers((0, 4, 16, 8192)),
    "tiny": _tiers((0, 2, 8, 2048)),
    "smoke": _tiers((0, 2, 2, 128)),
}
EAGER: Mapping[str, tuple[Tier, ...]] = {
    "standard": _tiers((96, 8, 32, 2**17), (46, 8, 16, 2**16), (30, 6, 8, 2**15), (15, 4, 4, 2**14), (0, 4, 2, 2**13)),
    "small": _tiers((30, 4, 32, 2**16), (15, 4, 16, 2**16), (0, 4, 8, 2**16)),
    "long": _tiers((15, 4, 4, 8192), (0, 4, 2, 8192)),
    "tiny": _tiers((0, 2, 8, 2048)),
    "smoke": _tiers((0, 2, 2, 128)),
}

USABLE_SHARE = 0.8  # of an accelerator's own memory
USABLE_SHARE_SHARED = 0.7  # of memory that is shared with everything else on the machine


def suggestion_for(hw: Hardware, preset: str) -> Suggestion:
    """What to start from on this machine under that contract.

    Raises:
        KeyError: no such preset.
    """
    tiers = (COMPILED if is_compiled(hw) else EAGER)[preset]
    return next(tier.suggestion for tier in tiers if hw.memory_gb >= tier.min_memory_gb)


def is_compiled(hw: Hardware) -> bool:
    """Whether train.py compiles there, in bf16: what a step holds is less than half then."""
    return hw.backend in ("cuda", "rocm")


def training_memory_gb(suggestion: Suggestion, shape: Shape, *, compiled: bool) -> float:
    """Estimate of the memory that training takes at its peak, in GiB.

    0.5 GiB for framework and kernels, 16 bytes a parameter (float32 weight, gradient, two of optimizer state), and for each
    token of a forward pass what the backward pass needs of it: per layer and channel 24 bytes compiled in bf16, 112 eager in
    float32; per logit 10 and 16. The compiled figures give the published run's 44.0 GiB (depth 8, 128 x 2048, H100) within 3 %;
    the eager ones were fitted on a CPU (depth 4, 512 tokens: 126 to 152 KB a token measured, 144 estimated).
    """
    width = math.ceil(suggestion.depth * shape.aspect_ratio / shape.head_dim) * shape.head_dim
    num_tables = 2 + math.ceil(suggestion.depth / 2)  # embedding, head, value embeddings of every other layer
    parameters = 12 * suggestion.depth * width**2 + num_tables * shape.vocab_size * width
    per_channel, per_logit = (24, 10) if compiled else (112, 16)
    tokens = suggestion.device_batch_size * shape.seq_len
    per_token = per_channel * suggestion.depth * width + per_logit * shape.vocab_size
    return 0.5 + (16 * parameters + tokens * per_token) / GIB


def memory_watermark(hw: Hardware, preset: str) -> float | None:
    """Share of a Mac's memory that training may take; None where it is not limited.

    The contract `long` is made for Macs of 8 GB whose owner goes on working: there, and on any Mac of that size, 0.7.
    """
    is_shared = hw.backend == "mps" or (hw.backend == "mlx" and not hw.on_cpu)
    return USABLE_SHARE_SHARED if is_shared and (preset == "long" or hw.memory_gb < 10) else None
