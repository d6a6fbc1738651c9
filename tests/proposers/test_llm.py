import json
import re
from contextlib import contextmanager

import pytest
from fake_chain import FakeChain, block, setting
from histories import SOURCE, past, situation
from patience import PATIENCE
from scripted_models import ScriptedModels, reply, status

from autoresearch.proposers.llm import LanguageModelProposer, MindOptions, rooms
from autoresearch.proposers.llm import constant_changes as changes_of_files
from autoresearch.proposers.situation import Situation
from autoresearch.providers.chain import Caps, open_chain
from autoresearch.providers.tokens import estimated_input
from autoresearch.vocabulary import (
    Outcome,
    Proposal,
    ProviderUnavailable,
    SpendingCapReached,
    Status,
    UsageError,
)

K, D, C = Status.KEEP, Status.DISCARD, Status.CRASH
BLOCK = block("    y = x * 2", "    y = x * 3")
TRIPLED = SOURCE.replace("y = x * 2", "y = x * 3")


def mind(model, *, preset="standard", seed=0, context_tokens=None, **options):
    chain = FakeChain(model, context_tokens)
    return LanguageModelProposer(chain, MindOptions(preset=preset, seed=seed, **options)), chain


def constant_changes(before, after, preset):
    return changes_of_files({"train.py": before}, {"train.py": after}, preset)


def answers(*texts):
    """A model that says these one after the other, and the last for ever."""
    left = list(texts)
    return lambda request, complaint, number: left.pop(0) if len(left) > 1 else left[0]


def test_an_idea_becomes_a_proposal_that_says_who_had_it_and_what_it_cost():
    proposer, chain = mind(BLOCK)
    proposal = proposer.propose(situation())
    assert proposal.files == {"train.py": TRIPLED}
    assert (proposal.description, proposal.proposer) == ("another structure", "llm")
    expected = {
        "operator": chain.requests[0].purpose,
        "topic": "structure",
        "mechanism": "it may",
        "lesson": "nothing else helped",
        "expected": 0.002,
        "model": "fake:model",
        "usd": 0.002,
        "tokens": 1000,
        "calls": 1,
        "repeats": 0,
        "fixes": 0,
        "partners": [],
        "changes": {},
        "moved": {},
    }
    assert proposal.details == expected
    assert json.loads(json.dumps(proposal.details)) == expected


def test_a_changed_constant_is_told_as_the_search_tells_it():
    proposal = mind(setting("MATRIX_LR", 0.05))[0].propose(situation())
    assert proposal.details["changes"] == {"MATRIX_LR": [0.04, 0.05]}
    assert proposal.details["parameter"] == "MATRIX_LR"


def test_constants_that_move_with_code_are_not_told_as_an_effect_of_constants():
    moved = TRIPLED.replace("MATRIX_LR = 0.04", "MATRIX_LR = 0.05")
    assert constant_changes(SOURCE, moved, "standard") == {"changes": {}, "moved": {"MATRIX_LR": [0.04, 0.05]}}


def test_an_element_of_a_tuple_and_the_entry_in_force_are_told():
    after = SOURCE.replace("(0.8, 0.95)", "(0.8, 0.9)").replace('"DEPTH": 2', '"DEPTH": 3')
    assert constant_changes(SOURCE, after, "tiny")["changes"] == {
        "ADAM_BETAS": [[0.8, 0.95], [0.8, 0.9]],
        "DEPTH": [2, 3],
    }
    only = SOURCE.replace("(0.8, 0.95)", "(0.8, 0.9)")
    assert constant_changes(SOURCE, only, "tiny")["parameter"] == "ADAM_BETAS[1]"


def test_an_override_of_another_preset_is_no_change_of_constants_in_force():
    after = SOURCE.replace('"DEPTH": 2', '"DEPTH": 3')
    assert constant_changes(SOURCE, after, "standard") == {"changes": {}, "moved": {}}


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (block("    y = x * 2", "    y = x * 2  # two"), "as it is|same"),
        (block("from prepare import PRESET, SEED", "from prepare import PRESET, SEED\nTRAIN_SEED = 7"), "seed"),
        (block("    y = x * 2", "    y = (x * 2"), "valid Python"),
        (block("    y = x * 9", "    y = x"), "(?i)search|block"),
        ("I would try a larger model.", "IDEA"),
    ],
    ids=["comment", "seed", "syntax", "not in the file", "prose"],
)
def test_what_is_no_new_idea_goes_back_to_the_model_with_the_reason(bad, complaint):
    proposer, chain = mind(answers(bad, BLOCK))
    assert proposer.propose(situation()).files == {"train.py": TRIPLED}
    assert len(chain.complaints) == 1
    assert re.search(complaint, chain.complaints[0])


