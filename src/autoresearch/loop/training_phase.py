"""The first phase of an experiment: one sealed trial of the committed experiment file, whose weights are kept."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from autoresearch.contract.channel import REBUILD
from autoresearch.files import write_json, write_whole
from autoresearch.loop.opening import Ground, base_recipe
from autoresearch.loop.orders import DeepWish, Glimpse, Order, TrialRun
from autoresearch.loop.preparation import prepared_arena
from autoresearch.loop.referee import run_trial
from autoresearch.loop.session import Stopped
from autoresearch.loop.settings import Settings
from autoresearch.proposers.constants import defines_function
from autoresearch.records.ledger import now
from autoresearch.records.run_report import write_status
from autoresearch.vocabulary import Outcome, SessionStopped, Trial
from autoresearch.workspace import Workspace

CHECKPOINT_DIR = "checkpoint"
WEIGHTS_NAME = "checkpoint.safetensors"
TOKENIZER_NAME = "tokenizer.json"
METRICS_NAME = "metrics.json"
_STATUS_EVERY = 1.0  # seconds between two status files: what pollers expect


def train_once(
    workspace: Workspace,
    ground: Ground,
    settings: Settings,
    commit: str,
    folder: Path,
    tag: str,
    *,
    say: Callable[[str], None],
    stop: threading.Event | None = None,
) -> Trial:
    """Train the experiment file of `commit` in a sealed trial, examined deeply, and keep what came of it.

    folder: logs/TAG; gets checkpoint/ with the weights, the tokenizer, the file and metrics.json. train_status.txt there and at
    the root follows the trial.

    Raises:
        SessionStopped: the trial has no score. Stopped: the user asked to stop. DiskError: what came of it cannot be written.
    """
    text = workspace.read_surface(commit, settings.entry)
    rules = ground.rules
    deep = DeepWish(lambda _score: True, rules.noise_prior) if defines_function(text, REBUILD) else None
    order = Order({settings.entry: text}, settings.entry, settings.seed, deep=deep, is_trusted=True)
    status = TrainStatus([workspace.status_path("train"), workspace.status_path("train", tag)])
    done = _trial(workspace, ground, order, commit, folder / "train.log", status, stop or threading.Event())
    trial = done.trial
    status.end(str(trial.outcome))
    if trial.outcome is Outcome.ABANDONED:
        raise Stopped
    if trial.val_bpb is None or done.weights is None:
        raise SessionStopped(
            f"the trial has no score ({trial.outcome}: {trial.reason})\n{trial.log_tail}".rstrip(),
            hint=f"autoresearch train {settings.entry} --contract {rules.preset}   (then commit the mended file, and a new tag)",
        )
    kept = folder / CHECKPOINT_DIR
    write_whole(kept / settings.entry, text)
    write_whole(kept / TOKENIZER_NAME, ground.arena.prepared.tokenizer.to_json())
    write_whole(kept / WEIGHTS_NAME, done.weights)
    write_json(
        kept / METRICS_NAME,
        {
            "tag": tag,
            "commit": commit,
            "entry": settings.entry,
            "preset": rules.preset,
            "fingerprint": ground.fingerprint,
            **ground.arena.prepared.hashes,
            "machine": asdict(ground.hardware),
            "val_bpb": trial.val_bpb,
            "trial": asdict(trial),
        },
    )
    say(
        f"val_bpb {trial.val_bpb:.6f} in {trial.num_steps} steps, {trial.tok_sec:,.0f} tokens/s, {trial.total_seconds:.1f} s;"
        f" examined: {trial.examined}; sealed: {trial.sealed}"
    )
    say(f"commit {commit[:10]}, contract {rules.preset}, fingerprint {ground.fingerprint}")
    return trial


def _trial(
    workspace: Workspace,
    ground: Ground,
    order: Order,
    commit: str,
    log_path: Path,
    status: TrainStatus,
    stop: threading.Event,
) -> TrialRun:
    """The trial, on the contract's own text or on what the workspace's recipe makes of it."""
    arena = ground.arena
    recipe = base_recipe(workspace, commit)
    if recipe is not None:
        made = prepared_arena(
            arena,
            ground.pantry,
            recipe,
            order,
            log_path,
            on_start=lambda _pid, _created: None,
            on_line=lambda line: status.glimpse(Glimpse(f"preparation: {line}")),
            stop=stop,
        )
        if isinstance(made, TrialRun):
            return made  # the recipe failed
        arena = made
    return run_trial(arena, order, log_path, on_glimpse=status.glimpse, stop=stop)


class TrainStatus:
    """train_status.txt of a trial, at each of its places: about once a second, and when the phase changes."""

    def __init__(self, paths: list[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._written: float | None = None
        self._phase = ""

    def glimpse(self, seen: Glimpse) -> None:
        """The trial as it is now."""
        due = self._written is None or seen.phase != self._phase or self._clock() - self._written >= _STATUS_EVERY
        if not due:
            return
        self._written, self._phase = self._clock(), seen.phase
        write_status(
            self._paths,
            {
                **_head(seen.phase, seen.progress, "the committed experiment"),
                "step": seen.step,
                "loss": seen.loss,
                "tok_sec": seen.tok_sec or None,
                "remaining_seconds": seen.remaining,
            },
        )

    def end(self, why: str) -> None:
        """The trial is over."""
        write_status(self._paths, _head("ended", 1.0, why))


def _head(phase: str, progress: float, message: str) -> dict[str, object]:
    return {"phase": phase, "progress": progress, "updated_at": now(), "pid": os.getpid(), "message": message}
