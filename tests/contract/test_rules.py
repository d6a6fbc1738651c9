"""The presets: published numbers, sound arithmetic, and fingerprints that change whenever a comparison would lie."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from autoresearch.contract import rules as rules_module
from autoresearch.contract.rules import PRESETS, Clock, fingerprint_of, rules_for
from autoresearch.vocabulary import UsageError

VALIDATION = "0" * 64
DEVICE = "cpu:test"
EVERY_PRESET = sorted(PRESETS)


def fingerprint(rules, *, validation_sha256=VALIDATION, device_kind=DEVICE):
    return fingerprint_of(rules, validation_sha256=validation_sha256, device_kind=device_kind)


def test_standard_is_the_published_benchmark():
    rules = rules_for("standard")
    assert rules.max_seq_len == 2048
    assert rules.time_budget == 300.0
    assert rules.clock is Clock.WALL
    assert rules.vocab_size == 8192
    assert rules.eval_tokens == 40 * 524_288 == 20_971_520
    assert rules.num_eval_rows == 10_240
    assert rules.dataset == "climbmix"
    assert rules.trial_deadline == 600.0
    assert rules.grace == 5.0
    assert rules.noise_prior == 0.0007


def test_small_is_the_benchmark_of_small_devices():
    rules = rules_for("small")
    assert (rules.max_seq_len, rules.vocab_size, rules.time_budget) == (512, 2048, 300.0)
    assert (rules.clock, rules.dataset, rules.num_eval_rows) == (Clock.WALL, "tinystories", 3072)


def test_long_is_thirty_minutes_and_ten_times_the_evaluation_of_small():
    rules, base = rules_for("long"), rules_for("small")
    assert rules.time_budget == 1800.0
    assert rules.eval_tokens == 10 * base.eval_tokens
    assert (rules.dataset, rules.max_seq_len, rules.vocab_size) == (base.dataset, base.max_seq_len, base.vocab_size)


def test_tiny_counts_cpu_seconds_and_has_four_times_as_many_on_the_wall():
    rules = rules_for("tiny")
    assert (rules.clock, rules.time_budget, rules.wall_deadline) == (Clock.CPU, 20.0, 80.0)
    assert (rules.max_seq_len, rules.vocab_size, rules.num_eval_rows, rules.dataset) == (256, 1024, 256, "embedded")


def test_smoke_counts_steps_so_that_it_repeats_to_the_bit():
    rules = rules_for("smoke")
    assert (rules.clock, rules.time_budget, rules.num_eval_rows) == (Clock.STEPS, 8, 32)


@pytest.mark.parametrize("preset", EVERY_PRESET)
def test_a_preset_knows_its_own_name_and_divides_evenly(preset):
    rules = rules_for(preset)
    assert rules.preset == preset
    assert rules.eval_tokens % rules.max_seq_len == 0
    assert rules.num_eval_rows * rules.max_seq_len == rules.eval_tokens
    assert rules.num_eval_rows > rules.num_prefix_rows > 1
    assert rules.max_seq_len & (rules.max_seq_len - 1) == 0
    assert rules.vocab_size >= 256 + 4, "every byte and the specials"


@pytest.mark.parametrize("preset", EVERY_PRESET)
def test_deadlines_leave_room_for_what_they_end(preset):
    rules = rules_for(preset)
    assert 0 < rules.noise_prior < 0.1
    assert rules.wall_deadline <= rules.trial_deadline
    assert rules.exam_deadline < rules.trial_deadline
    if rules.clock is not Clock.STEPS:
        assert rules.grace == min(5.0, 0.02 * rules.time_budget)
        assert rules.time_budget + rules.grace <= rules.wall_deadline
    if rules.clock is Clock.CPU:
        assert rules.wall_deadline == 4 * rules.time_budget


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(
        UsageError, match="unknown contract 'huge'; known: standard, small, long, tiny, smoke"
    ) as caught:
        rules_for("huge")
    assert "--contract tiny" in caught.value.hint


def test_rules_cannot_be_edited():
    with pytest.raises(FrozenInstanceError):
        rules_for("tiny").time_budget = 1e9


GOLDEN = {
    "standard": "c8ea4537a40dfa61",
    "small": "bd11b76cde0e0bdd",
    "long": "f138b0345998804a",
    "tiny": "779ea90ad378cd60",
    "smoke": "0d404b6bc7da3439",
}


@pytest.mark.parametrize("preset", EVERY_PRESET)
def test_the_fingerprint_of_a_preset_has_not_moved(preset):
    """A failure means that old and new rows of every ledger stop being comparable: say so in the change log."""
    assert fingerprint(rules_for(preset)) == GOLDEN[preset]


@pytest.mark.parametrize("name", [field.name for field in fields(rules_for("tiny"))])
def test_every_rule_is_in_the_fingerprint(name):
    rules = rules_for("tiny")
    value = getattr(rules, name)
    other = Clock.WALL if name == "clock" else value + "x" if isinstance(value, str) else value + 1
    assert fingerprint(replace(rules, **{name: other})) != fingerprint(rules)


def test_validation_text_device_and_version_are_in_the_fingerprint(monkeypatch):
    rules = rules_for("tiny")
    seen = {fingerprint(rules), fingerprint(rules, validation_sha256="1" * 64), fingerprint(rules, device_kind="cpu:B")}
    monkeypatch.setattr(rules_module, "CONTRACT_VERSION", rules_module.CONTRACT_VERSION + 1)
    seen.add(fingerprint(rules))
    assert len(seen) == 4


def test_equal_rules_have_equal_fingerprints_of_sixteen_hex_digits():
    rules = rules_for("small")
    assert fingerprint(rules) == fingerprint(replace(rules))
    assert len(fingerprint(rules)) == 16
    assert int(fingerprint(rules), 16) >= 0
