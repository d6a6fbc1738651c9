import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.proposers.briefing import EXAMPLE, system_prompt
from autoresearch.proposers.constants import read_constants
from autoresearch.proposers.edits import apply_idea
from autoresearch.proposers.idea import MAX_DESCRIPTION, topic_slug
from autoresearch.proposers.reply import Edit, Idea, choices_of, parse_reply, reply_schema
from autoresearch.providers.exchange import UnusableReply

TEXT = """Some prose first.

IDEA: use a smaller batch
TOPIC: Batch Size
MECHANISM: more steps fit into the budget,
and each is still clean enough
EXPECT: +0.004 bits per byte
LESSON: speed matters
SET: TOTAL_BATCH_SIZE = 2**18
SET: ADAM_BETAS = (0.9, 0.95)

<<<<<<< SEARCH
    x = 1
\ty = "größe"
=======
    x = 2

    y = 3
>>>>>>> REPLACE

Thanks!
"""


def complaint(text: str) -> str:
    with pytest.raises(UnusableReply) as caught:
        parse_reply(text)
    return caught.value.message


def test_the_text_form_gives_every_field_exactly():
    assert parse_reply(TEXT) == Idea(
        description="use a smaller batch",
        mechanism="more steps fit into the budget, and each is still clean enough",
        topic="batch-size",
        expected=0.004,
        lesson="speed matters",
        changes={"TOTAL_BATCH_SIZE": 262144, "ADAM_BETAS": [0.9, 0.95]},
        edits=(Edit('    x = 1\n\ty = "größe"', "    x = 2\n\n    y = 3", lines=True),),
    )


def test_the_json_form_gives_every_field_exactly():
    given_reply = {
        "description": "use a smaller batch",
        "mechanism": "more steps",
        "topic": "batch size",
        "expected": -0.001,
        "lesson": "speed matters",
        "set": [{"name": "DEPTH", "value": 6}],
        "edits": [{"search": "a\r\n", "replace": ""}],
        "file": None,
    }
    wanted = Idea(
        "use a smaller batch", "more steps", "batch-size", -0.001, "speed matters", {"DEPTH": 6}, (Edit("a\r\n", ""),)
    )
    plain = json.dumps(given_reply)
    for text in (
        plain,
        f"Here it is:\n```json\n{plain}\n```\nDone.",
        f"<think>hm {{}} </think>\nSo: {plain} and that is all",
    ):
        assert parse_reply(text) == wanted


def test_a_whole_file_in_a_python_fence_is_taken_as_it_is():
    idea = parse_reply("IDEA: rewrite\n```python\n# banner\n\nx = '<<<<<<< SEARCH'\n<<<<<<< SEARCH\n```\n")
    assert idea.whole == "# banner\n\nx = '<<<<<<< SEARCH'\n<<<<<<< SEARCH\n"
    assert idea.edits == ()


def test_a_longer_fence_can_hold_a_shorter_one():
    assert parse_reply("IDEA: rewrite\n````python\n```\nx = 1\n```\n````").whole == "```\nx = 1\n```\n"


@pytest.mark.parametrize("fence", ["```", "```text", "```python", "```diff"])
def test_a_fence_around_headers_or_blocks_is_only_wrapping(fence):
    idea = parse_reply(f"{fence}\nIDEA: a\n{fence}\n<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n```\n```\n")
    assert idea.edits == (Edit("a", "b", lines=True),)
    assert idea.whole is None


def test_thoughts_before_the_answer_are_dropped_with_the_drafts_in_them():
    thought = "<think>IDEA: draft\nSET: DEPTH = 1\n<<<<<<< SEARCH\nhalf a block</think>"
    assert parse_reply(f"{thought}\nIDEA: final\nSET: DEPTH = 2").changes == {"DEPTH": 2}
    assert parse_reply("IDEA: draft\n</think>\nIDEA: final\nSET: DEPTH = 2").description == "final"


def test_markdown_around_headers_does_not_matter():
    idea = parse_reply("## **IDEA:** deeper *net*\n**TOPIC**: depth\n- `SET: DEPTH = 3`\n")
    assert (idea.description, idea.topic, idea.changes) == ("deeper *net", "depth", {"DEPTH": 3})


def test_carriage_returns_of_the_transport_are_not_part_of_lines():
    assert parse_reply(TEXT.replace("\n", "\r\n")) == parse_reply(TEXT)


