"""Verbs that make a checkpoint smaller and say what that costs: quantize, tq-benchmark."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoresearch.cli import screen
from autoresearch.contract.description import CONFIG_KEY
from autoresearch.files import write_json, write_whole
from autoresearch.quantize import results
from autoresearch.quantize.architecture import ArchitectureEdited
from autoresearch.quantize.benchmark import MIN_SEEDS, run_benchmark, summaries
from autoresearch.quantize.benchmark_report import LeftOut, benchmark_json, benchmark_text
from autoresearch.quantize.cells import CELL_VERSION, Cell, CellStore
from autoresearch.quantize.evaluate import Form, QuantRow, Stage, evaluate
from autoresearch.quantize.ground import Ground, open_ground
from autoresearch.quantize.methods import CodecFor, Missing, chosen_bits, chosen_methods, codec_for, forms_of
from autoresearch.quantize.recommending import recommend
from autoresearch.quantize.run_status import RunStatus
from autoresearch.quantize.scoring import RowBits, Score
from autoresearch.repository import check_tag
from autoresearch.vocabulary import AutoresearchError, DataMissing, UsageError, WorkspaceError
from autoresearch.workspace import Workspace, open_workspace

AUTO, REFERENCE, SEALED = "auto", "reference", "sealed"
_NO_TAG = "quantize"  # folder under logs/ of a checkpoint that belongs to no session


@dataclass(frozen=True)
class _Places:
    """Where a run's files go: the workspace's root, and the session's folder under logs/."""

    root: Path
    folder: Path

    def status(self, name: str) -> list[Path]:
        return [self.root / f"{name}_status.txt", self.folder / f"{name}_status.txt"]

    def tables(self) -> list[Path]:
        return [self.root / "quant_results.tsv", self.folder / "quant_results.tsv"]


def quantize(options: argparse.Namespace) -> int:
    """The checkpoint in several quantized forms: what each costs on disk and in val_bpb, and which one to take."""
    methods, widths = chosen_methods(options.method), chosen_bits(options.bits)
    _check_seed(options.seed)
    workspace = _workspace()
    ground = _ground(options)
    places = _places(workspace, ground, options.tag)
    scorer = _scorer(ground, options)
    why_not = _no_calibration(options, scorer)
    forms, missing = forms_of(methods, widths, [options.seed], no_calibration=why_not, codec_of=_codecs(ground))
    if not forms:
        raise UsageError(f"nothing to measure: {_left_out_line(missing[0])}", hint="--method turboquant --bits 2,3,4")
    setting = _setting(ground, options, workspace, scorer, 0 if why_not else options.calibration_tokens)
    report_path = places.folder / "quantize.json"
    watch = _Watch(quiet=options.json)
    with RunStatus(places.status("quant"), watch) as status, tempfile.TemporaryDirectory() as scratch:
        rows: list[QuantRow] = []
        share = 1 / (len(forms) + 2)  # of the run: calibration, the checkpoint itself, each form

        def on_stage(stage: Stage) -> None:
            name = stage.form.name if stage.form else "checkpoint"
            status.tell(stage.doing, (1 + stage.index) * share, f"{name}: {stage.doing}", form=name)

        def on_row(row: QuantRow) -> None:
            rows.append(row)
            write_json(report_path, results.report_json(setting, rows, finished=len(rows) == len(forms)))
            watch.line(f"{row.name}: {row.file_bytes:,} bytes, lost {results.interval_text(row.loss)} bpb")

        status.tell("reading", 0.0, f"{options.checkpoint}: {len(ground.rows)} rows of {ground.rules.preset}")
        hessians = None
        if any(form.needs_hessians for form in forms):
            status.tell("calibrating", share / 2, f"{options.calibration_tokens:,} tokens of training text")
            hessians = ground.hessians()
        done = evaluate(
            ground,
            forms,
            _score(ground, scorer, workspace),
            hessians=hessians,
            check_before=ground.check_recorded if scorer == REFERENCE else lambda _score: None,
            device=ground.device,
            keep_in=Path(scratch) if options.out else None,
            on_stage=on_stage,
            on_row=on_row,
        )
        found = recommend(done, setting.noise)
        lines = results.tsv_rows(setting, done, found)
        for path in places.tables():
            results.append_tsv(path, lines)
        if options.out and found.name:
            _keep_file(done, found.name, Path(options.out))
        status.tell("done", 1.0, f"recommended: {found.name}")
    if options.json:
        screen.print_json(results.report_json(setting, done, finished=True))
    else:
        screen.say(results.table_text(setting, done))
        _say_places({"left out": "; ".join(map(_left_out_line, missing)), "report": str(report_path)})
        if options.out and found.name:
            _say_places({"file": f"{options.out}   ({found.name})"})
    return 0


