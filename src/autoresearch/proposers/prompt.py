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
from autoresearch.proposers.constants import read_constants
from autoresearch.proposers.lessons import lessons_of, notes_of
from autoresearch.proposers.lineage import gain_text, in_bits, lineage_of, retired_of
from autoresearch.proposers.retest import files_before
from autoresearch.proposers.shown import (
    all_in_force,
    changed_names,
    diff_quotation,
    in_force,
    part_listing,
    whole_listing,
)
from autoresearch.proposers.situation import PastExperiment, Situation, program_of
from autoresearch.providers.tokens import estimated_tokens
from autoresearch.vocabulary import Status, UsageError

__all__ = ["EXAMPLE", "OPERATORS", "Material", "ask_for", "files_shown", "system_prompt"]

# How the tokens are shared out. A whole file may take _WHOLE of them; parts of one get _PARTS. Of what is left, what the
# operator needs gets _MATERIAL, lessons _LESSONS, retired directions _RETIRED, and the lineage all the rest.
_WHOLE, _PARTS, _MATERIAL, _LESSONS, _RETIRED, _NOTES = 0.72, 0.4, 0.35, 0.12, 0.08, 0.03
_MAIN = 0.8  # of what parts of several files get, the main file's
# Parts of those shares that are tried in turn until the prompt fits; at 0 it is the task and what the file lets be set.
_SHARES = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.0)
_LOG_CHARACTERS = 4000
_STATE_CHARACTERS = 6000
_MAX_RETIRED = 25
_MAX_NOTES = 12
_FRAME = re.compile(r"(?:line (\d+)|:(\d+)), in (\w+)|in (\w+)$", re.MULTILINE)  # of a traceback

_LESS_CODE = (
    "Less code is kept already when it is shown to lose at most half the noise; comments and line breaks do not count."
)
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
        "or adds noise for the least benefit; what it saves goes into more steps. "
        f"{_LESS_CODE} The result must read as if it had never been there."
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
# Where the data program's task has other words; the rest hold for both.
_DATA_TASKS: Mapping[str, str] = {
    "improve": (
        "Propose the one edit of the recipe that you expect to lower val_bpb most for its risk. Start from where this text wastes the budget: "
        "documents that teach nothing, repetition, an order that shows the best text too early or too rarely, a vocabulary that does not fit "
        "so short a training, a share that is too large. A near miss (a discard with a positive gain) is worth another try only in a stronger "
        "form, or with a reason why now."
    ),
    "draft": (
        "Propose a structural change: something that no setting of the constants could reach, such as another measure of quality, a filter "
        "that reads what the text is about, cleaning of what the text is wrapped in, a curriculum of another shape, another way to cut or join "
        "documents. It may be larger than usual, yet it must run at once and within the deadline of the preparation: write it completely, and "
        "let it start close to what the incumbent does where you can."
    ),
    "combine": (
        "Put the two edits quoted above into the incumbent, which holds neither of them. Each promised something alone. Say why their mechanisms add up, "
        "and adapt them to each other: two filters that drop the same documents leave too little text when both are strict."
    ),
    "simplify": (
        "Take something out: a filter, a rule of cleaning, a tier, a share, a constant that no longer earns its place. Choose what drops text "
        "or costs time for the least benefit. "
        f"{_LESS_CODE} The result must read as if it had never been there."
    ),
    "numbers": (
        "Choose new values for one to four constants, with SET lines only; the structure stays. A numerical optimizer works on the same "
        "constants, and its state is quoted above when there is one. Use what it cannot know: how constants belong together (tiers and their "
        "weights, the start of the second phase and its weights, a filter and how much text it leaves for the budget), and which values are out "
        "of the question. Answer its own next step if you would do the same."
    ),
}
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
    """One request, as its sections need it. `files` are the texts that edits apply to, the main one, `surface`, first."""

    operator: str
    situation: Situation
    surface: str
    preset: str
    budget: int
    extra: Material
    files: Mapping[str, str]


def files_shown(operator: str, situation: Situation, *, surface: str, extra: Material) -> dict[str, str]:
    """The texts that the prompt shows and the reply's edits apply to: the crashed candidate's for "fix", else the incumbent's.

    `surface`, the main file, comes first.
    """
    broken = extra.broken if operator == "fix" else None
    found = (program_of(broken, situation) if broken is not None else None) or situation.incumbent
    return {surface: found[surface], **found}


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
    files = files_shown(operator, situation, surface=surface, extra=material)
    ask = _Ask(operator, situation, surface, preset, budget_tokens, material, files)
    whole = _whole_files(ask)
    for share in _SHARES:
        text = _rendered(ask, whole if share else {}, share)
        if estimated_tokens(text) <= budget_tokens:
            return text
    raise UsageError(f"{budget_tokens} tokens are too few for a request to a model", hint="--prompt-tokens 4000")


