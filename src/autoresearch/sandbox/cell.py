"""One candidate's place: what it may read and write, and its start inside the seal."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

from autoresearch.sandbox import bubblewrap, landlock, macos, seccomp
from autoresearch.sandbox.allowed import allowed_by_entry, allowed_here
from autoresearch.sandbox.compile_cache import link_warm
from autoresearch.sandbox.confine import Orders
from autoresearch.sandbox.devices import PLAIN_DEVICES, Lease, lease
from autoresearch.sandbox.environment import clean_environment, interpreter
from autoresearch.sandbox.process_tree import Orphans, ProcessTree, open_files
from autoresearch.sandbox.seal import Kind, Part, Seal
from autoresearch.vocabulary import InstallationError

OOM_SCORE_ADJUSTMENT = 1000  # the kernel's largest: when memory runs out the candidate goes first, not the referee
# The largest file it may write, its log included: 100 times the weights of the largest model that a preset trains is less.
MAX_FILE_MB = 4096
# Processes and threads in one user namespace; torch.compile with 16 workers uses about 300. Counted per namespace since
# Linux 5.14, per user before, where the user's own would be in the sum. Root is not held by it.
MAX_TASKS = 4096
_COUNTS_TASKS_PER_NAMESPACE = (5, 14)

_ENTRIES_PER_LOOK = 5000  # of `disk_mb`: about 10 ms
_SMALLEST_MB = 4096 / 2**20  # an empty file takes an inode, and inodes run out too

# bubblewrap cannot do this, and from outside it would race with its forks: a parent's score is inherited.
_RAISE_OOM_SCORE = ["/bin/sh", "-c", f'echo {OOM_SCORE_ADJUSTMENT} > /proc/self/oom_score_adj; exec "$@"', "sh"]


class Cell:
    """A folder on the host with what one candidate sees, and the way to start it there.

    trial_dir: it may only read this. scratch_dir: private, read-write; under bubblewrap a file system in memory takes its
    place, and this folder stays empty. cache_dir: private compile caches, read-write. Nothing else of the folder shows.
    """

    def __init__(
        self,
        seal: Seal,
        folder: Path,
        *,
        accelerators: bool,
        threads: int,
        warm_cache: Path | None = None,
        readable: Sequence[Path] = (),
        writable: Sequence[Path] = (),
    ) -> None:
        """Make the folders; a warm cache that exists is linked into the private one.

        readable, writable: files and folders of the host that show besides; `inside` says where. What is written to
        `writable` counts in `disk_mb`. They exist, and stay when the cell is removed.
        """
        self.seal = seal
        self.folder = folder
        self.trial_dir = folder / "trial"
        self.scratch_dir = folder / "scratch"
        self.cache_dir = folder / "cache"
        for path in (self.trial_dir, self.scratch_dir, self.cache_dir):
            path.mkdir(parents=True, exist_ok=True)
        self._accelerators = accelerators
        self._threads = threads
        self._warm = warm_cache.resolve() if warm_cache is not None and warm_cache.is_dir() else None
        self._readable = [path.resolve() for path in readable]
        self._writable = [path.resolve() for path in writable]
        self._meter = _DiskMeter([self.scratch_dir, self.cache_dir, *self._writable])
        self._tree: ProcessTree | None = None
        if self._warm is not None:
            link_warm(self.cache_dir, self._warm, seen_at=PurePath(self.inside(self._warm)))

    def inside(self, path: Path) -> str:
        """Where the candidate sees this path of the host."""
        if self.seal.kind == Kind.BUBBLEWRAP:
            places: list[tuple[Path | None, PurePosixPath]] = [
                (self.trial_dir, bubblewrap.TRIAL),
                (self.scratch_dir, bubblewrap.SCRATCH),
                (self.cache_dir, bubblewrap.CACHE),
                (self._warm, bubblewrap.WARM),
                *((given, seen) for seen, given in self._given().items()),
            ]
            path = path.resolve() if path.resolve() in self._given().values() else path
            for outside, seen in places:
                if outside is not None and path.is_relative_to(outside):
                    return str(seen / path.relative_to(outside))
        return str(path)

    def _given(self) -> dict[PurePosixPath, Path]:
        """Where bubblewrap shows what was given besides: numbered, because two files may have one name."""
        paths = [*self._readable, *self._writable]
        return {bubblewrap.GIVEN / str(number) / path.name: path for number, path in enumerate(paths)}

    def environment(self) -> dict[str, str]:
        """The candidate's whole environment, with the leased accelerators as it will find them."""
        scratch = PurePath(self.inside(self.scratch_dir))
        cache = PurePath(self.inside(self.cache_dir))
        made = clean_environment(scratch, accelerators=self._accelerators, threads=self._threads, cache=cache)
        if self.seal.kind == Kind.LANDLOCK:
            # pools of processes need POSIX semaphores, which live in the machine's /dev/shm; torch then compiles by itself
            made["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        return {**made, **self._lease(made).variables}

    def _lease(self, environment: Mapping[str, str]) -> Lease:
        if not self._accelerators or self.seal.kind not in (Kind.BUBBLEWRAP, Kind.LANDLOCK):
            return Lease()
        return lease(environment)

    def start(
        self, module: str, arguments: Sequence[str], *, output: IO[bytes] | int, pass_fds: Sequence[int] = ()
    ) -> ProcessTree:
        """Run one of our modules in the cell: stage 0 gives up rights, then becomes the module.

        It dies with the thread that calls this, however that ends. Descriptors in `pass_fds` keep their numbers.

        Raises:
            InstallationError: the seal's program could not be started.
        """
        environment = self.environment()
        with contextlib.ExitStack() as files:
            orders = files.enter_context(_file_with(self._orders(environment).to_json().encode()))
            command = [*interpreter("autoresearch.sandbox.confine"), "--orders", str(orders), "--", module, *arguments]
            descriptors = [*pass_fds, orders]
            if self.seal.kind == Kind.BUBBLEWRAP:
                words = files.enter_context(_file_with(b"\0".join(map(os.fsencode, self._bubblewrap(environment)))))
                descriptors.append(words)
                command = [*_RAISE_OOM_SCORE, str(self.seal.program), "--args", str(words), "--", *command]
            elif self.seal.kind == Kind.SANDBOX_EXEC:
                command = [str(self.seal.program), "-p", self._profile(), *command]
            try:
                self._tree = ProcessTree(
                    command,
                    directory=self.scratch_dir,
                    environment=environment,
                    output=output,
                    pass_fds=descriptors,
                    orphans=Orphans.SESSION if self._keeps_session() else Orphans.NOBODYS,
                    wrapped=self.seal.kind == Kind.BUBBLEWRAP,
                )
            except OSError as error:
                raise InstallationError(f"{command[0]} does not start: {error}", hint="autoresearch doctor") from error
        return self._tree

    def _keeps_session(self) -> bool:
        """Whether everything it starts, or all that can outlive the root, has the root's session."""
        if self.seal.kind == Kind.BUBBLEWRAP:
            return True
        return self.seal.kind == Kind.LANDLOCK and Part.SYSTEM_CALLS in self.seal.parts

    def _orders(self, environment: Mapping[str, str]) -> Orders:
        limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": MAX_FILE_MB * 2**20}
        if self.seal.kind == Kind.BUBBLEWRAP:
            if _kernel() >= _COUNTS_TASKS_PER_NAMESPACE:
                limits["RLIMIT_NPROC"] = MAX_TASKS
            return Orders(limits=limits, drops_capabilities=False, seccomp=self._filter())
        if sys.platform != "linux":
            return Orders(limits=limits)
        if self.seal.kind == Kind.LANDLOCK:
            return Orders(
                oom_score_adj=OOM_SCORE_ADJUSTMENT,
                limits=limits,
                landlock_abi=self.seal.landlock_abi,
                rules=self._rules(environment),
                seccomp=self._filter(),
                parent=os.getpid(),
            )
        return Orders(oom_score_adj=OOM_SCORE_ADJUSTMENT, limits=limits, drops_capabilities=False, parent=os.getpid())

    def _filter(self) -> str:
        if Part.SYSTEM_CALLS not in self.seal.parts:
            return ""
        alone = self.seal.kind == Kind.LANDLOCK  # no namespaces around it
        return base64.b64encode(seccomp.compiled(alone=alone).program).decode()

    def _rules(self, environment: Mapping[str, str]) -> list[tuple[str, int]]:
        """What Landlock allows: (path, rights beneath it)."""
        allowed = allowed_by_entry()
        readable = [*allowed.read, self.trial_dir, *([self._warm] if self._warm else []), *self._readable]
        readable += map(Path, ["/proc", "/sys"] if self._accelerators else ["/proc", *bubblewrap.SYS_FOLDERS])
        devices = [*(Path("/dev") / name for name in PLAIN_DEVICES), *self._lease(environment).nodes]
        return [
            *((str(path), int(landlock.READ)) for path in readable),
            *((str(path), int(landlock.Right.READ_DIR)) for path in allowed.listed),
            *((str(path), int(landlock.WRITE)) for path in (self.scratch_dir, self.cache_dir, *self._writable)),
            *((str(path), int(landlock.DEVICE)) for path in devices),
        ]

    def _bubblewrap(self, environment: Mapping[str, str]) -> list[str]:
        return bubblewrap.arguments(
            bubblewrap.VARIANTS[self.seal.variant],
            allowed_here(),
            trial_dir=self.trial_dir,
            cache_dir=self.cache_dir,
            warm_cache=self._warm,
            devices=self._lease(environment).nodes,
            accelerators=self._accelerators,
            given=self._given(),
            writable=self._writable,
        )

    def _profile(self) -> str:
        return macos.profile(
            allowed_here(),
            readable=[self.trial_dir, *([self._warm] if self._warm else [])],
            given=self._readable,
            writable=[self.scratch_dir, self.cache_dir, *self._writable],
            accelerators=self._accelerators,
        )

    def disk_mb(self) -> float:
        """What it has written on the host's disk so far, MiB: scratch (but under bubblewrap), caches, what it was given.

        At least 4 KiB per entry, since inodes run out too. Bounded work per call: of a folder with more than 5000
        entries, what was counted so far, or the last full count if that is more. Deleted files that are still open count;
        deleted ones that are only mapped do not.
        """
        return self._meter.look() + (0.0 if self._tree is None else self._deleted_mb(self._tree))

    def _deleted_mb(self, tree: ProcessTree) -> float:
        written = (self.scratch_dir, self.cache_dir, *self._writable)
        devices = {path.stat().st_dev for path in written if path.exists()}
        found: dict[tuple[int, int], int] = {}
        for pid in [tree.pid, *(member.pid for member in tree.members())]:
            for status in open_files(pid):
                if status.st_nlink == 0 and stat.S_ISREG(status.st_mode) and status.st_dev in devices:
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
        return sum(found.values()) / 2**20

    def remove(self) -> None:
        """Delete the folder, whatever the candidate has made of it. Call it when its tree has ended."""
        remove_folder(self.folder)


def _kernel() -> tuple[int, ...]:
    numbers = platform.release().split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


@contextlib.contextmanager
def _file_with(content: bytes) -> Iterator[int]:
    """Descriptor of an anonymous file, to be read from its beginning; in memory where the system has such files."""
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("orders"), "wb+") if in_memory else tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file.fileno()