def test_a_program_that_was_tried_goes_back_with_the_number_of_its_experiment():
    proposer, chain = mind(answers(BLOCK, setting("MATRIX_LR", 0.05)))
    proposal = proposer.propose(situation(past(7, D, text=TRIPLED + "\n# by hand\n", gain=-0.01)))
    assert "experiment 7" in chain.complaints[0]
    assert "-0.0100" in chain.complaints[0]
    assert proposal.details["repeats"] == 1
    assert proposal.details["calls"] == 2


def test_a_model_that_never_says_anything_new_is_unavailable():
    proposer, _ = mind(BLOCK)
    with pytest.raises(ProviderUnavailable):
        proposer.propose(situation(past(1, D, text=TRIPLED)))


def test_the_cap_is_raised_as_it_comes():
    def broke(request, complaint, number):
        raise SpendingCapReached("1.00 of 1.00 USD spent", hint="--usd 2")

    with pytest.raises(SpendingCapReached):
        mind(broke)[0].propose(situation())


def test_an_incumbent_without_the_file_is_a_usage_error():
    with pytest.raises(UsageError, match="train"):
        mind(BLOCK)[0].propose(Situation({"other.py": "x = 1"}))


# -- operators ----------------------------------------------------------------------------------------------------------


def test_a_fix_edits_the_broken_text_and_remembers_what_it_mends():
    broken = SOURCE.replace("y = x * 2", "y = x * width")
    crash = past(1, C, text=broken, operator="draft", outcome=Outcome.CRASHED, log_tail="NameError: width")
    proposer, chain = mind(block("    y = x * width", "    width = 5\n    y = x * width"))
    proposal = proposer.propose(situation(crash))
    assert proposal.files["train.py"] == broken.replace("    y = x * width", "    width = 5\n    y = x * width")
    assert (proposal.details["operator"], proposal.details["fixes"], proposal.details["mends"]) == ("fix", 1, 1)
    assert "NameError: width" in chain.requests[0].messages[0].text


def test_a_fix_that_only_takes_the_idea_back_is_no_idea():
    broken = SOURCE.replace("y = x * 2", "y = x * width")
    crash = past(1, C, text=broken, outcome=Outcome.CRASHED)
    proposer, chain = mind(
        answers(block("    y = x * width", "    y = x * 2"), block("    y = x * width", "    y = x * 4"))
    )
    assert proposer.propose(situation(crash)).files == {"train.py": SOURCE.replace("x * 2", "x * 4")}
    assert len(chain.complaints) == 1


def near_misses():
    return [past(n, D, gain=0.002 * n, tag="t", description=f"near miss {n}", seconds=1.0) for n in (1, 2)]


def seed_for(operator, here, preset="standard"):
    from autoresearch.proposers.operators import choose

    return next(seed for seed in range(500) if choose(here, seed, preset=preset) == operator)


def test_a_combination_shows_both_and_names_them():
    here = situation(*near_misses(), tag="t")
    proposer, chain = mind(BLOCK, seed=seed_for("combine", here))
    proposal = proposer.propose(here)
    assert (proposal.details["operator"], proposal.details["partners"]) == ("combine", ["t/2", "t/1"])
    assert "near miss 1" in chain.requests[0].messages[0].text


def old_keeps():
    rate = {"changes": {"MATRIX_LR": [0.04, 0.08]}, "method": "tpe"}
    text = SOURCE.replace("0.04", "0.08")
    return [
        past(1, K, text=text, gain=0.001, p_better=0.81, operator=None, details=rate, description="MATRIX_LR up"),
        past(2, K, text=text.replace("x * 2", "x * 3"), gain=0.002, p_better=0.85, base=1),
        past(3, K, text=text.replace("x * 2", "x * 3").replace("x + 1", "x + 2"), gain=0.002, p_better=0.99, base=2),
    ]


def test_an_old_keep_is_taken_out_without_asking_a_model():
    keeps = old_keeps()
    here = situation(*keeps, incumbent=keeps[-1].files["train.py"], incumbent_number=3)
    proposer, chain = mind(BLOCK, seed=seed_for("retest", here))
    proposal = proposer.propose(here)
    assert proposal.files["train.py"] == keeps[-1].files["train.py"].replace("0.08", "0.04")
    assert proposal.description == "without experiment 1: MATRIX_LR up"
    assert proposal.details["retested"] == 1
    assert proposal.details["operator"] == "retest"
    assert proposal.details["changes"] == {"MATRIX_LR": [0.08, 0.04]}
    assert (proposal.details["calls"], proposal.details["usd"], chain.requests) == (0, 0.0, [])


