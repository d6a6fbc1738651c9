import ast
import math
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from autoresearch.proposers.constants import read_constants
from autoresearch.proposers.novelty import same_program
from autoresearch.proposers.registry import ProposerOptions, make_proposer
from autoresearch.proposers.search import SearchProposer
from autoresearch.proposers.situation import PastExperiment, Proposer, Situation
from autoresearch.vocabulary import Proposal, ProposerExhausted, Status, UsageError

SAMPLE = '''# Edited by the model program (program.md).
"""A small experiment, größer als nichts."""
from prepare import MAX_SEQ_LEN, PRESET, SEED

DEPTH = 8  # layers
ASPECT_RATIO = 64
HEAD_DIM = 128
WINDOW_PATTERN = "SSSL"  # S short, L full
TOTAL_BATCH_SIZE = 2**19  # tokens
DEVICE_BATCH_SIZE = 128
EMBEDDING_LR = 0.6
UNEMBEDDING_LR = 0.004
MATRIX_LR = 0.04  # Muon
SCALAR_LR = 0.5
WEIGHT_DECAY = 0.2
ADAM_BETAS = (0.8, 0.95)
WARMUP_RATIO = 0.0
WARMDOWN_RATIO = 0.5
FINAL_LR_FRAC = 0.0
TRAIN_SEED = 42
DTYPE = choose()
PRESET_OVERRIDES = {
    "tiny": {"DEPTH": 2, "ASPECT_RATIO": 32, "HEAD_DIM": 64, "DEVICE_BATCH_SIZE": 8, "TOTAL_BATCH_SIZE": 2048},
}
globals().update(PRESET_OVERRIDES.get(PRESET, {}))
'''
RATES = "EMBEDDING_LR = 0.6\nUNEMBEDDING_LR = 0.004\nMATRIX_LR = 0.04\nSCALAR_LR = 0.5\n"


def value_of(source: str, name: str) -> float:
    return float(read_constants(source, "tiny").literals[name].value)


def play(
    proposer: Proposer, source: str, score: Callable[[str], float], num: int, noise: float = 0.0, seed: int = 0
) -> tuple[str, list[PastExperiment]]:
    """A session with the simplest keep rule: a candidate with a lower score is tried again, and kept if still lower."""
    rng = random.Random(seed)
    history: list[PastExperiment] = []
    incumbent_score = score(source) + rng.gauss(0.0, noise) / 2
    for number in range(1, num + 1):
        proposal = proposer.propose(Situation({"train.py": source}, history))
        text = proposal.files["train.py"]
        trials = [score(text) + rng.gauss(0.0, noise)]
        if trials[0] < incumbent_score:
            trials += [score(text) + rng.gauss(0.0, noise) for _ in range(2)]
        mean = sum(trials) / len(trials)
        kept = len(trials) > 1 and mean < incumbent_score - 0.5 * noise
        history.append(past(number, proposal, Status.KEEP if kept else Status.DISCARD, mean, incumbent_score - mean))
        if kept:
            source, incumbent_score = text, mean
    return source, history


def past(
    number: int, proposal: Proposal, status: Status | None, val_bpb: float | None, gain: float | None
) -> PastExperiment:
    return PastExperiment(number, proposal.description, proposal.files, proposal.details, status, val_bpb, gain)


def of_search(preset: str = "tiny", seed: int = 0, method: str = "tpe") -> SearchProposer:
    return SearchProposer(preset, seed=seed, method=method)


def test_the_first_idea_halves_the_batch_and_says_what_goes_along():
    proposal = of_search().propose(Situation({"train.py": SAMPLE}, []))
    assert proposal.description == "TOTAL_BATCH_SIZE 2048 -> 1024, DEVICE_BATCH_SIZE 8 -> 4"
    assert proposal.files == {
        "train.py": SAMPLE.replace('"DEVICE_BATCH_SIZE": 8', '"DEVICE_BATCH_SIZE": 4').replace(": 2048", ": 1024")
    }
    assert proposal.details == {
        "changes": {"TOTAL_BATCH_SIZE": [2048, 1024], "DEVICE_BATCH_SIZE": [8, 4]},
        "method": "tpe",
        "parameter": "TOTAL_BATCH_SIZE",
    }


