import pytest
from hypothesis import given, settings
from pasts import past, situations

from autoresearch.proposers.situation import Situation
from autoresearch.proposers.topics import changed_parts, topic_of, topics_of

FILE = """DEPTH = 8
LR: float = 0.1
PRESET_OVERRIDES = {"tiny": {"DEPTH": 2, "LR": 0.2}, "small": {"LR": 0.3}}

class Net:
    size = 3
    def __init__(self):
        self.a = 1
    def forward(self, x):
        return x

def train():
    pass
"""


def test_what_the_model_said_wins_then_the_constants_it_set():
    assert topic_of(past(1, details={"topic": "Weight tying!", "changes": {"LR": [1, 2]}}), None) == "weight-tying"
    assert (
        topic_of(past(1, details={"topic": "", "changes": {"MATRIX_LR": [1, 2], "DEPTH": [1, 2]}}), None)
        == "matrix-lr-depth"
    )
    assert topic_of(past(1, details={"topic": 3, "changes": [1]}), None) == "other"


def test_names_of_what_changed_are_found_in_the_syntax_tree():
    assert changed_parts(FILE, FILE.replace("DEPTH = 8", "DEPTH = 9")) == ["DEPTH"]
    assert changed_parts(FILE, FILE.replace('"DEPTH": 2', '"DEPTH": 3')) == ["DEPTH"]
    assert changed_parts(FILE, FILE.replace("return x", "return 2 * x").replace("pass", "return 1")) == [
        "Net.forward",
        "train",
    ]
    assert changed_parts(FILE, FILE.replace("size = 3", "size = 4")) == ["Net"]
    assert changed_parts(FILE, FILE.replace("LR: float = 0.1\n", "# gone\n")) == ["LR"]
    assert changed_parts(FILE, FILE + "\n# a comment\n") == []
    assert changed_parts(FILE, "x = (") == []


def test_the_program_is_compared_with_the_one_it_started_from():
    kept = past(1, files={"train.py": FILE.replace("DEPTH = 8", "DEPTH = 9")}, base=0)
    then = past(2, files={"train.py": kept.files["train.py"].replace("pass", "return 1")}, base=1)
    lost = past(3, files={"train.py": FILE}, base=None)
    situation = Situation({"train.py": FILE}, [kept, then, lost], incumbent_number=0)
    assert topics_of(situation) == {1: "depth", 2: "train", 3: "other"}


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(situations(FILE))
def test_every_experiment_has_a_topic_of_plain_characters(situation):
    topics = topics_of(situation)
    assert set(topics) == {one.number for one in situation.history}
    for topic in topics.values():
        assert topic
        assert len(topic) <= 40
        assert set(topic) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
