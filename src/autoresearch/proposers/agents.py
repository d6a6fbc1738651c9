"""Coding agents as proposers: an agent edits copies of the files in a folder of its own; the loop judges, the agent only edits.

What reaches the session of an agent's run is the text of its program's files, a few lines of its words, and what it says it cost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch.hostile_text import one_line, plain_lines
from autoresearch.proposers.agent_brief import first_words, task_text, written_idea
from autoresearch.proposers.agent_clients import Account, Client, Errand, agent_names, client_of
from autoresearch.proposers.agent_folder import AgentFolder, Found, readable_copies
from autoresearch.proposers.agent_run import Ran, agent_environment, run_agent
from autoresearch.proposers.lessons import FOR_HUMAN
from autoresearch.proposers.llm import constant_changes
from autoresearch.proposers.novelty import digest_of_files, is_seed_only_edit, parse_program, same_files
from autoresearch.proposers.situation import Proposer, Situation, program_of
from autoresearch.providers.redaction import Redactor, secrets_of
from autoresearch.records.calls import Cost
from autoresearch.sandbox.desk import OPEN, SEALED, Desk, bubblewrap_for_desks, installed_text, program_places
from autoresearch.vocabulary import Proposal, ProviderUnavailable, UsageError
from autoresearch.workspace import SCOPES

__all__ = ["AgentOptions", "AgentProposer", "ExternalCall", "agent_names", "make_agent"]

PREFIX = "cli:"
PURPOSE = "agent"  # what the record of calls says was asked
_MAX_LOG = 4096  # characters of the agent's output that a proposal carries
_ATTEMPTS = 2
_LEAST_SECONDS = 0.05  # left over for a second attempt
# Of an agent's places in the home: what would run or instruct something in a later session is read-only ...
_KEPT = (
    *("settings.json", "settings.local.json", "config.toml", "config.json", "opencode.json", "opencode.jsonc", ".env"),
    *("CLAUDE.md", "AGENTS.md", "GEMINI.md", "commands", "agents", "hooks", "plugins", "skills", "rules", "extensions"),
    *("policies", "prompts", "command", "agent", "plugin", "keybindings.json", "output-styles"),
)
# ... and what it noted in other folders looks empty.
_EMPTIED = ("projects", "sessions", "history", "todos", "file-history", "shell-snapshots", "archived_sessions")


def _no_cap() -> float | None:
    return None


@dataclass(frozen=True)
class ExternalCall:
    """What one run of an agent cost, by its own account. cost.estimated: it gave none. why: how it failed, or ""."""

    number: int  # experiment
    provider: str  # "cli:claude"
    model: str
    cost: Cost
    seconds: float
    why: str = ""
    purpose: str = PURPOSE


@dataclass(frozen=True)
class AgentOptions:
    """What an agent is run with.

    root: the workspace. hidden: folders that it must not see, the workspace's root, git directory and caches among them.
    turns, minutes: limits of one proposal. wait: sleeps so many seconds, and says whether the user asked to stop. record:
    takes what each run cost. may_spend: raises SpendingCapReached where a cap leaves no room, else returns how many USD are
    left, None without a cap. sealed: put it into bubblewrap where that works.
    """

    surface: str
    preset: str
    root: Path
    program: str = "model"
    turns: int = 40
    minutes: float = 10.0
    prompt_tokens: int = 24_000
    hidden: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    wait: Callable[[float], bool] = lambda seconds: False
    record: Callable[[ExternalCall], None] = lambda call: None
    may_spend: Callable[[], float | None] = _no_cap
    sealed: bool = True


@dataclass(frozen=True)
class _Attempt:
    """One run: what the process did, what it said, and what it left."""

    ran: Ran
    account: Account
    found: Found
    log: str


def make_agent(name: str, options: AgentOptions) -> Proposer:
    """The proposer `cli:NAME`: a known agent, with the user's own words after it, or any command line (agent_clients).

    Raises:
        UsageError: no such program here, or the command line cannot be read.
    """
    client = client_of(name.removeprefix(PREFIX))
    client.found(options.environment.get("PATH", os.defpath))
    return AgentProposer(client, options)


class AgentProposer:
    """A coding agent that is started anew for each idea. What it may know is in its task; it remembers nothing."""

    def __init__(self, client: Client, options: AgentOptions) -> None:
        self.name = f"{PREFIX}{client.name}"
        self._client = client
        self._options = options
        self._redact = Redactor(secrets_of(options.environment))

    def propose(self, situation: Situation) -> Proposal:
        """One idea of the agent's. An edit of anything but the file in question is handed on to be refused.

        Where its first attempt changes nothing, or offers what cannot be new, it is told so and has a second one within
        the same time limit.

        Raises:
            ProviderUnavailable: it changed nothing.
            SpendingCapReached: the caps leave no room for a run.
            Interrupted: the user asked to stop.
            UsageError: the incumbent lacks the file, or the program is gone.
        """
        options = self._options
        if options.surface not in situation.incumbent:
            held = ", ".join(situation.incumbent) or "no files"
            raise UsageError(f"the incumbent has no {options.surface}; it has {held}", hint="git status")
        before = {options.surface: situation.incumbent[options.surface], **situation.incumbent}
        ends_at = time.monotonic() + 60.0 * options.minutes
        attempts: list[_Attempt] = []
        files, complaint = before, ""
        while len(attempts) < _ATTEMPTS:
            usd_left = options.may_spend()
            copies = readable_copies(self._copied(before), self._task(situation, complaint))
            with AgentFolder(options.root, files, copies) as folder:
                seconds = ends_at - time.monotonic()
                attempts.append(self._attempt(folder, situation.number, complaint, seconds, usd_left, tuple(before)))
            files, complaint = attempts[-1].found.files, self._complaint(attempts[-1].found, situation)
            if not complaint or ends_at - time.monotonic() < _LEAST_SECONDS:
                break
        last = attempts[-1]
        if not last.found.odd and not last.found.outside and same_files(before, last.found.files):
            raise self._nothing_changed(last)
        return self._proposal(attempts, before)

    def _task(self, situation: Situation, complaint: str = "") -> str:
        options = self._options
        return task_text(
            situation,
            surface=options.surface,
            preset=options.preset,
            prompt_tokens=options.prompt_tokens,
            turns=options.turns,
            minutes=options.minutes,
            complaint=complaint,
        )

    def _copied(self, edited: Mapping[str, str]) -> dict[str, Path]:
        """Files that it may read, by their names in its folder: what its own files import, or are imported by.

        The protocol is for agents that drive, so it is not among them.
        """
        names = [name for names in SCOPES.values() for name in names if name not in edited]
        if self._options.program != "data":
            return {name: self._options.root / name for name in names if name in SCOPES["data"]}
        library = sorted((Path(__file__).parents[1] / "recipes").glob("[a-z]*.py"))
        return {name: self._options.root / name for name in names} | {f"recipes/{path.name}": path for path in library}

    # -- one run --------------------------------------------------------------------------------------------------------

    def _attempt(
        self,
        folder: AgentFolder,
        number: int,
        complaint: str,
        seconds: float,
        usd_left: float | None,
        files: tuple[str, ...],
    ) -> _Attempt:
        """Run the agent once, and put what it cost on the books, however it ended."""
        options, client = self._options, self._client
        prompt = first_words(files, complaint)
        errand = Errand(folder.path, files, prompt, options.turns, usd_left)
        for name, text in client.settings(errand).items():
            folder.give(name, text)
        environment = agent_environment(client, options.environment) | dict(client.environment(errand))
        command = [client.found(environment.get("PATH", os.defpath)), *client.command(errand)]
        bwrap = bubblewrap_for_desks() if options.sealed else None
        if bwrap is not None:
            command = self._desk(folder, command, environment).command(bwrap, command)
        began = time.monotonic()
        try:
            ran = run_agent(
                command,
                folder=folder.path,
                environment=environment,
                seconds=seconds,
                wait=options.wait,
                wrapped=bwrap is not None,
            )
        except BaseException:
            cost = Cost(estimated=True, usd=None)
            options.record(ExternalCall(number, self.name, "", cost, time.monotonic() - began, "it was interrupted"))
            raise
        account = client.account(ran.output)
        log = self._redact("\n".join(plain_lines(ran.output, 400)))[-_MAX_LOG:]
        attempt = _Attempt(ran, account, folder.look(), log)
        options.record(self._call(number, attempt))
        return attempt

    def _desk(self, folder: AgentFolder, command: list[str], environment: Mapping[str, str]) -> Desk:
        options, client = self._options, self._client
        home = Path(environment.get("HOME") or Path.home())
        hidden = (options.root, *options.hidden, *installed_text())
        own = [home / name for name in client.own]
        named = [Path(value) for name in client.places_by_variable if (value := environment.get(name))]
        own += [path for path in named if path.is_dir()]
        settings = tuple(folder.path / name for name in (".agent", ".gemini") if (folder.path / name).is_dir())
        return Desk(
            folder.path,
            home,
            fixed=(*folder.fixed, *settings),
            own=tuple(own),
            kept=(*(place / name for place in own for name in _KEPT), *(path for path in named if path.is_file())),
            emptied=tuple(place / name for place in own for name in _EMPTIED if (place / name).is_dir()),
            programs=program_places(
                command, path_variable=environment.get("PATH", os.defpath), guarded=(home, options.root)
            ),
            hidden=hidden,
        )

    def _call(self, number: int, attempt: _Attempt) -> ExternalCall:
        account, ran = attempt.account, attempt.ran
        if account.tokens is None:
            cost = Cost(estimated=True, usd=account.usd)
        else:
            sent, received = account.input_tokens or 0, account.output_tokens or 0
            cost = Cost(sent, received, account.cached_tokens, usd=account.usd)
        why = "" if ran.code == 0 else self._how_it_ended(attempt)
        return ExternalCall(number, self.name, one_line(account.model, 80), cost, ran.seconds, why)

    def _how_it_ended(self, attempt: _Attempt) -> str:
        """In words, with the last thing that it said of it."""
        ran = attempt.ran
        if ran.code is None:
            return f"it was ended after {ran.seconds:.0f} seconds"
        said = attempt.account.error or next((line for line in reversed(attempt.log.split("\n")) if line.strip()), "")
        words = one_line(self._redact(said))
        return f"it ended with exit code {ran.code}" + (f": {words}" if words else "")

    # -- judging it -----------------------------------------------------------------------------------------------------

    def _complaint(self, found: Found, situation: Situation) -> str:
        """What to tell the agent before its second attempt; "" when there is nothing to say, or nothing that would help."""
        before, after = situation.incumbent, found.files
        each = " and ".join(after)
        verb = "is" if len(after) == 1 else "are"
        if found.outside or found.odd:
            return ""  # the loop's to refuse
        if after == before:
            return f"{each} {verb} unchanged."
        if same_files(before, after):
            return f"{each} {verb} the same program as before; comments and layout do not count."
        if is_seed_only_edit(before, after):
            return "only a random seed was changed, and luck is no improvement."
        for name, text in after.items():
            try:
                parse_program(text)
            except SyntaxError as error:
                return f"{name} does not parse: line {error.lineno}: {one_line(error.msg or '')}."
        digest = digest_of_files(after)
        for past in situation.history:
            program = program_of(past, situation)
            if program is not None and digest_of_files(program) == digest:
                return f"{each} {verb} now the very program of experiment {past.number}; it was tried before."
        return ""

    def _nothing_changed(self, last: _Attempt) -> ProviderUnavailable:
        ended = "" if last.ran.code == 0 else f"; {self._how_it_ended(last)}"
        return ProviderUnavailable(
            f"{self.name} changed nothing{ended}",
            hint=f"run `{self._client.program}` by hand to see whether it is logged in, or --proposer search",
        )

    def _proposal(self, attempts: list[_Attempt], before: Mapping[str, str]) -> Proposal:
        options, last = self._options, attempts[-1]
        found = last.found
        words = written_idea(self._redact(found.idea), self._redact(last.account.message), self.name)
        details: dict[str, Any] = {
            "agent": self._client.name,
            "agent_sealed": SEALED if options.sealed and bubblewrap_for_desks() else OPEN,
            "agent_seconds": round(sum(attempt.ran.seconds for attempt in attempts), 1),
            "agent_turns": last.account.turns,
            "agent_log": last.log,
            "operator": PURPOSE,
            "topic": words.topic,
            "mechanism": words.mechanism,
            "lesson": words.lesson,
            **({FOR_HUMAN: words.note} if words.note else {}),
            "expected": words.expected,
            "model": one_line(last.account.model, 80),
            "usd": _sum([attempt.account.usd for attempt in attempts]),
            "tokens": _sum([attempt.account.tokens for attempt in attempts]),
            "calls": len(attempts),
        }
        if last.ran.code != 0:
            details["agent_ended"] = self._how_it_ended(last)
        why, files = self._what_is_proposed(found, before)
        if why:
            details |= {"refused": self._redact(why), "outside": [self._shown(name) for name in found.outside]}
        else:
            details |= constant_changes(before, files, options.preset) if all(map(_parses, files.values())) else {}
        return Proposal(words.description, files, self.name, details)

    def _what_is_proposed(self, found: Found, before: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """(why it must be refused or "", the files). Of a file outside the scope the name is told and nothing is read."""
        if found.odd:
            return found.odd, {}
        for name, text in found.files.items():
            if self._redact.values_out(text) != text and self._redact.values_out(before[name]) == before[name]:
                return f"{name} holds a secret of the environment", {}
        if found.outside:
            names = [self._shown(name) for name in found.outside]
            told = ", ".join(map(repr, names))
            editable = " and ".join(found.files)
            return f"it touches {told}, and only {editable} may be edited here", {
                **found.files,
                **dict.fromkeys(names, ""),
            }
        return "", found.files

    def _shown(self, name: str) -> str:
        """A file name that the agent made up, as a record can hold it."""
        return one_line(self._redact(name), 80)


def _parses(text: str) -> bool:
    try:
        parse_program(text)
    except SyntaxError:
        return False
    return True


def _sum(values: list[Any]) -> Any:
    """The sum of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
