"""Proposers at work on a data recipe: two files, edits of either, notes for the person about the other program."""

from __future__ import annotations

import json
import os
import sys

import pytest
from fake_chain import FakeChain, block, setting
from patience import PATIENCE
from recipe_pasts import PREPARE, RECIPE, ROOT, SOURCES, edited, recipe_situation, tried
from scripted_models import ScriptedModels, reply

from autoresearch.proposers.agents import AgentOptions, make_agent
from autoresearch.proposers.edits import apply_idea
from autoresearch.proposers.hybrid import HybridProposer
from autoresearch.proposers.idea import MAX_NOTE
from autoresearch.proposers.lessons import notes_of
from autoresearch.proposers.llm import LanguageModelProposer, MindOptions, constant_changes
from autoresearch.proposers.novelty import digest_of_files, is_seed_only_edit, same_files
from autoresearch.proposers.operators import Operator, available, partners_of
from autoresearch.proposers.prompt import OPERATORS, Material, ask_for, system_prompt
from autoresearch.proposers.reply import choices_of, parse_reply, reply_schema
from autoresearch.proposers.retest import taken_out
from autoresearch.proposers.search import SearchProposer
from autoresearch.providers.chain import Caps, open_chain
from autoresearch.providers.exchange import UnusableReply
from autoresearch.providers.tokens import estimated_input, estimated_tokens
from autoresearch.vocabulary import Outcome, Status
from autoresearch.workspace import SCOPES, admitted, refusal_of, surface_of

K = Status.KEEP
IN_PREPARE = ("    if sources.NUM_TIERS > 1:", "    if sources.NUM_TIERS >= 2:")
BOTH = (
    "IDEA: drop what has no letters\nTOPIC: letters\nMECHANISM: tables teach little\nEXPECT: +0.01\n"
    "NOTE: train.py might like a smaller batch for so little text\n"
    "SET: MIN_CHARACTERS = 300\n"
    "<<<<<<< SEARCH\n    return True\n=======\n    return any(map(str.isalpha, text))\n>>>>>>> REPLACE\n"
    f"FILE: prepare.py\n<<<<<<< SEARCH\n{IN_PREPARE[0]}\n=======\n{IN_PREPARE[1]}\n>>>>>>> REPLACE\n"
)


def mind(model, *, context_tokens=None, surface=SOURCES, **options):
    chain = FakeChain(model, context_tokens)
    given = MindOptions(preset="tiny", surface=surface, program="data", **options)
    return LanguageModelProposer(chain, given), chain


# -- a reply about two files --------------------------------------------------------------------------------------------


def test_one_reply_edits_both_files_and_leaves_a_note():
    proposal = mind(BOTH)[0].propose(recipe_situation())
    assert proposal.files[PREPARE] == edited(PREPARE, *IN_PREPARE)[PREPARE]
    assert "any(map(str.isalpha, text))" in proposal.files[SOURCES]
    assert "\nMIN_CHARACTERS = 300 " in proposal.files[SOURCES]
    assert proposal.details["for_human"] == "train.py might like a smaller batch for so little text"
    assert proposal.details["moved"] == {"MIN_CHARACTERS": [0, 300]}
    assert refusal_of(admitted(proposal, "data")) == ""
    assert json.loads(json.dumps(proposal.details)) == proposal.details


def test_a_proposal_carries_the_file_that_it_left_alone():
    proposal = mind(setting("BUFFER_SIZE", 4000))[0].propose(recipe_situation())
    assert list(proposal.files) == [SOURCES, PREPARE]
    assert proposal.files[PREPARE] == RECIPE[PREPARE]
    assert proposal.details["changes"] == {"BUFFER_SIZE": [1000, 4000]}
    assert "for_human" not in proposal.details


def test_a_constant_is_found_in_either_file_whichever_is_the_main_one():
    proposal = mind(setting("DUPLICATES", "'exact'"), surface=PREPARE)[0].propose(recipe_situation())
    assert proposal.files == edited(SOURCES, 'DUPLICATES = "keep"', 'DUPLICATES = "exact"')


def test_a_whole_file_takes_the_place_of_the_one_that_is_named():
    whole = edited(PREPARE, *IN_PREPARE)[PREPARE]
    text = f"IDEA: rewrite\nFILE: prepare.py\n```python\n{whole}```\n"
    assert mind(text)[0].propose(recipe_situation()).files == {**RECIPE, PREPARE: whole}
    said = json.dumps({"description": "rewrite", "file": whole, "file_name": PREPARE})
    assert mind(said)[0].propose(recipe_situation()).files == {**RECIPE, PREPARE: whole}


