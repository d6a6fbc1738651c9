import subprocess
import sys
import threading

import pytest
from chains import REQUEST, Doors, as_it_is, calls_in, must_say, opened, totals_in
from scripted_models import (
    ScriptedModels,
    drip,
    echo,
    error_in_stream,
    hang,
    huge,
    reply,
    status,
    truncated,
    web_page,
    whole,
    wrong_json,
)

from autoresearch.providers.chain import ChainExhausted
from autoresearch.providers.exchange import Interrupted, Usage
from autoresearch.providers.line import Patience
from autoresearch.vocabulary import ProviderUnavailable, UsageError

QUICK = Patience(connect=5.0, silence=0.3, whole=0.6)
DIALECTS = ["openai", "anthropic"]


@pytest.fixture(scope="module", autouse=True)
def sdks():
    """Imported once, before any deadline of a test counts."""
    import anthropic.resources.messages
    import openai.resources.chat.completions

    assert anthropic and openai


def ask(spec, folder, doors=None, read=as_it_is, number=1, request=REQUEST, **changes):
    with opened(spec, folder, doors, **changes) as chain:
        return chain.ask(request, read, number=number)


# -- a good reply -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_reply_comes_with_its_text_and_tokens_and_without_its_reasoning(dialect, tmp_path):
    step = reply("Größer: LR = 2", reasoning="let me think", input_tokens=100, output_tokens=20, cached_tokens=40)
    with ScriptedModels(step) as server:
        answer = ask(getattr(server, dialect)(), tmp_path)
    assert answer.value == "Größer: LR = 2"
    assert answer.reply.usage == Usage(100, 20, 40)
    assert (answer.calls, answer.usd, answer.tokens) == (1, 0.0, 120)
    assert "You edit train.py." in server.requests[0].prompt
    (call,) = calls_in(tmp_path)
    assert (call.state, call.provider, call.model, call.number) == ("answered", dialect, "small", 1)


def test_thoughts_inside_the_text_are_no_part_of_the_reply(tmp_path):
    with ScriptedModels(reply("<think>\nLR up?\n</think>\nLR = 2", input_tokens=None)) as server:
        answer = ask(server.openai(), tmp_path)
    assert answer.value.strip() == "LR = 2"
    assert answer.reply.usage.estimated
    assert answer.reply.usage.reasoning_tokens > 0


def test_reasoning_that_the_provider_counted_is_recorded(tmp_path):
    with ScriptedModels(reply("ok", output_tokens=500, reasoning_tokens=480)) as server:
        ask(server.openai(), tmp_path)
    assert calls_in(tmp_path)[0].reasoning_tokens == 480


def test_a_server_that_cannot_stream_is_understood(tmp_path):
    with ScriptedModels(whole("all at once")) as server:
        assert ask(server.openai(), tmp_path).value == "all at once"


def test_without_usage_the_tokens_are_estimated_and_marked(tmp_path):
    with ScriptedModels(reply("some words of a reply", input_tokens=None)) as server:
        answer = ask(server.openai(), tmp_path)
    assert answer.reply.usage.estimated
    assert answer.reply.usage.output_tokens >= 4
    assert calls_in(tmp_path)[0].estimated


