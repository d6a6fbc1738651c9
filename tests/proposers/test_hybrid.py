import json
import math
import re
from dataclasses import replace

import pytest
from fake_chain import FakeChain, block, setting
from histories import SOURCE, past, situation
from patience import PATIENCE
from scripted_models import ScriptedModels, reply

from autoresearch.proposers.constants import read_constants, rewrite
from autoresearch.proposers.hybrid import CAPPED, HybridProposer
from autoresearch.proposers.llm import LanguageModelProposer, MindOptions
from autoresearch.proposers.search import SearchProposer
from autoresearch.proposers.situation import PastExperiment, Situation
from autoresearch.proposers.stagnation import is_stagnant
from autoresearch.providers.chain import Caps, open_chain
from autoresearch.vocabulary import (
    Outcome,
    Proposal,
    ProposerExhausted,
    ProviderUnavailable,
    SpendingCapReached,
    Status,
    UsageError,
)

K, D, C = Status.KEEP, Status.DISCARD, Status.CRASH
BEST = {"MATRIX_LR": 0.09, "EMBEDDING_LR": 0.3, "WEIGHT_DECAY": 0.05}


def score(text: str) -> float | None:
    """A synthetic val_bpb: valleys in three constants, and tricks, of which every third is good and every tenth crashes."""
    tricks = [int(number) for number in re.findall(r"TRICK_(\d+) = 1", text)]
    if any(number % 10 == 7 for number in tricks):
        return None
    literals = read_constants(text, "standard").literals
    valleys = sum(0.004 * math.log2(float(literals[name].value) / best) ** 2 for name, best in BEST.items())
    return 1.0 + valleys - 0.01 * sum(number % 3 == 0 for number in tricks)


def draft(number: int) -> str:
    return block("def main():", f"TRICK_{number} = 1\n\n\ndef main():", f"trick {number}")


def model(request, complaint, number):
    """Steps of a decay that is no use, and tricks where structure is asked for: a function of what is asked."""
    if request.purpose in ("improve", "numbers", "simplify", "merge"):
        return setting("WEIGHT_DECAY", round(0.3 + 0.01 * number, 3))
    return draft(number)


def judged(proposal, number, incumbent_score, incumbent_number):
    text = proposal.files["train.py"]
    found = score(text)
    gain = incumbent_score - found if found is not None else None
    status = C if gain is None else K if gain > 1e-6 else D
    return PastExperiment(
        number=number,
        description=proposal.description,
        files=proposal.files,
        details=json.loads(json.dumps(proposal.details)),
        status=status,
        val_bpb=found,
        gain=gain,
        proposer=proposal.proposer,
        base=incumbent_number,
        p_better=0.99 if gain and gain > 0 else 0.2,
        outcome=Outcome.CRASHED if status is C else Outcome.FINISHED,
        seconds=PATIENCE,
    )


def play(proposer, num, history=()):
    """A session of `num` experiments, or the rest of one."""
    history = list(history)
    while len(history) < num:
        kept = [found for found in history if found.status is K]
        incumbent = kept[-1].files["train.py"] if kept else SOURCE
        number = kept[-1].number if kept else 0
        here = Situation({"train.py": incumbent}, tuple(history), incumbent_number=number, noise=0.001)
        history.append(judged(proposer.propose(here), len(history) + 1, score(incumbent), number))
    return history


def make(model=model, *, share=0.3, override=0.25, seed=0, method="tpe", said=None):
    chain = FakeChain(model)
    proposer = HybridProposer(
        SearchProposer("standard", seed=seed, method=method),
        LanguageModelProposer(chain, MindOptions("standard", seed=seed)),
        share=share,
        override=override,
        seed=seed,
        say=(said if said is not None else []).append,
    )
    return proposer, chain