def tq_benchmark(options: argparse.Namespace) -> int:
    """Seeds x bits x methods on one checkpoint, each cell kept when it is done, with intervals, theory and pictures."""
    methods, widths = chosen_methods(options.method), chosen_bits(options.bits)
    if options.seeds < 1:
        raise UsageError(f"{options.seeds} seeds", hint=f"--seeds {MIN_SEEDS}")
    workspace = _workspace()
    ground = _ground(options)
    places = _places(workspace, ground, options.tag)
    folder = Path(options.out).absolute() if options.out else places.folder / "tq_benchmark"
    scorer = _scorer(ground, options)
    why_not = _no_calibration(options, scorer)
    forms, missing = forms_of(methods, widths, range(options.seeds), no_calibration=why_not, codec_of=_codecs(ground))
    if not forms:
        raise UsageError(f"nothing to measure: {_left_out_line(missing[0])}", hint="--method all --bits 2,3,4")
    left_out = [LeftOut(*entry) for entry in missing]
    report_path = folder / "benchmark.json"
    setting = _setting(ground, options, workspace, scorer, 0 if why_not else options.calibration_tokens)
    store = CellStore(folder / "cells", _inputs(ground, setting))
    watch = _Watch(quiet=options.json)
    with _resumable(), RunStatus(places.status("bench"), watch) as status:
        told = _BenchProgress(status)
        status.tell("reading", 0.0, f"{options.checkpoint}: {len(ground.rows)} rows of {ground.rules.preset}")

        def report(before: RowBits, cells: Sequence[Cell]) -> dict[str, Any]:
            return benchmark_json(setting, before, cells, left_out, num_cells=len(forms))

        before, done = run_benchmark(
            ground,
            forms,
            _score(ground, scorer, workspace),
            store,
            hessians=ground.hessians,
            device=ground.device,
            check_before=ground.check_recorded if scorer == REFERENCE else lambda _score: None,
            on_progress=told,
            on_cells=lambda before, cells: write_json(report_path, report(before, cells)),
        )
        write_json(report_path, report(before, done))
        rows = summaries(before, done)
        pictures = _pictures(folder, rows, setting)
        status.tell("done", 1.0, f"{len(done)} cells")
    if options.json:
        screen.print_json(report(before, done))
        return 0
    screen.say(benchmark_text(setting, before, done, left_out))
    if options.seeds < MIN_SEEDS:
        screen.say(f"{options.seeds} seeds say little about the spread between rotations: --seeds {MIN_SEEDS}")
    _say_places({"report": str(report_path), "pictures": pictures})
    return 0


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        screen.say("finished cells are kept: the same command goes on from here", stream=sys.stderr)
        raise


class _BenchProgress:
    """Progress of a benchmark as status: cells done of all."""

    def __init__(self, status: RunStatus) -> None:
        self._status = status

    def __call__(self, done: int, count: int, form: Form | None, doing: str) -> None:
        name = "checkpoint" if form is None else f"{form.name}, seed {form.seed}"
        self._status.tell(doing, done / count, f"{name}: {doing}", cells_done=done, cells=count, form=name)


class _Watch:
    """Lines on standard error: one for each thing that is begun, and one for each result."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""

    def __call__(self, _phase: str, progress: float, message: str) -> None:
        if not self._quiet and message != self._last:
            self._last = message
            screen.say(f"{progress:>4.0%}  {message}", stream=sys.stderr)

    def line(self, text: str) -> None:
        if not self._quiet:
            screen.say(f"      {text}", stream=sys.stderr)


def _workspace() -> Workspace | None:
    """The workspace around us; None outside of one, where files go to the current folder."""
    try:
        return open_workspace()
    except WorkspaceError:
        return None


def _places(workspace: Workspace | None, ground: Ground, tag: str | None) -> _Places:
    name = check_tag(tag) if tag else ground.origin.tag or _NO_TAG
    root = workspace.root if workspace else Path.cwd()
    return _Places(root, root / "logs" / name)


def _ground(options: argparse.Namespace) -> Ground:
    if options.calibration_tokens < 0:
        raise UsageError(f"{options.calibration_tokens} tokens of calibration", hint="--calibration-tokens 65536")
    return open_ground(
        Path(options.checkpoint),
        preset=options.contract,
        dataset=options.dataset,
        num_rows=options.rows,
        calibration_tokens=options.calibration_tokens,
    )


def _codecs(ground: Ground) -> CodecFor:
    """Codecs on the checkpoint's device, whose files say which model they hold."""
    config = ground.checkpoint.config_text
    return partial(codec_for, device=ground.device, metadata={CONFIG_KEY: config} if config else {})


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"seed {seed}: seeds count from 0", hint="--seed 0")


