"""Suggested constants: every line of the tables divides, fits its memory, and belongs to the contract it names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from autoresearch.backends.defaults import (
    COMPILED,
    EAGER,
    SHAPES,
    USABLE_SHARE,
    USABLE_SHARE_SHARED,
    Suggestion,
    memory_watermark,
    suggestion_for,
    training_memory_gb,
)
from autoresearch.backends.hardware import Hardware
from autoresearch.contract.rules import PRESETS

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
LINES = [
    pytest.param(preset, tier, compiled, id=f"{preset}-{'compiled' if compiled else 'eager'}-{tier.min_memory_gb:g}")
    for compiled, table in ((True, COMPILED), (False, EAGER))
    for preset, tiers in table.items()
    for tier in tiers
]
SMALLEST_GB = {True: 5.5, False: 7.0}  # a 6 GB card, an 8 GB Mac, as they report themselves


def hardware(backend: str, memory_gb: float, *, on_cpu: bool = False) -> Hardware:
    return Hardware(backend, "chip", memory_gb, 8, None, ("float32",), on_cpu=on_cpu)


@pytest.mark.parametrize(("preset", "tier", "compiled"), LINES)
def test_a_step_is_a_whole_number_of_forward_passes(preset, tier, compiled):
    found = tier.suggestion
    assert found.total_batch_size % (found.device_batch_size * SHAPES[preset].seq_len) == 0


@pytest.mark.parametrize(("preset", "tier", "compiled"), LINES)
def test_a_suggestion_fits_the_smallest_machine_of_its_tier(preset, tier, compiled):
    memory = max(tier.min_memory_gb, SMALLEST_GB[compiled])
    usable = memory * (USABLE_SHARE if compiled else USABLE_SHARE_SHARED)
    assert training_memory_gb(tier.suggestion, SHAPES[preset], compiled=compiled) <= usable


@pytest.mark.parametrize("table", [COMPILED, EAGER])
def test_every_contract_has_tiers_down_to_the_smallest_machine(table):
    assert set(table) == set(PRESETS) == set(SHAPES)
    for tiers in table.values():
        memories = [tier.min_memory_gb for tier in tiers]
        assert memories == sorted(memories, reverse=True)
        assert memories[-1] == 0


def test_the_shapes_are_those_of_the_contracts_and_of_the_shipped_file():
    names = {}
    for node in ast.parse(TRAIN.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                names[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    for preset, shape in SHAPES.items():
        in_force = names | names["PRESET_OVERRIDES"].get(preset, {})
        assert (shape.seq_len, shape.vocab_size) == (PRESETS[preset].max_seq_len, PRESETS[preset].vocab_size)
        assert (shape.aspect_ratio, shape.head_dim) == (in_force["ASPECT_RATIO"], in_force["HEAD_DIM"])


def test_the_estimate_gives_the_published_runs_peak_within_five_percent():
    published = Suggestion(8, 128, 2**19)
    assert training_memory_gb(published, SHAPES["standard"], compiled=True) == pytest.approx(45060 / 1024, rel=0.05)


def test_the_estimate_grows_with_batch_and_depth_and_is_larger_where_nothing_is_compiled():
    shape = SHAPES["small"]
    base = training_memory_gb(Suggestion(4, 16, 2**16), shape, compiled=True)
    assert training_memory_gb(Suggestion(4, 32, 2**16), shape, compiled=True) > base
    assert training_memory_gb(Suggestion(8, 16, 2**16), shape, compiled=True) > base
    assert training_memory_gb(Suggestion(4, 16, 2**16), shape, compiled=False) > base


@pytest.mark.parametrize(
    ("backend", "memory_gb", "preset", "expected"),
    [
        ("cuda", 79.1, "standard", Suggestion(8, 128, 2**19)),  # what an H100 reports
        ("rocm", 191.7, "standard", Suggestion(8, 128, 2**19)),
        ("cuda", 23.5, "standard", Suggestion(8, 32, 2**17)),
        ("mps", 8.0, "long", Suggestion(4, 2, 8192)),
        ("mlx", 8.0, "small", Suggestion(4, 8, 2**16)),
        ("mps", 128.0, "standard", Suggestion(8, 32, 2**17)),
        ("cpu", 23.0, "tiny", Suggestion(2, 8, 2048)),
    ],
)
def test_a_machine_gets_the_line_of_its_memory(backend, memory_gb, preset, expected):
    assert suggestion_for(hardware(backend, memory_gb), preset) == expected


@pytest.mark.parametrize(
    ("machine", "preset", "share"),
    [
        (hardware("mps", 64), "long", 0.7),
        (hardware("mlx", 64), "long", 0.7),
        (hardware("mps", 8), "small", 0.7),
        (hardware("mps", 64), "small", None),
        (hardware("cuda", 8), "long", None),
        (hardware("mlx", 8, on_cpu=True), "long", None),
    ],
)
def test_only_a_mac_that_someone_works_on_has_a_watermark(machine, preset, share):
    assert memory_watermark(machine, preset) == share
