"""The bubblewrap layer: a command line that gives a candidate a file system, a network and a process list of its own."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autoresearch.sandbox.allowed import Allowed
from autoresearch.sandbox.seal import Part

TRIAL = PurePosixPath("/trial")  # fixed, so that keys of compile caches that name a path stay the same
SCRATCH = PurePosixPath("/scratch")
CACHE = PurePosixPath("/cache")
WARM = PurePosixPath("/warm")
GIVEN = PurePosixPath("/given")

# Pages of a tmpfs are memory that no process's resident size shows until it maps them, so what these may hold comes on top
# of the memory limit: 1 GiB at most. Compiling the standard model leaves 10 MB of temporary files; shared memory carries
# batches between data workers.
SCRATCH_MB = 512
SHARED_MEMORY_MB = 512
OWN_TMP_MB = 64  # where /tmp is not the scratch: TMPDIR names that, and few programs write elsewhere
_TMP = PurePosixPath("/tmp")

ISOLATION = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
    *("--cap-drop", "ALL", "--die-with-parent"),
)
_NO_MORE_NAMESPACES = "--disable-userns"

SYS_FOLDERS = ("/sys/devices/system/cpu", "/sys/devices/system/node")  # torch counts cores and NUMA nodes there
_SYS = "/sys"  # accelerators are found through it: /sys/bus/pci, /sys/class/kfd


@dataclass(frozen=True)
class Variant:
    """One way to call bubblewrap, tried in the order of `VARIANTS`.

    own_proc: a container may forbid to mount one; then the machine's shows, with every process of the same user in it.
    disables_userns: bubblewrap 0.8 and newer; before, the system call filter alone refuses new namespaces.
    """

    name: str
    own_proc: bool
    disables_userns: bool

    @property
    def parts(self) -> frozenset[Part]:
        """What this variant can hold by itself; a test run says whether it does."""
        held = {Part.FILES, Part.NETWORK}
        return frozenset(held | {Part.PROCESSES} if self.own_proc else held)


VARIANTS = (
    Variant("all namespaces", own_proc=True, disables_userns=True),
    Variant("all namespaces, old bubblewrap", own_proc=True, disables_userns=False),
    Variant("without its own /proc", own_proc=False, disables_userns=True),
    Variant("without its own /proc, old bubblewrap", own_proc=False, disables_userns=False),
)


def arguments(
    variant: Variant,
    allowed: Allowed,
    *,
    trial_dir: Path,
    cache_dir: Path,
    warm_cache: Path | None,
    devices: Iterable[Path],
    accelerators: bool,
    given: Mapping[PurePosixPath, Path] | None = None,
    writable: Container[Path] = (),
) -> list[str]:
    """Arguments of bwrap before the command. given: what shows besides, by where; what is in `writable` can be written.

    The root and /dev are file systems in memory that bubblewrap makes: read-only at the end, because nothing bounds
    them. /proc is read-only too: under root's number, even without its capabilities, a candidate could write
    /proc/sys/kernel/core_pattern of the whole machine (measured with bubblewrap 0.8, which covers only /proc/irq and
    /proc/bus then).
    """
    words = [*ISOLATION, *([_NO_MORE_NAMESPACES] if variant.disables_userns else [])]
    # an installation below /tmp: what it needs is bound into a folder there, so /tmp cannot be a link
    holds_us = any(path.is_relative_to(_TMP) for path in allowed.read)
    words += _tmpfs(str(_TMP), OWN_TMP_MB) if holds_us else []
    for path in sorted(allowed.read):
        words += ["--ro-bind", str(path), str(path)]
    for path in allowed.hidden:
        words += ["--size", "4096", "--perms", "0500", "--tmpfs", str(path), "--remount-ro", str(path)]
    for path, text in allowed.links:
        words += ["--symlink", text, str(path)]
    for name in [_SYS] if accelerators else SYS_FOLDERS:
        if Path(name).is_dir():
            words += ["--ro-bind", name, name]
    words += ["--proc", "/proc", "--remount-ro", "/proc"] if variant.own_proc else ["--ro-bind", "/proc", "/proc"]
    words += ["--dev", "/dev"]
    for path in devices:
        words += ["--dev-bind", str(path), str(path)]
    words += _tmpfs("/dev/shm", SHARED_MEMORY_MB) + _tmpfs(str(SCRATCH), SCRATCH_MB)
    words += [*([] if holds_us else ["--symlink", str(SCRATCH), str(_TMP)]), "--remount-ro", "/dev"]
    words += ["--ro-bind", str(trial_dir), str(TRIAL), "--bind", str(cache_dir), str(CACHE)]
    if warm_cache is not None:
        words += ["--ro-bind", str(warm_cache), str(WARM)]
    for seen, path in (given or {}).items():
        words += ["--bind" if path in writable else "--ro-bind", str(path), str(seen)]
    return [*words, "--remount-ro", "/", "--chdir", str(SCRATCH)]


def _tmpfs(path: str, size_mb: int) -> list[str]:
    return ["--size", str(size_mb * 2**20), "--perms", "0700", "--tmpfs", path]
