"""results.tsv, results_history.tsv and EXPERIMENT_LOG.md, written from the ledger and mended from it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from autoresearch.files import append_whole, write_whole
from autoresearch.hostile_text import markdown_block, markdown_inline, one_line, tsv_field
from autoresearch.records.calls import CallBook
from autoresearch.records.ledger import Experiment, Ledger, TrialRow
from autoresearch.records.phases import PhaseBook, PhaseRow, phase_entry
from autoresearch.vocabulary import Examination, Outcome, Status, Trial

# By the names this field's scripts look for.
FIRST_COLUMNS = ("commit", "val_bpb", "memory_gb", "avg_tok_sec", "status", "description")
COLUMNS = (
    *FIRST_COLUMNS,
    "experiment",
    "trials",
    "estimate",
    "interval",
    "p_better",
    "sealed",
    "seconds",
    "cost_usd",
    "examined",
    "preparation",
    "objective",
    "objective_bpb",
)
HISTORY_COLUMNS = (*COLUMNS, "tag", "judged_at")


@dataclass(frozen=True)
class ResultRow:
    """One experiment as the tables show it. None is a missing number; files spell a crash's as the field does, 0.000000."""

    commit: str
    val_bpb: float | None
    memory_gb: float | None
    avg_tok_sec: float | None
    status: Status
    description: str
    experiment: int
    trials: int
    estimate: float | None
    interval: tuple[float, float] | None
    gain: float | None
    p_better: float | None
    sealed: str
    seconds: float
    cost_usd: float
    examined: Examination
    num_prefixes: int  # asked in deep examinations
    leak_bound: float | None  # bits per byte; the narrowest, which counts the prefixes of all of them
    tag: str
    judged_at: str
    reason: str
    log_tail: str
    preparation: str  # what its recipe took to prepare, of what was allowed; "" without a recipe
    objective: str  # what was judged where it is not val_bpb: bpb@4bit; "" for val_bpb
    objective_bpb: float | None  # of the first run
    note: str  # an idea beyond its program, for the person


def result_row(experiment: Experiment, trials: list[TrialRow], cost_usd: float = 0.0) -> ResultRow:
    """The row of a judged experiment from its own trials (the incumbent's paired runs count in `seconds` only).

    `cost_usd` is what its proposal cost.
    """
    assert experiment.status is not None and experiment.verdict is not None, "only judged experiments have a row"
    ran = [row for row in trials if row.trial and row.trial.outcome is not Outcome.ABANDONED]
    own = [row.trial for row in ran if row.trial and row.commit_hash == experiment.commit_hash]
    first = next((trial for trial in own if trial.val_bpb is not None), None)
    verdict = experiment.verdict
    last = own[-1] if own else None
    return ResultRow(
        commit=(experiment.commit_hash or "")[:7] or "none",
        val_bpb=first.val_bpb if first else None,
        memory_gb=max(trial.peak_memory_mb for trial in own) / 1024 if first else None,
        avg_tok_sec=first.tok_sec if first else None,
        status=experiment.status,
        description=one_line(experiment.proposal.description),
        experiment=experiment.number,
        trials=len(own),
        estimate=verdict.estimate,
        interval=verdict.interval,
        gain=verdict.gain,
        p_better=verdict.p_better,
        sealed=one_line(last.sealed) if last else "not run",
        seconds=math.fsum(row.trial.total_seconds for row in trials if row.trial),
        cost_usd=cost_usd,
        examined=max((trial.examined for trial in own), key=list(Examination).index, default=Examination.NONE),
        num_prefixes=sum(trial.deep_prefixes for trial in own),
        leak_bound=min((trial.leak_bound_bpb for trial in own if trial.leak_bound_bpb is not None), default=None),
        tag=experiment.tag,
        judged_at=experiment.judged_at or "",
        reason=one_line(verdict.reason),
        log_tail=last.log_tail if last and experiment.status is Status.CRASH else "",
        preparation=_preparation_of(own),
        objective=one_line(last.objective) if last else "",
        objective_bpb=first.objective_bpb if first else None,
        note=one_line(str(experiment.proposal.details.get("for_human", ""))),
    )


def _preparation_of(trials: Sequence[Trial]) -> str:
    """`3.2 of 120 s, 11 of 512 MB` of the recipe's preparation, which the first trial has made."""
    for trial in trials:
        if trial.preparation_seconds is not None and trial.preparation_limits is not None:
            seconds, disk_mb = trial.preparation_limits
            text = f"{trial.preparation_seconds:.1f} of {seconds:g} s"
            written = trial.preparation_disk_mb
            return text if written is None else f"{text}, {written:,.0f} of {disk_mb:,.0f} MB"
    return ""


def result_rows(ledger: Ledger, tag: str) -> list[ResultRow]:
    """Rows of one session, in order of its experiments."""
    return rows_of(ledger, [experiment for experiment in ledger.experiments(tag) if experiment.status])


def rows_of(ledger: Ledger, judged: Sequence[Experiment]) -> list[ResultRow]:
    """Rows of judged experiments, with what their trials measured and their proposals cost."""
    with closing(CallBook(ledger.path)) as book:
        costs = book.usd_by_experiment()
    return [
        result_row(found, ledger.trials(found.tag, found.number), costs.get((found.tag, found.number), 0.0))
        for found in judged
    ]


