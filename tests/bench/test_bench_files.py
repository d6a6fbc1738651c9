"""An experiment file before it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.bench.experiment_file import NAMES, SETTINGS, check_wanted, other_constants, read_experiment
from autoresearch.vocabulary import UsageError

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
FOREIGN = "from prepare import make_dataloader, Tokenizer\n"


def written(tmp_path, text: str) -> Path:
    path = tmp_path / "train.py"
    path.write_text(text)
    return path


def test_the_shipped_file_has_all_our_names():
    file = read_experiment(TRAIN)
    assert file.is_named
    assert {"MAX_SEQ_LEN", "make_dataloader", "evaluate_bpb"} <= file.wanted


def test_a_foreign_file_is_accepted_and_said_to_lack_them(tmp_path):
    file = read_experiment(written(tmp_path, FOREIGN))
    assert file.missing == (*NAMES, SETTINGS[0])


def test_a_module_that_imports_prepare_whole_is_read_by_its_attributes(tmp_path):
    file = read_experiment(written(tmp_path, "import prepare as p\nloader = p.make_dataloader(p.Tokenizer, 1, 2)\n"))
    assert file.wanted == {"make_dataloader", "Tokenizer"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FOREIGN + "def f(:\n", "line 2"),
        ("import torch\n", "takes no make_dataloader from prepare"),
        (FOREIGN + "\0", "no Python file|null byte"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_runs(tmp_path, text, said):
    with pytest.raises(UsageError, match=said) as told:
        read_experiment(written(tmp_path, text))
    assert told.value.hint


def test_a_missing_file_is_told_with_what_to_type(tmp_path):
    with pytest.raises(UsageError, match="no file") as told:
        read_experiment(tmp_path / "absent.py")
    assert told.value.hint.startswith("autoresearch bench")


def test_a_name_that_no_trial_offers_is_told_with_those_that_it_does(tmp_path):
    file = read_experiment(written(tmp_path, FOREIGN + "from prepare import EVAL_TOKENS\n"))
    with pytest.raises(UsageError, match=r"takes EVAL_TOKENS from prepare, which offers Tokenizer, make_dataloader"):
        check_wanted(file, {"make_dataloader": 1, "Tokenizer": 2})


def test_a_prepare_with_other_constants_beside_it_is_noticed(tmp_path):
    file = read_experiment(written(tmp_path, FOREIGN))
    served = {"MAX_SEQ_LEN": 256, "TIME_BUDGET": 20.0}
    assert other_constants(file, served) == []
    (tmp_path / "prepare.py").write_text("MAX_SEQ_LEN = 2048\nTIME_BUDGET = 20\n")
    (note,) = other_constants(file, served)
    assert "MAX_SEQ_LEN = 2048" in note and "256" in note
    (tmp_path / "prepare.py").write_text("MAX_SEQ_LEN = (\n")
    assert other_constants(file, served) == []
