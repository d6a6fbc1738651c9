from types import SimpleNamespace

import pytest
from fake_chain import FakeChain, setting
from histories import SOURCE, situation

from autoresearch.proposers.registry import (
    ProposerOptions,
    check_proposer,
    known_proposers,
    make_proposer,
    needs_model,
)
from autoresearch.proposers.situation import Situation
from autoresearch.vocabulary import Proposal, UsageError

TINY = ProposerOptions("tiny", seed=1)


@pytest.mark.parametrize(
    ("name", "method"),
    [("search", "tpe"), ("search:tpe", "tpe"), ("search:cmaes", "cmaes"), ("search:random", "random")],
)
def test_each_known_search_makes_a_proposer_that_proposes(name, method):
    proposal = make_proposer(name, TINY).propose(Situation({"train.py": "MATRIX_LR = 0.04\nSCALAR_LR = 0.5\n"}, []))
    assert isinstance(proposal, Proposal)
    assert proposal.proposer == f"search:{method}"
    assert name in known_proposers()


@pytest.mark.parametrize("name", ["llm", "hybrid", "hybrid:tpe", "hybrid:cmaes"])
def test_a_proposer_with_a_mind_asks_the_chain_that_it_was_given(name):
    chain = FakeChain(setting("MATRIX_LR", 0.05))
    proposer = make_proposer(name, ProposerOptions("standard", chain=chain, share=1.0, override=0.0))
    assert proposer.propose(situation()).files == {"train.py": SOURCE.replace("0.04", "0.05")}
    assert proposer.name == name
    assert len(chain.requests) == 1
    assert name in known_proposers()


@pytest.mark.parametrize("name", ["llm", "hybrid", "hybrid:tpe", "hybrid:cmaes"])
def test_a_mind_without_a_model_is_refused_with_the_way_to_name_one(name):
    assert needs_model(name)
    with pytest.raises(UsageError) as caught:
        make_proposer(name, TINY)
    assert caught.value.hint == "autoresearch research TAG --model openai:gpt-5"


@pytest.mark.parametrize("name", ["search", "search:cmaes", "cli:claude", "cli:llm --x"])
def test_others_need_no_model(name):
    assert not needs_model(name)
    check_proposer(name)


@pytest.mark.parametrize(
    "name", ["", "serach", "search:", "search:grid", "cli:", "cli: ", "llm:gpt-5", "hybrid:", "hybrid:random"]
)
def test_an_unknown_proposer_is_refused_and_the_known_ones_are_named(name):
    for refuse in (lambda: make_proposer(name, TINY), lambda: check_proposer(name)):
        with pytest.raises(UsageError) as caught:
            refuse()
        assert all(known in str(caught.value) for known in known_proposers())
        assert caught.value.hint


def test_an_unknown_preset_is_refused_when_the_proposer_is_made():
    with pytest.raises(UsageError, match="standard"):
        make_proposer("search", ProposerOptions("huge"))


def test_the_surface_to_edit_can_be_another_file():
    proposer = make_proposer("search", ProposerOptions("tiny", surface="train_mlx.py"))
    files = {"train_mlx.py": "MATRIX_LR = 0.04\n", "train.py": "MATRIX_LR = 0.04\n"}
    proposed = proposer.propose(Situation(files, [])).files
    assert [name for name in files if proposed[name] != files[name]] == ["train_mlx.py"]


def test_limits_and_file_reach_the_model_that_is_asked():
    chain = FakeChain(setting("MATRIX_LR", 0.05))
    options = ProposerOptions("standard", chain=chain, surface="train_mlx.py", prompt_tokens=3000, reply_tokens=800)
    proposal = make_proposer("llm", options).propose(Situation({"train_mlx.py": SOURCE}))
    assert set(proposal.files) == {"train_mlx.py"}
    assert chain.requests[0].max_tokens == 800


def test_share_and_override_reach_the_hybrid():
    chain = FakeChain(setting("MATRIX_LR", 0.05))
    silent = make_proposer("hybrid", ProposerOptions("standard", chain=chain, share=0.0))
    assert silent.propose(situation()).proposer == "hybrid/search:tpe"
    numbers = make_proposer("hybrid", ProposerOptions("standard", chain=chain, share=1.0, override=1.0))
    assert numbers.propose(situation()).details["operator"] == "numbers"


def test_an_agent_is_made_from_what_follows_the_colon_and_its_own_options(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "autoresearch.proposers.agents.make_agent", lambda name, options: asked.append((name, options)) or "agent"
    )
    options = SimpleNamespace(turns=3)
    command = "cli:my-agent --url http://localhost:1 {folder}"
    assert make_proposer(command, ProposerOptions("tiny", agent=options)) == "agent"
    assert asked == [("my-agent --url http://localhost:1 {folder}", options)]


def test_an_agent_without_a_workspace_is_refused():
    with pytest.raises(UsageError, match="workspace"):
        make_proposer("cli:claude", TINY)
