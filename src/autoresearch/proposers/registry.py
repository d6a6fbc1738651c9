"""Proposers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoresearch.proposers.situation import Proposer
from autoresearch.vocabulary import UsageError

if TYPE_CHECKING:
    from autoresearch.proposers.agents import AgentOptions
    from autoresearch.proposers.llm import LanguageModelProposer
    from autoresearch.proposers.search import SearchProposer
    from autoresearch.providers.chain import Chain


def _silent(line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class ProposerOptions:
    """What every proposer is made from.

    chain: the language models, None where none is named. share: part of a hybrid's experiments that the model proposes;
    override: part of these in which it may only set numbers, None for the built-in one. prompt_tokens, reply_tokens:
    most that is sent and asked for. agent: what a coding agent is run with. say: shows the user one line.
    """

    preset: str
    seed: int = 0
    surface: str = "train.py"  # the file that is edited
    program: str = "model"
    chain: Chain | None = None
    share: float = 0.3
    override: float | None = None
    prompt_tokens: int = 24_000
    reply_tokens: int = 16_384
    agent: AgentOptions | None = None
    say: Callable[[str], None] = _silent


# `variant` is what follows the colon: "cmaes" in "search:cmaes", or "".
Factory = Callable[[str, ProposerOptions], Proposer]


def _search(variant: str, options: ProposerOptions) -> SearchProposer:
    from autoresearch.proposers.search import SearchProposer

    return SearchProposer(
        options.preset, seed=options.seed, surface=options.surface, method=variant or "tpe", program=options.program
    )


def _make_search(variant: str, options: ProposerOptions) -> Proposer:
    return _search(variant, options)


def _mind(options: ProposerOptions) -> LanguageModelProposer:
    from autoresearch.proposers.llm import LanguageModelProposer, MindOptions

    if options.chain is None:
        raise UsageError(
            "this proposer needs a language model, and none is named",
            hint="autoresearch research TAG --model openai:gpt-5",
        )
    return LanguageModelProposer(
        options.chain,
        MindOptions(
            preset=options.preset,
            seed=options.seed,
            surface=options.surface,
            program=options.program,
            prompt_tokens=options.prompt_tokens,
            reply_tokens=options.reply_tokens,
        ),
    )


def _make_llm(variant: str, options: ProposerOptions) -> Proposer:
    return _mind(options)


def _make_hybrid(variant: str, options: ProposerOptions) -> Proposer:
    from autoresearch.proposers.hybrid import OVERRIDE_SHARE, HybridProposer

    return HybridProposer(
        _search(variant, options),
        _mind(options),
        share=options.share,
        override=OVERRIDE_SHARE if options.override is None else options.override,
        seed=options.seed,
        name=f"hybrid:{variant}" if variant else "hybrid",
        say=options.say,
    )


def _make_agent(variant: str, options: ProposerOptions) -> Proposer:
    from autoresearch.proposers.agents import make_agent

    if options.agent is None:
        raise UsageError("a coding agent needs a workspace", hint="autoresearch research TAG --proposer cli:claude")
    return make_agent(variant, options.agent)


# Complete names, in the order they are shown, each with what makes it.
_REGISTRY: Mapping[str, Factory] = {
    "search": _make_search,
    "search:tpe": _make_search,
    "search:cmaes": _make_search,
    "search:random": _make_search,
    "llm": _make_llm,
    "hybrid": _make_hybrid,
    "hybrid:tpe": _make_hybrid,
    "hybrid:cmaes": _make_hybrid,
}
_AGENTS = "cli:"  # what follows names a coding agent, or is the command that runs one


def known_proposers() -> tuple[str, ...]:
    """Names that `make_proposer` takes; AGENT stands for a coding agent's name or a command."""
    return (*_REGISTRY, f"{_AGENTS}AGENT")


def check_proposer(name: str) -> None:
    """Refuse a name that no proposer has, before anything is opened for it.

    Raises:
        UsageError: no such proposer; the message names the known ones.
    """
    _factory(name)


def needs_model(name: str) -> bool:
    """Whether the proposer of that name asks a chain of language models."""
    return name.partition(":")[0] in ("llm", "hybrid")


def make_proposer(name: str, options: ProposerOptions) -> Proposer:
    """The proposer of that name.

    Raises:
        UsageError: no such proposer or preset (the message names the known ones), or what it needs is missing: a language
            model, a coding agent's program.
    """
    return _factory(name)(name.partition(":")[2], options)


def _factory(name: str) -> Factory:
    if name.startswith(_AGENTS) and name.removeprefix(_AGENTS).strip():
        return _make_agent
    factory = _REGISTRY.get(name)
    if factory is None:
        raise UsageError(
            f"unknown proposer {name!r}; known: {', '.join(known_proposers())}",
            hint="autoresearch research TAG --proposer search",
        )
    return factory
