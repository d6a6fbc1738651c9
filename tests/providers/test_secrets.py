import sys
import traceback
import types

import pytest
from chains import REQUEST, Doors, as_it_is, calls_in, must_say, opened
from hypothesis import given
from hypothesis import strategies as st
from scripted_models import ScriptedModels, echo, error_in_stream, reply, status, web_page

from autoresearch.providers.exchange import Message, Request
from autoresearch.providers.keys import find_key, from_keyring
from autoresearch.providers.redaction import REDACTED, Redactor, secrets_of
from autoresearch.providers.specification import parse_chain
from autoresearch.vocabulary import AutoresearchError, UsageError

KEY = 'planted-key/4711+"quoted"\\end'
OTHER = "another-secret-of-this-machine-qzxw"
ENVIRONMENT = {"PLANTED_KEY": KEY, "GITHUB_TOKEN": OTHER, "HOME": "/nowhere"}


def bytes_under(folder):
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def parrot(received):
    """A reply that repeats the key it was sent."""
    sent = received.headers.get("authorization") or received.headers.get("x-api-key")
    return reply(f"# your key is {sent}\nLR = 2\n")


def page(received):
    return status(200, "x", content_type="text/html")


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_planted_key_is_in_nothing_that_is_written_shown_or_raised(dialect, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OPENAI_LOG", "debug")
    monkeypatch.setenv("ANTHROPIC_LOG", "debug")
    doors, said = Doors(), []
    request = Request(f"My key is {KEY}", (Message("user", f"and {OTHER}"),), max_tokens=2048)
    steps = [echo(401), echo(400), echo(429), echo(500), error_in_stream(f"bad key {KEY}"), web_page(), parrot]
    for number, step in enumerate(steps):
        with ScriptedModels(step) as server:
            chain = getattr(server, dialect)(options="key=PLANTED_KEY")
            with opened(chain, tmp_path, doors, environment=ENVIRONMENT) as opened_chain:
                try:
                    answer = opened_chain.ask(request, must_say("nothing says this"), number=number)
                    said.append(answer.value)
                except AutoresearchError as error:
                    said += ["".join(traceback.format_exception(error)), repr(error.__dict__)]
                said.append(repr(vars(opened_chain)))
            sent = server.requests[0]
            assert KEY in (sent.headers.get("authorization", "") + sent.headers.get("x-api-key", ""))
            assert KEY not in sent.prompt
            assert OTHER not in sent.prompt
    captured = capfd.readouterr()
    written = bytes_under(tmp_path)
    everything = written + "".join([*said, *doors.lines, captured.out, captured.err]).encode()
    assert b"[redacted]" in written
    for secret in (KEY, OTHER, "planted-key", "qzxw"):
        assert secret.encode() not in everything


def test_a_key_in_a_usable_reply_does_not_reach_the_proposer(tmp_path):
    with (
        ScriptedModels(parrot) as server,
        opened(server.openai(options="key=PLANTED_KEY"), tmp_path, environment=ENVIRONMENT) as chain,
    ):
        answer = chain.ask(REQUEST, as_it_is, number=1)
    assert answer.value == f"# your key is Bearer {REDACTED}\nLR = 2\n"


def test_a_key_goes_to_its_provider_and_nowhere_else(tmp_path):
    with ScriptedModels(reply("fine")) as server:
        with opened(server.openai(), tmp_path, environment={"OPENAI_API_KEY": KEY}) as chain:
            chain.ask(REQUEST, as_it_is, number=1)
        with opened(server.anthropic(), tmp_path, environment={"ANTHROPIC_API_KEY": KEY}) as chain:
            chain.ask(REQUEST, as_it_is, number=2)
    for received in server.requests:
        assert KEY not in str(received)
        assert not {"authorization", "x-api-key"} & set(received.headers)


def test_nothing_of_the_environment_or_the_machine_is_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ambient-1234567890")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer ambient\nX-Mine: private")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Mine: private")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "ambient-token")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with ScriptedModels(reply("fine")) as server:
        for number, chain in enumerate((server.openai(), server.anthropic())):
            with opened(chain, tmp_path) as opened_chain:
                opened_chain.ask(REQUEST, as_it_is, number=number)
    for received in server.requests:
        names = set(received.headers) - {"host", "connection", "content-length", "content-type", "accept", "user-agent"}
        assert names <= {"accept-encoding", "anthropic-version"}