def test_empty_replacements_and_several_blocks_are_kept_in_order():
    blocks = "<<<<<<< SEARCH\n\na\n=======\n>>>>>>> REPLACE\n" * 1 + "<<<<<<< SEARCH\nb\n=======\nc\n>>>>>>> REPLACE"
    assert [edit.search for edit in parse_reply(f"IDEA: x\n{blocks}").edits] == ["\na", "b"]
    assert parse_reply(f"IDEA: x\n{blocks}").edits[0].replace == ""


def test_a_name_with_a_value_is_one_setting():
    idea = parse_reply('{"description": "lower rate", "mechanism": "m", "name": "MATRIX_LR", "value": 0.02}')
    assert idea.changes == {"MATRIX_LR": 0.02}
    assert parse_reply('{"description": "d", "set": {"A": true, "B": "SSL"}}').changes == {"A": True, "B": "SSL"}


def test_a_line_feed_inside_a_json_string_is_read_as_one():
    assert parse_reply('{"description": "d", "edits": [{"search": "a\nb", "replace": "c"}]}').edits == (
        Edit("a\nb", "c"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("I would rather not.", "does not say what the idea is"),
        ("IDEA: only words", "holds no edit"),
        ("SET: DEPTH = 3", "IDEA: what you change"),
        ("IDEA: a\nIDEA: b\nSET: DEPTH = 3", "two IDEA: lines"),
        ("IDEA: a\n```python\nx\n```\n```python\ny\n```", "2 whole files"),
        ("IDEA: a\nSET: DEPTH = 3\n```python\nx\n```", "a whole file and also edits"),
        ("IDEA: a\n```python\nx = 1\n", "opens at line 2 of the reply is never closed"),
        ("IDEA: a\n```python\n```", "whole file is empty"),
        ("IDEA: a\n<<<<<<< SEARCH\nx\n=======\ny\n", "`>>>>>>> REPLACE` is missing"),
        ("IDEA: a\n<<<<<<< SEARCH\nx\n", "`=======` is missing"),
        ("IDEA: a\n<<<<<<< SEARCH\nx\n>>>>>>> REPLACE", "where `=======` must come first"),
        ("IDEA: a\n<<<<<<< SEARCH\nx\n=======\ny\n=======\nz\n>>>>>>> REPLACE", "has `=======` at line 6"),
        ("IDEA: a\n<<<<<<< SEARCH\n  \n=======\ny\n>>>>>>> REPLACE", "Block 1 has an empty SEARCH"),
        ("IDEA: a\n<<<<<<< ORIGINAL\nx\n=======\ny\n>>>>>>> UPDATED", "Line 2 of the reply, `<<<<<<< ORIGINAL`"),
        ("IDEA: a\n>>>>>>> REPLACE", "no marker of a block"),
        ("IDEA: a\nSET: depth = 3", "SET: NAME = literal"),
        ("IDEA: a\nSET: DEPTH = 3\nSET: DEPTH = 4", "DEPTH is set twice"),
        ("IDEA: a\nSET: DEPTH = WIDTH * 2", "no literal"),
        ("IDEA: a\nSET: DEPTH = 3**2", "no literal"),
        ("IDEA: a\nSET: LR = 1e999", "finite number"),
        ("IDEA: a\nSET: NAME = 'a\\'b'", "quotes"),
        ("IDEA: a\nSET: NAME = {'a': 1}", "finite number"),
        ("IDEA: a\nEXPECT: a little\nSET: DEPTH = 3", "holds no number"),
        ("IDEA: a\nEXPECT: +12 bits\nSET: DEPTH = 3", "no number of bits per byte"),
        ("<think>and then", "ended before the thought did"),
        ("<think>done</think>  \n", "empty"),
        ('{"description": "a", "set": [{"name": "D", "value": 1}]', "cut off"),
        ('{"description": "a" "set": []}', "line 1 column 21"),
        ('Here: {"description": "a", "set": [{"name": "D", "value": 1}', "cut off"),
        ('{"name": "D", "value": 1}', 'no "description"'),
        ('{"description": "a", "description": "b", "name": "D", "value": 1}', 'has "description" twice'),
        (
            '{"description": "a", "name": "D", "value": 1} {"description": "b", "name": "D", "value": 1}',
            "2 JSON objects",
        ),
        ('{"description": "a", "name": "D", "value": 1, "remark": "x"}', 'unknown field "remark"'),
        ('{"description": 3, "name": "D", "value": 1}', '"description" must be a text, and it is a number'),
        ('{"description": "a", "name": "D", "value": null}', "value for D"),
        ('{"description": "a", "set": [{"name": "D"}]}', '"name" and "value"'),
        ('{"description": "a", "edits": [{"search": "x", "replace": "y", "all": true}]}', 'Entry 1 of "edits"'),
        ('{"description": "a", "expected": "much", "name": "D", "value": 1}', '"expected" must be a number'),
        ('{"description": "a", "name": "D", "value": NaN}', "finite number"),
        ('{"action": "edit"}', 'no "description"'),
        ("[" * 5000, "does not say what the idea is"),
        ('{"description": ' + "[" * 100_000, "cannot be read"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused_with_what_to_send_instead(text, said):
    assert said in complaint(text)


def test_two_json_fences_are_refused():
    fence = '```json\n{"description": "a", "name": "D", "value": 1}\n```\n'
    assert "2 ```json fences" in complaint(fence * 2)


def test_too_many_blocks_and_too_large_replies_are_refused():
    block = "<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n"
    assert "41 blocks" in complaint("IDEA: a\n" + block * 41)
    assert "characters" in complaint("x" * 2_000_001)
    assert "larger than" in complaint(f"IDEA: a\n```python\n{'x' * 1_000_001}\n```")


def test_texts_are_one_bounded_line_without_hidden_characters():
    idea = parse_reply(f"IDEA: \x1b[31m{'long ' * 100}\u202e\nTOPIC: {'x ' * 100}\nLESSON: {'y' * 500}\nSET: DEPTH = 3")
    assert len(idea.description) <= MAX_DESCRIPTION
    assert idea.description.isascii() is False  # the ellipsis of the cut
    assert "\x1b" not in idea.description
    assert len(idea.topic) <= 40
    assert len(idea.lesson) <= 160


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "IDEA: a\n" + "w\n" * 200_000,
        "<<<< " + " " * 300_000 + "!",
        "``` " + " " * 300_000 + "!",
        "```json\n" * 40_000,
        '{ "' * 100_000,
        "SET: A" + " " * 300_000,
        "IDEA" + "*" * 300_000,
    ],
)
def test_no_reply_takes_more_than_linear_work(text):
    """300,000 characters take 0.2 s at most where each is looked at once; a square of that would take hours."""
    began = time.process_time()
    with pytest.raises(UnusableReply):
        parse_reply(text)
    assert time.process_time() - began < 20


def test_topics_are_compared_as_slugs():
    assert topic_slug("MATRIX_LR") == topic_slug("Matrix LR") == topic_slug(" matrix-lr. ") == "matrix-lr"
    assert topic_slug("\u4f60") == ""


def test_the_worked_example_of_the_instructions_is_a_reply():
    idea = parse_reply(EXAMPLE)
    assert idea.topic == "gradient-clipping"
    assert idea.expected == 0.002
    assert idea.changes == {"LEARNING_RATE": 0.0035}
    assert len(idea.edits) == 1
    assert EXAMPLE in system_prompt("model", "train.py")


LINES = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20).filter(
    lambda line: line.rstrip() not in ("<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE")
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=6), st.lists(LINES, max_size=6))
def test_any_lines_in_a_block_are_read_back_unchanged(old, new):
    block = "\n".join(["<<<<<<< SEARCH", *old, "=======", *new, ">>>>>>> REPLACE"])
    if not "\n".join(old).strip():
        return
    assert parse_reply(f"IDEA: x\n{block}\n").edits == (Edit("\n".join(old), "\n".join(new), lines=True),)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *TEXT.split("\n"),
                "```python",
                "```",
                "```json",
                "{",
                '{"description": "a",',
                '"name": "A", "value": 1}',
                "<think>",
            ]
        )
        | st.text(max_size=10),
        max_size=25,
    ).map("\n".join)
)
def test_any_text_is_an_idea_or_a_complaint(text):
    try:
        idea = parse_reply(text)
    except UnusableReply as refused:
        assert refused.message.strip()
        assert len(refused.message) < 600
    else:
        assert idea.description
        assert (idea.whole is not None) != bool(idea.edits or idea.changes)


