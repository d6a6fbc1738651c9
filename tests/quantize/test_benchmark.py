"""The benchmark: cells that survive a kill, and what is made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import TOKEN_BYTES, ToyCheckpoint, ToyCodec, toy_forms, toy_rows, trained_toy

from autoresearch.quantize.benchmark import FAIR_BASELINE, in_rounds, run_benchmark, summaries
from autoresearch.quantize.cells import Cell, CellStore
from autoresearch.quantize.evaluate import Form
from autoresearch.quantize.scoring import RowBits, module_score


class Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


@pytest.fixture(scope="module")
def toy():
    model = trained_toy()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return ToyCheckpoint(weights), module_score(model, toy_rows(), TOKEN_BYTES)


def forms_counted():
    return toy_forms((2, 4), seeds=(0, 1, 2))


def encodings(forms):
    return sum(len(form.codec.calls) for form in forms)


def test_every_form_of_the_first_seed_comes_before_any_of_the_second():
    order = [(form.bits, form.seed) for form in in_rounds(forms_counted())]
    assert order == [(2, 0), (4, 0), (2, 1), (4, 1), (2, 2), (4, 2)]


def test_a_killed_benchmark_goes_on_and_measures_no_cell_twice(toy, tmp_path):
    checkpoint, score = toy
    store = CellStore(tmp_path, {"checkpoint": "a"})
    first = forms_counted()

    def until_the_fourth(_before, cells):
        if len(cells) == 4:
            raise Killed

    with pytest.raises(Killed):
        run_benchmark(checkpoint, first, score, store, on_cells=until_the_fourth)
    again = forms_counted()
    before, found = run_benchmark(checkpoint, again, score, store)
    assert (encodings(first), encodings(again), len(found)) == (4, 2, 6)
    whole = CellStore(tmp_path / "whole", {"checkpoint": "a"})
    undisturbed, unbroken = run_benchmark(checkpoint, forms_counted(), score, whole)
    np.testing.assert_array_equal(before.bits, undisturbed.bits)
    for one, other in zip(found, unbroken, strict=True):
        assert (one.method, one.bits, one.seed, one.distortion) == (
            other.method,
            other.bits,
            other.seed,
            other.distortion,
        )
        np.testing.assert_array_equal(one.bits_of_rows, other.bits_of_rows)


def test_cells_of_another_checkpoint_are_not_taken_for_this_ones(toy, tmp_path):
    checkpoint, score = toy
    run_benchmark(checkpoint, forms_counted(), score, CellStore(tmp_path, {"checkpoint": "a"}))
    others = forms_counted()
    run_benchmark(checkpoint, others, score, CellStore(tmp_path, {"checkpoint": "b"}))
    assert encodings(others) == 6


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cell": {"method": "toy"}}', '{"cell": 3}'])
def test_a_cell_that_cannot_be_read_is_measured_again(toy, tmp_path, content):
    checkpoint, score = toy
    store = CellStore(tmp_path, {})
    (form,) = toy_forms((4,))
    run_benchmark(checkpoint, [form], score, store)
    store.path(form).write_text(content)
    (again,) = toy_forms((4,))
    _, (cell,) = run_benchmark(checkpoint, [again], score, store)
    assert again.codec.calls and store.find(form).file_bytes == cell.file_bytes


def test_calibration_is_asked_for_once_and_only_when_a_cell_that_needs_it_is_missing(toy, tmp_path):
    checkpoint, score = toy
    asked = []

    def hessians():
        asked.append(1)
        return {"head.weight": torch.eye(64)}

    def forms():
        return [Form("toy_ldlq", bits, 0, ToyCodec(bits), needs_hessians=True) for bits in (2, 4)]

    store = CellStore(tmp_path, {})
    run_benchmark(checkpoint, forms(), score, store, hessians=hessians)
    run_benchmark(checkpoint, forms(), score, store, hessians=hessians)
    assert len(asked) == 1


def test_a_check_that_refuses_the_checkpoints_score_keeps_nothing(toy, tmp_path):
    checkpoint, score = toy

    def refuse(_score):
        raise Killed

    with pytest.raises(Killed):
        run_benchmark(checkpoint, toy_forms(), score, CellStore(tmp_path, {}), check_before=refuse)
    assert not list(tmp_path.iterdir())


def cell(method, rows, seed=0, bits=3.0, distortion=0.03):
    found = None if rows is None else np.array(rows, dtype=float)
    return Cell(method, bits, seed, 1000, 2000, 1800, 3.125, distortion, 0.98, 0.97, 0.5, 0.25, 1.0, 100.0, found)


BEFORE = RowBits(np.array([10.0, 20.0, 30.0]), np.array([10, 10, 10]))


def test_a_summary_keeps_the_doubt_about_the_rotation_apart_from_that_about_the_text():
    rows = [[11.0, 21.0, 31.0], [12.0, 22.0, 32.0], [13.0, 23.0, 33.0]]
    (found,) = summaries(BEFORE, [cell("turboquant", row, seed) for seed, row in enumerate(rows)])
    assert found.num_seeds == 3 and found.loss.value == pytest.approx(0.2)
    assert found.over_rows.half_width == pytest.approx(0.0, abs=1e-12)  # every row loses alike
    assert found.over_seeds.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert found.loss.half_width == pytest.approx(found.over_seeds.half_width)


def test_a_method_without_randomness_has_no_interval_over_seeds():
    (found,) = summaries(BEFORE, [cell(FAIR_BASELINE, [11.0, 21.0, 32.0])])
    assert found.over_seeds.low is None and found.loss.half_width == found.over_rows.half_width > 0
    assert found.against_fair is None


def test_methods_are_set_against_the_fair_baseline_row_by_row():
    fair, ours = cell(FAIR_BASELINE, [12.0, 22.0, 32.0]), cell("turboquant", [11.5, 21.5, 31.5])
    _, found = summaries(BEFORE, [fair, ours])
    assert found.against_fair.value == pytest.approx(-0.05)
    assert found.against_fair.half_width == pytest.approx(0.0, abs=1e-12)
    (alone,) = summaries(BEFORE, [ours])
    assert alone.against_fair is None


def test_one_seed_without_a_score_leaves_the_method_without_a_loss():
    (found,) = summaries(BEFORE, [cell("turboquant", [11.0, 21.0, 31.0]), cell("turboquant", None, seed=1)])
    assert found.loss is None and found.num_seeds == 2


def test_the_distance_to_theory_and_to_the_bound_counts_the_stored_bits():
    (found,) = summaries(BEFORE, [cell("turboquant", [11.0, 21.0, 31.0], distortion=0.0345478)])
    assert found.theory_distortion == pytest.approx(found.distortion.value)
    assert found.bits_above_bound == pytest.approx(3.125 + math.log2(0.0345478) / 2)
    assert found.encode_gb_s == pytest.approx(4e-9 * 1800 / 0.5)
