"""A language model as a proposer: one idea per experiment, checked here before it may cost a trial.

Which kind of idea is the bandit's choice (`operators`), what the model is told is `prompt`'s, who answers is the
chain's. Covered here: what goes back to the model as a complaint (it does not parse, does not apply, changes nothing,
only a seed, or was tried before, and as which experiment), and what the ledger keeps of an idea in `Proposal.details`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autoresearch.contract.rules import rules_for
from autoresearch.hostile_text import one_line
from autoresearch.proposers.constants import Constants, Literal, Scalar, owner_of, read_constants, rewrite
from autoresearch.proposers.edits import apply_idea
from autoresearch.proposers.lessons import FOR_HUMAN
from autoresearch.proposers.novelty import digest_of_files, is_seed_only_edit, parse_program, same_files
from autoresearch.proposers.operators import Operator, choose, fixes_of, name_of, partners_of, to_fix
from autoresearch.proposers.prompt import Material, ask_for, files_shown, system_prompt
from autoresearch.proposers.reply import Idea, Value, choices_of, parse_reply, reply_schema
from autoresearch.proposers.retest import shaky_keeps, taken_out
from autoresearch.proposers.search_space import SearchSpace, space_of
from autoresearch.proposers.situation import PastExperiment, Situation, program_of
from autoresearch.proposers.stagnation import SAID_AS_TRIED, is_stagnant
from autoresearch.providers.exchange import Message, Request, UnusableReply
from autoresearch.providers.tokens import estimated_input, estimated_tokens
from autoresearch.vocabulary import AutoresearchError, Proposal, UsageError

if TYPE_CHECKING:
    from autoresearch.providers.chain import Answer, Chain

MERGE = "merge"  # purpose of a call that takes an old keep out by hand; its experiment is a retest
NUMBERS = "numbers"  # purpose and operator of a call that may only set constants

# Of a small model's window, a quarter is for the reply; another for the reply that a complaint sends back with it.
_REPLY_SHARE = 4
# Standing instructions that would take more than a fifth of what may be sent are given in brief.
_RULES_SHARE = 5
# With less room than this for a prompt hardly a line of a file is shown, and a model that is held to a schema chooses a value
# that is listed: 20 of 20 replies of a 135M model could then be applied (benchmarks/small_model.py).
_CHOICES_BELOW = 3000
_SMALLEST_PROMPT = 512  # tokens: what a request needs for the task and a part of any file


@dataclass(frozen=True)
class MindOptions:
    """What a session asks of its model. Token counts are upper bounds; a model with a smaller window gets less."""

    preset: str
    seed: int = 0
    surface: str = "train.py"
    program: str = "model"
    prompt_tokens: int = 24_000
    reply_tokens: int = 16_384


@dataclass(frozen=True)
class Task:
    """One question to the model: about which texts, with what material, and what its experiment's details will say."""

    purpose: str
    files: Mapping[str, str]  # the texts that edits apply to, the main one first
    material: Material = field(default_factory=Material)
    details: Mapping[str, Any] = field(default_factory=dict)