def test_json_edits_name_their_file():
    old, new = IN_PREPARE
    said = {
        "description": "d", "mechanism": "", "topic": "", "expected": None, "lesson": "", "note": "a note", "set": [],
        "edits": [{"file": PREPARE, "search": old, "replace": new}], "file": None, "file_name": None,
    }  # fmt: skip
    proposal = mind(json.dumps(said))[0].propose(recipe_situation())
    assert proposal.files == edited(PREPARE, old, new)
    assert proposal.details["for_human"] == "a note"
    properties = reply_schema({}, None, [SOURCES, PREPARE])["properties"]
    assert set(said) - {"set"} == set(properties)
    assert properties["edits"]["items"]["properties"]["file"] == {"type": "string", "enum": [SOURCES, PREPARE]}
    assert properties["file_name"]["enum"] == [SOURCES, PREPARE, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"FILE: train.py\n{block('x', 'y')}", "only data_sources.py and prepare.py may be edited"),
        (f"FILE: the other one\n{block('x', 'y')}", "no name of a file"),
        (block(*IN_PREPARE), "stands in prepare.py, not in data_sources.py. Write the line `FILE: prepare.py`"),
        (block("no such line at all", "y"), "occurs 0 times in data_sources.py"),
        (
            f"FILE: prepare.py\n{block('import data_sources as sources', '(')}",
            "The edited prepare.py is not valid Python",
        ),
        (f"FILE: prepare.py\n{block(RECIPE[PREPARE].splitlines()[0], '# mine')}", "Line 1 of prepare.py must stay"),
        (setting("DEPTH", 4), "the file has no constant DEPTH"),
        (setting("DUPLICATES", "'keep'"), "the files already are like this"),
        ("IDEA: look\nNOTE: a bigger model\n", "holds no edit"),
        ("IDEA: x\nNOTE: a\nNOTE: b\nSET: BUFFER_SIZE = 2\n", "two NOTE: lines"),
    ],
)
def test_what_cannot_be_applied_says_which_file(text, said):
    with pytest.raises(UnusableReply) as caught:
        apply_idea(parse_reply(text), RECIPE, SOURCES, "tiny")
    assert said in caught.value.message


def test_a_file_that_is_named_counts_for_what_follows_until_another_is():
    second = block("c", "d").partition("<")[2]
    idea = parse_reply(f"**FILE:** `prepare.py`\nsome words\n{block('a', 'b')}FILE: data_sources.py\n<{second}")
    assert [(edit.search, edit.file) for edit in idea.edits] == [("a", PREPARE), ("c", SOURCES)]


def test_a_note_is_one_bounded_line_in_the_model_program_too():
    idea = parse_reply("IDEA: x\nNOTE: filter\n  the short ones\nSET: DEPTH = 3\n")
    assert idea.note == "filter the short ones"
    assert len(parse_reply(f"IDEA: x\nNOTE: {'y' * 5000}\nSET: DEPTH = 3\n").note) <= MAX_NOTE


# -- one program, two files -----------------------------------------------------------------------------------------------


def test_a_program_is_new_by_all_its_files():
    other = edited(PREPARE, *IN_PREPARE)
    commented = {**RECIPE, PREPARE: RECIPE[PREPARE] + "# a comment\n"}
    assert same_files(RECIPE, commented) and digest_of_files(RECIPE) == digest_of_files(commented)
    assert not same_files(RECIPE, other) and digest_of_files(RECIPE) != digest_of_files(other)
    assert not same_files(RECIPE, {SOURCES: RECIPE[SOURCES]})
    swapped = {SOURCES: RECIPE[PREPARE], PREPARE: RECIPE[SOURCES]}
    assert digest_of_files(swapped) != digest_of_files(RECIPE)


def test_an_edit_of_the_seed_in_either_file_is_luck():
    lucky = edited(PREPARE, "weights(progress, sizes), seed)", "weights(progress, sizes), seed + 1)")
    assert is_seed_only_edit(RECIPE, lucky)
    assert not is_seed_only_edit(RECIPE, edited(PREPARE, *IN_PREPARE, files=lucky))
    assert not is_seed_only_edit(RECIPE, RECIPE)
    assert not is_seed_only_edit(RECIPE, {SOURCES: RECIPE[SOURCES]})