def test_a_redirect_is_not_followed_with_the_key(tmp_path):
    with (
        ScriptedModels(reply("stolen")) as thief,
        ScriptedModels(status(307, location=f"{thief.url}/v1/messages")) as server,
    ):
        chain = server.anthropic(options="key=PLANTED_KEY")
        with (
            opened(chain, tmp_path, environment=ENVIRONMENT) as opened_chain,
            pytest.raises(AutoresearchError, match="redirects to"),
        ):
            opened_chain.ask(REQUEST, as_it_is, number=1)
    assert thief.requests == []


def test_a_compressed_reply_is_refused_unread(tmp_path):
    with (
        ScriptedModels(status(200, "x", content_encoding="gzip"), reply("fine")) as server,
        opened(server.openai(), tmp_path) as chain,
    ):
        chain.ask(REQUEST, as_it_is, number=1)
    assert "compressed" in calls_in(tmp_path)[0].why


def test_a_key_never_travels_unencrypted_to_a_public_host():
    (spec,) = parse_chain("openai:x@http://example.org/v1?key=PLANTED_KEY")
    with pytest.raises(UsageError, match="unencrypted") as caught:
        find_key(spec, ENVIRONMENT, lambda name: None)
    assert KEY not in str(caught.value)


# -- where keys come from -----------------------------------------------------------------------------------------------


def spec_of(text):
    return parse_chain(text)[0]


def test_the_environment_comes_before_the_keyring_and_the_first_name_before_the_second():
    asked = []

    def keyring(name):
        asked.append(name)
        return {"GOOGLE_API_KEY": "from the ring"}.get(name)

    gemini = spec_of("gemini:gemini-2.5-pro")
    assert find_key(gemini, {"GEMINI_API_KEY": "a", "GOOGLE_API_KEY": "b"}, keyring) == "a"
    assert asked == []
    assert find_key(gemini, {}, keyring) == "from the ring"
    assert asked == ["GEMINI_API_KEY", "GOOGLE_API_KEY"]


def test_a_server_on_this_machine_needs_no_key_and_no_keyring():
    def refuse(name):
        raise AssertionError("the keyring was asked")

    assert find_key(spec_of("ollama:qwen3:0.6b"), {}, refuse) is None
    assert find_key(spec_of("vllm:m"), {"VLLM_API_KEY": "mine"}, refuse) == "mine"


class KeyringError(Exception):
    pass


@pytest.mark.parametrize("failure", [KeyringError("locked"), RuntimeError("no backend"), OSError("no bus")])
def test_a_locked_or_broken_keyring_is_no_error(failure, monkeypatch):
    def get_password(service, name):
        raise failure

    keyring, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
    keyring.get_password, errors.KeyringError = get_password, KeyringError
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    assert from_keyring("OPENAI_API_KEY") is None


def test_an_entry_of_the_keyring_is_found_under_our_service(monkeypatch):
    keyring, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
    keyring.get_password = {("autoresearch", "OPENAI_API_KEY"): "kept"}.get
    keyring.get_password = lambda service, name: f"{service}/{name}"
    errors.KeyringError = KeyringError
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    assert from_keyring("OPENAI_API_KEY") == "autoresearch/OPENAI_API_KEY"


def test_without_the_keyring_package_there_is_no_key(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert from_keyring("OPENAI_API_KEY") is None


# -- redaction ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcDEF0123456789abcdef",
        "sk-ant-api03-AAAA1111bbbb2222",
        "gsk_abcdefghij0123456789ABCD",
        "AIzaSyA0123456789abcdefghijklmnopqrstu",
        "Bearer abcdef0123456789",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    ],
)
def test_what_looks_like_a_key_is_taken_out_of_what_is_stored(secret):
    assert secret.split()[-1] not in Redactor([])(f'{{"said": "{secret}"}}')


@pytest.mark.parametrize(
    "text",
    ["task-specific-learning-rate-2x", "risk-weighted-loss-0123456789", "the bearer of tokens", "sk-learn", "mask-0.5"],
)
def test_plain_words_stay(text):
    assert Redactor(["none", "EMPTY"])(text) == text


@given(st.text(min_size=8, max_size=40).filter(str.strip), st.text(max_size=50), st.text(max_size=50))
def test_a_key_in_play_is_gone_whatever_surrounds_it(secret, before, after):
    cleaned = Redactor([secret])(f"{before}{secret}{after}")
    assert secret not in cleaned.replace(REDACTED, "\0") or secret in f"{before}{after}" or secret in REDACTED


def test_secrets_are_found_by_their_names():
    environment = {
        "MY_API_KEY": "a1",
        "aws_secret": "b2",
        "PATH": "/bin",
        "DB_PASSWORD": "c3",
        "KEYBOARD": "us",
        "X_TOKEN": "",
    }
    assert sorted(secrets_of(environment)) == ["a1", "b2", "c3"]
