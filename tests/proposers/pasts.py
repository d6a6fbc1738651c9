"""Past experiments for tests of what a model is told."""

from __future__ import annotations

from typing import Any

from hostile_words import HOSTILE
from hypothesis import strategies as st

from autoresearch.proposers.situation import MachineFacts, PastExperiment, Situation
from autoresearch.vocabulary import Outcome, Status


def past(number: int, status: Status | None = Status.DISCARD, gain: float | None = None, **more: Any) -> PastExperiment:
    """One experiment; what is not given is empty."""
    given = {"description": f"idea {number}", "files": {}, "details": {}, "val_bpb": None, **more}
    return PastExperiment(number=number, status=status, gain=gain, **given)


FLOATS = st.none() | st.floats(-3, 3) | st.floats()


def pasts(surface: str = "train.py") -> st.SearchStrategy[list[PastExperiment]]:
    """Histories of any course with hostile words in every text."""
    one = st.builds(
        PastExperiment,
        number=st.just(0),
        description=HOSTILE,
        files=st.dictionaries(st.just(surface), HOSTILE),
        details=st.fixed_dictionaries(
            {},
            optional={
                "topic": HOSTILE,
                "mechanism": HOSTILE | st.integers(),
                "lesson": HOSTILE | st.none(),
                "changes": st.none() | st.dictionaries(HOSTILE, st.lists(st.integers(), max_size=3), max_size=2),
            },
        ),
        status=st.none() | st.sampled_from(Status),
        val_bpb=FLOATS,
        gain=FLOATS,
        tag=st.sampled_from(["", "nov21", "other"]),
        base=st.none() | st.integers(0, 20),
        interval=st.none() | st.tuples(st.floats(), st.floats()),
        reason=HOSTILE,
        outcome=st.none() | st.sampled_from(Outcome),
        log_tail=HOSTILE,
    )
    return st.lists(one, max_size=8).map(lambda found: [_numbered(item, at) for at, item in enumerate(found, 1)])


def _numbered(item: PastExperiment, number: int) -> PastExperiment:
    from dataclasses import replace

    return replace(item, number=number)


def situations(source: str, surface: str = "train.py") -> st.SearchStrategy[Situation]:
    return st.builds(
        Situation,
        incumbent=st.just({surface: source}),
        history=pasts(surface),
        elsewhere=pasts(surface),
        tag=st.just("nov21"),
        incumbent_number=st.integers(0, 20),
        val_bpb=FLOATS,
        val_bpb_error=FLOATS,
        noise=FLOATS,
        baseline_val_bpb=FLOATS,
        machine=st.builds(MachineFacts, chip=HOSTILE, budget=st.just("20 CPU seconds")),
    )
