"""Experiments side by side: what may be compared, what differs, and how sure one can be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from autoresearch.hostile_text import terminal_line
from autoresearch.proposers.constants import read_constants
from autoresearch.report.text import columns, cut, pad

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.975)
_MOST_CHANGES = 8  # changed constants shown of one entry


@dataclass(frozen=True)
class Entry:
    """One experiment as it is compared.

    val_bpb is the estimated mean on the search slice. gain, interval and p_better are its verdict's, against the
    incumbent it met (`base`, a label). num_scores: its own runs that gave a score. tok_sec: tokens per second of the
    contract's clock, median of those runs; memory_gb: peak, GiB; seconds: wall time of all its trials. source: text of its experiment file,
    None where the proposal was refused unstored. What was not measured is None. objective: what val_bpb stands for where it is
    not val_bpb itself (bpb@4bit).
    """

    label: str
    fingerprint: str
    preset: str
    status: str
    description: str
    source: str | None
    val_bpb: float | None = None
    gain: float | None = None
    interval: tuple[float, float] | None = None
    p_better: float | None = None
    num_scores: int = 0
    tok_sec: float | None = None
    memory_gb: float | None = None
    seconds: float = 0.0
    base: str = ""
    objective: str = ""


@dataclass(frozen=True)
class Difference:
    """An entry against its group's first one, the reference.

    gain: reference minus entry in val_bpb (positive: the entry is better), interval its 95 % interval, p_better the
    probability that it is better. tok_sec_ratio, memory_ratio: entry over reference. constants: name, value there, value
    here ("" where it is not set). added, removed: lines of the file.
    """

    gain: float | None
    interval: tuple[float, float] | None
    p_better: float | None
    tok_sec_ratio: float | None
    memory_ratio: float | None
    constants: tuple[tuple[str, str, str], ...]
    added: int | None
    removed: int | None


@dataclass(frozen=True)
class Group:
    """Entries whose scores may be compared, in the order asked for; the first is the reference. noise: sd of one run."""

    fingerprint: str
    preset: str
    noise: float
    entries: tuple[Entry, ...]
    differences: tuple[Difference, ...]  # one an entry; the reference's own says nothing differs


def compare(entries: Sequence[Entry], noise: Mapping[str, float]) -> list[Group]:
    """The entries in groups of one fingerprint each, in the order in which they were asked for.

    noise: standard deviation of one run under each fingerprint.
    """
    groups: list[Group] = []
    for fingerprint in dict.fromkeys(entry.fingerprint for entry in entries):
        own = tuple(entry for entry in entries if entry.fingerprint == fingerprint)
        sd = noise[fingerprint]
        differences = tuple(difference_of(own[0], entry, sd) for entry in own)
        groups.append(Group(fingerprint, own[0].preset, sd, own, differences))
    return groups


def difference_of(reference: Entry, entry: Entry, noise: float) -> Difference:
    """How `entry` differs from `reference` under one fingerprint.

    The gain is the difference of the two estimates. Its error takes the runs of both as independent, noise times
    sqrt(1/n + 1/m): somewhat too wide where they met in pairs with the same seeds.
    """
    gain = interval = p_better = None
    if entry.label != reference.label and reference.val_bpb is not None and entry.val_bpb is not None:
        gain = reference.val_bpb - entry.val_bpb
        if reference.num_scores and entry.num_scores and noise > 0:
            error = noise * math.sqrt(1 / reference.num_scores + 1 / entry.num_scores)
            interval = (gain - _Z95 * error, gain + _Z95 * error)
            p_better = _NORMAL.cdf(gain / error)
    added, removed = _lines_changed(reference.source, entry.source)
    return Difference(
        gain=gain,
        interval=interval,
        p_better=p_better,
        tok_sec_ratio=_ratio(entry.tok_sec, reference.tok_sec),
        memory_ratio=_ratio(entry.memory_gb, reference.memory_gb),
        constants=_constants_changed(reference, entry),
        added=added,
        removed=removed,
    )


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _lines_changed(old: str | None, new: str | None) -> tuple[int | None, int | None]:
    if old is None or new is None:
        return None, None
    changes = difflib.SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False).get_opcodes()
    moved = [change for change in changes if change[0] != "equal"]
    return sum(b - a for _, _, _, a, b in moved), sum(b - a for _, a, b, _, _ in moved)


def _constants_changed(reference: Entry, entry: Entry) -> tuple[tuple[str, str, str], ...]:
    """Constants in force for the preset that differ, in the entry's order, then those that are gone."""
    old, new = _constants(reference), _constants(entry)
    changed = [(name, old.get(name, ""), value) for name, value in new.items() if old.get(name) != value]
    gone = [(name, value, "") for name, value in old.items() if name not in new]
    return (*changed, *gone) if old and new else ()


