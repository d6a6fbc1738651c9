"""The process that waits for the next order: at most one, fresh for each order, and never left behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from autoresearch.loop import spare as spare_module
from autoresearch.loop.spare import Spare, start_candidate

TORCH = "import torch\nimport numpy as np\n"


class FakeCandidate:
    """What a spare needs of a candidate: whether it lives, and its end."""

    def __init__(self, **options):
        self.options = options
        self.code = None
        self.closed = 0
        self.tree = SimpleNamespace(poll=lambda: self.code)

    def close(self):
        self.closed += 1


@pytest.fixture
def started(monkeypatch):
    """Every candidate that was started, in order."""
    found = []

    def start(**options):
        found.append(FakeCandidate(**options))
        return found[-1]

    monkeypatch.setattr(spare_module, "Candidate", start)
    return found


ARENA = SimpleNamespace(seal="a seal", accelerators=True, threads=3, warm_cache="a folder", blas=None)


def test_a_candidate_is_started_with_all_that_the_arena_says(started):
    start_candidate(ARENA, ["numpy"])
    assert started[0].options == {
        "seal": "a seal",
        "accelerators": True,
        "threads": 3,
        "preload": ["numpy"],
        "warm_cache": "a folder",
        "blas": None,
    }


def test_none_is_started_while_none_is_to_be_kept(started):
    spare = Spare(ARENA)
    spare.start(TORCH)
    assert started == []
    assert spare.take() is None


def test_one_waits_with_the_imports_of_the_experiment_and_is_given_once(started):
    spare = Spare(ARENA)
    spare.keeps = True
    spare.start(TORCH)
    spare.start(TORCH)
    assert len(started) == 1
    assert started[0].options["preload"] == ["numpy", "torch"]
    assert spare.take() is started[0]
    assert spare.take() is None
    assert started[0].closed == 0


def test_an_experiment_on_mlx_has_its_core_preloaded_and_no_torch(started):
    spare = Spare(ARENA)
    spare.keeps = True
    spare.start("import mlx.core as mx\nimport mlx.nn as nn\n")
    assert started[0].options["preload"] == ["mlx.core"]


def test_one_that_died_while_it_waited_is_not_given(started):
    spare = Spare(ARENA)
    spare.keeps = True
    spare.start("")
    started[0].code = 1
    assert spare.take() is None
    assert started[0].closed == 1


def test_a_fresh_one_is_the_one_that_waits_and_the_next_is_started_beside_it(started):
    spare = Spare(ARENA)
    spare.keeps = True
    spare.start(TORCH)
    fresh = spare.fresh(TORCH)
    assert fresh is started[0]
    assert len(started) == 2
    assert spare.take() is started[1]


def test_a_fresh_one_is_started_where_none_waits(started):
    spare = Spare(ARENA)
    fresh = spare.fresh(TORCH)
    assert started == [fresh]
    assert fresh.options["preload"] == ["numpy", "torch"]
    assert spare.fresh("") is started[1], "no process is given twice"


def test_closing_ends_the_one_that_waits_and_keeps_none(started):
    spare = Spare(ARENA)
    spare.keeps = True
    spare.start("")
    spare.close()
    spare.close()
    spare.start("")
    assert [candidate.closed for candidate in started] == [1]
