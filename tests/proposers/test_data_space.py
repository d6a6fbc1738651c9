"""What the search knows of a data recipe: every constant, which of them do something, and what it tries first."""

from __future__ import annotations

import ast
import random

import pytest
from recipe_pasts import PREPARE, RECIPE, SOURCES, edited, recipe_situation, tried

from autoresearch.cli.preflight import unfit_settings
from autoresearch.contract.rules import PRESETS
from autoresearch.proposers.constants import owner_of, read_constants
from autoresearch.proposers.data_space import LEFT_OUT, changes_for, infer, why_dead
from autoresearch.proposers.dimension import Dimension, Scale, movable_together
from autoresearch.proposers.registry import ProposerOptions, make_proposer
from autoresearch.proposers.search import SearchProposer
from autoresearch.proposers.search_space import space_of
from autoresearch.vocabulary import ProposerExhausted, Status

DEFAULTS = {name: literal.value for name, literal in read_constants(RECIPE[SOURCES], "").literals.items()}
TIERED = {**DEFAULTS, "NUM_TIERS": 4, "TIER_WEIGHTS[3]": 0.0}


def dimension(name: str, preset: str = "tiny") -> Dimension:
    rules = PRESETS[preset]
    found = infer(name, seq_len=rules.max_seq_len, vocab_size=rules.vocab_size)
    assert isinstance(found, Dimension)
    return found


def session(seed: int, keeps: float, num: int, surface: str = SOURCES, preset: str = "tiny") -> list[tuple]:
    """Proposals of a session with verdicts by lot: changes, files, and whether it was kept."""
    proposer = SearchProposer(preset, seed=seed, surface=surface, program="data")
    rng = random.Random(seed)
    incumbent, number, history, found = RECIPE, 0, [], []
    for at in range(1, num + 1):
        here = recipe_situation(*history, incumbent=incumbent, incumbent_number=number)
        proposal = proposer.propose(here)
        status = Status.KEEP if rng.random() < keeps else Status.DISCARD
        found.append((proposal.details["changes"], proposal.files, status))
        gain = 0.01 if status is Status.KEEP else -0.005
        history.append(tried(at, proposal.files, status, details=proposal.details, gain=gain, base=number))
        if status is Status.KEEP:
            incumbent, number = proposal.files, at
    return found


# -- what it knows --------------------------------------------------------------------------------------------------------


def test_every_constant_of_data_sources_is_searched_or_deliberately_left_out():
    body = ast.parse(RECIPE[SOURCES]).body
    names = {t.id for node in body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    assert len(names) > 10
    for name in names:
        elements = [key for key in DEFAULTS if owner_of(key) == name] or [name]
        known = [infer(key, seq_len=256, vocab_size=1024) for key in elements]
        assert all(found is not None for found in known), name
        assert name in LEFT_OUT or any(isinstance(found, Dimension) for found in known), name


@pytest.mark.parametrize("name", [name for name in DEFAULTS if not name.endswith("[0]")])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_default_of_a_constant_lies_within_its_range(name, preset):
    assert dimension(name, preset).contains(DEFAULTS[name])


def test_every_value_of_the_search_is_one_that_the_library_takes():
    from autoresearch.recipes import duplicates, quality
    from autoresearch.recipes.reading import ORDERS

    for name, known in (("DUPLICATES", duplicates.KINDS), ("QUALITY", quality.KINDS), ("ORDER", ORDERS)):
        assert set(dimension(name).rungs) == set(known)
    for preset in PRESETS:
        for name in DEFAULTS:
            found = infer(name, seq_len=PRESETS[preset].max_seq_len, vocab_size=PRESETS[preset].vocab_size)
            for value in found.rungs if isinstance(found, Dimension) else ():
                assert list(unfit_settings({**TIERED, name: value})) == [], (name, value)


def test_vocabularies_lie_around_the_contracts_own_in_order_of_their_size():
    assert dimension("VOCAB_SIZE", "tiny").rungs == (260, 512, 0, 2048, 4096, 8192)
    assert dimension("VOCAB_SIZE", "standard").rungs == (1024, 2048, 4096, 0, 16384, 32768, 65536)
    widened = dimension("VOCAB_SIZE", "tiny").widened([1000, 3000])
    assert widened.rungs == (260, 512, 1000, 0, 2048, 3000, 4096, 8192)


def test_named_choices_have_no_order_to_follow():
    for name in ("DUPLICATES", "ORDER", "QUALITY", "NUM_TIERS", "MAX_CHARACTERS"):
        assert dimension(name).scale is Scale.CHOICE
        assert len(dimension(name).weights) == len(dimension(name).rungs)


def test_a_joint_step_moves_numbers_and_leaves_named_choices_where_they_are():
    known = {name: dimension(name) for name in ("DUPLICATES", "VOCAB_SIZE", "ORDER", "TIER_WEIGHTS[3]")}
    assert movable_together(known) == ["VOCAB_SIZE", "TIER_WEIGHTS[3]"]


# -- what does nothing by itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "others", "is_dead"),
    [
        ("NEAR_DUPLICATE", {"DUPLICATES": "exact"}, True),
        ("NEAR_DUPLICATE", {"DUPLICATES": "near"}, False),
        ("QUALITY", {}, True),
        ("QUALITY", {"NUM_TIERS": 2}, False),
        ("TIER_WEIGHTS[1]", {}, True),
        ("TIER_WEIGHTS[1]", {"NUM_TIERS": 2}, False),
        ("TIER_WEIGHTS[2]", {"NUM_TIERS": 2}, True),
        ("LATE_TIER_WEIGHTS[1]", {"NUM_TIERS": 2}, True),
        ("LATE_TIER_WEIGHTS[1]", {"NUM_TIERS": 2, "LATE_FROM": 0.8}, False),
        ("DUPLICATES", {}, False),
        ("LATE_FROM", {}, False),
    ],
)
def test_a_constant_that_nothing_reads_is_dead(name, others, is_dead):
    assert bool(why_dead(name, {**DEFAULTS, **others})) is is_dead


