import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from chains import REQUEST, as_it_is, calls_in, opened, totals_in
from patience import PATIENCE
from scripted_models import ScriptedModels, hang, reply, status, truncated

from autoresearch.providers.chain import Caps
from autoresearch.providers.exchange import Message, Request, Usage
from autoresearch.providers.prices import price_of
from autoresearch.providers.specification import parse_chain
from autoresearch.vocabulary import ProviderUnavailable, SpendingCapReached, UsageError

PRICED = "input_usd=1&output_usd=10"  # USD per million tokens


def limit_sent(received):
    return received.body["max_completion_tokens"]


def test_a_cap_on_tokens_lowers_the_reply_until_it_is_too_small(tmp_path):
    with (
        ScriptedModels(reply("fine", input_tokens=100, output_tokens=900)) as server,
        opened(server.openai(), tmp_path, caps=Caps(tokens=3000)) as chain,
    ):
        chain.ask(REQUEST, as_it_is, number=1)
        chain.ask(REQUEST, as_it_is, number=2)
        with pytest.raises(SpendingCapReached) as caught:
            chain.ask(REQUEST, as_it_is, number=3)
    first, second = map(limit_sent, server.requests)
    assert 1024 <= second < first < 3000
    assert second <= 3000 - 1000
    assert "2,000 tokens are spent" in str(caught.value)
    assert "--tokens" in caught.value.hint
    assert totals_in(tmp_path).tokens == 2000


def test_a_cap_in_dollars_is_checked_at_the_worst_case_before_the_call(tmp_path):
    with (
        ScriptedModels(reply("fine", input_tokens=100, output_tokens=1900)) as server,
        opened(server.openai(options=PRICED), tmp_path, caps=Caps(usd=0.025)) as chain,
    ):
        answer = chain.ask(REQUEST, as_it_is, number=1)
        assert answer.usd == pytest.approx(100e-6 + 1900e-5)
        with pytest.raises(SpendingCapReached):  # 0.0059 USD are left: not enough for 1,024 tokens
            chain.ask(REQUEST, as_it_is, number=2)
    (received,) = server.requests
    (call,) = calls_in(tmp_path)
    assert call.worst_usd <= 0.025
    assert call.worst_usd == pytest.approx(0.025, abs=1e-5)  # lowered no further than it must
    assert limit_sent(received) < 4096


def test_a_cheaper_model_is_asked_where_the_first_does_not_fit_under_the_cap(tmp_path):
    with ScriptedModels(reply("no")) as dear, ScriptedModels(reply("fine")) as free:
        chain = f"{dear.openai('dear', 'input_usd=1000&output_usd=1000')},{free.openai('free')}"
        with opened(chain, tmp_path, caps=Caps(usd=0.01)) as opened_chain:
            assert opened_chain.ask(REQUEST, as_it_is, number=1).reply.model == "free"
    assert dear.requests == []


def test_the_cap_is_of_the_session_and_survives_its_end(tmp_path):
    with ScriptedModels(reply("fine", input_tokens=500, output_tokens=1500)) as server:
        with opened(server.openai(), tmp_path, caps=Caps(tokens=2500)) as chain:
            chain.ask(REQUEST, as_it_is, number=1)
        with (
            opened(server.openai(), tmp_path, caps=Caps(tokens=2500)) as chain,
            pytest.raises(SpendingCapReached),
        ):
            chain.ask(REQUEST, as_it_is, number=2)
        with opened(server.openai(), tmp_path, caps=Caps(tokens=2500), tag="other") as chain:
            chain.ask(REQUEST, as_it_is, number=1)


def test_a_call_that_broke_off_is_counted_at_its_worst_and_a_refusal_at_nothing(tmp_path):
    with (
        ScriptedModels(truncated("half"), status(500), reply("fine", input_tokens=50, output_tokens=5)) as server,
        opened(server.openai(options=PRICED), tmp_path) as chain,
    ):
        answer = chain.ask(REQUEST, as_it_is, number=1)
    broken, refused, answered = calls_in(tmp_path)
    assert broken.usd == broken.worst_usd == pytest.approx(broken.input_tokens * 1e-6 + 4096e-5)
    assert broken.estimated
    assert (refused.usd, refused.input_tokens, refused.output_tokens) == (0.0, 0, 0)
    assert answer.usd == pytest.approx(broken.usd + answered.usd)
    assert totals_in(tmp_path).usd == pytest.approx(answer.usd)