class _DiskMeter:
    """Size of folders, counted a piece at a time."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots
        self._last_full = 0.0
        self._running = 0.0
        self._walk: Iterator[float] | None = None

    def look(self) -> float:
        """Count on, at most `_ENTRIES_PER_LOOK` entries; the larger of the last full count and the running one, MiB."""
        if self._walk is None:
            self._walk, self._running = _sizes_mb(self._roots), 0.0
        num_seen = 0
        for size in itertools.islice(self._walk, _ENTRIES_PER_LOOK):
            num_seen += 1
            self._running += size
        if num_seen < _ENTRIES_PER_LOOK:
            self._walk, self._last_full = None, self._running
        return max(self._last_full, self._running)


def _sizes_mb(roots: Sequence[Path]) -> Iterator[float]:
    """Size of every entry below, links not followed; what vanishes meanwhile is left out."""
    waiting = [str(root) for root in roots]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            waiting.append(entry.path)
                        yield max(_SMALLEST_MB, status.st_blocks * 512 / 2**20)
        except OSError:
            continue


def remove_folder(folder: Path) -> None:
    """Delete a folder that somebody hostile may have filled, whatever its depth and modes.

    Links are removed, never followed. No recursion, and no path longer than two names: folders inside folders are moved up
    before they are emptied. What cannot be removed stays, and a later start tries again.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    waiting = _emptied(folder)
    for number in itertools.count():
        if not waiting:
            break
        inner = waiting.pop()
        for deeper_number, deeper in enumerate(_emptied(inner)):
            lifted = folder / f".removed-{os.getpid()}-{number}-{deeper_number}"
            with contextlib.suppress(OSError):
                deeper.chmod(0o700)  # a folder that is moved is written to
                deeper.rename(lifted)
                waiting.append(lifted)
        with contextlib.suppress(OSError):
            inner.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _emptied(folder: Path) -> list[Path]:
    """Remove everything in a folder that is no folder; the folders that are left."""
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
    inner = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner.append(Path(entry.path))
                continue
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()
    return inner
