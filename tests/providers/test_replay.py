import json

import pytest
from chains import REQUEST, Doors, as_it_is, calls_in, must_say, opened, totals_in
from scripted_models import ScriptedModels, reply

from autoresearch.providers.chain import Caps
from autoresearch.providers.exchange import Message, Reply, Request, Usage
from autoresearch.providers.store import ExchangeStore, reply_json, request_json, sha256_of
from autoresearch.vocabulary import ProviderUnavailable

OTHER = Request("You edit train.py.", (Message("user", "Something else."),), max_tokens=4096)
THIRD = Request("You edit train.py.", (Message("user", "A third thing."),), max_tokens=4096)


@pytest.fixture
def recorded(tmp_path):
    """Session nov21: experiment 1 took a repair and a second ask, experiment 2 one ask."""
    steps = [reply("nonsense"), reply("EDIT one"), reply("EDIT two"), reply("EDIT three")]
    with ScriptedModels(*steps) as server, opened(server.openai(), tmp_path) as chain:
        chain.ask(REQUEST, must_say("EDIT"), number=1)
        chain.ask(OTHER, must_say("EDIT"), number=1)
        chain.ask(REQUEST, must_say("EDIT"), number=2)
    return tmp_path


def test_the_same_questions_get_the_same_answers_by_the_same_way(recorded):
    with opened("replay:nov21", recorded, tag="again") as chain:
        first = chain.ask(REQUEST, must_say("EDIT"), number=1)
        second = chain.ask(OTHER, must_say("EDIT"), number=1)
        third = chain.ask(REQUEST, must_say("EDIT"), number=2)
    assert [a.value for a in (first, second, third)] == ["EDIT one", "EDIT two", "EDIT three"]
    assert (first.calls, first.usd) == (2, 0.0)
    states = [(call.number, call.state) for call in calls_in(recorded, "again")]
    assert states == [(call.number, call.state) for call in calls_in(recorded, "nov21")]
    replayed, live = calls_in(recorded, "again"), calls_in(recorded, "nov21")
    assert [call.reply_sha256 for call in replayed] == [call.reply_sha256 for call in live]
    assert {call.provider for call in replayed} == {"replay"}


def test_other_questions_get_the_usable_answers_of_their_experiment_in_order(recorded):
    with opened("replay:nov21", recorded, tag="again") as chain:
        assert chain.ask(THIRD, as_it_is, number=1).value == "EDIT one"
        assert chain.ask(THIRD, as_it_is, number=1).value == "EDIT two"
        assert chain.ask(THIRD, as_it_is, number=2).value == "EDIT three"


def test_a_record_that_has_run_out_says_so(recorded):
    with opened("replay:nov21", recorded, tag="again") as chain:
        chain.ask(REQUEST, must_say("EDIT"), number=2)
        with pytest.raises(ProviderUnavailable, match="no further reply for experiment 2"):
            chain.ask(REQUEST, must_say("EDIT"), number=2)


def test_a_replay_counts_against_no_cap(recorded):
    with opened("replay:nov21", recorded, tag="again", caps=Caps(usd=0.000001, tokens=1)) as chain:
        chain.ask(REQUEST, must_say("EDIT"), number=1)
        assert (chain.spending().tokens, chain.spending().usd) == (0, 0.0)
    assert calls_in(recorded, "again")[0].input_tokens == 100
    assert totals_in(recorded, "again").calls == 2


def test_a_resumed_replay_goes_on_with_the_experiment_it_is_at(recorded):
    with opened("replay:nov21", recorded, tag="again") as chain:
        chain.ask(REQUEST, must_say("EDIT"), number=1)
    with opened("replay:nov21", recorded, tag="again") as chain:
        assert chain.ask(REQUEST, must_say("EDIT"), number=1).value == "EDIT one"
        assert chain.ask(REQUEST, must_say("EDIT"), number=2).value == "EDIT three"


def test_after_a_replay_the_next_model_goes_on(recorded):
    doors = Doors()
    with (
        ScriptedModels(reply("EDIT live")) as server,
        opened(f"replay:nov21,{server.openai('live')}", recorded, doors, tag="again") as chain,
    ):
        values = [chain.ask(THIRD, must_say("EDIT"), number=2).value for _ in range(2)]
    assert values == ["EDIT three", "EDIT live"]


def test_a_session_without_recorded_replies_cannot_be_replayed(tmp_path):
    with pytest.raises(ProviderUnavailable, match="session dec24 has no recorded replies"):
        opened("replay:dec24", tmp_path)


def test_an_exchange_whose_file_is_gone_or_altered_is_passed_over(recorded):
    store = ExchangeStore(recorded)
    answered = [call for call in calls_in(recorded) if call.state == "answered"]
    path = store._path(answered[0].reply_sha256)
    path.write_text(path.read_text().replace("EDIT one", "EDIT evil"))
    with opened("replay:nov21", recorded, tag="again") as chain:
        assert chain.ask(THIRD, as_it_is, number=1).value == "EDIT two"


# -- the store ----------------------------------------------------------------------------------------------------------

GOLDEN_REQUEST = (
    '{"format":1,"kind":"request","max_tokens":4096,"messages":[{"role":"user","text":"Gr\\u00f6\\u00dfer?"}],'
    '"schema":{"type":"object"},"system":"You edit.","temperature":0.5}'
)
GOLDEN_REPLY = (
    '{"format":1,"kind":"reply","model":"m","provider":"openai","stop_reason":"stop","text":"LR = 2\\n",'
    '"usage":{"cached_tokens":3,"estimated":false,"input_tokens":10,"output_tokens":5,"reasoning_tokens":2}}'
)


def test_a_request_is_stored_in_this_form_and_under_this_name(tmp_path):
    request = Request("You edit.", (Message("user", "Größer?"),), "structure", 4096, 0.5, {"type": "object"})
    text = request_json(request)
    assert text == GOLDEN_REQUEST
    store = ExchangeStore(tmp_path)
    name = store.put(text)
    assert name == sha256_of(GOLDEN_REQUEST) == "fc2c239b73ec76c28102e7ce5d8676b76a967b21a6f5817576a633ac339582cf"
    assert (tmp_path / "exchanges" / name[:2] / f"{name}.json").read_text() == GOLDEN_REQUEST
    assert store.request(name) == Request(request.system, request.messages, "improve", 4096, 0.5, {"type": "object"})


def test_a_reply_is_stored_in_this_form_without_price_and_seconds(tmp_path):
    told = Reply("LR = 2\n", "openai", "m", Usage(10, 5, 3, 2), 0.25, 1.5, "stop")
    assert reply_json(told) == GOLDEN_REPLY
    store = ExchangeStore(tmp_path)
    assert store.reply(store.put(GOLDEN_REPLY)) == Reply(
        "LR = 2\n", "openai", "m", Usage(10, 5, 3, 2), 0.0, 0.0, "stop"
    )


def test_the_purpose_is_no_part_of_what_is_asked():
    assert request_json(Request("s", REQUEST.messages, "fix")) == request_json(Request("s", REQUEST.messages, "draft"))


def test_the_same_content_is_stored_once(tmp_path):
    store = ExchangeStore(tmp_path)
    path = store._path(store.put(GOLDEN_REPLY))
    before = path.stat().st_mtime_ns
    store.put(GOLDEN_REPLY)
    assert path.stat().st_mtime_ns == before


def test_odd_characters_are_stored_as_every_reader_takes_them(tmp_path):
    text = request_json(Request("\ud800 lone", (Message("user", "\x00\u2028"),)))
    assert json.loads(text)["system"] == "\ufffd lone"
    ExchangeStore(tmp_path).put(text)
