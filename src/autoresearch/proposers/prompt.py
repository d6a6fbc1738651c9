"""What a model is told: where the session stands, the file, what was tried, and the task. Never more than was allowed.

Whatever a machine wrote stands in quotations (`hostile_text.quoted_for_model`), the file between marks of its own. The same
situation gives the same prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch.hostile_text import one_line, quoted_for_model
from autoresearch.proposers.briefing import EXAMPLE, system_prompt
from autoresearch.proposers.lessons import lessons_of
from autoresearch.proposers.lineage import gain_text, lineage_of, retired_of
from autoresearch.proposers.retest import text_before
from autoresearch.proposers.shown import (
    all_in_force,
    changed_names,
    diff_quotation,
    in_force,
    part_listing,
    whole_listing,
)
from autoresearch.proposers.situation import PastExperiment, Situation
from autoresearch.providers.tokens import estimated_tokens
from autoresearch.vocabulary import Status, UsageError

__all__ = ["EXAMPLE", "OPERATORS", "Material", "ask_for", "source_of", "system_prompt"]

# How the tokens are shared out. A whole file may take _WHOLE of them; parts of one get _PARTS. Of what is left, what the
# operator needs gets _MATERIAL, lessons _LESSONS, retired directions _RETIRED, and the lineage all the rest.
_WHOLE, _PARTS, _MATERIAL, _LESSONS, _RETIRED = 0.72, 0.4, 0.35, 0.12, 0.08
# Parts of those shares that are tried in turn until the prompt fits; at 0 it is the task and what the file lets be set.
_SHARES = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.0)
_LOG_CHARACTERS = 4000
_STATE_CHARACTERS = 6000
_MAX_RETIRED = 25
_FRAME = re.compile(r"(?:line (\d+)|:(\d+)), in (\w+)|in (\w+)$", re.MULTILINE)  # of a traceback

_TASKS: Mapping[str, str] = {
    "improve": (
        "Propose the one edit that you expect to lower val_bpb most for its risk. Start from where this model loses: too few steps, "
        "steps that are too slow, a rate or a schedule that does not fit the budget, capacity in the wrong place, an update rule that wastes "
        "signal. A near miss (a discard with a positive gain) is worth another try only in a stronger form, or with a reason why now."
    ),
    "draft": (
        "Propose a structural change: something that no setting of the constants could reach, such as another form of attention or of "
        "mixing, another layer layout, an objective, an update rule, a way to spend the budget on more useful tokens. It may be larger "
        "than usual, yet it must run at once: write it completely, choose its constants with care, keep the cost of a step in view, "
        "and let it start close to what the incumbent does where you can (a gate at zero, an identity at first)."
    ),
    "combine": (
        "Put the two edits quoted above into the incumbent, which holds neither of them. Each promised something alone. Say why their mechanisms add up, "
        "and adapt them to each other: two ways to the same effect need a smaller dose of each, and constants tuned for one may be off."
    ),
    "simplify": (
        "Take something out: a mechanism, a parameter group, a special case, a constant that no longer earns its place. Choose what costs time "
        "or adds noise for the least benefit; what it saves goes into more steps. The result must read as if it had never been there."
    ),
    "fix": (
        "The edit quoted above crashed, and the file that you are shown is that candidate, not the incumbent. Mend it with the smallest edit that "
        "keeps its idea, after finding the cause in the log. Look for the same mistake elsewhere in the file. If the idea itself "
        "cannot work, reduce it to the part that can."
    ),
    "numbers": (
        "Choose new values for one to four constants, with SET lines only; the structure stays. A numerical optimizer works on the same "
        "constants, and its state is quoted above when there is one. Use what it cannot know: how constants belong together (batch size and "
        "learning rate, depth and width, warm-down and final rate), and which values are out of the question. Answer its own next step if you "
        "would do the same."
    ),
    "merge": (
        "The edit quoted above was kept earlier, perhaps by luck, and later edits were built on it, so it could not be taken out by a "
        "mechanical merge. Write the incumbent without it: undo that edit, keep the effect of everything that came later, and leave nothing "
        "behind that only it needed."
    ),
}
OPERATORS = tuple(_TASKS)
_STAGNANT = (
    "The session has stalled: steps near the incumbent no longer pay. Leave the neighbourhood. Question something that every experiment so far "
    "took for granted, or bring in a mechanism that the record does not know; a larger risk is welcome now."
)
_PARTIAL = (
    "Only a part of the file is shown. Use SET lines, and blocks for lines that you see; do not send a whole file, and do not "
    "guess at lines that are not shown."
)


@dataclass(frozen=True)
class Material:
    """What an operator needs besides the situation.

    partners: the experiments to combine, or the one keep to take out. broken: the crashed candidate to mend, its text and log
    within. optimizer_state: what the classical search learned and would try next. stagnant: the session has stalled.
    """

    partners: tuple[PastExperiment, ...] = ()
    broken: PastExperiment | None = None
    optimizer_state: str = ""
    stagnant: bool = False


@dataclass(frozen=True)
class _Ask:
    """One request, as its sections need it. `source` is the text that edits apply to."""

    operator: str
    situation: Situation
    surface: str
    preset: str
    budget: int
    extra: Material
    source: str


def source_of(operator: str, situation: Situation, *, surface: str, extra: Material) -> str:
    """The text that the prompt shows and the reply's edits apply to: the crashed candidate's for "fix", else the incumbent's."""
    if operator == "fix" and extra.broken is not None and surface in extra.broken.files:
        return extra.broken.files[surface]
    return situation.incumbent[surface]