def test_dead_constants_are_not_searched_until_something_reads_them():
    def searched(files):
        constants = read_constants(files[SOURCES], "tiny")
        return set(space_of(constants, seq_len=256, anchors={}, seen={}, program="data", vocab_size=1024).dimensions)

    dead = {"NEAR_DUPLICATE", "QUALITY"} | {f"{w}TIER_WEIGHTS[{i}]" for w in ("", "LATE_") for i in range(4)}
    assert searched(RECIPE) == set(DEFAULTS) - dead
    assert searched(edited(SOURCES, "NUM_TIERS = 1", "NUM_TIERS = 3")) - searched(RECIPE) == {
        "QUALITY", "TIER_WEIGHTS[1]", "TIER_WEIGHTS[2]",
    }  # fmt: skip
    assert "NEAR_DUPLICATE" in searched(edited(SOURCES, 'DUPLICATES = "keep"', 'DUPLICATES = "near"'))


def test_tiers_come_with_weights_that_differ():
    assert changes_for(DEFAULTS, "NUM_TIERS", 4) == {"NUM_TIERS": 4, "TIER_WEIGHTS[3]": 0.0}
    assert changes_for(DEFAULTS, "NUM_TIERS", 2) == {"NUM_TIERS": 2, "TIER_WEIGHTS[1]": 0.5}
    assert changes_for({**TIERED, "TIER_WEIGHTS[1]": 0.5}, "NUM_TIERS", 3) == {"NUM_TIERS": 3}
    assert changes_for(TIERED, "NUM_TIERS", 3) == {"NUM_TIERS": 3, "TIER_WEIGHTS[2]": 0.0}
    assert changes_for(TIERED, "NUM_TIERS", 1) == {"NUM_TIERS": 1}


def test_a_late_phase_comes_with_tiers_and_without_the_worse_half():
    best_half = {"LATE_TIER_WEIGHTS[2]": 0.0, "LATE_TIER_WEIGHTS[3]": 0.0}
    assert changes_for(DEFAULTS, "LATE_FROM", 0.8) == {"LATE_FROM": 0.8, "NUM_TIERS": 4, **best_half}
    assert changes_for(TIERED, "LATE_FROM", 0.8) == {"LATE_FROM": 0.8}  # its late weights differ from the early ones
    later = {**DEFAULTS, "NUM_TIERS": 4, "LATE_FROM": 0.8, **best_half}
    assert changes_for(later, "LATE_FROM", 0.6) == {"LATE_FROM": 0.6}
    assert changes_for(later, "LATE_FROM", 1.0) == {"LATE_FROM": 1.0}


def test_what_breaks_a_rule_or_does_nothing_is_no_change():
    assert changes_for({**DEFAULTS, "MAX_CHARACTERS": 1000}, "MIN_CHARACTERS", 2000) is None
    assert changes_for(DEFAULTS, "NEAR_DUPLICATE", 0.7) is None
    two = {**DEFAULTS, "NUM_TIERS": 2, "TIER_WEIGHTS[0]": 0.0}
    assert changes_for(two, "TIER_WEIGHTS[1]", 0.0) is None


