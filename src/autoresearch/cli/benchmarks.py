"""The verb `bench`: where a step's time goes, for one file or two side by side."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from autoresearch.backends.hardware import MLX_FILE, default_preset, detect
from autoresearch.bench.benchmark import OURS, YOURS, Bench, Wish
from autoresearch.bench.children import FreshProcess
from autoresearch.bench.experiment_file import ExperimentFile, check_wanted, other_constants, read_experiment
from autoresearch.bench.order import Mode
from autoresearch.bench.record import Circumstances, benchmark_json, write_benchmark
from autoresearch.bench.sampling import LEAST_SAMPLES
from autoresearch.bench.table import benchmark_text
from autoresearch.cli import screen
from autoresearch.contract.rules import Clock, Rules, rules_for
from autoresearch.contract.standalone import standalone_names
from autoresearch.loop.opening import blas_for
from autoresearch.loop.settings import Settings, load_settings
from autoresearch.records.ledger import now
from autoresearch.records.run_report import write_status
from autoresearch.vocabulary import UsageError, WorkspaceError
from autoresearch.workspace import Workspace, open_workspace

_STATUS_EVERY = 1.0  # seconds between status files: what pollers expect
_VERSIONS_OF = ("autoresearch", "torch", "mlx", "numpy")
_SETTINGS = ("contract", "dataset", "num_shards", "threads")


def bench(options: argparse.Namespace) -> int:
    """Measure, write data/bench_*.json, and show."""
    workspace = open_workspace()
    if options.steps < LEAST_SAMPLES:
        raise UsageError(f"--steps takes a number from {LEAST_SAMPLES} on", hint="autoresearch bench --steps 20")
    if options.rounds < 1:
        raise UsageError("--rounds takes a number from 1 on", hint="autoresearch bench --compare FILE --rounds 4")
    if options.limit <= 0:
        raise UsageError("--limit takes seconds above 0", hint="autoresearch bench --limit 600")
    flags = {name: getattr(options, name) for name in _SETTINGS}
    settings = load_settings(workspace.settings(), os.environ, flags)
    rules = rules_for(settings.contract or default_preset(detect()))
    hardware = detect(allow_accelerator=rules.clock is Clock.WALL)
    files = tuple(read_experiment(Path(name).absolute()) for name in (options.file, options.compare) if name)
    threads = settings.threads or 1
    environment = {**os.environ, **_variables(rules, settings, threads)}
    notes = _check_against_contract(files, environment)
    workspace.check_writable()
    began = datetime.now(UTC)
    stamp = began.strftime("%Y%m%d_%H%M%S")
    status = _Status(workspace, quiet=options.json)
    on_mlx = any(file.path.name == MLX_FILE for file in files)
    blas = blas_for(settings, detect(allow_accelerator=hardware.backend != "cpu", file=MLX_FILE)) if on_mlx else None
    run = FreshProcess(environment, status.look, blas=blas)
    logs = workspace.root / "logs" / "bench"
    modes = tuple(mode for mode, wanted in ((Mode.EAGER, options.eager), (Mode.COMPILED, options.compiled)) if wanted)
    wish = Wish(files, modes, options.steps, options.rounds, options.limit)
    try:
        found = Bench(run, lambda name: logs / f"{stamp}-{name}.log", status.tell).measure(wish)
    except BaseException:
        status.end("failed or stopped; nothing was written")
        raise
    if found.measurements[0].first["text"] == "synthetic":
        notes.append(f"nothing is prepared for contract {rules.preset}: random tokens, handed out for nothing")
    where = Circumstances(
        started_at=began.isoformat(timespec="seconds"),
        ended_at=now(),
        commit=_commit_of(workspace),
        hardware=hardware,
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        versions={name: _version(name) for name in _VERSIONS_OF},
        rules=rules,
        steps=options.steps,
        rounds=options.rounds if len(files) > 1 else 1,
        limit_seconds=options.limit,
        threads=threads,
        paths={label: os.path.relpath(file.path) for label, file in zip((OURS, YOURS), files, strict=False)},
        notes=tuple(notes),
    )
    report = benchmark_json(found, where)
    path = write_benchmark(workspace.data_dir, report, began)
    status.end(f"written to {os.path.relpath(path)}", progress=1.0)
    if options.json:
        screen.print_json({**report, "written_to": os.path.relpath(path)})
    else:
        screen.say(f"{benchmark_text(found, where)}\n\n  written to {os.path.relpath(path)}")
    return 0


def _variables(rules: Rules, settings: Settings, threads: int) -> dict[str, str]:
    """What a measuring process finds in its environment: the contract in force, and CPU threads as a candidate's."""
    variables = {
        "AUTORESEARCH_CONTRACT": rules.preset,
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "OMP_WAIT_POLICY": "PASSIVE",
        **{name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
    }
    if settings.dataset:
        variables["AUTORESEARCH_DATASET"] = settings.dataset
    if settings.num_shards is not None:
        variables["AUTORESEARCH_NUM_SHARDS"] = str(settings.num_shards)
    return variables


def _check_against_contract(files: tuple[ExperimentFile, ...], environment: Mapping[str, str]) -> list[str]:
    """What is odd about these files under the contract in force, one sentence each.

    Raises:
        UsageError: a file wants a name of `prepare` that there is none of.
    """
    os.environ["AUTORESEARCH_CONTRACT"] = environment["AUTORESEARCH_CONTRACT"]
    offered = standalone_names()
    notes = []
    for file in files:
        check_wanted(file, offered)
        notes += other_constants(file, offered)
    if len({file.sha256 for file in files}) < len(files):
        notes.append("the two files are the same: the ratio is the noise of this machine")
    return notes


def _commit_of(workspace: Workspace) -> str | None:
    try:
        return workspace.repository.head()
    except WorkspaceError:  # no commit yet
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class _Status:
    """bench_status.txt, and one line per process on standard error."""

    def __init__(self, workspace: Workspace, *, quiet: bool) -> None:
        self._path = workspace.status_path("bench")
        self._quiet = quiet
        self._values: dict[str, Any] = {}
        self._written = 0.0

    def tell(self, shown: str, progress: float) -> None:
        """A process begins."""
        if not self._quiet:
            screen.say(f"  {progress:4.0%}  {shown}", stream=sys.stderr)
        self._write("measuring", progress, shown)

    def look(self) -> None:
        """One still runs."""
        if time.monotonic() - self._written >= _STATUS_EVERY and self._values:
            self._write(self._values["phase"], self._values["progress"], self._values["message"])

    def end(self, message: str, progress: float | None = None) -> None:
        """All have ended."""
        self._write("ended", self._values.get("progress", 0.0) if progress is None else progress, message)

    def _write(self, phase: str, progress: float, message: str) -> None:
        self._written = time.monotonic()
        self._values = {
            "phase": phase,
            "progress": progress,
            "updated_at": now(),
            "pid": os.getpid(),
            "message": message,
        }
        write_status([self._path], self._values)
