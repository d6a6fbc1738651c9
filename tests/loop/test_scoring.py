"""Given weights, scored in fresh sealed processes of a real experiment file; and what an objective makes of a trial."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from fakes import fake_experiment
from safetensors.numpy import load, save

from autoresearch.contract.bpb import row_bytes
from autoresearch.loop.orders import Arena, DeepWish, Order
from autoresearch.loop.referee import run_trial
from autoresearch.loop.scoring import score_weights, scored_under, sealed_scorer, trained_for
from autoresearch.loop.weights import bare
from autoresearch.vocabulary import Examination, Outcome, Slice, UnfitWeights

WANTED = DeepWish(lambda _score: True, noise_bpb=0.01)
ENTRY = "train.py"
CONFIG = """
from dataclasses import dataclass

@dataclass
class Config:
    vocab_size: int
"""


@pytest.fixture(scope="module")
def arena(smoke):
    rules, prepared = smoke
    return Arena(rules, prepared, "cpu", accelerators=False)


@pytest.fixture(scope="module")
def trained(arena, tmp_path_factory):
    """One honest trial of the counting experiment."""
    order = Order({ENTRY: fake_experiment()}, ENTRY, seed=3)
    return run_trial(arena, order, tmp_path_factory.mktemp("trained") / "run.log")


class Rounded:
    """A stand-in for quantization: counts to a power of two."""

    name = "bpb@1bit"

    def transform(self, weights: bytes) -> bytes:
        return save({name: 2.0 ** np.round(np.log2(values)) for name, values in load(weights).items()})


def altered(old: str, new: str) -> dict[str, str]:
    text = fake_experiment()
    assert text.count(old) == 1
    return {ENTRY: text.replace(old, new)}


@pytest.mark.slow
def test_the_handed_over_weights_score_as_they_did_in_their_trial(arena, trained):
    score = sealed_scorer(arena, {ENTRY: fake_experiment()}, ENTRY, batch_size=trained.trial.exam_batch_size)
    found = score(trained.weights)
    assert (found.outcome, found.val_bpb, found.examined) == (
        Outcome.FINISHED,
        trained.trial.val_bpb,
        Examination.SCREENED,
    )
    rows = arena.prepared.rows(Slice.SEARCH)
    assert found.row_bits.shape == found.row_bytes.shape == (len(rows),)
    assert found.row_bytes.tolist() == row_bytes(rows, arena.prepared.tokenizer.token_bytes).tolist()
    assert math.fsum(found.row_bits) / found.row_bytes.sum() == pytest.approx(found.val_bpb, rel=1e-12)
    assert found.seconds > 0 and found.peak_memory_mb > 0


def test_the_batch_that_the_file_asked_for_is_recorded(trained):
    assert trained.trial.exam_batch_size == 8


@pytest.mark.slow
def test_worse_weights_score_worse_and_another_slice_otherwise(arena, trained):
    flat = save({name: np.ones_like(values) for name, values in load(trained.weights).items()})
    files = {ENTRY: fake_experiment()}
    search = sealed_scorer(arena, files, ENTRY, batch_size=8)
    assert search(flat).val_bpb > trained.trial.val_bpb
    confirm = sealed_scorer(arena, files, ENTRY, batch_size=8, part=Slice.CONFIRM)
    assert confirm(trained.weights).val_bpb != trained.trial.val_bpb


def test_a_file_that_loads_other_weights_than_it_is_given_is_rejected(arena, trained):
    files = altered('model.counts = weights["counts"]', 'model.counts = weights["counts"] + 1')
    found = sealed_scorer(arena, files, ENTRY, batch_size=8)(trained.weights)
    assert (found.outcome, found.val_bpb, found.row_bits) == (Outcome.REJECTED, None, None)
    assert "the weights changed" in found.reason


def test_a_rebuilt_model_that_looks_ahead_is_rejected(arena, trained):
    files = altered(
        "logits = SHARPNESS * np.log(self.counts)",
        "logits = np.log(self.counts) + AHEAD * np.eye(len(self.counts))[np.roll(inputs, -1, axis=1)]",
    )
    files[ENTRY] = files[ENTRY].replace("len(logits)", "len(self.counts)")
    files[ENTRY] = files[ENTRY].replace("SHARPNESS =", "AHEAD = 3.0 * (__name__ == 'experiment')\nSHARPNESS =", 1)
    found = sealed_scorer(arena, files, ENTRY, batch_size=8)(trained.weights)
    assert found.outcome is Outcome.REJECTED
    assert "looks ahead" in found.reason


@pytest.mark.parametrize(
    ("old", "new", "outcome", "said"),
    [
        (
            "model = Counts(len(weights",
            "raise ValueError('not these')\n    model = Counts(len(weights",
            Outcome.CRASHED,
            "not these",
        ),
        ("def load_model(weights)", "def another(weights)", Outcome.CRASHED, "load_model"),
        ("model.counts = weights", "model.counts = -weights", Outcome.REJECTED, "finite"),
    ],
)
def test_a_file_that_cannot_rebuild_its_model_fails_as_a_value(arena, trained, old, new, outcome, said):
    found = sealed_scorer(arena, altered(old, new), ENTRY, batch_size=8)(trained.weights)
    assert (found.outcome, found.val_bpb) == (outcome, None)
    assert said in found.reason + found.log


@pytest.mark.slow
def test_a_process_that_never_loads_is_ended_by_the_deadline(smoke, trained):
    rules, prepared = smoke
    hasty = Arena(dataclasses.replace(rules, startup_cap=1.0), prepared, "cpu", accelerators=False)
    files = altered("model = Counts(len(weights", "while True: pass\n    model = Counts(len(weights")
    found = sealed_scorer(hasty, files, ENTRY, batch_size=8)(trained.weights)
    assert (found.outcome, found.val_bpb) == (Outcome.TIMED_OUT, None)


def test_what_is_no_safetensors_file_is_refused_before_a_process_starts(arena):
    found = score_weights(
        arena, Order({ENTRY: ""}, ENTRY, 0), b"\x02" + bytes(7) + b"PK a pickle", batch_size=1, fresh=None
    )
    assert (found.outcome, found.log) == (Outcome.REJECTED, "")
    assert "safetensors" in found.reason


@pytest.mark.slow
def test_a_wanted_score_is_examined_deeply_by_a_second_process(arena, trained):
    order = Order({ENTRY: fake_experiment()}, ENTRY, 0, deep=WANTED)
    found = score_weights(arena, order, trained.weights, batch_size=8)
    assert (found.outcome, found.examined) == (Outcome.FINISHED, Examination.DEEP)
    assert found.deep.num_prefixes >= 32 and 0 < found.deep_seconds < found.seconds


def test_weights_with_metadata_are_scored_as_those_without(arena, trained):
    """A model that has a configuration: it travels in the header, and the rebuilt model's digest is of the tensors."""
    files = altered("class Counts:", f"{CONFIG}\n\nclass Counts:")
    files[ENTRY] = files[ENTRY].replace(
        "self.counts = np", "self.config = Config(vocab_size)\n        self.counts = np"
    )
    described = save(load(trained.weights), {"config": '{"vocab_size": 512}'})
    assert sealed_scorer(arena, files, ENTRY, batch_size=8)(described).val_bpb == trained.trial.val_bpb