class Sweep:
    """A search that costs nothing: the next of a fixed list of values, whatever came of the last."""

    name = "search:sweep"

    def propose(self, situation):
        text = situation.incumbent["train.py"]
        constants = read_constants(text, "standard")
        tried = {past.files["train.py"] for past in situation.history}
        for factor in (2.0, 0.5, 1.5, 0.75, 3.0, 0.3, 1.2, 0.8, 1.1, 0.9, 1.3, 0.7, 1.7, 0.6):
            for name in BEST:
                old = constants.literals[name].value
                edited = rewrite(text, constants, {name: round(old * factor, 6)})
                if edited not in tried:
                    details = {"changes": {name: [old, round(old * factor, 6)]}, "parameter": name}
                    return Proposal(f"{name} times {factor}", {"train.py": edited}, self.name, details)
        raise ProposerExhausted("the list is at its end")

    def learned(self, situation):
        return "a list of values"


def swept():
    return HybridProposer(Sweep(), LanguageModelProposer(FakeChain(model), MindOptions("standard")))


def of_mind(history):
    return [found for found in history if found.details.get("model")]


@pytest.fixture(scope="module")
def session():
    return play(swept(), 60)


# -- turns --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_share_holds_from_the_first_experiment_on(share, seed):
    proposer, _ = make(share=share, seed=seed)
    turns = [proposer.has_mind(number) for number in range(1, 201)]
    assert all(abs(sum(turns[:n]) - share * n) < 1 for n in range(1, 201))


def test_the_model_may_overrule_on_its_part_of_the_turns_and_never_on_others():
    proposer, _ = make()
    turns = [number for number in range(1, 401) if proposer.has_mind(number)]
    assert abs(sum(proposer.may_overrule(number) for number in turns) - 0.25 * len(turns)) < 1
    never, always = make(override=0.0)[0], make(override=1.0)[0]
    assert not any(never.may_overrule(number) for number in turns)
    assert all(always.may_overrule(number) for number in turns)


def test_seeds_differ_in_whose_turn_it_is():
    assert len({tuple(make(seed=seed)[0].has_mind(number) for number in range(1, 11)) for seed in range(20)}) > 1


# -- a session ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_session_has_both_numbers_and_structure_in_the_set_shares(session):
    asked = of_mind(session)
    assert len(asked) in (17, 18, 19)
    assert {found.proposer for found in session} == {"hybrid/search:sweep", "hybrid/llm"}
    overruled = [found for found in asked if found.details["operator"] == "numbers"]
    assert len(overruled) in (3, 4, 5, 6)
    assert {found.details["operator"] for found in asked} >= {"numbers", "improve", "draft"}


def test_the_session_finds_numbers_and_structure(session):
    kept = [found for found in session if found.status is K]
    assert kept[-1].val_bpb < score(SOURCE) - 0.02
    assert any("TRICK" in found.files["train.py"] for found in kept)
    assert any(found.proposer == "hybrid/search:sweep" for found in kept)


def test_a_resumed_session_goes_on_as_it_would_have(session):
    for begun in (7, 23, 41):
        resumed = play(swept(), begun + 4, session[:begun])
        assert [found.files for found in resumed] == [found.files for found in session[: begun + 4]]
        assert [found.details for found in resumed] == [found.details for found in session[: begun + 4]]


def test_no_program_is_proposed_twice(session):
    assert len({found.files["train.py"] for found in session}) == len(session)


def test_the_search_learns_from_numbers_that_the_model_set():
    """What the model tried counts as a visit: the search does not start there again, and says what came of it."""
    proposer, _ = make(lambda *asked: setting("EMBEDDING_LR", 1.2), share=1.0, override=1.0)
    (tried,) = play(proposer, 1)
    search = SearchProposer("standard")
    assert "EMBEDDING_LR 0.6 -> 1.2" in {plan.description for plan in _first_looks(SearchProposer("standard"))}
    here = situation(tried)
    assert "1.2 gain" in next(line for line in search.learned(here).split("\n") if line.startswith("EMBEDDING_LR"))
    assert "EMBEDDING_LR 0.6 -> 1.2" not in {plan.description for plan in _first_looks(search, [tried])}