def _rendered(ask: _Ask, whole: Mapping[str, str], share: float) -> str:
    """The prompt with its variable sections at this share of their tokens. `whole`: listings of files that are shown whole."""
    terse = share == 0.0
    standing = (
        [_score(ask.situation)] if terse else [_score(ask.situation), _course(ask.situation), _machine(ask.situation)]
    )
    head = _section("Where the session stands", *standing)
    is_whole = len(whole) == len(ask.files)
    task = _section("Your task", *_task(ask, terse=terse), "" if is_whole else _PARTIAL)
    file = "\n\n".join(_file(ask, name, whole.get(name, ""), share) for name in _names_shown(ask))
    room = max(0.0, ask.budget - estimated_tokens(head) - estimated_tokens(task) - estimated_tokens(file)) * share
    material = _material(ask, int(_MATERIAL * room))
    lessons = _section("Lessons that earlier models wrote, newest first", _lessons(ask.situation, int(_LESSONS * room)))
    retired = _section("Retired directions", _retired(ask.situation, int(_RETIRED * room)))
    notes = _section("Notes for the person so far; do not repeat them", _notes(ask.situation, int(_NOTES * room)))
    left = room - sum(map(estimated_tokens, (material, lessons, retired, notes)))
    record = _section("What was tried", lineage_of(ask.situation, int(left)))
    return "\n\n".join(part for part in (head, file, record, lessons, retired, notes, material, task) if part)


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
    error = f" +- {in_bits(situation.val_bpb_error)} (standard error)" if situation.val_bpb_error is not None else ""
    noise = f" One trial scatters around its mean by {in_bits(situation.noise)}." if situation.noise is not None else ""
    judged = (
        f" Every score here is {situation.objective}: val_bpb of the model after its weights were quantized to so many bits each."
        if situation.objective
        else ""
    )
    return f"The incumbent is {who}: val_bpb {in_bits(situation.val_bpb)}{error}.{noise}{judged}"


