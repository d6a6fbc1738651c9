"""Groups and rotations: orthogonal for every number of columns, the same everywhere, and they spread outliers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.quantize.codebooks import lloyd_max
from autoresearch.quantize.rotation import Layout, Rotation, gaussian_matrix, signs


def rows(count: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(cols=st.integers(1, 700), group=st.integers(1, 300))
def test_the_groups_cover_every_column_once_and_none_is_short(cols, group):
    layout = Layout(cols, group)
    spans = list(layout.spans())
    assert sum((groups.stop - groups.start) * d for _, groups, d in spans) == cols
    assert [columns.start for columns, _, _ in spans] == [0, *[columns.stop for columns, _, _ in spans[:-1]]]
    assert sum(groups.stop - groups.start for _, groups, _ in spans) == layout.num_groups
    assert all(d >= min(cols, (group + 1) // 2) for _, _, d in spans)
    assert len(layout.group_of_column()) == cols
    assert layout.group_of_column().count(layout.num_groups - 1) == layout.last


@settings(max_examples=40, deadline=None)
@given(cols=st.integers(1, 700), group=st.integers(1, 300), seed=st.integers(0, 3))
def test_a_rotation_keeps_lengths_and_can_be_undone(cols, group, seed):
    rotation = Rotation(Layout(cols, group), "layers.0", seed)
    x = rows(3, cols)
    y = rotation.forward(x)
    assert y.shape == x.shape  # nothing is padded
    assert y.norm(dim=1).tolist() == pytest.approx(x.norm(dim=1).tolist())
    assert torch.allclose(rotation.inverse(y), x, atol=1e-5)


@pytest.mark.parametrize("cols", [64, 96, 100, 128, 512, 1000])
def test_a_single_outlier_becomes_as_easy_as_a_gaussian(cols):
    """Without rotation the outlier takes the whole norm, and every other weight of its row is lost."""
    x = 0.01 * rows(400, cols).float()
    x[:, 7] = 5.0
    y = Rotation(Layout(cols, cols), "spiky", 1).forward(x)
    t = y / y.square().mean(dim=1, keepdim=True).sqrt()
    assert t.abs().max() < 6  # of sqrt(cols) before
    book = lloyd_max(4, cols)
    nearest = torch.tensor(book.levels)[torch.bucketize(t.double(), torch.tensor(book.thresholds))]
    assert ((t - nearest).square().mean()) < 2 * book.distortion


def test_names_and_seeds_draw_different_signs():
    a, b, c = (signs(*key, 256) for key in (("a", 0), ("b", 0), ("a", 1)))
    assert 80 < int((a != b).sum()) < 176
    assert 80 < int((a != c).sum()) < 176
    assert set(a.tolist()) == {-1.0, 1.0}


def test_the_signs_of_a_name_are_part_of_the_file_format():
    """Written by this program once; a file stores the seed alone."""
    assert signs("layers.0.attn.c_q.weight", 0, 16).tolist() == GOLDEN_SIGNS


def test_the_hessian_turns_with_the_weights():
    rotation = Rotation(Layout(96, 64), "w", 0)
    w, x = rows(5, 96), rows(200, 96, seed=1)
    hessian = x.T @ x
    before = torch.trace(w @ hessian @ w.T)
    turned = rotation.forward(w)
    assert torch.trace(turned @ rotation.conjugate(hessian) @ turned.T) == pytest.approx(float(before), rel=1e-5)
    assert torch.allclose(
        rotation.conjugate(hessian), rotation.forward(x).T @ rotation.forward(x), rtol=1e-4, atol=1e-2
    )


def test_the_projection_of_qjl_is_gaussian_and_drawn_from_the_seed():
    s = gaussian_matrix(128, 0)
    assert float(s.mean()) == pytest.approx(0, abs=0.03)
    assert float(s.std()) == pytest.approx(1, abs=0.03)
    assert not torch.equal(s, gaussian_matrix(128, 1))


GOLDEN_SIGNS = [-1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0, 1.0, -1.0]