def _constants(entry: Entry) -> dict[str, str]:
    try:
        found = read_constants(entry.source or "", entry.preset)
    except SyntaxError:
        return {}  # a crash whose file does not parse: its lines still show
    return {name: repr(literal.value) for name, literal in found.literals.items()}


def num_lines(source: str | None) -> int | None:
    """Lines of a file that hold more than white space: what simplicity is counted in."""
    return None if source is None else sum(bool(line.strip()) for line in source.splitlines())


def comparison_json(groups: Sequence[Group]) -> dict[str, Any]:
    """The comparison as JSON values. `comparable` is false when there is more than one group."""
    return {
        "comparable": len(groups) == 1,
        "groups": [
            {
                "fingerprint": group.fingerprint,
                "contract": group.preset,
                "objective": group.entries[0].objective or "bpb",
                "noise": group.noise,
                "reference": group.entries[0].label,
                "entries": [
                    {
                        **{
                            name: value
                            for name, value in asdict(entry).items()
                            if name not in ("source", "fingerprint", "preset", "objective")
                        },
                        "lines": num_lines(entry.source),
                        "against_reference": None if entry is group.entries[0] else asdict(difference),
                    }
                    for entry, difference in zip(group.entries, group.differences, strict=True)
                ],
            }
            for group in groups
        ],
    }


def comparison_text(groups: Sequence[Group], width: int = 110) -> str:
    """The comparison as plain text of at most `width` columns: a table for each group, and what changed in each entry."""
    blocks = []
    if len(groups) > 1:
        blocks.append(
            f"These were measured under {len(groups)} different contracts, texts, devices or objectives: scores of different groups"
            " cannot be compared."
        )
    for group in groups:
        judged = group.entries[0].objective
        on = f", judged on {judged}" if judged else ""
        head = f"contract {group.preset}{on}, fingerprint {group.fingerprint}, noise of one run {group.noise:.4f}"
        blocks.append("\n".join([head, "", _table(group, width), *_changes(group, width)]))
    return "\n\n".join(blocks)


def _table(group: Group, width: int) -> str:
    heads = ["which", "verdict", "val_bpb", "gain", "95 %", "p", "vs first", "p", "runs", "tok/s", "GiB", "lines"]
    cells = [_cells(entry, diff) for entry, diff in zip(group.entries, group.differences, strict=True)]
    widths = [max(columns(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    shown = list(range(len(heads)))
    for dropped in (10, 8, 4, 5, 9, 11, 7, 3):  # the least needed first; which, verdict, val_bpb and vs first stay
        if sum(widths[i] + 2 for i in shown) - 2 <= width:
            break
        shown.remove(dropped)
    lines = [
        "  ".join(pad(line[i], widths[i], right=heads[i] not in ("which", "verdict")) for i in shown).rstrip()
        for line in [heads, *cells]
    ]
    return "\n".join(cut(line, width) for line in lines)


def _cells(entry: Entry, diff: Difference) -> list[str]:
    lines = num_lines(entry.source)
    return [
        entry.label,
        entry.status,
        "-" if entry.val_bpb is None else f"{entry.val_bpb:.4f}",
        "-" if entry.gain is None else f"{entry.gain:+.4f}",
        "-" if entry.interval is None else f"{entry.interval[0]:+.4f}..{entry.interval[1]:+.4f}",
        "-" if entry.p_better is None else f"{entry.p_better:.2f}",
        "-" if diff.gain is None else f"{diff.gain:+.4f}",
        "-" if diff.p_better is None else f"{diff.p_better:.2f}",
        str(entry.num_scores) if entry.num_scores else "-",
        "-" if entry.tok_sec is None else f"{entry.tok_sec:,.0f}",
        "-" if entry.memory_gb is None else f"{entry.memory_gb:.1f}",
        "-" if lines is None else str(lines),
    ]


def _changes(group: Group, width: int) -> list[str]:
    """Under the table: one line for the idea, one for what changed against the reference."""
    lines = [""]
    for entry, diff in zip(group.entries, group.differences, strict=True):
        lines.append(cut(f"{entry.label}  {terminal_line(entry.description)}", width))
        if entry is group.entries[0]:
            continue
        shown = [f"{name} {old or '(none)'} -> {new or '(gone)'}" for name, old, new in diff.constants[:_MOST_CHANGES]]
        more = len(diff.constants) - _MOST_CHANGES
        words = [*shown, f"and {more} more constants"] if more > 0 else shown
        if diff.added is not None:
            words.append(f"lines +{diff.added} -{diff.removed}")
        if diff.tok_sec_ratio is not None:
            words.append(f"speed x{diff.tok_sec_ratio:.2f}")
        if diff.memory_ratio is not None:
            words.append(f"memory x{diff.memory_ratio:.2f}")
        lines.append(cut("    " + terminal_line(", ".join(words) or "nothing is known of what changed"), width))
    return lines
