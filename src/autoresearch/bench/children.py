"""One measuring process from outside: started fresh, given a time limit, its output in a log, ended as a tree."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from autoresearch.backends.hardware import MLX_FILE
from autoresearch.bench.child import ORDER_NAME, REFUSED, RESULT_NAME
from autoresearch.bench.order import Mode, Order
from autoresearch.files import disk_error, write_whole
from autoresearch.hostile_text import plain_lines
from autoresearch.sandbox.environment import INDUCTOR, TRITON, interpreter
from autoresearch.sandbox.process_tree import Orphans, ProcessTree
from autoresearch.vocabulary import AutoresearchError, UsageError

_LAST_LINES = 12  # of a log, in an error
_TAIL_BYTES = 16 << 10
_MOST_RESULT_BYTES = 64 << 20
_PAST_LIMIT = 10.0  # s: the process ends itself at its limit and says where it was; then we do
_LOOK_EVERY = 0.5  # s


class BenchmarkFailed(AutoresearchError):
    """A measuring process crashed, hung, or left no result."""


class Runner(Protocol):
    """Carries out one order in a process of its own, and returns its result."""

    def __call__(self, order: Order, log_path: Path, cache: Path) -> dict[str, Any]:
        """log_path: where the file's output goes. cache: folder of the compile caches.

        Raises:
            BenchmarkFailed: crash, time-out, no result. UsageError: the file refuses the contract or the contract it.
        """


class FreshProcess:
    """The runner of real life.

    environment: the whole of it, the contract's variables included. look: called twice a second while a process runs.
    blas: what MLX's products are computed by in a session on this CPU; None for its own.
    """

    def __init__(self, environment: Mapping[str, str], look: Callable[[], object], *, blas: Path | None = None) -> None:
        self._environment = dict(environment)
        self._look = look
        self._blas = blas

    def __call__(self, order: Order, log_path: Path, cache: Path) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="autoresearch-bench-") as name:
            folder = Path(name)
            blas = str(self._blas) if self._blas and Path(order.file).name == MLX_FILE else ""
            order = replace(order, spawned_at=time.time(), parent=os.getpid(), blas=blas)
            write_whole(folder / ORDER_NAME, order.to_json())
            more = {"TORCHINDUCTOR_CACHE_DIR": str(cache / INDUCTOR), "TRITON_CACHE_DIR": str(cache / TRITON)}
            if order.mode is Mode.EAGER and not order.is_named:
                more["TORCHDYNAMO_DISABLE"] = "1"  # torch.compile then returns what it is given
            try:
                log_path.parent.mkdir(parents=True, exist_ok=True)
                log = log_path.open("wb")
            except OSError as error:
                raise disk_error(error, log_path) from error
            with log:
                began = time.monotonic()
                tree = ProcessTree(
                    [*interpreter("autoresearch.bench.child"), str(folder)],
                    directory=Path(order.file).parent,
                    environment={**self._environment, **more},
                    output=log.fileno(),
                    orphans=Orphans.NONE,  # run on purpose by its owner, and all of it is in one session of its own
                )
                try:
                    code = self._wait(tree, began + order.limit_seconds + _PAST_LIMIT)
                finally:
                    tree.kill()
            if code is None or time.monotonic() - began >= order.limit_seconds:
                raise BenchmarkFailed(
                    _with_tail(f"{_name(order)} was not done within {order.limit_seconds:g} s", log_path),
                    hint=f"autoresearch bench {_name(order)} --steps 3 --limit {4 * order.limit_seconds:g}   (or a smaller --contract)",
                )
            if code != 0:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise BenchmarkFailed(
                    _with_tail(f"{_name(order)} ended with {how}", log_path), hint=f"less {os.path.relpath(log_path)}"
                )
            return read_result(folder / RESULT_NAME, order, log_path)

    def _wait(self, tree: ProcessTree, until: float) -> int | None:
        """Exit code, or None when the time is over."""
        while True:
            code = tree.wait(_LOOK_EVERY)
            if code is not None or time.monotonic() >= until:
                return code
            self._look()


def read_result(path: Path, order: Order, log_path: Path) -> dict[str, Any]:
    """What the process left.

    Raises:
        UsageError: it says why it measured nothing. BenchmarkFailed: nothing is there, or it is of another file.
    """
    broken = f"less {os.path.relpath(log_path)}"
    try:
        with path.open("rb") as stream:
            result = json.loads(stream.read(_MOST_RESULT_BYTES))
    except (OSError, ValueError) as error:
        raise BenchmarkFailed(_with_tail(f"{_name(order)} left no result: {error}", log_path), hint=broken) from error
    if not isinstance(result, dict):
        raise BenchmarkFailed(_with_tail(f"{_name(order)} left no result", log_path), hint=broken)
    if REFUSED in result:
        raise UsageError(f"{_name(order)}: {result[REFUSED]}", hint=str(result.get("hint", "")))
    if result.get("sha256") != order.sha256:
        raise BenchmarkFailed(f"the result is not of {_name(order)}", hint="autoresearch bench   (once more)")
    return result


def _name(order: Order) -> str:
    return os.path.relpath(order.file)


def _with_tail(message: str, log_path: Path) -> str:
    """The message and the last lines of the log."""
    with log_path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - _TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    lines = [line for line in plain_lines(text.replace("\r", "\n")) if line.strip()][-_LAST_LINES:]
    return "\n".join([message, *(f"  | {line}" for line in lines)])
