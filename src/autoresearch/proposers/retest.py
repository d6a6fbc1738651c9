"""An old keep on trial: its edit is taken out of the incumbent, and the judge says whether it is missed.

A keep that won by luck stays in the file, adds code and is built upon. Where only constants were changed they are set
back by name; otherwise the edit is undone by a three-way merge of lines (base: the text after the keep, one side: the
incumbent, the other: the text before the keep), as `diff3` does it (Khanna, Kunal and Pierce, "A Formal Investigation
of Diff3", FSTTCS 2007). No language model is asked unless the merge conflicts.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from autoresearch.proposers.constants import Scalar, owner_of, read_constants, rewrite
from autoresearch.proposers.novelty import parse_program, same_files
from autoresearch.proposers.situation import PastExperiment, Situation, program_of
from autoresearch.vocabulary import AutoresearchError, Status

# A keep rests on little below this probability of being better, or when the interval of its gain holds zero.
# `keep_probability` is 0.8 by default: about one keep in eight of those between 0.8 and 0.95 is no gain at all.
_SURE = 0.95


@dataclass(frozen=True)
class Merge:
    """What a three-way merge gave: the files, or None and how many places conflict."""

    files: dict[str, str] | None
    conflicts: int = 0


def shaky_keeps(situation: Situation) -> list[PastExperiment]:
    """Keeps that may be luck: weakest first, without the last keep and without those retested before."""
    keeps = [past for past in situation.history if past.status is Status.KEEP]
    done = {number for past in situation.history if isinstance(number := past.details.get("retested"), int)}
    return sorted(
        (keep for keep in keeps[:-1] if keep.number not in done and _rests_on_little(keep)),
        key=lambda keep: (keep.p_better if keep.p_better is not None else 0.0, keep.number),
    )


def _rests_on_little(keep: PastExperiment) -> bool:
    if keep.gain is not None and keep.gain <= 0.0:
        return False  # kept for its brevity: nobody claims that it is better, and undoing it would be more code
    unsure = keep.p_better is not None and keep.p_better < _SURE
    return unsure or (keep.interval is not None and keep.interval[0] <= 0.0)


def files_before(past: PastExperiment, situation: Situation, *, preset: str) -> dict[str, str] | None:
    """The program that `past` was an edit of; None where the history does not hold it.

    The baseline's own text is not in the history: it is what is left when an edit of constants alone is undone.
    """
    if past.tag != situation.tag or past.base is None:
        return undone_constants(past, program_of(past, situation), preset)
    return files_of(past.base, situation, preset=preset)


def files_of(number: int, situation: Situation, *, preset: str) -> dict[str, str] | None:
    """The program of an experiment of this session, 0 for the baseline; None where the history does not hold it."""
    if number == situation.incumbent_number:
        return situation.incumbent
    if number:
        return next((program_of(past, situation) for past in situation.history if past.number == number), None)
    if situation.incumbent.keys() <= situation.baseline.keys():
        return {name: situation.baseline[name] for name in situation.incumbent}
    edits = (past for past in situation.history if past.base == 0)
    found = (undone_constants(past, program_of(past, situation), preset) for past in edits)
    return next((files for files in found if files is not None), None)


def undone_constants(past: PastExperiment, files: Mapping[str, str] | None, preset: str) -> dict[str, str] | None:
    """`files` with the constants of `past` at their old values again.

    None where `past` changed more than constants, or where one of them no longer has the value that it gave it.
    """
    if files is None or not changed_only_constants(past):
        return None
    undone = _undone(tuple(files.items()), preset, json.dumps(past.details["changes"], default=str))
    return None if undone is None else dict(undone)


@lru_cache(maxsize=64)  # 60 ms for a 700-line file, and the baseline is wanted for every experiment that began there
def _undone(files: tuple[tuple[str, str], ...], preset: str, changes: str) -> tuple[tuple[str, str], ...] | None:
    try:
        found = {name: read_constants(text, preset) for name, text in files}
        back: dict[str, dict[str, Scalar]] = {name: {} for name in found}
        for constant, (old, new) in json.loads(changes).items():
            for literal, before, after in _by_literal(constant, old, new):
                home = next((name for name, constants in found.items() if literal in constants.literals), None)
                if home is None or found[home].literals[literal].value != after:
                    return None
                back[home][literal] = before
        return tuple((name, rewrite(text, found[name], back[name])) for name, text in files)
    except (SyntaxError, AutoresearchError):
        return None  # a file changed too much for its constants to be set back by name


def changed_only_constants(past: PastExperiment) -> bool:
    """Whether `details["changes"]`, {NAME: [old, new]}, says the whole edit: proposers write it only then."""
    changes = past.details.get("changes")
    if not isinstance(changes, dict) or not changes:
        return False
    return all(isinstance(pair, list) and len(pair) == 2 for pair in changes.values())


def _by_literal(name: str, old: object, new: object) -> list[tuple[str, Scalar, Scalar]]:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    if isinstance(old, bool | int | float | str) and isinstance(new, bool | int | float | str):
        return [(owner_of(name), old, new)]
    raise AutoresearchError(f"{name} is neither a number, a string nor a list of numbers")


def taken_out(keep: PastExperiment, situation: Situation, *, preset: str) -> Merge | None:
    """The incumbent without the edit of `keep`; None when there is nothing to take out or its text before is not known.

    Each file is merged by itself. A merge whose text does not parse counts as one conflict.
    """
    incumbent, after = situation.incumbent, program_of(keep, situation)
    by_name = undone_constants(keep, incumbent, preset)
    if by_name is not None:
        return Merge(by_name)
    before = files_before(keep, situation, preset=preset)
    if before is None or after is None:
        return None
    files: dict[str, str] = {}
    conflicts = 0
    for name, text in incumbent.items():
        merged, clashes = merge_texts(base=after[name], this=text, other=before[name])
        conflicts += clashes
        if merged is None:
            continue
        files[name] = merged
        try:
            parse_program(merged)
        except SyntaxError:
            conflicts += 1
    if conflicts:
        return Merge(None, conflicts)
    return None if same_files(files, incumbent) else Merge(files)


def merge_texts(*, base: str, this: str, other: str) -> tuple[str | None, int]:
    """Three-way merge by lines: the text, or None, and how many places conflict. What either side changed, changed.

    Changes that touch each other are a conflict, unless both sides made the same one.
    """
    a, b, c = (_lines(text) for text in (base, this, other))
    merged: list[str] = []
    conflicts = 0
    for (a0, a1), (b0, b1), (c0, c1) in _chunks(a, b, c):
        old, mine, theirs = a[a0:a1], b[b0:b1], c[c0:c1]
        if mine not in (old, theirs) and theirs != old:
            conflicts += 1
        merged += theirs if mine == old else mine
    return None if conflicts else "".join(merged), conflicts


Span = tuple[int, int]


def _chunks(a: Sequence[str], b: Sequence[str], c: Sequence[str]) -> list[tuple[Span, Span, Span]]:
    """The three texts cut in step: runs of lines common to all, and what lies between them."""
    chunks: list[tuple[Span, Span, Span]] = []
    ends = (0, 0, 0)
    stable = [*_common_runs(_partners(a, b), _partners(a, c), len(a)), (len(a), len(b), len(c), 0)]
    for at_a, at_b, at_c, size in stable:
        chunks.append(((ends[0], at_a), (ends[1], at_b), (ends[2], at_c)))
        ends = (at_a + size, at_b + size, at_c + size)
        chunks.append(((at_a, ends[0]), (at_b, ends[1]), (at_c, ends[2])))
    return chunks


def _common_runs(in_b: Mapping[int, int], in_c: Mapping[int, int], length: int) -> list[tuple[int, int, int, int]]:
    """Runs of base lines that both sides still have: where they begin in each text, and how long they are."""
    runs: list[tuple[int, int, int, int]] = []
    for line in range(length):
        if line not in in_b or line not in in_c:
            continue
        if runs:
            at_a, at_b, at_c, size = runs[-1]
            if (at_a + size, at_b + size, at_c + size) == (line, in_b[line], in_c[line]):
                runs[-1] = (at_a, at_b, at_c, size + 1)
                continue
        runs.append((line, in_b[line], in_c[line], 1))
    return runs


def _partners(a: Sequence[str], b: Sequence[str]) -> dict[int, int]:
    """Line of `b` for each line of `a` that is unchanged."""
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    return {block.a + step: block.b + step for block in matcher.get_matching_blocks() for step in range(block.size)}


def _lines(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends one, so that every byte comes back."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
