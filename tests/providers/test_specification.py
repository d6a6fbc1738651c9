import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.providers.specification import PROVIDERS, ModelSpec, is_private_host, parse_chain
from autoresearch.vocabulary import UsageError


def test_a_chain_keeps_its_order_and_a_model_keeps_its_colons():
    chain = parse_chain(
        "anthropic:claude-opus-4-5, openai:gpt-5, ollama:qwen3:0.6b, openai:my-model@http://127.0.0.1:8080/v1/, replay:nov21"
    )
    assert [spec.label for spec in chain] == [
        "anthropic:claude-opus-4-5",
        "openai:gpt-5",
        "ollama:qwen3:0.6b",
        "openai:my-model",
        "replay:nov21",
    ]
    assert chain[2].base_url == "http://127.0.0.1:11434/v1"
    assert chain[3].base_url == "http://127.0.0.1:8080/v1"
    assert (chain[1].custom_url, chain[3].custom_url) == (False, True)


def test_an_at_sign_that_begins_no_address_belongs_to_the_model():
    assert parse_chain("gemini:publishers/x@001")[0].model == "publishers/x@001"


def test_options_are_read_each_in_its_kind():
    (spec,) = parse_chain(
        "vllm:org/name?schema=on&context=8192&reply=1024&temperature=0.7&input_usd=0&output_usd=2.5&key=MY_KEY"
    )
    assert spec == ModelSpec(
        provider="vllm",
        model="org/name",
        base_url="http://127.0.0.1:8000/v1",
        schema="on",
        context=8192,
        reply=1024,
        temperature=0.7,
        input_usd=0.0,
        output_usd=2.5,
        key="MY_KEY",
    )


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_can_be_named(provider):
    assert parse_chain(f"{provider}:m")[0].kind is PROVIDERS[provider]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("claude:opus", "known: openai, azure, openrouter, groq, together, gemini, vllm, sglang, llamacpp, ollama"),
        ("gpt-5", "unknown provider"),
        ("openai:", "names no model"),
        ("openai", "names no model"),
        ("openai:x@http://", "no host"),
        ("openai:x@http://h:port/v1", "cannot be read"),
        ("openai:x?colour=red", "known: schema, context"),
        ("openai:x?context=-1", "whole number"),
        ("openai:x?temperature=nan", "finite"),
        ("openai:x?schema=maybe", "on, off or auto"),
        ("openai:x?key=sk-123", "name of an environment variable"),
        ("openai:x?input_usd=1", "two numbers"),
        (" , ", "no language model"),
    ],
)
def test_a_wrong_chain_is_refused_with_what_is_wrong(text, said):
    with pytest.raises(UsageError, match=said) as caught:
        parse_chain(text)
    assert caught.value.hint


def test_an_address_with_a_password_in_it_is_refused_without_repeating_it():
    with pytest.raises(UsageError) as caught:
        parse_chain("openai:x@https://me:hunter2hunter2@example.org/v1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "192.168.1.7", "10.0.0.3", "gpu-box", "gpu.local"])
def test_machines_of_ones_own_are_private(host):
    assert is_private_host(host)


@pytest.mark.parametrize("host", ["api.openai.com", "8.8.8.8", "localhost.example.org", "10.example.com"])
def test_other_peoples_machines_are_not_private(host):
    assert not is_private_host(host)


@given(st.text(max_size=60))
def test_any_text_is_a_chain_or_a_usage_error(text):
    try:
        assert parse_chain(text)
    except UsageError as error:
        assert error.hint