# -- schema -------------------------------------------------------------------------------------------------------------

FILE = '# banner\nDEPTH = 8\nLR = 0.1\nPATTERN = "SSL"\nBETAS = (0.8, 0.95)\nTIED = False\n'


def objects_in(schema):
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects_in(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects_in(value)


CHOICES = {"DEPTH": [7, 9], "LR": [0.05, 0.2]}


@pytest.mark.parametrize("choices", [None, CHOICES])
def test_every_object_of_the_schema_is_closed_and_requires_all_its_properties(choices):
    schema = reply_schema(read_constants(FILE, "tiny").literals, choices)
    found = list(objects_in(schema))
    assert found
    for item in found:
        assert item["additionalProperties"] is False
        assert item["required"] == list(item["properties"])


def one_of(name, *values):
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "value": {"enum": list(values)}},
        "required": ["name", "value"],
        "additionalProperties": False,
    }


def test_the_schema_for_small_models_is_this():
    assert reply_schema(read_constants(FILE, "tiny").literals, CHOICES) == {
        "type": "object",
        "properties": {
            "set": {
                "type": "array",
                "items": {"anyOf": [one_of("DEPTH", 7, 9), one_of("LR", 0.05, 0.2)]},
                "minItems": 1,
                "maxItems": 1,
            },
            "description": {"type": "string", "minLength": 8, "maxLength": 80},
            "mechanism": {"type": "string", "maxLength": 80},
        },
        "required": ["set", "description", "mechanism"],
        "additionalProperties": False,
    }