def ask_for(
    operator: str, situation: Situation, *, surface: str, preset: str, budget_tokens: int, extra: Material | None = None
) -> str:
    """The request for one idea of a kind, of at most `budget_tokens` by estimate (the standing instructions not counted).

    Sections: standing, machine, file, record, lessons, retired directions, the operator's material, task. Where the whole file does
    not fit, its constants and some parts are shown, and the prompt says that only those may be edited.

    Raises:
        UsageError: the budget has no room for the task and a part of the file: 512 tokens suffice for any file.
        ValueError: no such operator.
    """
    if operator not in _TASKS:
        raise ValueError(f"unknown operator {operator!r}; known: {', '.join(OPERATORS)}")
    material = extra or Material()
    source = source_of(operator, situation, surface=surface, extra=material)
    ask = _Ask(operator, situation, surface, preset, budget_tokens, material, source)
    whole = _whole_file(ask)
    for share in _SHARES:
        text = _rendered(ask, whole, share) if share or whole == "" else _rendered(ask, "", share)
        if estimated_tokens(text) <= budget_tokens:
            return text
    raise UsageError(f"{budget_tokens} tokens are too few for a request to a model", hint="--prompt-tokens 4000")


def _rendered(ask: _Ask, whole: str, share: float) -> str:
    """The prompt with its variable sections at this share of their tokens."""
    terse = share == 0.0
    standing = (
        [_score(ask.situation)] if terse else [_score(ask.situation), _course(ask.situation), _machine(ask.situation)]
    )
    head = _section("Where the session stands", *standing)
    task = _section("Your task", *_task(ask, terse=terse), "" if whole else _PARTIAL)
    file = _section(f"The file: {_file_title(ask)}", *([whole, _overrides(ask)] if whole else _parts(ask, share)))
    room = max(0.0, ask.budget - estimated_tokens(head) - estimated_tokens(task) - estimated_tokens(file)) * share
    material = _material(ask, int(_MATERIAL * room))
    lessons = _section("Lessons that earlier models wrote, newest first", _lessons(ask.situation, int(_LESSONS * room)))
    retired = _section("Retired directions", _retired(ask.situation, int(_RETIRED * room)))
    left = room - sum(map(estimated_tokens, (material, lessons, retired)))
    record = _section("What was tried", lineage_of(ask.situation, int(left)))
    return "\n\n".join(part for part in (head, file, record, lessons, retired, material, task) if part)


def _section(title: str, *paragraphs: str) -> str:
    """A titled section; "" without a paragraph that says something."""
    said = [paragraph for paragraph in paragraphs if paragraph]
    return "\n".join([f"# {title}", *said]) if said else ""


# -- standing -----------------------------------------------------------------------------------------------------------


def _score(situation: Situation) -> str:
    """The incumbent's score and the noise of one trial."""
    who = f"experiment {situation.incumbent_number}" if situation.incumbent_number else "the baseline"
    if situation.val_bpb is None:
        return "Nothing is measured yet; the incumbent is the baseline."
    error = f" +- {situation.val_bpb_error:.4f} (standard error)" if situation.val_bpb_error is not None else ""
    noise = f" One trial scatters around its mean by {situation.noise:.4f}." if situation.noise is not None else ""
    return f"The incumbent is {who}: val_bpb {situation.val_bpb:.4f}{error}.{noise}"