def _course(situation: Situation) -> str:
    """What the noise means, and how the session went, in a few lines."""
    lines: list[str] = []
    if situation.noise is not None:
        lines.append(
            f"Two single runs of one file differ by more than {in_bits(1.41 * situation.noise)} about one time in three; smaller gains "
            "need repeats to show, and gains far below it are lost."
        )
    if situation.val_bpb is not None and situation.baseline_val_bpb is not None and situation.incumbent_number:
        gained = situation.baseline_val_bpb - situation.val_bpb
        lines.append(f"The baseline had {in_bits(situation.baseline_val_bpb)}: {in_bits(gained, '+')} gained so far.")
    verdicts = [past.status for past in situation.history if past.status is not None]
    if verdicts:
        counts = ", ".join(f"{verdicts.count(status)} {status}" for status in Status if verdicts.count(status))
        since = next((i for i, status in enumerate(reversed(verdicts)) if status is Status.KEEP), len(verdicts))
        lines.append(f"Experiments so far: {len(verdicts)} ({counts}); since the last keep: {since}.")
    gains = sorted(p.gain for p in situation.history if p.status is Status.KEEP and p.gain is not None)
    if len(gains) >= 3:
        least, median, most = (in_bits(gain, "+") for gain in (gains[0], gains[len(gains) // 2], gains[-1]))
        lines.append(f"Gains of the keeps: {least} to {most}, median {median}.")
    return "\n".join(lines)


def _machine(situation: Situation) -> str:
    machine = situation.machine
    facts = [
        f"device {one_line(machine.device, 20)} {one_line(machine.chip, 60)}".rstrip() if machine.device else "",
        f"{machine.memory_gb:.1f} GB of memory" if machine.memory_gb is not None else "",
        f"budget {one_line(machine.budget, 40)} of training" if machine.budget else "",
        f"preparation before it: {one_line(machine.preparation, 80)} at most" if machine.preparation else "",
        f"incumbent: {machine.tok_sec:,.0f} tokens/s" if machine.tok_sec is not None else "",
        f"peak memory {machine.peak_memory_gb:.2f} GB" if machine.peak_memory_gb is not None else "",
    ]
    said = "; ".join(fact for fact in facts if fact)
    return f"Machine: {said}." if said else ""


# -- the file -----------------------------------------------------------------------------------------------------------


def _file(ask: _Ask, name: str, whole: str, share: float) -> str:
    """The section of one file."""
    who = "the incumbent's" if len(ask.files) > 1 else "the incumbent"
    if ask.operator == "fix" and ask.extra.broken is not None:
        title = f"{name} of experiment {ask.extra.broken.number}, which crashed"
    else:
        title = f"{name}, {who}"
    return _section(f"The file: {title}", *([whole, _overrides(ask, name)] if whole else _parts(ask, name, share)))


def _names_shown(ask: _Ask) -> list[str]:
    """All files, and where only numbers are asked for, those with constants besides the main one."""
    if ask.operator != "numbers":
        return list(ask.files)
    return [name for name, text in ask.files.items() if name == ask.surface or _has_constants(text, ask.preset)]


def _has_constants(text: str, preset: str) -> bool:
    try:
        return bool(read_constants(text, preset).literals)
    except SyntaxError:
        return False


def _whole_files(ask: _Ask) -> dict[str, str]:
    """Listings of the files that fit whole, the main one first; none for numbers, which are chosen from the constants alone."""
    listings: dict[str, str] = {}
    room = _WHOLE * ask.budget
    for name, text in ask.files.items():
        if ask.operator == "numbers" or len(text) > 8 * ask.budget:
            break
        listing = whole_listing(text)
        room -= estimated_tokens(listing)
        if room < 0:
            break
        listings[name] = listing
    # parts of the others need room too: a third of what a whole file may take
    is_tight = (
        len(listings) < len(ask.files) and sum(map(estimated_tokens, listings.values())) > _WHOLE / 1.5 * ask.budget
    )
    return {} if is_tight else listings


def _parts(ask: _Ask, name: str, share: float) -> list[str]:
    """A listing of some parts, and the values in force: all of them where the listing leaves constants out."""
    of_all = 1.0 if len(ask.files) == 1 else _MAIN if name == ask.surface else (1.0 - _MAIN) / (len(ask.files) - 1)
    budget = int(max(0.1, share) * _PARTS * of_all * ask.budget)
    source = ask.files[name]
    turn = 7 * ask.situation.number  # another place each time; 7 has no factor in common with most numbers of parts
    numbers = ask.operator == "numbers"
    listing, is_complete = part_listing(
        source, budget_tokens=budget, names=_named_parts(ask, name), turn=turn, only_constants=numbers
    )
    if is_complete:
        return [listing, _overrides(ask, name)]
    every = all_in_force(source, ask.preset, budget_tokens=budget)
    return [listing, f"Constants in force: {every}." if every else ""]


def _named_parts(ask: _Ask, name: str) -> list[str]:
    """Parts of a file that the operator is about: the frames of the traceback, what the partners' edits touch."""
    if ask.extra.broken is not None:
        frames = {one for found in _FRAME.findall(ask.extra.broken.log_tail[-20_000:]) for one in found if one}
        touched = changed_names(ask.files[name], ask.situation.incumbent.get(name, ""))
        return [*touched, *frames, *(f"{part.rpartition('.')[0]}.{frame}" for part in touched for frame in frames)]
    if ask.operator not in ("combine", "merge"):
        return []
    names: list[str] = []
    for past in ask.extra.partners:
        after = past.files.get(name)
        if after is not None:
            names += changed_names(ask.files[name], (_before(ask, past) or {}).get(name) or after)
    return names


def _overrides(ask: _Ask, name: str) -> str:
    if not ask.preset:
        return ""
    changed = in_force(ask.files[name], ask.preset)
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
        + (f", best {in_bits(one.best_gain, '+')}" if one.best_gain is not None else "")
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


def _notes(situation: Situation, budget: int) -> str:
    notes = notes_of(situation, _MAX_NOTES)
    while notes:
        text = quoted_for_model("\n".join(notes), 100_000, what="notes that models wrote for the person")
        if estimated_tokens(text) <= budget:
            return text
        notes = notes[: len(notes) // 2]
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
    edit = _diff(
        ask.situation.incumbent,
        ask.files,
        budget // 2,
        "the edit that crashed, as a diff against the incumbent",
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
    after = program_of(past, ask.situation)
    if after is None:
        return "\n".join(part for part in (head, said) if part)
    before = _before(ask, past)
    what = (
        "its edit as a diff"
        if before is not None
        else "its file as a diff against the incumbent, other differences included"
    )
    room = budget - estimated_tokens(head) - estimated_tokens(said) - 20
    edit = _diff(before if before is not None else ask.files, after, room, what)
    return "\n".join(part for part in (head, said, edit) if part)


def _diff(before: Mapping[str, str], after: Mapping[str, str], budget: int, what: str) -> str:
    """One quotation for each file that differs, with its name where there are several."""
    changed = [name for name, text in after.items() if before.get(name, "") != text]
    each = budget // max(1, len(changed))
    found = (
        diff_quotation(
            before.get(name, ""), after[name], budget_tokens=each, what=f"{what}, {name}" if len(after) > 1 else what
        )
        for name in changed
    )
    return "\n".join(text for text in found if text)


def _before(ask: _Ask, past: PastExperiment) -> dict[str, str] | None:
    return files_before(past, ask.situation, preset=ask.preset)


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
    of_data = _DATA_TASKS if ask.situation.program == "data" else {}
    task = of_data.get(ask.operator, _TASKS[ask.operator])
    if terse:
        return [task.partition(". ")[0].rstrip(".:") + "."]
    form = "Answer in the form of your instructions: IDEA first, then the other headers, then the edit."
    return [task, _STAGNANT if ask.extra.stagnant else "", form]