def test_without_choices_a_small_model_gets_the_full_schema_too():
    literals = read_constants(FILE, "tiny").literals
    assert reply_schema(literals, {}) == reply_schema(literals)


def test_whatever_may_be_chosen_can_be_applied_and_changes_the_file():
    literals = read_constants(FILE, "tiny").literals
    choices = choices_of(literals)
    assert list(choices) == ["DEPTH", "LR", "PATTERN", "BETAS[0]", "BETAS[1]", "TIED"]
    for name, values in choices.items():
        for value in values:
            said = json.dumps({"set": [{"name": name, "value": value}], "description": "d", "mechanism": ""})
            assert apply_idea(parse_reply(said), {"train.py": FILE}, "train.py", "tiny") != {"train.py": FILE}


def test_choices_are_the_steps_of_the_search_without_those_tried():
    literals = read_constants("# banner\nLR = 0.1\nTOTAL_BATCH_SIZE = 64\nSEED = 7\n", "tiny").literals
    assert choices_of(literals) == {"LR": [0.05, 0.071, 0.14, 0.2]}
    assert choices_of(literals, tried=[("LR", 0.05), ("LR", 0.14), ("OTHER", 0.2)]) == {"LR": [0.071, 0.2]}
    assert choices_of(literals, tried=[("LR", value) for value in (0.05, 0.071, 0.14, 0.2)]) == {}


def test_every_constant_has_its_turn():
    text = "# banner\n" + "".join(f"RATE_{i}_LR = 0.1\n" for i in range(15))
    literals = read_constants(text, "tiny").literals
    turns = [list(choices_of(literals, turn=turn)) for turn in range(3)]
    assert all(len(names) == 6 for names in turns)
    assert {name for names in turns for name in names} == set(literals)


def test_the_full_schema_limits_settings_to_known_names_and_bounds_nothing():
    schema = reply_schema(read_constants(FILE, "tiny").literals)
    assert list(schema["properties"]) == [
        "description",
        "mechanism",
        "topic",
        "expected",
        "lesson",
        "note",
        "set",
        "edits",
        "file",
    ]
    assert schema["properties"]["set"]["items"]["properties"]["name"]["enum"] == [
        "DEPTH", "LR", "PATTERN", "BETAS[0]", "BETAS[1]", "TIED",
    ]  # fmt: skip
    assert not {"maxLength", "minimum", "maximum", "maxItems"} & set(json.dumps(schema).replace('"', " ").split())
    assert "set" not in reply_schema({})["properties"]


def test_what_the_schema_allows_is_parsed():
    reply = {
        "description": "d", "mechanism": "m", "topic": "t", "expected": None, "lesson": "",
        "set": [{"name": "BETAS[0]", "value": 0.9}], "edits": [], "file": None,
    }  # fmt: skip
    assert parse_reply(json.dumps(reply)).changes == {"BETAS[0]": 0.9}
