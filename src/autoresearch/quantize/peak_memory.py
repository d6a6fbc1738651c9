"""Peak memory of one piece of work in this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets VmHWM to the current resident size


class PeakMemory:
    """Measures from its making on: `mb()` is the most that was in use since then, MiB.

    On an accelerator ("cuda") that is what its allocator handed out; elsewhere the resident memory of the whole process, the
    interpreter included. Where the system cannot forget an earlier peak (macOS, a container without /proc/self/clear_refs)
    the earlier peak counts too, and `is_of_process` says so.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._on_cuda = device.startswith("cuda")
        self.is_of_process = False
        if self._on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:
            self.is_of_process = True

    def mb(self) -> float:
        """Peak so far, MiB."""
        if self._on_cuda:
            import torch

            return float(torch.cuda.max_memory_allocated()) / 2**20
        if not self.is_of_process:
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