def test_an_old_keep_that_conflicts_is_taken_out_by_the_model():
    keeps = old_keeps()[1:]
    incumbent = keeps[-1].files["train.py"].replace("x * 3", "x * 3 + 1")
    first = past(1, D, text=SOURCE.replace("0.04", "0.08"), operator=None, details=old_keeps()[0].details)
    before = past(4, D, text=SOURCE, operator=None)
    keep = past(5, K, text=TRIPLED, gain=0.002, p_better=0.85, base=4)
    last = past(6, K, text=incumbent, p_better=0.99, base=5)
    here = situation(first, before, keep, last, incumbent=incumbent, incumbent_number=6)
    proposer, chain = mind(block("    y = x * 3 + 1", "    y = x + 1"), seed=seed_for("retest", here))
    proposal = proposer.propose(here)
    assert chain.requests[0].purpose == "merge"
    assert (proposal.details["operator"], proposal.details["retested"]) == ("retest", 5)
    assert proposal.details["calls"] == 1


def test_a_retest_that_gives_nothing_new_makes_room_for_another_operator():
    keeps = old_keeps()
    incumbent = keeps[-1].files["train.py"]
    gone = [
        past(n, D, text=text, operator=None)
        for n, text in ((4, incumbent.replace("0.08", "0.04")), (5, incumbent.replace("x * 3", "x * 2")))
    ]
    here = situation(*keeps, *gone, incumbent=incumbent, incumbent_number=3)
    proposer, chain = mind(setting("WEIGHT_DECAY", 0.1), seed=seed_for("retest", here))
    assert proposer.propose(here).details["operator"] in ("improve", "draft", "combine")
    assert len(chain.requests) == 1


def test_a_standstill_is_told_to_the_model():
    idle = situation(*[past(n, D, operator=None) for n in range(1, 30)])
    prompts = []
    for here in (situation(), idle):
        proposer, chain = mind(setting("MATRIX_LR", 0.05))
        proposer.propose(here)
        prompts.append(chain.requests[0].messages[0].text)
    assert "standstill" in prompts[1] or "stagna" in prompts[1] or "stall" in prompts[1]
    assert "standstill" not in prompts[0] and "stagna" not in prompts[0] and "stall" not in prompts[0]


# -- numbers ------------------------------------------------------------------------------------------------------------

PLAN = Proposal("MATRIX_LR 0.04 -> 0.08", {"train.py": SOURCE.replace("0.04", "0.08")}, "search:tpe")


def test_numbers_are_asked_for_with_the_state_of_the_search():
    proposer, chain = mind(setting("MATRIX_LR", 0.06))
    proposal = proposer.propose_numbers(situation(), "MATRIX_LR = 0.04: not tried", PLAN)
    assert chain.requests[0].purpose == "numbers"
    assert "MATRIX_LR = 0.04: not tried" in chain.requests[0].messages[0].text
    assert (proposal.details["operator"], proposal.details["overrode"]) == ("numbers", True)
    assert proposal.details["parameter"] == "MATRIX_LR"


def test_a_model_may_agree_with_the_search():
    proposal = mind(setting("MATRIX_LR", 0.08))[0].propose_numbers(situation(), "", PLAN)
    assert proposal.files == PLAN.files
    assert proposal.details["overrode"] is False


def test_code_is_no_answer_where_numbers_were_asked_for():
    proposer, chain = mind(answers(BLOCK, setting("MATRIX_LR", 0.06)))
    proposal = proposer.propose_numbers(situation(), "", PLAN)
    assert proposal.details["changes"] == {"MATRIX_LR": [0.04, 0.06]}
    assert "SET" in chain.complaints[0]


# -- the request --------------------------------------------------------------------------------------------------------


def test_a_request_has_rules_schema_and_the_limit_of_the_reply():
    proposer, chain = mind(BLOCK, reply_tokens=5000)
    proposer.propose(situation())
    request = chain.requests[0]
    assert request.max_tokens == 5000
    assert "train.py" in request.system
    assert "MATRIX_LR" in json.dumps(request.schema)
    assert [message.role for message in request.messages] == ["user"]


@pytest.mark.parametrize("context", [3072, 4096, 8192, 32_768, 1_000_000])
def test_prompt_reply_and_a_complaint_fit_the_smallest_window_of_the_chain(context):
    history = [past(n, D, gain=-0.001, description=f"idea number {n} " * 8) for n in range(1, 60)]
    proposer, chain = mind(setting("MATRIX_LR", 0.05), context_tokens=context)
    proposer.propose(situation(*history))
    request = chain.requests[0]
    asked = estimated_input(request)  # with the schema
    assert asked + 2 * request.max_tokens <= context
    assert asked <= 24_000
    assert request.max_tokens <= 16_384