# -- the next model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("step", "why"),
    [
        (status(500), "not reachable: HTTP 500"),
        (status(429), "busy"),
        (status(401), "no valid key"),
        (status(404), "unknown model"),
        (status(402), "out of quota"),
        (status(400, "prompt is too long for me"), "too long"),
        (truncated("half a"), "broke off"),
        (wrong_json(), "not in its protocol"),
        (web_page(), "a web page"),
        (reply(""), "empty"),
        (huge(), "too large"),
        (error_in_stream("server is on fire", "half"), "server is on fire"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_whatever_goes_wrong_the_next_model_answers_and_the_record_says_why(dialect, step, why, tmp_path):
    doors = Doors()
    with ScriptedModels(step) as bad, ScriptedModels(reply("fine")) as good:
        answer = ask(f"{getattr(bad, dialect)('bad')},{good.openai('good')}", tmp_path, doors)
    assert (answer.value, answer.reply.model) == ("fine", "good")
    *failed, answered = calls_in(tmp_path)
    assert answered.state == "answered"
    assert failed
    assert all(why in call.why for call in failed)
    assert len([line for line in doors.lines if line.startswith(f"{dialect}:bad: ")]) == 1
    assert answer.calls == len(failed) + 1


@pytest.mark.slow
@pytest.mark.parametrize("step", [hang(), hang("half a"), drip()], ids=["silent", "falls silent", "drips"])
def test_a_server_that_never_finishes_is_given_up_in_time(step, tmp_path):
    with ScriptedModels(step) as bad, ScriptedModels(reply("fine")) as good:
        chain = f"{bad.openai('bad')},{good.openai('good')}"
        answer = ask(chain, tmp_path, patience=Patience(5.0, 0.6, 1.5))
    assert answer.reply.model == "good"
    assert "no reply in time" in calls_in(tmp_path)[0].why


def test_a_server_that_is_not_there_is_passed_over(tmp_path):
    with ScriptedModels(reply("x")) as gone:
        address = gone.openai("gone")
    with ScriptedModels(reply("fine")) as good:
        assert ask(f"{address},{good.openai('good')}", tmp_path).reply.model == "good"
    assert "not reachable" in calls_in(tmp_path)[0].why


def test_nobody_answers_and_the_error_names_each_model_with_its_reason(tmp_path):
    with (
        ScriptedModels(status(401, "bad key")) as one,
        ScriptedModels(status(404, "no such model")) as two,
        pytest.raises(ProviderUnavailable) as caught,
    ):
        ask(f"{one.openai('a')},{two.anthropic('b')}", tmp_path)
    assert "openai:a: no valid key: HTTP 401" in str(caught.value)
    assert "anthropic:b: unknown model or address: HTTP 404" in str(caught.value)
    assert caught.value.hint
    assert caught.value.rest_seconds is None


# -- the same model again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_trouble_that_passes_is_tried_again_with_growing_pauses(dialect, tmp_path):
    doors = Doors()
    with ScriptedModels(status(500), status(529), reply("fine")) as server:
        assert ask(getattr(server, dialect)(), tmp_path, doors).calls == 3
    first, second = doors.pauses
    assert 1 <= first <= 2
    assert 2 <= second <= 3


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_provider_that_names_a_wait_gets_exactly_that_wait(dialect, tmp_path):
    doors = Doors()
    with ScriptedModels(status(429, retry_after="17"), reply("fine")) as server:
        ask(getattr(server, dialect)(), tmp_path, doors)
    assert doors.pauses == [17.0]


def test_a_wait_beyond_the_bound_leaves_the_model_to_rest_that_long(tmp_path):
    doors = Doors()
    with (
        ScriptedModels(status(429, retry_after="900"), reply("fine")) as server,
        opened(server.openai(), tmp_path, doors) as chain,
    ):
        with pytest.raises(ChainExhausted) as caught:
            chain.ask(REQUEST, as_it_is, number=1)
        assert doors.pauses == []
        assert caught.value.rest_seconds == 900.0
        doors.now += 800
        with pytest.raises(ChainExhausted):
            chain.ask(REQUEST, as_it_is, number=1)
        assert len(server.requests) == 1
        doors.now += 100
        assert chain.ask(REQUEST, as_it_is, number=1).value == "fine"


@pytest.mark.slow
def test_a_model_that_stays_down_rests_twice_as_long_each_time(tmp_path):
    doors = Doors()
    with (
        ScriptedModels(status(402)) as bad,
        ScriptedModels(reply("fine")) as good,
        opened(f"{bad.openai('bad')},{good.openai('good')}", tmp_path, doors) as chain,
    ):
        asked = []
        for number in range(60):
            doors.now = 60.0 * number
            chain.ask(REQUEST, as_it_is, number=number)
            asked.append(len(bad.requests))
    tries = [minute for minute in range(1, 60) if asked[minute] > asked[minute - 1]]
    assert tries == [10, 30]  # then 40 minutes and more


def test_a_model_without_a_valid_key_is_not_asked_again_in_the_session(tmp_path):
    doors = Doors()
    with (
        ScriptedModels(status(401)) as bad,
        ScriptedModels(reply("fine")) as good,
        opened(f"{bad.openai('bad')},{good.openai('good')}", tmp_path, doors) as chain,
    ):
        for number in range(3):
            doors.now += 10_000
            chain.ask(REQUEST, as_it_is, number=number)
    assert len(bad.requests) == 1


def test_the_only_model_is_waited_for_when_its_rest_is_short(tmp_path):
    doors = Doors()
    with ScriptedModels(reply(""), reply("fine")) as server:
        assert ask(server.openai(), tmp_path, doors).value == "fine"
    assert doors.pauses == [60.0]


# -- repairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_unusable_reply_goes_back_with_the_complaint(dialect, tmp_path):
    with ScriptedModels(reply("nonsense"), reply("EDIT: LR = 2")) as server:
        answer = ask(getattr(server, dialect)(), tmp_path, read=must_say("EDIT"))
    assert (answer.value, answer.calls, answer.tokens) == ("EDIT: LR = 2", 2, 240)
    turns = server.requests[1].body["messages"][-2:]
    assert turns == [
        {"role": "assistant", "content": "nonsense"},
        {"role": "user", "content": "the reply lacks 'EDIT'"},
    ]
    assert [call.state for call in calls_in(tmp_path)] == ["unusable", "answered"]


def test_after_two_repairs_the_next_model_gets_the_first_question(tmp_path):
    with ScriptedModels(reply("nonsense")) as weak, ScriptedModels(reply("EDIT")) as strong:
        answer = ask(f"{weak.openai('weak')},{strong.openai('strong')}", tmp_path, read=must_say("EDIT"))
    assert (len(weak.requests), answer.reply.model) == (3, "strong")
    assert len(strong.requests[0].body["messages"]) == 2  # system and the question
    assert [call.state for call in calls_in(tmp_path)] == ["unusable"] * 3 + ["answered"]


def test_a_reply_that_was_cut_off_is_told_so(tmp_path):
    with ScriptedModels(reply("EDI", stop="length"), reply("EDIT")) as server:
        ask(server.openai(), tmp_path, read=must_say("EDIT"))
    assert "cut off" in server.requests[1].body["messages"][-1]["content"]


def test_a_long_unusable_reply_is_quoted_in_part(tmp_path):
    with ScriptedModels(reply("x" * 100_000), reply("EDIT")) as server:
        ask(server.openai(), tmp_path, read=must_say("EDIT"))
    assert len(server.requests[1].body["messages"][-2]["content"]) < 10_000


# -- manners ------------------------------------------------------------------------------------------------------------


def complain(received):
    """A reasoning model that refuses what older ones take, one thing at a time."""
    body = received.body
    if "max_tokens" in body:
        return status(400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.")
    if "temperature" in body:
        return status(400, "Unsupported value: 'temperature' does not support 0.7 with this model.")
    if "response_format" in body:
        return status(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported")
    if body["max_completion_tokens"] > 2000:
        return status(400, "max_completion_tokens is too large: 4096. This model supports at most 2000 tokens")
    return reply("fine")


def test_refused_parameters_are_learned_from_once(tmp_path):
    request = REQUEST.__class__(REQUEST.system, REQUEST.messages, "improve", 4096, 0.7, {"type": "object"})
    with (
        ScriptedModels(complain) as server,
        opened(server.openai(options="schema=on").replace("openai:", "vllm:"), tmp_path) as chain,
    ):
        assert chain.ask(request, as_it_is, number=1).value == "fine"
        learning = len(server.requests)
        assert chain.ask(request, as_it_is, number=2).value == "fine"
    assert len(server.requests) == learning + 1
    assert server.requests[-1].body["max_completion_tokens"] == 2000
    assert totals_in(tmp_path).tokens == 240  # refusals cost nothing


@pytest.mark.parametrize(("dialect", "where"), [("openai", "response_format"), ("anthropic", "output_config")])
def test_a_schema_is_sent_only_where_it_is_on(dialect, where, tmp_path):
    schema = {"type": "object", "properties": {"idea": {"type": "string"}}}
    request = REQUEST.__class__(REQUEST.system, REQUEST.messages, schema=schema)
    with ScriptedModels(reply("{}")) as server:
        ask(getattr(server, dialect)(options="schema=on"), tmp_path, request=request)
        ask(getattr(server, dialect)(), tmp_path, number=2, request=request)
    assert str(schema) in str(server.requests[0].body[where])
    assert where not in server.requests[1].body


def test_a_prompt_beyond_the_named_context_is_not_sent(tmp_path):
    request = REQUEST.__class__("word " * 5000, REQUEST.messages)
    with ScriptedModels(reply("x")) as small, ScriptedModels(reply("fine")) as large:
        chain = f"{small.openai('small', 'context=4096')},{large.openai('large')}"
        assert ask(chain, tmp_path, request=request).reply.model == "large"
    assert small.requests == []


def test_a_context_that_the_server_names_is_kept_in_mind(tmp_path):
    said = "This model's maximum context length is 3000 tokens. However, you requested 4200 tokens."
    with ScriptedModels(status(400, said), reply("fine")) as server, opened(server.openai(), tmp_path) as chain:
        assert chain.context_tokens is None
        assert chain.ask(REQUEST, as_it_is, number=1).value == "fine"
        assert (chain.context_tokens, chain.first_context) == (3000, 3000)
    assert server.requests[1].body["max_completion_tokens"] < 3000


def test_a_prompt_that_the_server_cut_is_noticed(tmp_path):
    doors = Doors()
    request = REQUEST.__class__("word " * 9000, REQUEST.messages)
    with ScriptedModels(reply("fine", input_tokens=2048)) as server:
        ask(server.openai(), tmp_path, doors, request=request)
    assert "may have cut it" in doors.lines[0]


# -- stopping, and what is opened ---------------------------------------------------------------------------------------


def test_a_stop_while_waiting_ends_the_ask(tmp_path):
    with ScriptedModels(status(500)) as server, pytest.raises(Interrupted):
        ask(server.openai(), tmp_path, Doors(stop_after=1))
    assert len(server.requests) == 1


def test_a_stop_while_a_model_thinks_ends_the_call_at_its_worst_cost(tmp_path):
    asked = threading.Event()

    def think(received):
        asked.set()
        return hang()

    with ScriptedModels(think) as server, pytest.raises(Interrupted):
        ask(server.openai(), tmp_path, wait=lambda seconds: asked.is_set())
    (call,) = calls_in(tmp_path)
    assert (call.state, call.why) == ("failed", "stopped by the user")
    assert call.input_tokens + call.output_tokens == call.worst_tokens > 4096


def test_a_chain_in_which_nobody_can_be_asked_is_refused_with_what_to_set(tmp_path):
    with pytest.raises(ProviderUnavailable, match="set ANTHROPIC_API_KEY") as caught:
        opened("anthropic:claude-opus-4-5", tmp_path)
    assert "keyring set autoresearch ANTHROPIC_API_KEY" in caught.value.hint


def test_a_model_without_a_key_is_left_out_and_said_so(tmp_path):
    doors = Doors()
    with ScriptedModels(reply("fine")) as server:
        answer = ask(f"anthropic:claude-opus-4-5,{server.openai('mine')}", tmp_path, doors)
    assert answer.reply.model == "mine"
    assert doors.lines == ["anthropic:claude-opus-4-5 is left out: no key (set ANTHROPIC_API_KEY)"]


def test_a_missing_package_is_named_with_the_extra_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ProviderUnavailable) as caught:
        opened("ollama:qwen3:0.6b", tmp_path)
    assert "pip install 'autoresearch[llm]'" in str(caught.value)


def test_azure_without_its_address_says_which_variable_has_it(tmp_path):
    with pytest.raises(ProviderUnavailable, match="AZURE_OPENAI_ENDPOINT"):
        opened("azure:mine", tmp_path, environment={"AZURE_OPENAI_API_KEY": "k" * 20})


def test_azure_is_reached_at_the_address_of_its_variable(tmp_path):
    with ScriptedModels(reply("fine")) as server:
        environment = {"AZURE_OPENAI_API_KEY": "k" * 20, "AZURE_OPENAI_ENDPOINT": f"{server.url}/"}
        ask("azure:mine", tmp_path, environment=environment)
    assert server.requests[0].path == "/openai/v1/chat/completions"
    assert server.requests[0].headers["authorization"] == f"Bearer {'k' * 20}"


def test_importing_the_chain_loads_no_client_library():
    source = (
        "import sys, autoresearch.providers.chain\n"
        "heavy = ('openai', 'anthropic', 'genai_prices', 'keyring', 'tenacity', 'httpx2', 'pydantic')\n"
        "sys.exit(' '.join(name for name in heavy if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_provider_is_refused_before_anything_is_opened(tmp_path):
    with pytest.raises(UsageError):
        opened("skynet:t800", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_repeats_headers_is_only_a_refusal(tmp_path):
    with ScriptedModels(echo(400)) as bad, ScriptedModels(reply("fine")) as good:
        assert ask(f"{bad.openai('bad')},{good.openai('good')}", tmp_path).reply.model == "good"
