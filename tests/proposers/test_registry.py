import pytest

from autoresearch.proposers.registry import known_proposers, make_proposer
from autoresearch.proposers.situation import Situation
from autoresearch.vocabulary import Proposal, UsageError


@pytest.mark.parametrize(
    ("name", "method"),
    [("search", "tpe"), ("search:tpe", "tpe"), ("search:cmaes", "cmaes"), ("search:random", "random")],
)
def test_each_known_name_makes_a_proposer_that_proposes(name, method):
    proposal = make_proposer(name, preset="tiny", seed=1).propose(
        Situation({"train.py": "MATRIX_LR = 0.04\nSCALAR_LR = 0.5\n"}, [])
    )
    assert isinstance(proposal, Proposal)
    assert proposal.proposer == f"search:{method}"
    assert name in known_proposers()


@pytest.mark.parametrize("name", ["", "serach", "search:", "search:grid", "cli:"])
def test_an_unknown_proposer_is_refused_and_the_known_ones_are_named(name):
    with pytest.raises(UsageError) as caught:
        make_proposer(name, preset="tiny")
    assert all(known in str(caught.value) for known in known_proposers())
    assert caught.value.hint


def test_an_unknown_preset_is_refused_when_the_proposer_is_made():
    with pytest.raises(UsageError, match="standard"):
        make_proposer("search", preset="huge")


def test_the_surface_to_edit_can_be_another_file():
    proposer = make_proposer("search", preset="tiny", surface="train_mlx.py")
    assert set(proposer.propose(Situation({"train_mlx.py": "MATRIX_LR = 0.04\n", "train.py": "x = 1"}, [])).files) == {
        "train_mlx.py"
    }