def test_the_model_is_told_what_was_tried_in_the_other_file():
    replies = iter([f"FILE: prepare.py\n{block(*IN_PREPARE)}", setting("BUFFER_SIZE", 250)])
    proposer, chain = mind(lambda *_: next(replies))
    proposal = proposer.propose(recipe_situation(tried(1, edited(PREPARE, *IN_PREPARE))))
    assert "same program was tried as experiment 1" in chain.complaints[0]
    assert proposal.details["repeats"] == 1


def test_constants_beside_an_edit_of_the_other_file_are_no_effect_of_constants():
    numbers = edited(SOURCES, "BUFFER_SIZE = 1000", "BUFFER_SIZE = 250")
    assert constant_changes(RECIPE, numbers, "tiny") == {
        "changes": {"BUFFER_SIZE": [1000, 250]}, "parameter": "BUFFER_SIZE",
    }  # fmt: skip
    assert constant_changes(RECIPE, edited(PREPARE, *IN_PREPARE, files=numbers), "tiny") == {
        "changes": {}, "moved": {"BUFFER_SIZE": [1000, 250]},
    }  # fmt: skip


def test_an_old_keep_of_one_file_is_taken_out_and_the_other_file_stays():
    first = edited(PREPARE, *IN_PREPARE)
    now = edited(SOURCES, "    return True\n", "    return len(text) > 3\n", files=first)
    keep = tried(1, first, K, gain=0.002, p_better=0.81)
    here = recipe_situation(keep, tried(2, now, K, base=1), incumbent=now, incumbent_number=2)
    merge = taken_out(keep, here, preset="tiny")
    assert merge.files == edited(SOURCES, "    return True\n", "    return len(text) > 3\n")
    proposer, chain = mind(setting("BUFFER_SIZE", 2000))
    retests = [proposer._retest(here)]
    assert (retests[0].files, retests[0].details["retested"], chain.requests) == (merge.files, 1, [])


def test_two_near_misses_in_different_files_are_combined_and_shown_with_the_file():
    one = tried(1, edited(PREPARE, *IN_PREPARE), gain=0.01)
    other = tried(2, edited(SOURCES, "    return True\n", "    return len(text) > 3\n"), gain=0.02)
    here = recipe_situation(one, other)
    partners = partners_of(here, preset="tiny")
    assert {past.number for past in partners} == {1, 2}
    assert Operator.COMBINE in available(here, preset="tiny")
    text = ask_for(
        "combine", here, surface=SOURCES, preset="tiny", budget_tokens=20_000, extra=Material(partners=partners)
    )
    assert "its edit as a diff, prepare.py" in text and "its edit as a diff, data_sources.py" in text
    assert "+    return len(text) > 3" in text
    inside = recipe_situation(one, other, incumbent=one.files, incumbent_number=1)
    assert partners_of(inside, preset="tiny") is None


def test_a_crash_in_the_other_file_is_mended_there():
    broken = edited(PREPARE, "    chosen = select(", "    chosen = selct(")
    crash = tried(
        1, broken, Status.CRASH, outcome=Outcome.CRASHED, details={"operator": "draft"}, gain=None,
        log_tail='File "prepare.py", line 30, in build\nNameError: selct',
    )  # fmt: skip
    proposer, chain = mind("FILE: prepare.py\n" + block("    chosen = selct(", "    document_lists = select("))
    proposal = proposer.propose(recipe_situation(crash))
    assert proposal.files == edited(PREPARE, "    chosen = selct(", "    document_lists = select(", files=broken)
    assert (proposal.details["operator"], proposal.details["mends"]) == ("fix", 1)
    assert "prepare.py of experiment 1, which crashed" in chain.requests[0].messages[0].text
    assert "| NameError: selct" in chain.requests[0].messages[0].text


# -- what it is told ------------------------------------------------------------------------------------------------------


def test_the_instructions_say_what_a_recipe_is_and_who_decides():
    text = system_prompt("data", SOURCES)
    for words in (
        "`data_sources.py`", "`prepare.py`", "build(text, out)", "feed(artefact, seed, row_len)", "deadline", "disk", "held-out",
        "FILE: prepare.py", "NOTE", "autoresearch.recipes", "CPU", "tokenizer as a table", "overlaps",
    ):  # fmt: skip
        assert words in text, words
    assert "FILE: data_sources.py` stands" in system_prompt("data", PREPARE)
    assert "FILE:" not in system_prompt("model", "train.py")
    assert "load_model" not in text
    assert estimated_tokens(text) < 2000


