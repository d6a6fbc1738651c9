"""A real small model behind a real server on loopback: asked through the chain, and proposing in a session."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from fakes import fake_experiment
from local_model import NAME, missing, running

from autoresearch.proposers.llm import LanguageModelProposer, MindOptions
from autoresearch.proposers.novelty import same_program
from autoresearch.proposers.situation import MachineFacts, PastExperiment, Situation
from autoresearch.providers.chain import Caps, open_chain
from autoresearch.providers.exchange import Message, Request
from autoresearch.records.calls import CallBook, CallState
from autoresearch.records.ledger import Ledger
from autoresearch.vocabulary import ProviderUnavailable, Status

# 15 s for a proposal of one thread on a quiet machine; a busy one takes several times as long
pytestmark = [
    pytest.mark.local_llm,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("small_model"),
]
CONTEXT, REPLY = 1536, 224  # tokens; two texts of 80 digits take 160 of a reply
SHORT = Request("Be brief.", (Message("user", "Name three colours."),), max_tokens=24)


@pytest.fixture(scope="module")
def base_url():
    pytest.importorskip("openai", reason="pip install 'autoresearch[llm]'")
    with running("--context", str(CONTEXT)) as url:
        yield url


def model(base_url: str, options: str) -> str:
    return f"openai:{NAME}@{base_url}?{options}"


@contextmanager
def chain_to(base_url, folder, options):
    stop = threading.Event()
    chain = open_chain(
        model(base_url, options),
        state_dir=folder,
        tag="t",
        caps=Caps(),
        seconds=900.0,
        environment={},
        wait=stop.wait,
        say=lambda line: None,
    )
    with chain:
        yield chain


def calls_in(folder, tag="t"):
    book = CallBook(folder / "ledger.sqlite3")
    try:
        return book.of(tag)
    finally:
        book.close()


@pytest.mark.slow
def test_a_seed_gives_the_same_reply_streamed_or_whole_and_its_real_tokens(base_url):
    import openai

    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        asked = {
            "model": NAME,
            "messages": [{"role": "user", "content": "Name three colours."}],
            "seed": 7,
            "max_tokens": 24,
        }
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text and text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert 8 <= whole.usage.prompt_tokens <= 30
    assert 1 <= whole.usage.completion_tokens <= 24


@pytest.mark.slow
def test_a_reply_over_the_chain_costs_nothing_and_has_the_models_own_count_of_tokens(base_url, tmp_path):
    with chain_to(base_url, tmp_path, "schema=off") as chain:
        answer = chain.ask(SHORT, str, number=1)
    assert answer.value and answer.usd == 0.0
    assert not answer.reply.usage.estimated
    assert 12 <= answer.reply.usage.input_tokens <= 40


@pytest.mark.slow
def test_a_prompt_that_is_too_long_teaches_the_chain_the_window(base_url, tmp_path):
    long = Request("", (Message("user", "word " * 2 * CONTEXT),), max_tokens=64)
    with chain_to(base_url, tmp_path, "schema=off") as chain:
        assert chain.context_tokens is None
        with pytest.raises(ProviderUnavailable, match="too long"):
            chain.ask(long, str, number=1)
        assert chain.context_tokens == CONTEXT
        assert chain.ask(SHORT, str, number=2).value


@pytest.mark.slow
def test_its_proposals_apply_and_each_is_new(base_url, tmp_path):
    """The model writes nonsense about its ideas; what counts is that every one can be run."""
    source, history = fake_experiment(), []
    with chain_to(base_url, tmp_path, f"schema=on&context={CONTEXT}&reply={REPLY}") as chain:
        mind = LanguageModelProposer(chain, MindOptions("smoke", prompt_tokens=900, reply_tokens=REPLY))
        for number in (1, 2):
            machine = MachineFacts("cpu", budget="6 steps")
            proposal = mind.propose(Situation({"train.py": source}, history, val_bpb=5.0, noise=0.01, machine=machine))
            text = proposal.files["train.py"]
            history.append(
                PastExperiment(
                    number, proposal.description, {"train.py": text}, proposal.details, Status.DISCARD, 5.1, -0.1
                )
            )
            assert proposal.description
            assert proposal.details["model"] == f"openai:{NAME}"
            assert proposal.details["usd"] == 0.0
            assert len(proposal.details["changes"]) == 1
    texts = [source, *(past.files["train.py"] for past in history)]
    assert not any(same_program(texts[i], texts[j]) for i in range(3) for j in range(i))
    calls = calls_in(tmp_path)
    assert {call.state for call in calls} <= {CallState.ANSWERED, CallState.UNUSABLE}
    assert all(call.input_tokens > 300 and not call.estimated for call in calls)
    assert [sum(call.number == past.number for call in calls) for past in history] == [
        past.details["calls"] for past in history
    ]


@pytest.mark.slow
def test_a_session_of_six_experiments_completes_with_its_ideas_among_them(base_url, make_workspace):
    root = make_workspace(settings=f"prompt_tokens = 900\nreply_tokens = {REPLY}\n")
    command = [sys.executable, "-m", "autoresearch", "research", "t", "--experiments", "6", "--json"]
    command += ["--proposer", "hybrid", "--model-share", "0.5"]
    command += ["--model", model(base_url, f"schema=on&context={CONTEXT}&reply={REPLY}")]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    state_dir = root / ".git" / "autoresearch"
    ledger = Ledger(state_dir / "ledger.sqlite3")
    try:
        experiments = ledger.experiments("t")
    finally:
        ledger.close()
    assert [experiment.number for experiment in experiments] == list(range(7))
    assert all(experiment.status is not None for experiment in experiments)
    table = (root / "results.tsv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 1 + 7
    details = {experiment.number: experiment.proposal.details for experiment in experiments}
    by_model = [experiment for experiment in experiments if "model" in details[experiment.number]]
    assert by_model, details
    for experiment in by_model:
        assert experiment.proposal.proposer == "hybrid/llm"
        assert details[experiment.number]["model"] == f"openai:{NAME}"
    calls = calls_in(state_dir)
    assert len({call.number for call in calls}) == 3
    assert all(call.usd == 0.0 and call.output_tokens > 0 for call in calls)
    assert {experiment.number for experiment in by_model} <= {call.number for call in calls}