def test_on_standard_the_top_level_literal_is_edited_in_the_way_it_is_written():
    proposal = of_search("standard").propose(Situation({"train.py": SAMPLE}, []))
    assert proposal.files["train.py"] == SAMPLE.replace("2**19", "2**18")
    assert proposal.description == "TOTAL_BATCH_SIZE 524288 -> 262144"


def test_names_left_alone_are_listed_with_the_reason():
    proposer = of_search()
    proposer.propose(Situation({"train.py": SAMPLE}, []))
    assert set(proposer.skipped) == {"TRAIN_SEED", "DTYPE"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random"])
@pytest.mark.parametrize("seed", [0, 1])
def test_sixty_proposals_are_each_one_legal_idea_and_never_a_duplicate(method, seed):
    rng = random.Random(seed)
    proposer, source, history = of_search(seed=seed, method=method), SAMPLE, []
    programs = [SAMPLE]
    for number in range(1, 61):
        proposal = proposer.propose(Situation({"train.py": source}, history))
        text = proposal.files["train.py"]
        before, after = (read_constants(t, "tiny").literals for t in (source, text))
        changed = {name for name in before if before[name].value != after[name].value}
        assert {name.partition("[")[0] for name in changed} == set(proposal.details["changes"])
        assert len(changed) == 1 or changed == {"TOTAL_BATCH_SIZE", "DEVICE_BATCH_SIZE"}
        assert ast.parse(text) and len(text.splitlines()) == len(source.splitlines())
        assert after["TOTAL_BATCH_SIZE"].value % (after["DEVICE_BATCH_SIZE"].value * 256) == 0
        assert after["HEAD_DIM"].value % 2 == 0
        assert after["TRAIN_SEED"].value == 42
        assert all(
            " -> " in part for part in proposal.description.replace(", 0", "; 0").replace(", 1", "; 1").split(", ")
        )
        assert not any(same_program(text, earlier) for earlier in programs)
        programs.append(text)
        status = rng.choice([Status.KEEP, Status.DISCARD, Status.DISCARD, Status.CRASH, None])
        scored = status in (Status.KEEP, Status.DISCARD)
        gain = abs(rng.gauss(0, 0.03)) * (1 if status is Status.KEEP else -1) if scored else None
        history.append(past(number, proposal, status, 2.0 - gain if gain is not None else None, gain))
        if status is Status.KEEP:
            source = text
    assert len({past.details["parameter"] for past in history}) >= 12  # none starves


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "cmaes", "random"])
def test_a_proposer_made_again_goes_on_exactly_as_the_old_one_would(method):
    def bowl(text: str) -> float:
        return 2.0 + sum(math.log2(value_of(text, name)) ** 2 for name in ("MATRIX_LR", "SCALAR_LR")) / 100

    one = of_search(seed=3, method=method)
    source, history = play(one, SAMPLE, bowl, 14)
    again = of_search(seed=3, method=method)
    assert one.propose(Situation({"train.py": source}, history)) == again.propose(
        Situation({"train.py": source}, history)
    )
    assert [p.files for p in play(again, SAMPLE, bowl, 14)[1]] == [p.files for p in history]


def test_another_seed_searches_differently():
    histories = [play(of_search(seed=seed), SAMPLE, lambda text: 2.0, 12)[1] for seed in (1, 2)]
    assert [p.description for p in histories[0]] != [p.description for p in histories[1]]


def test_a_keep_is_followed_up_in_the_same_direction():
    proposer = of_search()
    first = proposer.propose(Situation({"train.py": SAMPLE}, []))
    history = [past(1, first, Status.KEEP, 1.9, 0.1)]
    assert proposer.propose(Situation(first.files, history)).details["changes"]["TOTAL_BATCH_SIZE"] == [1024, 512]


def test_a_discard_turns_round_before_the_value_is_refined():
    source = "MATRIX_LR = 0.04\n"
    proposer = of_search()
    first = proposer.propose(Situation({"train.py": source}, []))
    assert first.description == "MATRIX_LR 0.04 -> 0.08"
    history = [past(1, first, Status.DISCARD, 2.1, -0.1)]
    second = proposer.propose(Situation({"train.py": source}, history))
    assert second.description == "MATRIX_LR 0.04 -> 0.02"
    history.append(past(2, second, Status.DISCARD, 2.05, -0.05))
    third = proposer.propose(Situation({"train.py": source}, history)).details["changes"]["MATRIX_LR"][1]
    assert 0.02 < third < 0.08 and third != 0.04  # between the two that were worse