class LanguageModelProposer:
    """Asks the chain for the next edit of a program's files. What it remembers is in the history's `details`."""

    name = "llm"

    def __init__(self, chain: Chain, options: MindOptions) -> None:
        self._chain = chain
        self._options = options

    def propose(self, situation: Situation) -> Proposal:
        """One idea of the kind that the bandit chose.

        Raises:
            ProviderUnavailable: no model of the chain gave an answer that can be used.
            SpendingCapReached: the caps leave no room for another call.
            UsageError: the incumbent lacks the file to edit.
        """
        self._check(situation)
        without: tuple[Operator, ...] = ()
        while True:
            operator = self._choose(situation, without)
            if operator is not Operator.RETEST:
                return self._answered(situation, self._task(operator, situation))
            retest = self._retest(situation)
            if isinstance(retest, Proposal):
                return retest
            if retest is not None:
                return self._answered(situation, retest)
            without = (Operator.RETEST,)

    def propose_numbers(self, situation: Situation, state: str, planned: Proposal) -> Proposal:
        """New values for constants, by a model that was shown what the classical search learned and would try next.

        `state` is the search's account of itself; `planned` is what it would try, which the model may simply answer.

        Raises:
            As `propose` does.
        """
        self._check(situation)
        material = Material(optimizer_state=state, stagnant=is_stagnant(situation))
        proposal = self._answered(situation, self._about(NUMBERS, situation, material))
        agreed = same_files(planned.files, proposal.files)
        return replace(proposal, details={**proposal.details, "overrode": not agreed})

    def _check(self, situation: Situation) -> None:
        if self._options.surface not in situation.incumbent:
            raise UsageError(
                f"the incumbent has no {self._options.surface}; it has {', '.join(situation.incumbent) or 'no files'}",
                hint="git status",
            )

    def _choose(self, situation: Situation, without: Sequence[Operator]) -> Operator:
        return choose(situation, self._options.seed, preset=self._options.preset, without=without)

    def _about(
        self, purpose: str, situation: Situation, material: Material, details: Mapping[str, Any] | None = None
    ) -> Task:
        """A task about the files that its prompt will show."""
        files = files_shown(purpose, situation, surface=self._options.surface, extra=material)
        return Task(purpose, files, material, details or {})

    def _task(self, operator: Operator, situation: Situation) -> Task:
        stagnant = is_stagnant(situation)
        broken = to_fix(situation) if operator is Operator.FIX else None
        if broken is not None:
            details = {"fixes": fixes_of(broken) + 1, "mends": broken.number}
            return self._about(operator, situation, Material(broken=broken, stagnant=stagnant), details)
        partners = partners_of(situation, preset=self._options.preset)
        if operator is Operator.COMBINE and partners is not None:
            material = Material(partners=partners, stagnant=stagnant)
            return self._about(operator, situation, material, {"partners": [name_of(past) for past in partners]})
        return self._about(operator, situation, Material(stagnant=stagnant))

    def _retest(self, situation: Situation) -> Proposal | Task | None:
        """The incumbent without an old keep: merged, or for the model to merge; None when nothing new comes of it."""
        options = self._options
        conflicting: Task | None = None
        for keep in shaky_keeps(situation):
            merge = taken_out(keep, situation, preset=options.preset)
            if merge is None:
                continue
            details = {"operator": str(Operator.RETEST), "retested": keep.number, "fixes": 0}
            if merge.files is None:
                conflicting = conflicting or self._about(MERGE, situation, Material(partners=(keep,)), details)
            elif not self._why_not_new(merge.files, situation):
                changes = constant_changes(situation.incumbent, merge.files, options.preset)
                return Proposal(
                    f"without experiment {keep.number}: {one_line(keep.description, 140)}",
                    merge.files,
                    self.name,
                    {**details, "topic": keep.details.get("topic", ""), "calls": 0, "tokens": 0, "usd": 0.0, **changes},
                )
        return conflicting

    def _answered(self, situation: Situation, task: Task) -> Proposal:
        options = self._options
        repeats = 0

        def read(text: str) -> tuple[Idea, dict[str, str]]:
            nonlocal repeats
            idea = parse_reply(text)
            edited = apply_idea(idea, task.files, options.surface, options.preset)
            if why := self._why_not_new(edited, situation):
                repeats += 1
                raise UnusableReply(why)
            if task.purpose == NUMBERS and not _is_numbers_only(task.files, edited, options.preset):
                raise UnusableReply(
                    "this edit changes more than the values of constants. Answer with `SET: NAME = value` lines only."
                )
            return idea, edited

        answer: Answer[tuple[Idea, dict[str, str]]] = self._chain.ask(
            self._request(situation, task), read, number=situation.number
        )
        idea, edited = answer.value
        return Proposal(
            description=one_line(idea.description),
            files=edited,
            proposer=self.name,
            details={
                "operator": task.purpose,
                "topic": idea.topic,
                "mechanism": idea.mechanism,
                "lesson": idea.lesson,
                "expected": idea.expected,
                "model": f"{answer.reply.provider}:{answer.reply.model}",
                "usd": answer.usd,
                "tokens": answer.tokens,
                "calls": answer.calls,
                "repeats": repeats,
                "fixes": 0,
                "partners": [],
                **({FOR_HUMAN: idea.note} if idea.note else {}),
                **constant_changes(situation.incumbent, edited, options.preset),
                **task.details,
            },
        )

    def _request(self, situation: Situation, task: Task) -> Request:
        options = self._options
        reply_tokens, prompt_tokens = rooms(options, self._chain.context_tokens)
        system = system_prompt(options.program, options.surface)
        if estimated_tokens(system) > prompt_tokens // _RULES_SHARE:
            system = system_prompt(options.program, options.surface, brief=True)
        literals = _literals_of(task.files, options.preset)
        choices = self._choices(task.files, situation) if prompt_tokens < _CHOICES_BELOW else {}
        empty = Request(
            system=system,
            messages=(Message("user", ""),),
            purpose=task.purpose,
            max_tokens=reply_tokens,
            schema=reply_schema(literals, choices, list(task.files)),
        )
        prompt = ask_for(
            task.purpose,
            situation,
            surface=options.surface,
            preset=options.preset,
            budget_tokens=max(_SMALLEST_PROMPT, prompt_tokens - estimated_input(empty)),
            extra=task.material,
        )
        return replace(empty, messages=(Message("user", prompt),))

    def _choices(self, files: Mapping[str, str], situation: Situation) -> dict[str, list[Value]]:
        """Values that a small model may choose from, without those that were tried."""
        tried = [
            (name, change[1])
            for past in situation.history
            if isinstance(changes := past.details.get("changes"), dict)
            for name, change in changes.items()
            if isinstance(change, list) and len(change) == 2
        ]
        options = self._options
        literals = _literals_of(files, options.preset)
        space = _data_space(files, options.preset) if options.program == "data" else None
        return choices_of(literals, turn=situation.number, tried=tried, space=space)

    def _why_not_new(self, edited: Mapping[str, str], situation: Situation) -> str:
        """The complaint about a program that is no new idea, or "" when it is one."""
        incumbent = situation.incumbent
        if same_files(incumbent, edited):
            return "this edit leaves the program as it is; comments and layout do not count. Change what it computes."
        if is_seed_only_edit(incumbent, edited):
            return "this edit only changes a random seed, and luck is no improvement. Change something else."
        digest = digest_of_files(edited)
        for past in situation.history:
            tried = program_of(past, situation)
            if tried is not None and digest_of_files(tried) == digest:
                return f"the {SAID_AS_TRIED} as experiment {past.number} ({_said(past)}). Propose something else."
        return ""


