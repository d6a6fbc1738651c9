import math

import pytest

from autoresearch.proposers.constants import read_constants
from autoresearch.proposers.dimension import Dimension, Scale
from autoresearch.proposers.search_space import infer, space_of

BATCHES = """
DEPTH = 2
ASPECT_RATIO = 32
HEAD_DIM = 64
WINDOW_PATTERN = "SSSL"
GATE_CHANNELS = 32
TOTAL_BATCH_SIZE = 2048
DEVICE_BATCH_SIZE = 8
WARMUP_RATIO = 0.2
WARMDOWN_RATIO = 0.7
"""


def space(source=BATCHES, seq_len=256):
    return space_of(read_constants(source, "tiny"), seq_len=seq_len, anchors={}, seen={})


def dimension(name, value) -> Dimension:
    found = infer(name, value)
    assert isinstance(found, Dimension), found
    return found


@pytest.mark.parametrize("name", ["MATRIX_LR", "WEIGHT_DECAY", "ADAM_EPS", "X0_LAMBDA_INIT"])
def test_a_step_of_a_rate_is_a_factor_of_two(name):
    found = dimension(name, 0.04)
    assert found.scale is Scale.LOG
    assert found.value_at(found.coordinate(0.04) + 1) == 0.08
    assert found.value_at(found.coordinate(0.04) - 1) == 0.02


def test_rates_range_over_a_factor_of_eight_either_way():
    found = dimension("MATRIX_LR", 0.04)
    assert (found.value_at(-math.inf), found.value_at(math.inf)) == (0.005, 0.32)


def test_a_step_of_a_beta_halves_its_distance_to_one():
    found = dimension("ADAM_BETAS[1]", 0.95)
    assert found.value_at(found.coordinate(0.95) + 1) == 0.975
    assert found.value_at(found.coordinate(0.95) - 1) == 0.9


def test_batch_sizes_are_searched_in_powers_of_two():
    assert dimension("TOTAL_BATCH_SIZE", 2048).rungs == (256, 512, 1024, 2048, 4096, 8192, 16384)


def test_head_dim_stays_even_and_sensible():
    assert dimension("HEAD_DIM", 32).rungs == (16, 32, 64, 128)


def test_depth_is_searched_in_small_whole_numbers():
    assert dimension("DEPTH", 2).rungs == (1, 2, 3, 4)


@pytest.mark.parametrize(("name", "largest"), [("WARMUP_RATIO", 0.2), ("WEIGHT_DECAY", 0.2), ("FINAL_LR_FRAC", 0.2)])
def test_a_rate_of_zero_gets_a_few_small_choices(name, largest):
    rungs = dimension(name, 0.0).rungs
    assert rungs[0] == 0.0 and rungs[-1] == largest and len(rungs) >= 5


def test_fractions_stay_between_zero_and_one():
    found = dimension("WARMDOWN_RATIO", 0.9)
    assert (found.value_at(-99.0), found.value_at(99.0)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEED", 42),
        ("TRAIN_SEED", 42),
        ("MAX_SEQ_LEN", 2048),
        ("TIME_BUDGET", 300),
        ("PRESET", "SL"),
        ("VOCAB_SIZE", 8192),
        ("EVAL_BATCH", "x"),
        ("H100_BF16_PEAK_FLOPS", 989.5e12),
        ("DEVICE", "SL"),
        ("FAST_FAIL_LOSS", 100.0),
        ("OPTIMIZER", "muon"),
        ("OFFSET", -1.0),
        ("LAYER_INDEX", 0),
        ("GROUPS", 1),
        ("N_KV_HEAD", 4),
        ("SHIFT", 0.0),
        ("BIG", 1e30),
        ("INFINITE_LR", float("inf")),
    ],
)
def test_a_name_that_is_not_ours_or_not_understood_is_skipped_with_a_reason(name, value):
    assert isinstance(infer(name, value), str)


def test_a_smaller_batch_takes_the_device_batch_along():
    assert space().changes_for("TOTAL_BATCH_SIZE", 1024) == {"TOTAL_BATCH_SIZE": 1024, "DEVICE_BATCH_SIZE": 4}


def test_a_larger_batch_leaves_the_device_batch_alone():
    assert space().changes_for("TOTAL_BATCH_SIZE", 4096) == {"TOTAL_BATCH_SIZE": 4096}


def test_a_batch_shorter_than_one_row_is_illegal():
    assert space(seq_len=2048).changes_for("TOTAL_BATCH_SIZE", 1024) == {
        "TOTAL_BATCH_SIZE": 1024
    }  # no rule held before
    assert space(BATCHES.replace("SIZE = 8", "SIZE = 1"), seq_len=2048).changes_for("TOTAL_BATCH_SIZE", 1024) is None


def test_a_device_batch_that_does_not_divide_the_total_is_illegal():
    assert space().changes_for("DEVICE_BATCH_SIZE", 4) == {"DEVICE_BATCH_SIZE": 4}
    assert space().changes_for("DEVICE_BATCH_SIZE", 16) is None


def test_a_window_pattern_that_builds_the_same_layers_is_no_change():
    assert space().changes_for("WINDOW_PATTERN", "SSL") is None
    assert space().changes_for("WINDOW_PATTERN", "L") == {"WINDOW_PATTERN": "L"}


def test_the_length_of_a_window_that_no_layer_has_is_no_change():
    source = BATCHES + "SHORT_WINDOW_DIVISOR = 2\n"
    assert space(source).changes_for("SHORT_WINDOW_DIVISOR", 4) == {"SHORT_WINDOW_DIVISOR": 4}
    assert space(source.replace("SSSL", "L")).changes_for("SHORT_WINDOW_DIVISOR", 4) is None


def test_an_aspect_ratio_that_rounds_to_the_same_width_is_no_change():
    assert space().changes_for("ASPECT_RATIO", 24) is None
    assert space().changes_for("ASPECT_RATIO", 48) == {"ASPECT_RATIO": 48}


def test_a_head_dim_that_would_widen_the_model_is_two_ideas():
    assert space().changes_for("HEAD_DIM", 128) is None
    assert space().changes_for("HEAD_DIM", 32) == {"HEAD_DIM": 32}


def test_a_gate_cannot_read_more_channels_than_the_model_has():
    assert space().changes_for("GATE_CHANNELS", 64) == {"GATE_CHANNELS": 64}
    assert space().changes_for("GATE_CHANNELS", 128) is None


def test_warm_up_and_warm_down_fit_into_the_budget_together():
    assert space().changes_for("WARMUP_RATIO", 0.4) is None
    assert space().changes_for("WARMDOWN_RATIO", 0.8) == {"WARMDOWN_RATIO": 0.8}


def test_a_range_widens_to_hold_what_others_made_of_the_incumbent():
    source = "MATRIX_LR = 7.0\nDEPTH = 9\nWINDOW_PATTERN = 'SLSL'\n"
    anchors = {"MATRIX_LR": 0.04, "DEPTH": 2, "WINDOW_PATTERN": "SSSL"}
    found = space_of(read_constants(source, "tiny"), seq_len=256, anchors=anchors, seen={}).dimensions
    assert found["MATRIX_LR"].value_at(math.inf) == 7.0
    assert found["DEPTH"].rungs == (1, 2, 3, 4, 9)
    assert "SLSL" in found["WINDOW_PATTERN"].rungs