def _scorer(ground: Ground, options: argparse.Namespace) -> str:
    """Who reads the rows: the shipped architecture in this process, or the checkpoint's own experiment file in a sealed one.

    Raises:
        ArchitectureEdited, DataMissing: the checkpoint is of another architecture, and its file is not beside it.
        UsageError: a sealed process cannot read some rows only.
    """
    chosen = str(options.scorer)
    if chosen == AUTO:
        try:
            ground.reference()
            chosen = REFERENCE
        except (ArchitectureEdited, DataMissing):
            if ground.experiment_file is None:
                raise
            chosen = SEALED
    if chosen == SEALED and options.rows is not None:
        raise UsageError("a sealed process is examined on all rows", hint="leave --rows out")
    return chosen


def _no_calibration(options: argparse.Namespace, scorer: str) -> str:
    """Why there is no calibration text, where there is none."""
    if scorer == SEALED:
        return "the inputs of its layers stay inside the sealed process"
    return "" if options.calibration_tokens else "--calibration-tokens is 0"


def _score(ground: Ground, scorer: str, workspace: Workspace | None) -> Score:
    if scorer == REFERENCE:
        return ground.score()
    from autoresearch.cli.sealed_score import sealed_score

    if workspace is None:
        raise UsageError("a sealed process is started from a workspace", hint="autoresearch init mylab && cd mylab")
    return sealed_score(ground, workspace)


def _setting(
    ground: Ground, options: argparse.Namespace, workspace: Workspace | None, scorer: str, calibration_tokens: int
) -> results.Setting:
    noise, source = _noise(ground, workspace)
    return results.Setting(
        checkpoint=options.checkpoint,
        sha256=ground.checkpoint.sha256,
        origin=ground.origin,
        preset=ground.rules.preset,
        dataset=ground.dataset,
        validation_sha256=ground.validation_sha256,
        num_rows=len(ground.rows),
        num_tokens=ground.rows.size - len(ground.rows),
        num_bytes=ground.num_bytes,
        calibration_tokens=calibration_tokens,
        noise=noise,
        noise_from=source,
        scorer=scorer,
        device=ground.device,
    )


def _noise(ground: Ground, workspace: Workspace | None) -> tuple[float, str]:
    """Standard deviation of one run's val_bpb under this contract, and where it is from."""
    rules, tag = ground.rules, ground.origin.tag
    if workspace and tag and workspace.ledger_path.exists():
        from autoresearch.loop.objective import noise_in
        from autoresearch.records.ledger import Ledger

        with closing(Ledger(workspace.ledger_path)) as ledger:
            session = ledger.session(tag)
            found = noise_in(ledger, session) if session else None
        if found and found.measured is not None:
            return found.sd, f"{found.degrees} degrees of freedom measured in this repository, and the prior"
    return rules.noise_prior, f"the prior of contract {rules.preset}: autoresearch calibrate measures it"


def _inputs(ground: Ground, setting: results.Setting) -> dict[str, Any]:
    """Everything that a cell depends on besides its form."""
    from autoresearch import __version__

    return {
        "version": __version__,
        "cell_version": CELL_VERSION,
        "checkpoint": setting.sha256,
        "rows": ground.rows_sha256,
        "tokenizer": ground.tokenizer.sha256,
        "corpus": ground.text.hashes["corpus"],
        "calibration_tokens": setting.calibration_tokens,
        "scorer": setting.scorer,
        "device": setting.device,
    }


def _keep_file(rows: Sequence[QuantRow], name: str, out: Path) -> None:
    chosen = next(row for row in rows if row.name == name)
    assert chosen.file is not None, "files are kept where one is wanted"
    write_whole(out, chosen.file.read_bytes())


def _pictures(folder: Path, rows: Sequence[Any], setting: results.Setting) -> str:
    """Where the pictures lie, or why there are none: a benchmark of hours does not fail for a missing library."""
    from autoresearch.quantize.pictures import save_pictures

    title = f"{Path(setting.checkpoint).name} on {setting.preset}, {setting.num_rows} rows"
    try:
        return ", ".join(map(str, save_pictures(rows, folder, noise=setting.noise, title=title)))
    except AutoresearchError as error:
        return f"not drawn: {error.message} ({error.hint})"


def _left_out_line(entry: Missing) -> str:
    method, bits, reason = entry
    return f"{method}{'' if bits is None else f' {bits:g} bit'}: {reason}"


def _say_places(places: dict[str, str]) -> None:
    for name, where in places.items():
        if where:
            screen.say(f"{name:>10}  {where}")
