"""What a seal is: the parts that can hold, and the kinds that were proven to hold them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Part(StrEnum):
    """What a sandbox keeps a candidate away from."""

    FILES = "files"  # it reads and writes by allow-list only
    NETWORK = "network"  # it reaches nobody
    PROCESSES = "processes"  # it can neither signal, trace nor read another process, and nothing it starts outlives it
    SYSTEM_CALLS = "system calls"  # what no training needs and kernel exploits like is refused


_WORDS_FOR_MISSING = {
    Part.FILES: "no file isolation",
    Part.NETWORK: "no network isolation",
    Part.PROCESSES: "no process isolation",
    Part.SYSTEM_CALLS: "no system call filter",
}


class Kind(StrEnum):
    """Ways to seal, by the name that settings use."""

    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"
    SANDBOX_EXEC = "sandbox-exec"
    NONE = "none"


@dataclass(frozen=True)
class Seal:
    """One way to seal that was tried on this machine, and the parts that held when it was.

    system: "linux" or "darwin", as `sys.platform` has it: system calls are filtered on Linux only.
    program: bwrap or sandbox-exec. variant: row of `bubblewrap.VARIANTS`. landlock_abi: version of the kernel's Landlock.
    """

    kind: str
    parts: frozenset[Part] = frozenset()
    system: str = "linux"
    program: Path | None = None
    variant: int = 0
    landlock_abi: int = 0

    @property
    def wanted(self) -> tuple[Part, ...]:
        """The parts that make a seal full on this system, in the order they are named."""
        return tuple(part for part in Part if part is not Part.SYSTEM_CALLS or self.system == "linux")

    @property
    def level(self) -> str:
        """What a row says: "full", "partial (no network isolation, ...)" with everything that does not hold, or "none"."""
        missing = [part for part in self.wanted if part not in self.parts]
        if not missing:
            return "full"
        if not self.parts:
            return "none"
        return f"partial ({', '.join(_WORDS_FOR_MISSING[part] for part in missing)})"