def _first_looks(search, history=()):
    """The next proposals of a search, each discarded."""
    history, found = list(history), []
    for _ in range(6):
        found.append(search.propose(situation(*history)))
        number = len(history) + 1
        history.append(judged(found[-1], number, -9.0, 0))
    return found


def test_a_session_with_the_real_search_finds_numbers_and_structure_and_goes_on_when_resumed():
    whole = play(make(share=0.4)[0], 24)
    kept = [found for found in whole if found.status is K]
    assert {found.proposer for found in kept} == {"hybrid/search:tpe", "hybrid/llm"}
    assert kept[-1].val_bpb < score(SOURCE) - 0.01
    resumed = play(make(share=0.4)[0], 21, whole[:18])
    assert [found.files for found in resumed] == [found.files for found in whole[:21]]


@pytest.mark.slow
def test_a_model_alone_turns_to_the_operator_that_pays():
    for paid in ("draft", "improve"):

        def one_pays(request, complaint, number, paid=paid):
            return draft(30 * number + (0 if request.purpose == paid else 1))

        proposer = LanguageModelProposer(FakeChain(one_pays), MindOptions("standard", seed=1))
        late = [found.details["operator"] for found in play(proposer, 44)][22:]
        others = {operator: late.count(operator) for operator in late if operator != paid}
        assert late.count(paid) > 2 * max(others.values(), default=0), (paid, others)


@pytest.mark.slow
def test_a_standstill_turns_a_model_from_small_steps_to_structure():
    def never(request, complaint, number):
        return setting("WEIGHT_DECAY", round(0.3 + 0.01 * number, 3))

    late: list[str] = []
    early: list[str] = []
    for seed in range(3):
        proposer = LanguageModelProposer(FakeChain(never), MindOptions("standard", seed=seed))
        operators = [found.details["operator"] for found in play(proposer, 36)]
        early += operators[:17]
        late += operators[17:]
    assert late.count("improve") / len(late) < 0.6 * early.count("improve") / len(early)


def test_cmaes_takes_the_numbers_of_a_hybrid_too():
    history = play(make(method="cmaes", share=0.2)[0], 12)
    assert {found.proposer for found in history} == {"hybrid/search:cmaes", "hybrid/llm"}


# -- overruling ---------------------------------------------------------------------------------------------------------


def test_the_model_that_may_overrule_is_shown_what_the_search_would_do_next():
    proposer, chain = make(share=1.0, override=1.0)
    planned = SearchProposer("standard").propose(situation())
    proposal = proposer.propose(situation(incumbent_number=0))
    assert planned.description in chain.requests[0].messages[0].text
    assert proposal.details["overrode"] is True


# -- when one of the two is silent --------------------------------------------------------------------------------------


def raising(error):
    def silent(request, complaint, number):
        raise error

    return silent


def test_without_an_answer_the_search_has_the_turn_and_the_row_says_why():
    proposer, _ = make(raising(ProviderUnavailable("no answer from fake:model", hint="--model")), share=1.0)
    proposal = proposer.propose(situation())
    assert proposal.proposer == "hybrid/search:tpe"
    assert proposal.details["fell_back"] == "no answer from fake:model"


def test_unusable_replies_fall_back_too():
    proposal = make("I cannot decide.", share=1.0)[0].propose(situation())
    assert proposal.proposer == "hybrid/search:tpe"
    assert "IDEA" in proposal.details["fell_back"]


def test_a_model_that_only_repeats_itself_makes_a_standstill():
    proposer, _ = make(setting("DEPTH", 9), share=1.0)
    history = [past(1, text=SOURCE.replace("DEPTH = 8", "DEPTH = 9"), gain=-0.1)]
    for number in range(2, 6):
        proposal = proposer.propose(situation(*history))
        assert "tried as experiment 1" in proposal.details["fell_back"]
        history.append(past(number, text=proposal.files["train.py"], operator=None, details=proposal.details))
    assert is_stagnant(situation(*history))
    assert not is_stagnant(situation(*history[:4]))


