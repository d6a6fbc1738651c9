"""What a coding agent is told, and what it writes down of its idea."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch.hostile_text import one_line
from autoresearch.proposers.agent_clients import IDEA_FILE, TASK_FILE
from autoresearch.proposers.idea import LARGEST_EFFECT, MAX_DESCRIPTION, MAX_LESSON, MAX_MECHANISM, MAX_NOTE, topic_slug
from autoresearch.proposers.prompt import ask_for, system_prompt
from autoresearch.proposers.shown import whole_listing
from autoresearch.proposers.situation import Situation
from autoresearch.proposers.stagnation import is_stagnant

ANSWER_TITLE = "# How to answer"  # of the standing instructions: from there on they are for a model without hands
_HEADER = re.compile(r"\s*(IDEA|TOPIC|MECHANISM|EXPECT|LESSON|NOTE)\s*:\s*(.*)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")

_HANDS = """\
# How to answer
You have a folder of your own, and it is your working directory. Edit {files} there: one idea, complete, ready to run. Then write
`{idea}` with these six lines, and end.

IDEA: one line, what is changed
TOPIC: two to four words for the direction; use the record's word for one that it knows
MECHANISM: why it should work, in one line
EXPECT: the gain that you would bet on, in bits per byte, such as +0.002
LESSON: one line that the record teaches and that later requests should know, or nothing
NOTE: one line for the person, an idea about files that may not be edited here, or nothing

Nothing else may be changed or added: an experiment with another file in it is refused. The other files are copies to read. There are no data,
no accelerator and no results here, and nothing can be trained; a referee does that once you have ended. Do not commit, push, install or
fetch anything. Nobody answers questions. There are {turns} turns and {minutes:g} minutes."""


def task_text(
    situation: Situation,
    *,
    surface: str,
    preset: str,
    prompt_tokens: int,
    turns: int,
    minutes: float,
    complaint: str = "",
) -> str:
    """The agent's whole task, Markdown, of about `prompt_tokens` at most and less the file, which lies beside it.

    `complaint`: what was wrong with its first attempt.

    Raises:
        UsageError: `prompt_tokens` has no room for it.
    """
    standing = system_prompt(situation.program, surface).partition(ANSWER_TITLE)[0].rstrip()
    names = {surface: situation.incumbent[surface], **situation.incumbent}
    editable = " or ".join(f"`{name}`" for name in names)
    hands = _HANDS.format(files=editable, idea=IDEA_FILE, turns=turns, minutes=minutes)
    operator = "draft" if is_stagnant(situation) else "improve"
    asked = ask_for(operator, situation, surface=surface, preset=preset, budget_tokens=prompt_tokens)
    for name, text in names.items():
        asked = asked.replace(whole_listing(text), f"It is `{name}` in your folder.")
    again = f"# Your first attempt\n{complaint}" if complaint else ""
    return "\n\n".join(part for part in (standing, hands, asked, again) if part) + "\n"


def first_words(files: Sequence[str], complaint: str = "") -> str:
    """The prompt on the command line. The task itself is a file: an argument holds 128 KiB at most, and `ps` shows it."""
    said = f"Your first attempt was not accepted: {complaint} " if complaint else ""
    return (
        f"{said}Read {TASK_FILE} in this folder and do what it says: edit {' or '.join(files)}, one idea, write {IDEA_FILE}, and end. "
        "Ask no questions."
    )


@dataclass(frozen=True)
class Written:
    """What an agent said of its idea. Each text is one bounded line, "" where it said nothing."""

    description: str = ""
    topic: str = ""
    mechanism: str = ""
    lesson: str = ""
    note: str = ""
    expected: float | None = None


def written_idea(idea_file: str, last_message: str, name: str) -> Written:
    """Its idea from the file that it was asked for; without one, the first line of its last message is the description."""
    said: dict[str, str] = {}
    plain = ""
    for line in idea_file.splitlines()[:40]:
        header = _HEADER.match(line)
        if header:
            said.setdefault(header[1].upper(), header[2])
        elif not plain:
            plain = line
    message = next((line for line in last_message.splitlines() if one_line(line)), "")
    described = (one_line(text, MAX_DESCRIPTION) for text in (said.get("IDEA", ""), plain, message))
    return Written(
        description=next((text for text in described if text), f"an edit by {name}"),
        topic=topic_slug(said.get("TOPIC", "")),
        mechanism=one_line(said.get("MECHANISM", ""), MAX_MECHANISM),
        lesson=one_line(said.get("LESSON", ""), MAX_LESSON),
        note=one_line(said.get("NOTE", ""), MAX_NOTE),
        expected=_expected(said.get("EXPECT", "")),
    )


def _expected(text: str) -> float | None:
    found = _NUMBER.search(text[:100])
    value = float(found[0]) if found else None
    return value if value is not None and abs(value) <= LARGEST_EFFECT else None