def rooms(options: MindOptions, context_tokens: int | None) -> tuple[int, int]:
    """Most tokens of a reply, and of all that is sent with the first call, for a chain whose smallest window is known.

    The window must also hold a reply that is sent back with a complaint, and the answer to that.
    """
    if context_tokens is None:
        return options.reply_tokens, options.prompt_tokens
    reply = max(1, min(options.reply_tokens, context_tokens // _REPLY_SHARE))
    return reply, min(options.prompt_tokens, max(1, context_tokens - 2 * reply))


def constant_changes(before: Mapping[str, str], after: Mapping[str, str], preset: str) -> dict[str, Any]:
    """What an edit did to the constants, as the classical search writes it, so that the search can learn from it.

    `changes` is {NAME: [old, new]} where that is the whole edit, and `parameter` names the literal that changed, when
    it is one. Constants that moved together with code are under `moved`: their effect cannot be told from the code's.

    Raises:
        SyntaxError: one of the texts does not parse.
    """
    moved: dict[str, Scalar] = {}
    pairs: dict[str, list[Any]] = {}
    for file, text in before.items():
        old, here = read_constants(text, preset), _moved(text, after[file], preset)
        owners = dict.fromkeys(owner_of(name) for name in here)
        pairs |= {owner: [_json(old.whole(owner, {})), _json(old.whole(owner, here))] for owner in owners}
        moved |= here
    if not moved or not _is_numbers_only(before, after, preset):
        return {"changes": {}, "moved": pairs}
    return {"changes": pairs, "parameter": next(iter(moved))} if len(moved) == 1 else {"changes": pairs}


def _moved(before: str, after: str, preset: str) -> dict[str, Scalar]:
    """The constants that two texts of one file have in common with other values, and the newer text's values."""
    old, new = read_constants(before, preset), read_constants(after, preset)
    return {
        name: literal.value
        for name, literal in new.literals.items()
        if name in old.literals and repr(old.literals[name].value) != repr(literal.value)
    }


def _is_numbers_only(before: Mapping[str, str], after: Mapping[str, str], preset: str) -> bool:
    """Whether writing the new values of the constants into `before` gives the program `after`."""
    try:
        written = {
            file: rewrite(text, read_constants(text, preset), _moved(text, after[file], preset))
            for file, text in before.items()
        }
        return same_files(written, after)
    except AutoresearchError:
        return False  # a value that cannot be written in the old one's place: a list longer, a string with quotes


def _literals_of(files: Mapping[str, str], preset: str) -> dict[str, Literal]:
    """The constants of all files that parse; of two with one name the main file's."""
    found: dict[str, Literal] = {}
    for constants in _constants_of(files, preset):
        found = {**constants.literals, **found}
    return found


def _constants_of(files: Mapping[str, str], preset: str) -> list[Constants]:
    return [read_constants(text, preset) for text in files.values() if _parses(text)]


def _data_space(files: Mapping[str, str], preset: str) -> SearchSpace | None:
    """What the search would move in a data recipe; None where it finds nothing."""
    rules = rules_for(preset)
    for constants in _constants_of(files, preset):
        space = space_of(
            constants, seq_len=rules.max_seq_len, anchors={}, seen={}, program="data", vocab_size=rules.vocab_size
        )
        if space.dimensions:
            return space
    return None


def _parses(text: str) -> bool:
    try:
        parse_program(text)
    except SyntaxError:
        return False
    return True


def _said(past: PastExperiment) -> str:
    gain = f", gain {past.gain:+.4f}" if past.gain is not None else ""
    return f"{past.status or 'undecided'}{gain}"


def _json(value: Scalar | tuple[Scalar, ...]) -> Any:
    return list(value) if isinstance(value, tuple) else value