def test_after_the_cap_the_model_is_not_asked_again_and_it_is_said_once():
    said: list[str] = []
    proposer, chain = make(raising(SpendingCapReached("0.99 of 1.00 USD spent", hint="--usd 2")), share=1.0, said=said)
    history = play(proposer, 5)
    assert len(chain.requests) == 1
    assert [found.details["fell_back"] for found in history] == [CAPPED] * 5
    assert len(said) == 1 and "0.99 of 1.00 USD" in said[0]


class Silent:
    name = "search:none"

    def __init__(self, error):
        self.error = error

    def propose(self, situation):
        raise self.error

    def learned(self, situation):
        raise self.error


@pytest.mark.parametrize("error", [ProposerExhausted("all tried"), UsageError("train.py has no constants")])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_numbers_the_model_proposes_alone(error, share):
    mind = LanguageModelProposer(FakeChain(model), MindOptions("standard"))
    proposal = HybridProposer(Silent(error), mind, share=share, override=1.0).propose(situation())
    assert proposal.proposer == "hybrid/llm"
    assert proposal.details.get("fell_back", error.message) == error.message


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_when_neither_has_an_idea_the_session_hears_the_reason_of_the_search(share):
    mind = LanguageModelProposer(FakeChain("nothing"), MindOptions("standard"))
    with pytest.raises(ProposerExhausted, match="all tried"):
        HybridProposer(Silent(ProposerExhausted("all tried")), mind, share=share).propose(situation())


def test_a_crash_of_the_model_is_mended_in_its_next_turn():
    crash = past(1, C, outcome=Outcome.CRASHED, operator="draft", text=SOURCE.replace("x * 2", "x * width"))
    proposer, chain = make(lambda *asked: block("    y = x * width", "    y = x * 5"), share=1.0, override=0.0)
    proposal = proposer.propose(situation(crash, past(2, operator=None)))
    assert proposal.details["mends"] == 1
    assert replace(proposal, details={}).files["train.py"] == SOURCE.replace("x * 2", "x * 5")
    assert chain.requests[0].purpose == "fix"


# -- with the real chain and a server -----------------------------------------------------------------------------------


def served(received):
    """What a model says that sees only the prompt: some new number each time."""
    return reply(setting("WEIGHT_DECAY", round(0.3 + 0.001 * len(received.prompt) % 0.9, 6)), input_tokens=4000)


@pytest.mark.slow
def test_a_hybrid_session_over_the_wire_records_what_each_idea_cost(tmp_path):
    with ScriptedModels(served) as server, wired_chain(server, tmp_path) as chain:
        mind = LanguageModelProposer(chain, MindOptions("standard"))
        history = play(HybridProposer(Sweep(), mind, share=0.5), 12)
        spent = chain.spending()
    asked = of_mind(history)
    assert len(asked) == 6 and {found.details["model"] for found in asked} == {"openai:small"}
    assert sum(found.details["calls"] for found in asked) == len(server.requests) == spent.calls
    assert sum(found.details["tokens"] for found in asked) == spent.tokens


def test_a_hybrid_whose_tokens_run_out_goes_on_with_the_search(tmp_path):
    said: list[str] = []
    with ScriptedModels(served) as server, wired_chain(server, tmp_path, Caps(tokens=20_000)) as chain:
        mind = LanguageModelProposer(chain, MindOptions("standard", reply_tokens=1024))
        history = play(HybridProposer(Sweep(), mind, share=1.0, say=said.append), 12)
        assert chain.spending().tokens <= 20_000
    first = next(index for index, found in enumerate(history) if found.proposer == "hybrid/search:sweep")
    assert first > 0 and len(said) == 1
    assert {found.details.get("fell_back") for found in history[first:]} == {CAPPED}


def wired_chain(server, folder, caps=None):
    return open_chain(
        server.openai("small"),
        state_dir=folder,
        tag="t",
        caps=caps or Caps(),
        seconds=PATIENCE,
        environment={},
        wait=lambda seconds: False,
        say=lambda line: None,
        keyring=lambda name: None,
    )