@pytest.mark.parametrize(
    "metadata", [{"config": '{"a": "\\u00e9 \\" \\\\ \\n"}'}, {"format": "pt"}, {"x" * n: "y" for n in range(1, 4)}]
)
def test_bare_weights_are_byte_for_byte_those_saved_without_metadata(metadata):
    tensors = {"a.é": np.ones(3), "b": np.ones((2, 3), np.float32), "n": np.zeros(5, np.int64), "t": np.array([True])}
    assert bare(save(tensors, metadata)) == save(tensors) == bare(save(tensors))


# -- under an objective -------------------------------------------------------------------------------------------------


def under(objective, arena, trained, **options):
    order = Order({ENTRY: fake_experiment()}, ENTRY, 3, **options)
    return scored_under(objective, arena, order, trained)


def test_the_judged_score_is_that_of_the_transformed_weights_and_val_bpb_stays_beside_it(arena, trained):
    done = under(Rounded(), arena, trained)
    plain = trained.trial
    assert plain.score == plain.val_bpb == done.trial.val_bpb
    assert done.trial.objective == "bpb@1bit"
    assert done.trial.score == done.trial.objective_bpb != plain.val_bpb
    assert done.trial.total_seconds == pytest.approx(plain.total_seconds + done.trial.objective_seconds)
    assert done.trial.objective_seconds > 0
    assert done.weights == trained.weights  # the checkpoint is the trained one


@pytest.mark.slow
def test_the_deep_examination_is_of_the_score_that_is_judged(arena, trained):
    asked = []
    wish = DeepWish(lambda score: bool(asked.append(score)) or True, noise_bpb=0.01)
    done = under(Rounded(), arena, trained, deep=wish)
    assert asked == [done.trial.objective_bpb]
    assert done.trial.examined is Examination.DEEP
    assert done.trial.leak_bound_bpb > 0
    order = Order({}, ENTRY, 3, deep=wish)
    assert not trained_for(order).deep.wanted(0.9)  # the trial's own score is judged by nobody


def test_weights_that_cannot_be_transformed_are_the_candidates_failure(arena, trained):
    class Refusing:
        name = "bpb@4bit"

        def transform(self, weights: bytes) -> bytes:
            raise UnfitWeights("counts holds weights that are no finite numbers")

    done = under(Refusing(), arena, trained)
    assert (done.trial.outcome, done.trial.score, done.trial.val_bpb, done.weights) == (
        Outcome.REJECTED,
        None,
        None,
        None,
    )
    assert done.trial.reason == "bpb@4bit: counts holds weights that are no finite numbers"


def test_a_trial_without_a_score_is_not_transformed(arena, trained):
    failed = dataclasses.replace(
        trained, trial=dataclasses.replace(trained.trial, outcome=Outcome.CRASHED, val_bpb=None), weights=None
    )
    done = under(object.__new__(Rounded), arena, failed)
    assert (done.trial.outcome, done.trial.score, done.trial.objective_seconds) == (Outcome.CRASHED, None, 0.0)