def test_a_crash_counts_as_a_bad_try_and_is_not_repeated():
    source = "MATRIX_LR = 0.04\n"
    proposer = of_search()
    history: list[PastExperiment] = []
    for number in range(1, 8):
        history.append(
            past(number, proposer.propose(Situation({"train.py": source}, history)), Status.CRASH, None, None)
        )
    assert len({p.files["train.py"] for p in history}) == 7


def test_rows_of_other_proposers_are_read_where_they_can_be_and_never_break_the_search():
    others = [
        PastExperiment(1, "rewrite", {"train.py": SAMPLE.replace("0.04", "0.05")}, {}, Status.KEEP, 1.95, 0.05),
        PastExperiment(2, "broken", {"train.py": "def ("}, {"changes": "text"}, Status.CRASH, None, None),
        PastExperiment(3, "data", {"prepare.py": "x = 1"}, {"changes": {"A": [1]}}, Status.DISCARD, 2.0, -0.1),
        PastExperiment(4, "new code", {"train.py": "GATE = 3.0\nMATRIX_LR = 99.0\n"}, {}, Status.DISCARD, 2.2, -0.1),
        PastExperiment(
            5,
            "odd",
            {"train.py": SAMPLE},
            {"parameter": "MATRIX_LR", "changes": {"MATRIX_LR": ["a", None]}},
            None,
            None,
            None,
        ),
    ]
    incumbent = SAMPLE.replace("0.04", "0.05").replace('"SSSL"', '"SLSL"')
    for method in ("tpe", "cmaes", "random"):
        assert (
            of_search(method=method).propose(Situation({"train.py": incumbent}, others)).files["train.py"] != incumbent
        )


def test_a_value_already_tried_by_someone_else_is_not_proposed_again():
    tried = PastExperiment(1, "x", {"train.py": "MATRIX_LR = 8e-2  # mine\n"}, {}, Status.DISCARD, 2.1, -0.1)
    assert (
        of_search().propose(Situation({"train.py": "MATRIX_LR = 0.04\n"}, [tried])).description
        != "MATRIX_LR 0.04 -> 0.08"
    )


def test_an_exhausted_space_is_said_so():
    source, proposer, history = 'WINDOW_PATTERN = "L"\nUSE_BIAS = False\n', of_search(), []
    with pytest.raises(ProposerExhausted) as caught:
        for number in range(1, 20):
            proposal = proposer.propose(Situation({"train.py": source}, history))
            history.append(past(number, proposal, Status.DISCARD, 2.1, -0.1))
    assert [p.details["parameter"] for p in history].count("WINDOW_PATTERN") == 4
    assert len(history) == 5
    assert caught.value.hint


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"other.py": "LR = 1.0"}, "no train.py"),
        ({"train.py": "LR = ("}, "does not parse"),
        ({"train.py": "SEED = 1\nx = 2\n"}, "no UPPER_CASE constants"),
    ],
)
def test_an_incumbent_that_cannot_be_searched_is_a_clear_error(files, says):
    with pytest.raises(UsageError, match=says) as caught:
        of_search().propose(Situation(files, []))
    assert caught.value.hint


def test_cmaes_moves_many_constants_together_and_says_so():
    proposal = of_search(method="cmaes").propose(Situation({"train.py": SAMPLE}, []))
    changes = proposal.details["changes"]
    assert re.fullmatch(
        rf"{len(changes)} constants together: .* -> .*, and {len(changes) - 4} more", proposal.description
    )
    assert {"EMBEDDING_LR", "UNEMBEDDING_LR", "MATRIX_LR", "SCALAR_LR"} < set(changes)


@pytest.mark.slow
def test_cmaes_stays_on_the_rungs_from_the_last_of_them():
    source = "DEPTH = 1\nMATRIX_LR = 0.04\nTOTAL_BATCH_SIZE = 2048\nDEVICE_BATCH_SIZE = 1\n"
    for seed in range(4):
        _, history = play(make_proposer("search:cmaes", ProposerOptions("tiny", seed=seed)), source, len, 12)
        assert len(history) == 12