# -- what it proposes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_first_24_experiments_are_those_that_a_researcher_would_try_first(seed):
    changes = [change for change, _, _ in session(seed, keeps=0.0, num=24)]
    values = {(name, str(new)) for change in changes for name, (_, new) in change.items()}
    for wanted in (
        ("DUPLICATES", "exact"), ("DUPLICATES", "near"), ("VOCAB_SIZE", "512"), ("VOCAB_SIZE", "2048"), ("NUM_TIERS", "2"),
        ("NUM_TIERS", "4"), ("LATE_FROM", "0.8"), ("MIN_CHARACTERS", "500"), ("MAX_CHARACTERS", "2048"),
        ("MAX_REPEATED_LINES", "0.3"), ("MAX_REPEATED_NGRAMS", "0.15"), ("ORDER", "short_first"), ("BUFFER_SIZE", "4000"),
    ):  # fmt: skip
        assert wanted in values, wanted
    assert {name for change in changes[:4] for name in change} <= {
        "DUPLICATES", "VOCAB_SIZE", "NUM_TIERS", "TIER_WEIGHTS", "LATE_FROM", "LATE_TIER_WEIGHTS", "ORDER",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_session_with_keeps_goes_on_without_repeating_and_within_the_rules(seed):
    found = session(seed, keeps=0.3, num=40)
    seen = {tuple(RECIPE.items())}
    for _, files, _ in found:
        assert tuple(files.items()) not in seen
        seen.add(tuple(files.items()))
        assert list(files) == list(RECIPE) and files[PREPARE] == RECIPE[PREPARE]
        values = {name: literal.value for name, literal in read_constants(files[SOURCES], "").literals.items()}
        assert list(unfit_settings(values)) == []


def test_a_kept_tier_opens_the_search_of_its_weights():
    tiers = {**RECIPE, SOURCES: RECIPE[SOURCES].replace("NUM_TIERS = 1", "NUM_TIERS = 4", 1)}
    proposer = SearchProposer("tiny", surface=SOURCES, program="data")
    names = {"NUM_TIERS": [1, 4]}
    history = [tried(1, tiers, Status.KEEP, details={"changes": names, "parameter": "NUM_TIERS"}, gain=0.01)]
    parameters = set()
    for number in range(2, 26):
        proposal = proposer.propose(recipe_situation(*history, incumbent=tiers, incumbent_number=1))
        parameters.add(proposal.details["parameter"])
        history.append(tried(number, proposal.files, details=proposal.details, base=1))
    assert {"QUALITY", "TIER_WEIGHTS[1]", "TIER_WEIGHTS[3]"} <= parameters


def test_with_another_main_file_the_search_still_finds_the_constants():
    changes, files, _ = session(0, keeps=0.0, num=1, surface=PREPARE)[0]
    assert changes
    assert files[PREPARE] == RECIPE[PREPARE] and files[SOURCES] != RECIPE[SOURCES]


def test_the_same_constants_beside_another_prepare_are_another_program():
    """A discard of one value beside a changed prepare.py says nothing of it beside the incumbent's."""
    proposer = SearchProposer("tiny", surface=SOURCES, program="data")
    first = proposer.propose(recipe_situation())
    elsewhere = tried(1, {**first.files, PREPARE: RECIPE[PREPARE] + "\nX = 1\n"}, details={"operator": "draft"})
    again = proposer.propose(recipe_situation(elsewhere))
    assert again.files == first.files
    known = proposer.propose(recipe_situation(tried(1, first.files, details={"operator": "draft"})))
    assert known.files != first.files


@pytest.mark.slow
def test_a_vocabulary_written_as_a_power_stays_one():
    files = edited(SOURCES, "VOCAB_SIZE = 0 ", "VOCAB_SIZE = 2**11 ")
    proposer = SearchProposer("tiny", surface=SOURCES, program="data")
    history = []
    with pytest.raises(ProposerExhausted):
        for number in range(1, 400):
            proposal = proposer.propose(recipe_situation(*history, incumbent=files))
            history.append(tried(number, proposal.files, details=proposal.details))
    sizes = {past.details["changes"]["VOCAB_SIZE"][1] for past in history if "VOCAB_SIZE" in past.details["changes"]}
    assert sizes == {512, 1024, 4096, 8192} - {1024}


@pytest.mark.parametrize("name", ["search", "search:tpe", "search:random"])
def test_the_searches_by_name_know_the_program(name):
    proposer = make_proposer(name, ProposerOptions("tiny", surface=SOURCES, program="data"))
    proposal = proposer.propose(recipe_situation())
    assert set(proposal.files) == set(RECIPE)
    assert set(proposal.details["changes"]) <= {owner_of(key) for key in DEFAULTS}
