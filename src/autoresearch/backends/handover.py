"""`python train.py` by hand where MLX is the backend in force: train_mlx.py beside it goes on in the same process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from autoresearch.backends.blas import find_openblas
from autoresearch.backends.hardware import (
    BACKEND_VARIABLE,
    MLX_FILE,
    TORCH_FILE,
    TorchFound,
    accelerators_are_hidden,
    choose,
    mlx_in_force,
    requested_backend,
)
from autoresearch.backends.machine import Machine, read_machine
from autoresearch.vocabulary import UsageError

Execute = Callable[[str, list[str], Mapping[str, str]], object]


def hand_over_to_mlx(file: str, machine: Machine | None = None, execute: Execute = os.execve) -> None:
    """Become `python train_mlx.py` where MLX is in force; come back where it is not.

    file: the train.py that asks. In a sealed trial nothing is handed over: the referee chose the file, and the names that it
    imported come from the launcher, whose `prepare` is no file.

    Raises:
        UsageError: MLX was asked for, and it or train_mlx.py is missing.
    """
    if getattr(sys.modules.get("prepare"), "__file__", None) is None:
        return
    requested = requested_backend(os.environ)
    found = machine or read_machine()
    if not mlx_in_force(found, requested, not accelerators_are_hidden(os.environ)):
        return
    script = Path(file).resolve().with_name(MLX_FILE)
    if not script.is_file():
        if requested != "mlx":
            return
        raise UsageError(
            f"{BACKEND_VARIABLE}=mlx, and there is no {MLX_FILE} beside {TORCH_FILE}",
            hint=f"autoresearch init newlab   (and copy its {MLX_FILE} here)",
        )
    choose(found, lambda: TorchFound(None), "mlx")  # or says what to install
    environment = dict(os.environ)
    blas = find_openblas() if found.mlx_build == "cpu" else None
    if blas is not None:
        environment.setdefault("LD_PRELOAD", str(blas))
    sys.stdout.flush()
    sys.stderr.flush()
    execute(sys.executable, [sys.executable, str(script), *sys.argv[1:]], environment)