def test_cmaes_without_two_constants_is_a_clear_error():
    with pytest.raises(UsageError, match="at least two constants"):
        of_search(method="cmaes").propose(Situation({"train.py": "MATRIX_LR = 0.04\n"}, []))


def rates_surface(text: str) -> float:
    """A quadratic in log2 of the rates, 0.29 above its lowest point at the start. The best rates are not on the steps."""
    best = {
        "EMBEDDING_LR": (1.0, 0.05),
        "UNEMBEDDING_LR": (0.0115, 0.04),
        "MATRIX_LR": (0.017, 0.10),
        "SCALAR_LR": (0.9, 0.02),
    }
    return 2.0 + sum(w * math.log2(value_of(text, name) / at) ** 2 for name, (at, w) in best.items())


@pytest.mark.slow
def test_tpe_finds_a_clearly_better_point_within_24_noisy_experiments():
    left = []
    for seed in range(6):
        proposer = make_proposer("search", ProposerOptions("tiny", seed=seed))
        end, _ = play(proposer, RATES, rates_surface, 24, noise=0.015, seed=seed)
        left.append(rates_surface(end) - 2.0)
    start = rates_surface(RATES) - 2.0
    assert 0.25 < start < 0.32
    assert max(left) < 0.25 * start  # every seed
    assert sorted(left)[3] < 0.12 * start  # the middle one


@pytest.mark.slow
def test_cmaes_improves_the_rates_on_most_seeds():
    start = rates_surface(RATES)
    gains = []
    for seed in range(3):
        proposer = make_proposer("search:cmaes", ProposerOptions("tiny", seed=seed))
        gains.append(start - rates_surface(play(proposer, RATES, rates_surface, 24, noise=0.015, seed=seed)[0]))
    assert sorted(gains)[1] > 0.1


def test_proposing_leaves_optunas_log_level_and_the_warning_filters_alone():
    import optuna

    level, filters = optuna.logging.get_verbosity(), list(warnings.filters)
    of_search(method="random").propose(Situation({"train.py": SAMPLE}, []))
    assert (optuna.logging.get_verbosity(), list(warnings.filters)) == (level, filters)


def test_importing_the_search_imports_no_heavy_library():
    code = "import sys, autoresearch.proposers.search; print([m for m in ('optuna', 'numpy', 'torch', 'cmaes') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- what it has learned, for a model that may overrule it -------------------------------------------------------------


def test_what_was_learned_says_value_range_and_the_last_tries_of_each_constant():
    first, second = (RATES.replace("MATRIX_LR = 0.04", f"MATRIX_LR = {value}") for value in (0.08, 0.02))
    told = [
        ("MATRIX_LR", 0.08, first, Status.KEEP, 0.0123),
        ("MATRIX_LR", 0.02, second, Status.CRASH, None),
    ]
    history = [
        past(
            number,
            Proposal("", {"train.py": text}, "search:tpe", {"changes": {name: [0.04, value]}, "parameter": name}),
            status,
            None if gain is None else 2.0,
            gain,
        )
        for number, (name, value, text, status, gain) in enumerate(told, start=1)
    ]
    learned = of_search().learned(Situation({"train.py": first}, history)).split("\n")
    assert learned[0] == "MATRIX_LR = 0.08 (searched from 0.005 to 0.32): 0.08 gain +0.0123 keep; 0.02 crash"
    assert sorted(learned[1:]) == [
        "EMBEDDING_LR = 0.6 (searched from 0.075 to 4.8): not tried",
        "SCALAR_LR = 0.5 (searched from 0.062 to 4.0): not tried",
        "UNEMBEDDING_LR = 0.004 (searched from 0.0005 to 0.032): not tried",
    ]


def test_what_was_learned_is_bounded_by_the_number_of_constants():
    _, history = play(of_search(), RATES, lambda text: 2.0 - value_of(text, "MATRIX_LR"), 20)
    learned = of_search().learned(Situation({"train.py": RATES}, history))
    assert len(learned.split("\n")) == 4
    assert max(len(line) for line in learned.split("\n")) < 300


def test_asking_what_was_learned_does_not_change_what_comes_next():
    asked, plain = of_search(), of_search()
    asked.learned(Situation({"train.py": RATES}))
    assert asked.propose(Situation({"train.py": RATES})) == plain.propose(Situation({"train.py": RATES}))