def test_in_a_small_window_a_model_held_to_the_schema_chooses_among_values_not_tried():
    tried = past(1, D, gain=-0.001, details={"changes": {"MATRIX_LR": [0.04, 0.08]}})
    proposer, chain = mind(setting("MATRIX_LR", 0.05), context_tokens=2048, reply_tokens=256)
    proposer.propose(situation(tried))
    schema = chain.requests[0].schema
    assert list(schema["properties"]) == ["set", "description", "mechanism"]
    forms = [form["properties"] for form in schema["properties"]["set"]["items"]["anyOf"]]
    assert {form["name"]["const"]: form["value"]["enum"] for form in forms}["MATRIX_LR"] == [0.02, 0.028, 0.057]


def test_without_a_known_window_the_settings_alone_count():
    assert rooms(MindOptions("tiny", prompt_tokens=9000, reply_tokens=700), None) == (700, 9000)
    assert rooms(MindOptions("tiny", prompt_tokens=9000, reply_tokens=700), 4096) == (700, 2696)


# -- with the real chain and a server -----------------------------------------------------------------------------------


@contextmanager
def wired(tmp_path, *steps, options="", caps=None, seed=0):
    """A proposer whose chain asks a scripted server on loopback."""
    said: list[str] = []
    with ScriptedModels(*steps) as server:
        chain = open_chain(
            server.openai("small", options),
            state_dir=tmp_path,
            tag="t",
            caps=caps or Caps(),
            seconds=PATIENCE,
            environment={},
            wait=lambda seconds: False,
            say=said.append,
            keyring=lambda name: None,
        )
        with chain:
            yield LanguageModelProposer(chain, MindOptions("standard", seed=seed)), server, said


def test_a_complaint_travels_to_the_server_and_the_answer_becomes_the_proposal(tmp_path):
    with wired(tmp_path, reply("I would widen it."), reply(BLOCK), reply(BLOCK)) as (proposer, server, _):
        proposal = proposer.propose(situation())
    assert proposal.files == {"train.py": TRIPLED}
    assert (proposal.details["calls"], proposal.details["model"], proposal.details["tokens"]) == (
        2,
        "openai:small",
        240,
    )
    assert proposal.details["usd"] == 0.0
    roles = [turn["role"] for turn in server.requests[1].body["messages"]]
    assert roles[-2:] == ["assistant", "user"]
    assert "I would widen it." in server.requests[1].prompt


def test_a_model_that_is_held_to_the_schema_sees_the_constants_it_may_set(tmp_path):
    answer = json.dumps(
        {
            "description": "a larger rate",
            "mechanism": "few steps",
            "topic": "rate",
            "expected": 0.001,
            "lesson": "",
            "set": [{"name": "MATRIX_LR", "value": 0.05}],
            "edits": [],
            "file": None,
        }
    )
    with wired(tmp_path, reply(answer), options="schema=on") as (proposer, server, _):
        proposal = proposer.propose(situation())
    assert "WEIGHT_DECAY" in json.dumps(server.requests[0].body["response_format"])
    assert proposal.details["changes"] == {"MATRIX_LR": [0.04, 0.05]}


def test_a_small_window_in_the_chain_shortens_what_is_sent(tmp_path):
    history = [past(n, D, gain=-0.001, description=f"idea number {n} " * 8) for n in range(1, 60)]
    sizes = []
    for options in ("", "context=4096&reply=1024"):
        folder = tmp_path / str(len(sizes))
        folder.mkdir()
        with wired(folder, reply(setting("MATRIX_LR", 0.05)), options=options) as (proposer, server, _):
            proposer.propose(situation(*history))
            sizes.append(len(server.requests[0].prompt))
    assert sizes[1] < 0.5 * sizes[0]


def test_a_server_that_is_down_is_no_unusable_reply(tmp_path):
    with wired(tmp_path, status(500)) as (proposer, _, _), pytest.raises(ProviderUnavailable, match="small"):
        proposer.propose(situation())


def test_the_cap_of_the_chain_is_reached_before_a_call_is_made(tmp_path):
    with wired(tmp_path, reply(BLOCK), caps=Caps(tokens=50)) as (proposer, server, _):
        with pytest.raises(SpendingCapReached):
            proposer.propose(situation())
        assert server.requests == []