def tsv_line(row: ResultRow, *, with_tag: bool) -> str:
    """One row as a line with as many fields as columns, whatever the description says."""
    crashed = row.val_bpb is None
    cells = [
        row.commit,
        "0.000000" if crashed else f"{row.val_bpb:.6f}",
        "0.0" if row.memory_gb is None else f"{row.memory_gb:.1f}",
        "0" if row.avg_tok_sec is None else f"{row.avg_tok_sec:.0f}",
        str(row.status),
        tsv_field(row.description),
        str(row.experiment),
        str(row.trials),
        "" if row.estimate is None else f"{row.estimate:.6f}",
        "" if row.interval is None else f"{row.interval[0]:+.6f}..{row.interval[1]:+.6f}",
        "" if row.p_better is None else f"{row.p_better:.3f}",
        tsv_field(row.sealed),
        f"{row.seconds:.1f}",
        f"{row.cost_usd:.4f}",
        str(row.examined),
        row.preparation,
        tsv_field(row.objective),
        "" if row.objective_bpb is None else f"{row.objective_bpb:.6f}",
    ]
    if with_tag:
        cells += [row.tag, row.judged_at]
    return "\t".join(cells) + "\n"


def results_text(rows: list[ResultRow]) -> str:
    """results.tsv: the session in force, header first."""
    return "\t".join(COLUMNS) + "\n" + "".join(tsv_line(row, with_tag=False) for row in rows)


def history_text(rows: list[ResultRow]) -> str:
    """results_history.tsv: every row of every session in the order of their verdicts."""
    return "\t".join(HISTORY_COLUMNS) + "\n" + "".join(tsv_line(row, with_tag=True) for row in rows)


def log_entry(row: ResultRow) -> str:
    """One experiment's entry of EXPERIMENT_LOG.md, its separator included."""
    lines = [
        f"## {row.tag} #{row.experiment}: {markdown_inline(row.description)}",
        "",
        f"**{row.status}** · {markdown_inline(row.reason)}",
        "",
    ]
    lines.append(
        f"- commit `{row.commit}`, {row.trials} trial{'s' if row.trials != 1 else ''}, {row.seconds:.0f} s, {row.judged_at}"
    )
    if row.val_bpb is not None:
        lines.append(f"- val_bpb {row.val_bpb:.6f}, {row.avg_tok_sec:,.0f} tokens/s, {row.memory_gb:.1f} GB")
    if row.objective_bpb is not None:
        lines.append(f"- judged on {markdown_inline(row.objective)}: {row.objective_bpb:.6f}")
    if row.estimate is not None and row.interval is not None and row.gain is not None:
        lines.append(
            f"- estimated mean {row.estimate:.4f}, gain {row.gain:+.4f} (95 %: {row.interval[0]:+.4f} to {row.interval[1]:+.4f})"
        )
    lines.append(f"- sealed: {markdown_inline(row.sealed)}")
    if row.preparation:
        lines.append(f"- recipe prepared in {row.preparation}")
    if row.leak_bound is not None:
        lines.append(f"- examined deeply: {row.num_prefixes} prefixes, nothing found; bound {row.leak_bound:.4f} bpb")
    elif row.examined is Examination.SCREENED:
        lines.append("- screened")
    if row.note:
        lines.append(f"- for you, not tried here: {markdown_inline(row.note)}")
    if row.log_tail:
        # a paragraph, not a list item: inside an item four spaces would not make a code block
        lines += ["", "The end of its log, as quoted data:", "", markdown_block(row.log_tail)]
    return "\n".join(lines) + "\n\n---\n\n"


def log_text(rows: list[ResultRow], phases: Sequence[PhaseRow] = ()) -> str:
    """EXPERIMENT_LOG.md from its first line. rows: in the order of their verdicts. phases: of `autoresearch experiment`."""
    text = "# Experiment log\n\nOne entry per verdict, oldest first. Written from the ledger.\n\n---\n\n"
    for place in range(len(rows) + 1):
        text += log_entry(rows[place - 1]) if place else ""
        text += "".join(phase_entry(phase) for phase in phases if min(phase.num_verdicts, len(rows)) == place)
    return text


def write_tables(ledger: Ledger, tag: str, *, results: list[Path], history_path: Path, log_path: Path) -> None:
    """Bring all tables up to the ledger: results whole, history and log by appending what they lack.

    Raises:
        DiskError: a file could not be written; running it again later brings it up to date.
    """
    text = results_text(result_rows(ledger, tag))
    for path in results:
        write_whole(path, text)
    every = rows_of(ledger, ledger.judged_experiments())
    _append_missing(history_path, history_text(every))
    write_log(ledger, log_path, every)


def write_log(ledger: Ledger, log_path: Path, every: list[ResultRow] | None = None) -> None:
    """Bring EXPERIMENT_LOG.md up to the ledger. every: rows of all verdicts, where the caller has them.

    Raises:
        DiskError: the file could not be written; running it again later brings it up to date.
    """
    with closing(PhaseBook(ledger)) as book:
        phases = book.rows()
    rows = rows_of(ledger, ledger.judged_experiments()) if every is None else every
    _append_missing(log_path, log_text(rows, phases))


def _append_missing(path: Path, wanted: str) -> None:
    """Make the file read `wanted` by appending only; a torn tail is mended, a stranger's file is set aside whole."""
    if not path.exists():
        write_whole(path, wanted)
        return
    data = wanted.encode()
    present = path.read_bytes()
    if data.startswith(present):
        if len(present) < len(data):
            append_whole(path, data[len(present) :])  # bytes: a torn tail may end inside a character
        return
    # also when it holds all of ours and more: a ledger restored from its backup knows less than the file
    path.replace(path.with_name(f"{path.name}.{time.time_ns()}.found"))
    write_whole(path, wanted)
