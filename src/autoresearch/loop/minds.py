"""Who proposes in a session, opened with all it needs: models with their caps, agents with their folders to stay out of."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from autoresearch.contract.corpora import cache_root
from autoresearch.loop.settings import Settings
from autoresearch.proposers.registry import ProposerOptions, check_proposer, make_proposer, needs_model
from autoresearch.proposers.situation import Proposer
from autoresearch.providers.chain import Caps, Chain, open_chain
from autoresearch.records.calls import CallBook
from autoresearch.vocabulary import SpendingCapReached
from autoresearch.workspace import SCOPES, Workspace

_AGENT = "cli:"


def proposer_for(
    workspace: Workspace,
    settings: Settings,
    tag: str,
    *,
    preset: str,
    entry: str,
    stop: threading.Event,
    say: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
) -> Proposer:
    """The proposer that the settings name, for a session's contract and main file; the session need not have begun.

    The file says which program it is: a session that is resumed without `--program` keeps its own.

    Raises:
        UsageError: no such proposer, or what it needs is missing: a model, a key, an agent's program, an installed extra.
    """
    name = settings.proposer_name
    check_proposer(name)
    options = ProposerOptions(
        preset=preset,
        seed=settings.seed,
        surface=entry,
        program=next((program for program, names in SCOPES.items() if entry in names), settings.program),
        share=settings.model_share,
        prompt_tokens=settings.prompt_tokens,
        reply_tokens=settings.reply_tokens,
        chain=_chain(workspace, settings, tag, stop, say, environment) if needs_model(name) else None,
        say=say,
    )
    if name.startswith(_AGENT):
        return _agent(name, workspace, settings, tag, options, stop, environment)
    return make_proposer(name, options)


def _chain(
    workspace: Workspace,
    settings: Settings,
    tag: str,
    stop: threading.Event,
    say: Callable[[str], None],
    environment: Mapping[str, str],
) -> Chain | None:
    if settings.model is None:
        return None  # the proposer says what to type
    return open_chain(
        settings.model,
        state_dir=workspace.state_dir,
        tag=tag,
        caps=Caps(settings.usd, settings.tokens),
        seconds=settings.model_seconds,
        environment=environment,
        wait=stop.wait,
        say=say,
    )


def _agent(
    name: str,
    workspace: Workspace,
    settings: Settings,
    tag: str,
    options: ProposerOptions,
    stop: threading.Event,
    environment: Mapping[str, str],
) -> Proposer:
    from autoresearch.proposers.agents import AgentOptions, ExternalCall

    book = CallBook(workspace.ledger_path)

    def record(call: ExternalCall) -> None:
        book.add_external(
            tag,
            call.number,
            call.purpose,
            call.provider,
            call.model,
            cost=call.cost,
            seconds=call.seconds,
            why=call.why,
        )

    agent = AgentOptions(
        surface=options.surface,
        preset=options.preset,
        root=workspace.root,
        program=options.program,
        turns=settings.agent_turns,
        minutes=settings.agent_minutes,
        prompt_tokens=settings.prompt_tokens,
        hidden=(workspace.root, workspace.repository.common_dir, cache_root()),
        environment=environment,
        wait=stop.wait,
        record=record,
        may_spend=lambda: room_left(book, tag, settings),
        sealed=settings.sandbox != "none",
    )
    return make_proposer(name, replace(options, agent=agent))


def room_left(book: CallBook, tag: str, settings: Settings) -> float | None:
    """US dollars that the session may still spend; None without a cap.

    Raises:
        SpendingCapReached: nothing is left of a cap on money or tokens.
    """
    spent = book.totals(tag)
    if settings.tokens is not None and spent.tokens >= settings.tokens:
        raise SpendingCapReached(
            f"session {tag} has used {spent.tokens:,} tokens of {settings.tokens:,}",
            hint=f"autoresearch research {tag} --resume --tokens {settings.tokens * 2}",
        )
    if settings.usd is None:
        return None
    if spent.usd_is_partial:
        raise SpendingCapReached(
            f"--usd {settings.usd:g} cannot be kept: an agent of session {tag} does not say what it spent",
            hint=f"autoresearch research {tag} --resume --tokens 2000000   (without --usd)",
        )
    if spent.usd >= settings.usd:
        raise SpendingCapReached(
            f"session {tag} has spent {spent.usd:.2f} USD of {settings.usd:g}",
            hint=f"autoresearch research {tag} --resume --usd {settings.usd * 2:g}",
        )
    return settings.usd - spent.usd