@pytest.mark.slow
def test_a_call_that_a_kill_cut_off_counts_at_its_worst(tmp_path):
    asked = threading.Event()

    def think(received):
        asked.set()
        return hang()

    with ScriptedModels(think) as server:
        source = f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from pathlib import Path
            from chains import REQUEST, as_it_is, opened
            chain = opened({server.openai(options=PRICED)!r}, Path({str(tmp_path)!r}))
            chain.ask(REQUEST, as_it_is, number=1)
        """
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)])
        try:
            assert asked.wait(PATIENCE)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    (call,) = calls_in(tmp_path)
    spent = totals_in(tmp_path)
    assert call.state == "begun"
    assert spent.tokens == call.worst_tokens > 4096
    assert spent.usd == call.worst_usd > 0.04


def test_what_was_answered_before_a_kill_is_not_paid_for_twice(tmp_path):
    with ScriptedModels(reply("the first answer"), reply("another")) as server:
        with opened(server.openai(), tmp_path) as chain:
            chain.ask(REQUEST, as_it_is, number=1)
        with opened(server.openai(), tmp_path) as chain:
            again = chain.ask(REQUEST, as_it_is, number=1)
            assert (again.value, again.calls, again.tokens) == ("the first answer", 0, 0)
            assert chain.ask(REQUEST, as_it_is, number=1).value == "another"
            assert chain.ask(REQUEST, as_it_is, number=2).value == "another"
    assert len(server.requests) == 3


def test_a_cap_in_dollars_without_a_price_is_refused_with_how_to_give_one(tmp_path):
    environment = {"OPENAI_API_KEY": "k" * 20}
    with pytest.raises(UsageError, match="no price is known for openai:nobody-knows-me") as caught:
        opened("openai:nobody-knows-me", tmp_path, environment=environment, caps=Caps(usd=1.0))
    assert "input_usd=" in caught.value.hint
    opened("openai:nobody-knows-me", tmp_path, environment=environment, caps=Caps(tokens=10)).close()


def test_an_estimate_that_was_too_low_is_raised_for_the_next_call(tmp_path):
    with (
        ScriptedModels(reply("fine", input_tokens=5000, output_tokens=1)) as server,
        opened(server.openai(), tmp_path) as chain,
    ):
        chain.ask(REQUEST, as_it_is, number=1)
        chain.ask(REQUEST, as_it_is, number=2)
    first, second = calls_in(tmp_path)
    assert first.worst_tokens < 5000 < second.worst_tokens


# -- prices -------------------------------------------------------------------------------------------------------------


def usd(chain, *counts):
    price = price_of(parse_chain(chain)[0])
    return None if price is None else price.usd(Usage(*counts))


def test_known_models_have_prices_and_cached_tokens_are_cheaper():
    full = usd("anthropic:claude-opus-4-5", 1_000_000, 0)
    assert full > 0
    assert 0 < usd("anthropic:claude-opus-4-5", 1_000_000, 0, 1_000_000) < full
    assert usd("openai:gpt-5", 0, 1_000_000) > usd("openai:gpt-5", 1_000_000, 0) > 0


def test_own_machines_cost_nothing_and_own_prices_win():
    assert usd("ollama:qwen3:0.6b", 10**6, 10**6) == 0
    assert usd("openai:gpt-5@http://192.168.0.4:8000/v1", 10**6, 10**6) == 0
    assert usd("openai:gpt-5@http://127.0.0.1:4000/v1?input_usd=1&output_usd=2", 10**6, 10**6) == 3.0
    assert usd("openai:gpt-5?input_usd=7&output_usd=2", 10**6, 0) == 7.0


def test_the_price_of_a_model_does_not_hold_at_a_strangers_address():
    assert usd("openai:gpt-5@https://example.org/v1", 1, 1) is None


@pytest.mark.slow
def test_prices_are_looked_up_without_a_network():
    source = textwrap.dedent("""
        import socket
        def refuse(*_, **__): raise SystemExit("a connection was tried")
        socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
        from autoresearch.providers.prices import price_of
        from autoresearch.providers.specification import parse_chain
        assert price_of(parse_chain("openai:gpt-5")[0]).context > 100_000
    """)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_paid_model_brings_its_context_from_the_list(tmp_path):
    with opened("anthropic:claude-opus-4-5", tmp_path, environment={"ANTHROPIC_API_KEY": "k" * 20}) as chain:
        assert chain.context_tokens == 200_000


def test_requests_are_estimated_with_every_part():
    from autoresearch.providers.tokens import estimated_input

    small = Request("a", (Message("user", "b"),))
    assert estimated_input(Request("a " * 100, small.messages)) > estimated_input(small) + 90
    assert estimated_input(Request("a", small.messages, schema={"type": "object"})) > estimated_input(small)


def test_a_schema_counts_against_the_window_only_where_it_is_sent(tmp_path):
    wide = {"type": "object", "properties": {f"constant_{i}": {"type": "number"} for i in range(200)}}
    request = Request(REQUEST.system, REQUEST.messages, max_tokens=256, schema=wide)
    with ScriptedModels(reply("an idea")) as server:
        with opened(server.openai(options="schema=off&context=1024"), tmp_path) as chain:
            assert chain.ask(request, as_it_is, number=1).value == "an idea"
        with (
            opened(server.openai(options="schema=on&context=1024"), tmp_path) as chain,
            pytest.raises(ProviderUnavailable, match="tokens"),
        ):
            chain.ask(request, as_it_is, number=2)
