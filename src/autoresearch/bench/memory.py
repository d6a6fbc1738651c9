"""The most memory that a measured run took, as far as its array library keeps count."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2.0**20


@dataclass(frozen=True)
class Memory:
    """MiB, and what kind of figure it is.

    kind: "device peak" (most that tensors took), "device held" (what the driver holds now: Apple's MPS keeps no peak), or
    "process peak" (most of the process that was resident: on a CPU there is no other).
    """

    mb: float
    kind: str


def peak_memory(library: str, device: str) -> Memory:
    """The peak so far of the library that the file uses ("torch", "mlx", "numpy") on its device ("cuda", "mps", ...)."""
    if library == "torch" and device != "cpu":
        import torch

        return device_memory(torch, device)
    if library == "mlx":
        import mlx.core as mx

        return Memory(mx.get_peak_memory() / MIB, "device peak")
    return Memory(process_peak_mb(), "process peak")


def device_memory(torch: Any, device: str) -> Memory:
    """The same of an accelerator under torch. ROCm is `cuda` there."""
    if device == "mps":
        return Memory(torch.mps.driver_allocated_memory() / MIB, "device held")
    return Memory(getattr(torch, device).max_memory_allocated() / MIB, "device peak")


def process_peak_mb() -> float:
    """Most of this process that was resident at once, MiB.

    Linux's VmHWM where there is one: ru_maxrss also counts what the parent held when it started us.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