def test_both_files_are_shown_whole_where_they_fit_and_the_limits_of_the_preparation():
    text = ask_for("improve", recipe_situation(), surface=SOURCES, preset="tiny", budget_tokens=20_000)
    for file in RECIPE.values():
        assert file.rstrip("\n") in text
    assert text.index("# The file: data_sources.py") < text.index("# The file: prepare.py")
    assert "preparation before it: 120 seconds and 2 GB of disk at most" in text
    assert "Only a part" not in text
    turned = ask_for("improve", recipe_situation(), surface=PREPARE, preset="tiny", budget_tokens=20_000)
    assert turned.index("# The file: prepare.py") < turned.index("# The file: data_sources.py")


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("budget", [512, 900, 1600, 3000, 4500, 9000])
def test_a_prompt_about_two_files_keeps_to_its_budget(operator, budget):
    past = [tried(n, edited(PREPARE, *IN_PREPARE), description="x" * 300, gain=0.01) for n in range(1, 30)]
    extra = Material(partners=tuple(past[:2]), broken=past[2], optimizer_state="y " * 3000)
    text = ask_for(operator, recipe_situation(*past), surface=SOURCES, preset="tiny", budget_tokens=budget, extra=extra)
    assert estimated_tokens(text) <= budget
    assert "# The file: data_sources.py" in text


def test_a_model_with_a_window_of_2048_tokens_is_asked_and_can_answer():
    proposer, chain = mind(setting("DUPLICATES", "'exact'"), context_tokens=2048)
    proposal = proposer.propose(recipe_situation())
    assert proposal.files[SOURCES] != RECIPE[SOURCES]
    request = chain.requests[0]
    assert estimated_input(request) + request.max_tokens <= 2048
    allowed = request.schema["properties"]["set"]["items"]["anyOf"]
    assert 1 <= len(allowed) <= 6


def test_a_small_model_chooses_among_values_that_do_something_alone():
    from autoresearch.proposers.llm import _data_space, _literals_of

    literals, space = _literals_of(RECIPE, "tiny"), _data_space(RECIPE, "tiny")
    choices = {}
    for turn in range(4):
        choices |= choices_of(literals, turn=turn, space=space)
    assert choices["DUPLICATES"] == ["exact", "near"]
    assert choices["VOCAB_SIZE"] == [512, 2048]
    assert not {"NUM_TIERS", "LATE_FROM", "TIER_WEIGHTS[1]", "QUALITY", "NEAR_DUPLICATE"} & set(choices)
    for name, values in choices.items():
        for value in values:
            reply = json.dumps({"set": [{"name": name, "value": value}], "description": "d", "mechanism": ""})
            assert apply_idea(parse_reply(reply), RECIPE, SOURCES, "tiny") != RECIPE


def test_notes_are_told_once_so_that_they_are_not_written_again():
    notes = ["a smaller batch would do", "A smaller batch would do.", "try rotary bases", 7]
    history = [tried(n, RECIPE, details={"for_human": note}) for n, note in enumerate(notes, 1)]
    assert notes_of(recipe_situation(*history), 5) == ["try rotary bases", "A smaller batch would do."]
    text = ask_for("improve", recipe_situation(*history), surface=SOURCES, preset="tiny", budget_tokens=20_000)
    assert "| try rotary bases" in text


def test_a_real_chain_sends_a_block_for_the_wrong_file_back_and_takes_the_mended_reply(tmp_path):
    with ScriptedModels(reply(block(*IN_PREPARE)), reply(BOTH)) as server:
        chain = open_chain(
            server.openai("small"), state_dir=tmp_path, tag="t", caps=Caps(), seconds=PATIENCE, environment={},
            wait=lambda seconds: False, say=lambda line: None, keyring=lambda name: None,
        )  # fmt: skip
        with chain:
            options = MindOptions("tiny", surface=SOURCES, program="data")
            proposal = LanguageModelProposer(chain, options).propose(recipe_situation())
    first, second = (request.prompt for request in server.requests)
    assert "def build(text, out):" in first and "MIN_CHARACTERS = 0" in first
    assert "Write the line `FILE: prepare.py` before the block" in second
    assert proposal.files[PREPARE] == edited(PREPARE, *IN_PREPARE)[PREPARE]
    assert (proposal.details["calls"], proposal.details["for_human"][:8]) == (2, "train.py")


# -- the others -----------------------------------------------------------------------------------------------------------


