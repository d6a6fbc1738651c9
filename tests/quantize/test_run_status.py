"""quant_status.txt and bench_status.txt."""

from __future__ import annotations

import re

import pytest

from autoresearch.quantize.run_status import RunStatus
from autoresearch.records.run_report import read_status
from autoresearch.vocabulary import DataMissing


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "quant_status.txt"


def test_the_file_has_the_keys_that_every_status_file_has_and_then_its_own(path):
    RunStatus([path]).tell("quantizing", 0.25, "turboquant 3 bit: quantizing", form="turboquant 3 bit")
    text = re.sub(r"(updated_at|pid)=.*", r"\1=…", path.read_text())
    assert text == (
        "phase=quantizing\nprogress=0.25\nupdated_at=…\npid=…\n"
        "message=turboquant 3 bit: quantizing\nform=turboquant 3 bit\n"
    )


def test_within_a_phase_the_file_follows_once_a_second_and_a_new_phase_at_once(path):
    clock = Clock()
    status = RunStatus([path], clock=clock)
    status.tell("scoring", 0.1, "a")
    status.tell("scoring", 0.2, "b")
    assert read_status(path)["message"] == "a"
    clock.now = 1.0
    status.tell("scoring", 0.3, "c")
    assert read_status(path)["message"] == "c"
    status.tell("quantizing", 0.4, "d")
    assert read_status(path)["message"] == "d"


def test_progress_never_falls(path):
    told = []
    status = RunStatus([path], watch=lambda *what: told.append(what))
    status.tell("scoring", 0.5, "a")
    status.tell("quantizing", 0.2, "b")
    status.tell("quantizing", 7.0, "c")
    assert [progress for _, progress, _ in told] == [0.5, 0.5, 1.0]


def test_a_run_that_ends_well_says_so_and_one_that_does_not_says_why(path):
    with RunStatus([path]) as status:
        status.tell("scoring", 0.5, "half")
    assert (read_status(path)["phase"], read_status(path)["progress"]) == ("ended", "1")
    with pytest.raises(DataMissing), RunStatus([path]) as status:
        status.tell("scoring", 0.5, "half")
        raise DataMissing("nothing prepared\nhere", hint="autoresearch prepare")
    found = read_status(path)
    assert (found["phase"], found["progress"]) == ("failed", "0.5")
    assert "nothing prepared" in found["message"]
    with pytest.raises(KeyboardInterrupt), RunStatus([path]):
        raise KeyboardInterrupt
    assert read_status(path)["message"] == "KeyboardInterrupt"