def _course(situation: Situation) -> str:
    """What the noise means, and how the session went, in a few lines."""
    lines: list[str] = []
    if situation.noise is not None:
        lines.append(
            f"Two single runs of one file differ by more than {1.41 * situation.noise:.4f} about one time in three; smaller gains "
            "need repeats to show, and gains far below it are lost."
        )
    if situation.val_bpb is not None and situation.baseline_val_bpb is not None and situation.incumbent_number:
        gained = situation.baseline_val_bpb - situation.val_bpb
        lines.append(f"The baseline had {situation.baseline_val_bpb:.4f}: {gained:+.4f} gained so far.")
    verdicts = [past.status for past in situation.history if past.status is not None]
    if verdicts:
        counts = ", ".join(f"{verdicts.count(status)} {status}" for status in Status if verdicts.count(status))
        since = next((i for i, status in enumerate(reversed(verdicts)) if status is Status.KEEP), len(verdicts))
        lines.append(f"Experiments so far: {len(verdicts)} ({counts}); since the last keep: {since}.")
    gains = sorted(p.gain for p in situation.history if p.status is Status.KEEP and p.gain is not None)
    if len(gains) >= 3:
        lines.append(f"Gains of the keeps: {gains[0]:+.4f} to {gains[-1]:+.4f}, median {gains[len(gains) // 2]:+.4f}.")
    return "\n".join(lines)


def _machine(situation: Situation) -> str:
    machine = situation.machine
    facts = [
        f"device {one_line(machine.device, 20)} {one_line(machine.chip, 60)}".rstrip() if machine.device else "",
        f"{machine.memory_gb:.1f} GB of memory" if machine.memory_gb is not None else "",
        f"budget {one_line(machine.budget, 40)} of training" if machine.budget else "",
        f"incumbent: {machine.tok_sec:,.0f} tokens/s" if machine.tok_sec is not None else "",
        f"peak memory {machine.peak_memory_gb:.2f} GB" if machine.peak_memory_gb is not None else "",
    ]
    said = "; ".join(fact for fact in facts if fact)
    return f"Machine: {said}." if said else ""


# -- the file -----------------------------------------------------------------------------------------------------------


def _file_title(ask: _Ask) -> str:
    if ask.operator == "fix" and ask.extra.broken is not None:
        return f"{ask.surface} of experiment {ask.extra.broken.number}, which crashed"
    return f"{ask.surface}, the incumbent"


def _whole_file(ask: _Ask) -> str:
    """The whole file where it fits and is needed: numbers are chosen from the constants alone."""
    if ask.operator == "numbers" or len(ask.source) > 8 * ask.budget:
        return ""
    listing = whole_listing(ask.source)
    return listing if estimated_tokens(listing) <= _WHOLE * ask.budget else ""


def _parts(ask: _Ask, share: float) -> list[str]:
    """A listing of some parts, and the values in force: all of them where the listing leaves constants out."""
    budget = int(max(0.1, share) * _PARTS * ask.budget)
    turn = 7 * ask.situation.number  # another place each time; 7 has no factor in common with most numbers of parts
    numbers = ask.operator == "numbers"
    listing, is_complete = part_listing(
        ask.source, budget_tokens=budget, names=_named_parts(ask), turn=turn, only_constants=numbers
    )
    if is_complete:
        return [listing, _overrides(ask)]
    every = all_in_force(ask.source, ask.preset, budget_tokens=budget)
    return [listing, f"Constants in force: {every}." if every else ""]


def _named_parts(ask: _Ask) -> list[str]:
    """Parts of the file that the operator is about: the frames of the traceback, what the partners' edits touch."""
    if ask.extra.broken is not None:
        frames = {name for found in _FRAME.findall(ask.extra.broken.log_tail[-20_000:]) for name in found if name}
        touched = changed_names(ask.source, ask.situation.incumbent.get(ask.surface, ""))
        return [*touched, *frames, *(f"{name.rpartition('.')[0]}.{frame}" for name in touched for frame in frames)]
    if ask.operator not in ("combine", "merge"):
        return []
    names: list[str] = []
    for past in ask.extra.partners:
        after = past.files.get(ask.surface)
        if after is not None:
            names += changed_names(ask.source, _before(ask, past) or after)
    return names


def _overrides(ask: _Ask) -> str:
    if not ask.preset:
        return ""
    changed = in_force(ask.source, ask.preset)
    return f"In force by PRESET_OVERRIDES[{ask.preset!r}]: {changed}." if changed else ""


# -- record, lessons, material ------------------------------------------------------------------------------------------