def test_a_hybrid_overrules_numbers_of_the_search_within_the_recipe():
    search = SearchProposer("tiny", surface=SOURCES, program="data")
    planned = search.propose(recipe_situation())
    chain = FakeChain(setting("BUFFER_SIZE", 250))
    model = LanguageModelProposer(chain, MindOptions("tiny", surface=SOURCES, program="data"))
    hybrid = HybridProposer(search, model, share=1.0, override=1.0)
    proposal = hybrid.propose(recipe_situation())
    assert (proposal.details["operator"], proposal.details["overrode"]) == ("numbers", True)
    assert planned.description in chain.requests[0].messages[0].text
    agreeing = FakeChain(
        setting("DUPLICATES", "'exact'") if "exact" in planned.description else setting("VOCAB_SIZE", 512)
    )
    hybrid = HybridProposer(
        search,
        LanguageModelProposer(agreeing, MindOptions("tiny", surface=SOURCES, program="data")),
        share=1.0,
        override=1.0,
    )
    assert hybrid.propose(recipe_situation()).details["overrode"] is False


def test_an_agent_edits_both_files_reads_the_library_and_leaves_a_note(tmp_path):
    script = tmp_path / "agent.py"
    script.write_text(
        "import pathlib, os\n"
        'old = pathlib.Path("prepare.py").read_text()\n'
        'pathlib.Path("prepare.py").write_text(old.replace("NUM_TIERS > 1", "NUM_TIERS >= 2"))\n'
        'old = pathlib.Path("data_sources.py").read_text()\n'
        'pathlib.Path("data_sources.py").write_text(old.replace("VOCAB_SIZE = 0", "VOCAB_SIZE = 512"))\n'
        'told = pathlib.Path("TASK.md").read_text()\n'
        'there = sorted(p.name for p in pathlib.Path("recipes").iterdir()) + sorted(os.listdir("."))\n'
        'wanted = ["selection.py", "filters.py", "train.py"]\n'
        'words = ["`data_sources.py` or `prepare.py`", "It is `prepare.py` in your folder", "NOTE:"]\n'
        "missing = [w for w in wanted if w not in there] + [w for w in words if w not in told]\n"
        'pathlib.Path("IDEA.txt").write_text(f"IDEA: missing {missing}\\nNOTE: a deeper model\\n")\n'
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    options = AgentOptions(SOURCES, "tiny", ROOT, program="data", environment=environment, sealed=False)
    proposal = make_agent(f"cli:{sys.executable} {script}", options).propose(recipe_situation())
    assert proposal.description == "missing []"
    assert proposal.files == edited(
        PREPARE, "NUM_TIERS > 1", "NUM_TIERS >= 2", files=edited(SOURCES, "VOCAB_SIZE = 0", "VOCAB_SIZE = 512")
    )
    assert proposal.details["for_human"] == "a deeper model"
    assert refusal_of(admitted(proposal, "data")) == ""


def test_an_agent_that_edits_what_it_may_only_read_is_refused(tmp_path):
    script = tmp_path / "agent.py"
    script.write_text(
        "import os, pathlib\nos.chmod('train.py', 0o644)\npathlib.Path('train.py').write_text('x = 1\\n')\n"
        "p = pathlib.Path('prepare.py'); p.write_text(p.read_text() + 'X = 1\\n')\n"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    options = AgentOptions(SOURCES, "tiny", ROOT, program="data", environment=environment, sealed=False)
    proposal = make_agent(f"cli:{sys.executable} {script}", options).propose(recipe_situation())
    assert (
        "it touches 'train.py', and only data_sources.py and prepare.py may be edited here"
        in proposal.details["refused"]
    )


def test_agents_by_name_may_write_both_files_and_no_other(tmp_path):
    from autoresearch.proposers.agent_clients import IDEA_FILE, Errand, claude_settings, client_of

    files = surface_of("data", SOURCES)
    assert files == (SOURCES, PREPARE) and set(files) == set(SCOPES["data"])
    allowed = json.loads(claude_settings(files))["permissions"]["allow"]
    assert {rule for rule in allowed if rule.startswith("Edit(")} == {f"Edit(./{name})" for name in (*files, IDEA_FILE)}
    errand = Errand(tmp_path, files, "do it", 5)
    policy = client_of("gemini").settings(errand)[".agent/scope.toml"]
    assert "data_sources[.]py|prepare[.]py" in policy
    edit = json.loads(client_of("opencode").environment(errand)["OPENCODE_CONFIG_CONTENT"])["permission"]["edit"]
    assert {name for name, rule in edit.items() if rule == "allow" and "/" not in name} == {*files, IDEA_FILE}
