"""The scorecard: what became of each entry, totals by defence, and what to install for more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autoresearch.redteam.entries import Defence, Entry, Kind
from autoresearch.redteam.judging import Judged, Result

_GOOD = frozenset({Result.REFUSED, Result.NEUTRALISED})
_WIDTH = 46  # of a title


@dataclass(frozen=True)
class Line:
    """One entry with its result."""

    entry: Entry
    judged: Judged


@dataclass(frozen=True)
class Totals:
    """Counts of a whole run. `by_defence` maps a defence to (stopped, tried)."""

    cheats: int
    refused: int
    neutralised: int
    not_defended_here: tuple[str, ...]  # this machine lacks what they need
    got_through: tuple[str, ...]  # nothing was missing, and they got through all the same
    unexpected: tuple[str, ...]
    controls: int
    false_alarms: tuple[str, ...]
    honest_trials: int
    seconds: float
    by_defence: Mapping[str, tuple[int, int]]
    missing: Mapping[str, tuple[str, ...]]  # part of the operating system -> the entries that got through without it

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not happen on this machine."""
        return not (self.got_through or self.unexpected or self.false_alarms)


def totals(lines: Sequence[Line]) -> Totals:
    """The sums of a run."""
    cheats = [line for line in lines if line.entry.kind is Kind.CHEAT]
    controls = [line for line in lines if line.entry.kind is Kind.CONTROL]
    open_ = [line for line in cheats if line.judged.result is Result.NOT_DEFENDED]
    here = [line for line in open_ if line.judged.missing]
    return Totals(
        cheats=len(cheats),
        refused=sum(line.judged.result is Result.REFUSED for line in cheats),
        neutralised=sum(line.judged.result is Result.NEUTRALISED for line in cheats),
        not_defended_here=_ids(here),
        got_through=_ids(line for line in open_ if not line.judged.missing),
        unexpected=_ids(line for line in cheats if line.judged.result is Result.UNEXPECTED),
        controls=len(controls),
        false_alarms=_ids(line for line in controls if line.judged.result is not Result.PASSED),
        honest_trials=sum(len(line.judged.trials) for line in controls),
        seconds=sum(line.judged.seconds for line in lines),
        by_defence=_by_defence(cheats),
        missing={
            part: _ids(line for line in here if part in line.judged.missing)
            for part in sorted({part for line in here for part in line.judged.missing})
        },
    )


def _ids(lines: Iterable[Line]) -> tuple[str, ...]:
    return tuple(line.entry.id for line in lines)


def _by_defence(cheats: Sequence[Line]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for defence in Defence:
        of_it = [line for line in cheats if line.judged.by is defence]
        if of_it:
            counts[defence] = (sum(line.judged.result in _GOOD for line in of_it), len(of_it))
    return counts


def entry_line(line: Line) -> str:
    """One entry on one line: identifier, title, result, by whom, seconds."""
    judged = line.judged
    # the defence that was missing or failed is said in the reason, so that a name here always means: it held
    by = f"by {judged.by}" if judged.by and judged.result in _GOOD else ""
    title = line.entry.title if len(line.entry.title) <= _WIDTH else line.entry.title[: _WIDTH - 1] + "…"
    text = f"{line.entry.id}  {title:<{_WIDTH}}  {judged.result:<12}  {by:<19}{judged.seconds:6.1f} s"
    if judged.result in _GOOD or judged.result is Result.PASSED:
        return text
    needs = f" (needs {', '.join(sorted(judged.missing))})" if judged.missing else ""
    return f"{text}\n     {judged.why}{needs}"


def scorecard(sums: Totals, *, sealed: str, install: Sequence[str] = ()) -> str:
    """The end of a run, for people. `sealed` is the level here; `install` says what to type for more."""
    stopped = sums.refused + sums.neutralised
    rows = [
        ("sealed", sealed),
        ("cheats", f"{stopped} of {sums.cheats} stopped: {sums.refused} refused, {sums.neutralised} neutralised"),
    ]
    rows += [(f"by {name}", f"{held} of {tried}") for name, (held, tried) in sums.by_defence.items()]
    rows.append(
        (
            "controls",
            f"{sums.controls - len(sums.false_alarms)} of {sums.controls} passed; {sums.honest_trials} honest trials",
        )
    )
    for name, ids in (
        ("not here", sums.not_defended_here),
        ("got through", sums.got_through),
        ("unclear", sums.unexpected),
        ("FALSE ALARM", sums.false_alarms),
    ):
        if ids:
            rows.append((name, ", ".join(ids)))
    rows += [("missing", f"{part}: {', '.join(ids)} get through without it") for part, ids in sums.missing.items()]
    rows.append(("took", f"{sums.seconds / 60:.1f} minutes"))
    if sums.missing:
        rows += [("next", line) for line in install]
    return "\n".join(f"{name:>22}  {value}" for name, value in rows)


def entry_json(line: Line) -> dict[str, Any]:
    """One entry for machines."""
    judged = line.judged
    return {
        "event": "entry",
        "id": line.entry.id,
        "title": line.entry.title,
        "tried": line.entry.tried,
        "source": line.entry.source,
        "kind": str(line.entry.kind),
        "result": str(judged.result),
        "why": judged.why,
        "by": str(judged.by) if judged.by else None,
        "needs": sorted(line.entry.needs),
        "missing": sorted(judged.missing),
        "failure": judged.is_failure,
        "trials": [
            {
                "outcome": str(trial.outcome),
                "reason": trial.reason,
                "val_bpb": trial.val_bpb,
                "seconds": trial.total_seconds,
                "log_tail": trial.log_tail,
            }
            for trial in judged.trials
        ],
        "seconds": judged.seconds,
    }


def totals_json(sums: Totals, *, sealed: str, kind: str) -> dict[str, Any]:
    """The sums for machines."""
    return {"event": "totals", "sealed": sealed, "kind": kind, "passed": sums.passed, **asdict(sums)}