def _lessons(situation: Situation, budget: int) -> str:
    lessons = lessons_of(situation)
    while lessons:
        text = quoted_for_model("\n".join(lessons), 100_000, what="lessons that models wrote")
        if estimated_tokens(text) <= budget:
            return text
        lessons = lessons[:-1]
    return ""


def _retired(situation: Situation, budget: int) -> str:
    retired = retired_of(situation)
    lines = [
        f"{one.topic}: {one.tries} tries since {'its last keep' if one.keeps else 'the start'}, no keep"
        + (f", best {one.best_gain:+.4f}" if one.best_gain is not None else "")
        for one in retired[:_MAX_RETIRED]
    ]
    if len(retired) > _MAX_RETIRED:
        lines.append(f"and {len(retired) - _MAX_RETIRED} more")
    intro = "Do not go there again, unless by a mechanism of another kind that you name:"
    while lines:
        text = "\n".join([intro, *lines])
        if estimated_tokens(text) <= budget:
            return text
        lines = lines[: len(lines) * 2 // 3]
    return ""


def _material(ask: _Ask, budget: int) -> str:
    """What the operator works on, quoted."""
    if budget < 40:
        return ""
    extra = ask.extra
    if ask.operator == "numbers" and extra.optimizer_state:
        return _section(
            "The optimizer",
            _fitted(extra.optimizer_state, "the state of the numerical optimizer", budget, _STATE_CHARACTERS),
        )
    if ask.operator == "fix" and extra.broken is not None:
        return _crash(ask, extra.broken, budget)
    if ask.operator in ("combine", "merge") and extra.partners:
        each = budget // len(extra.partners)
        title = "The edit to take out" if ask.operator == "merge" else "The edits to combine"
        return _section(title, *(_partner(ask, past, each) for past in extra.partners))
    return ""


def _crash(ask: _Ask, broken: PastExperiment, budget: int) -> str:
    edit = diff_quotation(
        ask.situation.incumbent.get(ask.surface, ""),
        broken.files.get(ask.surface, ""),
        budget_tokens=budget // 2,
        what="the edit that crashed, as a diff against the incumbent",
    )
    log = _fitted(
        broken.log_tail or broken.reason,
        "the end of the crashed run's log",
        budget - estimated_tokens(edit) - 80,
        _LOG_CHARACTERS,
    )
    said = _fitted(_description(broken), "what its author said of it", budget // 4, 400)
    return _section(f"The crash of experiment {broken.number} ({broken.outcome or 'crashed'})", said, edit, log)


def _partner(ask: _Ask, past: PastExperiment, budget: int) -> str:
    name = f"{one_line(past.tag, 40)} #{past.number}" if past.tag not in ("", ask.situation.tag) else f"#{past.number}"
    head = f"Experiment {name}: {past.status or 'undecided'}, gain {gain_text(past)}."
    said = _fitted(_description(past), "what its author said of it", budget // 3, 400)
    after = past.files.get(ask.surface)
    if after is None:
        return "\n".join(part for part in (head, said) if part)
    before = _before(ask, past)
    what = (
        "its edit as a diff"
        if before is not None
        else "its file as a diff against the incumbent, other differences included"
    )
    room = budget - estimated_tokens(head) - estimated_tokens(said) - 20
    edit = diff_quotation(before if before is not None else ask.source, after, budget_tokens=room, what=what)
    return "\n".join(part for part in (head, said, edit) if part)


def _before(ask: _Ask, past: PastExperiment) -> str | None:
    return text_before(past, ask.situation, surface=ask.surface, preset=ask.preset)


def _description(past: PastExperiment) -> str:
    mechanism = past.details.get("mechanism")
    return f"{past.description}\n{mechanism}" if isinstance(mechanism, str) else past.description


def _fitted(text: str, what: str, budget: int, most: int) -> str:
    """The end of `text` as a quotation within the budget; "" when there is no text or no room."""
    while text and most >= 40:
        quotation = quoted_for_model(text, most, what=what)
        if estimated_tokens(quotation) <= budget:
            return quotation
        most = most * 3 // 4
    return ""


# -- the task -----------------------------------------------------------------------------------------------------------


def _task(ask: _Ask, *, terse: bool) -> list[str]:
    """Paragraphs; the first sentence alone where room is short."""
    task = _TASKS[ask.operator]
    if terse:
        return [task.partition(". ")[0].rstrip(".:") + "."]
    form = "Answer in the form of your instructions: IDEA first, then the other headers, then the edit."
    return [task, _STAGNANT if ask.extra.stagnant else "", form]
