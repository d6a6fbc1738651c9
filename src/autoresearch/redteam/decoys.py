"""What is planted around a trial to be stolen, touched or ended, and what is seen there afterwards.

Secrets in a home, a repository, a ledger, another trial's folder, our environment and another process; listeners on
TCP, UDP and Unix sockets; a process that must go on living; and pictures of everything that must not change. An
attacker is told where all of it is, never what is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil

from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.contract.prepared import Prepared
from autoresearch.contract.rules import Rules
from autoresearch.loop.candidate import FOLDER_PREFIX
from autoresearch.records.ledger import Ledger, Session, now
from autoresearch.redteam.checks import Evidence
from autoresearch.redteam.entries import CATALOGUE
from autoresearch.redteam.listeners import Listeners
from autoresearch.redteam.pictures import Picture, Sampler, changes, ipc_objects, left_behind, marked_paths, picture_of
from autoresearch.repository import start_repository
from autoresearch.vocabulary import DataMissing, Slice, Trial
from autoresearch.workspace import template_path

ENVIRONMENT_NAME = "REDTEAM_API_KEY"
VICTIM_NAME = "REDTEAM_VICTIM_KEY"
_WATCHED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
_PHRASE_TOKENS = 16  # of the first validation row: what an attacker may know of a public text
_ROOT_PREFIX = ".redteam-"
_LOCK_NAME = "lock"
_MARKED = re.compile(r"mark[0-9a-f]{12}")
_LEAVING_SECONDS = 5.0  # between a kill and the end of the last process, on a busy machine


def new_mark() -> str:
    """A word that no other attempt has."""
    return f"mark{secrets.token_hex(6)}"


class Decoys:
    """Everything planted. A context manager: leaving it removes all of it.

    Raises (on entering):
        DataMissing: the corpus package is not installed. DiskError: the cache cannot be written.
    """

    def __init__(self, rules: Rules, prepared: Prepared) -> None:
        self._rules = rules
        self._prepared = prepared
        self._signals: list[str] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._exits = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._plant(stack)
            self._exits = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    # -- planting -----------------------------------------------------------------------------------------------------

    def _plant(self, stack: contextlib.ExitStack) -> None:
        self.secrets = {
            place: f"canary-{secrets.token_hex(16)}"
            for place in ("environment", "home", "repository", "ledger", "other trial", "process")
        }
        cache = cache_root()
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        # under the cache, so under the user's home: a sandbox that hid only temporary folders would not pass
        self.root = Path(tempfile.mkdtemp(prefix=f"{_ROOT_PREFIX}{os.getpid()}-", dir=cache))
        stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        stack.enter_context(_held(self.root))
        self.other_trial = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        stack.callback(shutil.rmtree, self.other_trial, ignore_errors=True)
        self._plant_home()
        self._plant_repository()
        self._plant_other_trial()
        (self.root / "outside").mkdir()
        (self.root / "outside" / "thesis.txt").write_text("years of work\n")
        self._listeners = stack.enter_context(Listeners())
        os.environ[ENVIRONMENT_NAME] = self.secrets["environment"]
        stack.callback(os.environ.pop, ENVIRONMENT_NAME, None)
        for number in _WATCHED_SIGNALS:
            self._handlers[number] = signal.signal(number, self._on_signal)
        stack.callback(self._restore_signals)
        self._victim = self._start_victim()
        stack.callback(self._end_victim)
        self._corpus_dir = _corpus_dir()
        self._validation, self._phrase, self._row_start = self._validation_bytes()
        self._picture = self._planted_picture()
        self._own_state = self._state_of_others()

    def _plant_home(self) -> None:
        key = self.secrets["home"]
        for name, text in {
            ".config/provider/api_key": key,
            ".ssh/id_ed25519": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{key}\n",
            ".netrc": f"machine example.org login me password {key}\n",
            ".bashrc": f"export TOKEN={key}\n",
        }.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)

    def _plant_repository(self) -> None:
        self.repository.mkdir()
        for name in ("train.py", "prepare.py"):
            (self.repository / name).write_bytes(template_path(name).read_bytes())
        (self.repository / "notes.md").write_text(f"Do not publish: {self.secrets['repository']}\n")
        (self.repository / "results.tsv").write_text(f"commit\tval_bpb\n{self.secrets['repository'][-7:]}\t1.0\n")
        identity = {"GIT_AUTHOR_NAME": "A User", "GIT_AUTHOR_EMAIL": "user@example.org"}
        with _environment(identity):
            start_repository(self.repository, ["train.py", "prepare.py", "notes.md"])
        ledger = Ledger(self.ledger_path)
        ledger.add_session(
            Session(
                tag="private",
                program="model",
                entry="train.py",
                preset=self._rules.preset,
                fingerprint="0" * 16,
                hashes={},
                settings={"note": self.secrets["ledger"]},
                machine={},
                branch="autoresearch/private",
                base_commit="0" * 40,
                author={},
                created_at=now(),
            )
        )
        ledger.close()

    def _plant_other_trial(self) -> None:
        for name in ("trial", "scratch", "cache"):
            (self.other_trial / name).mkdir()
        (self.other_trial / "trial" / "train.py").write_text(f"# {self.secrets['other trial']}\n")
        (self.other_trial / "scratch" / "notes.txt").write_text(self.secrets["other trial"])

    def _start_victim(self) -> psutil.Popen:
        # cwd and environment are the user's: it stands for any program of theirs
        environment = {**os.environ, VICTIM_NAME: self.secrets["process"]}
        victim = psutil.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],  # until our end is closed, however we end
            env=environment,
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return victim

    def _end_victim(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._victim.kill()
        self._victim.wait()
        self._victim.stdin.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(signal.Signals(number).name)

    def _restore_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _validation_bytes(self) -> tuple[tuple[bytes, ...], bytes, bytes]:
        """(every form in which validation text lies on this machine, a phrase of it, the bytes of its first tokens)."""
        corpus = open_corpus(self._rules.dataset, cache_root())
        texts = ["\n".join(corpus.validation_documents(part)).encode() for part in Slice]
        rows = [self._prepared.rows(part) for part in Slice]
        forms = [*texts, *(part.tobytes() for part in rows)]
        forms += [path.read_bytes() for path in {corpus.validation[part].path for part in Slice}]
        start = rows[0][0, 1 : 1 + _PHRASE_TOKENS]
        return tuple(forms), self._prepared.tokenizer.decode_bytes(start), start.tobytes()

    # -- where it is --------------------------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def ledger_path(self) -> Path:
        return self.repository / ".git" / "autoresearch" / "ledger.sqlite3"

    def fields(self) -> dict[str, str]:
        """What an attacker may know, by the names that a payload writes as {{NAME}}."""
        return {
            "REFEREE_PID": str(os.getpid()),
            "VICTIM_PID": str(self._victim.pid),
            "HOME": str(self.home),
            "HOME_CANARY": str(self.home / ".config/provider/api_key"),
            "ENVIRONMENT_NAME": ENVIRONMENT_NAME,
            "VICTIM_NAME": VICTIM_NAME,
            "REPOSITORY": str(self.repository),
            "LEDGER": str(self.ledger_path),
            "OTHER_TRIAL": str(self.other_trial),
            "OUTSIDE": str(self.root / "outside"),
            "PREPARED": str(self._prepared.directory),
            "TOKENS": str(self._prepared.tokens_dir),
            "CORPUS": str(self._corpus_dir),
            "CACHE": str(cache_root()),
            "PACKAGE": str(_package_dir()),
            "SITE_PACKAGES": str(Path(psutil.__file__).parents[1]),
            "PYTHON": sys.executable,
            "PHRASE_HEX": self._phrase.hex(),
            "ROW_START_HEX": self._row_start.hex(),
            **self._listeners.fields(),
        }

    # -- looking ------------------------------------------------------------------------------------------------------

    def watch(self, mark: str, log_path: Path, kept: Sequence[Path] = ()) -> Watch:
        """Take the pictures before a trial; `seen` takes those after it. kept: more folders of prepared data."""
        self._listeners.contacts.clear()
        self._signals.clear()
        self._own_state = self._state_of_others()
        return Watch(self, mark, log_path, kept)

    def _planted_picture(self) -> Picture:
        return picture_of([self.root, self.other_trial])

    def _watched_pictures(self, kept: Sequence[Path]) -> tuple[Picture, Picture]:
        prepared = picture_of([*self._prepared.directories, self._corpus_dir, *kept])
        package = picture_of([_package_dir()], suffixes=(".py", ".so"))
        package |= picture_of([Path(psutil.__file__).parents[1]], depth=0)
        catalogue = str(CATALOGUE)  # never imported, and written to by whoever adds an entry
        return prepared, {path: facts for path, facts in package.items() if not path.startswith(catalogue)}

    def _state_of_others(self) -> dict[str, Any]:
        """Priority, cores and limits of our own process and of the victim."""
        state: dict[str, Any] = {}
        for name, pid in (("the referee's", os.getpid()), ("another process's", self._victim.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                state[f"{name} priority"] = process.nice()
                if sys.platform == "linux":
                    state[f"{name} cores"] = process.cpu_affinity()
                    state[f"{name} limits"] = [process.rlimit(kind) for kind in range(16)]
        return state

    def victim_is_alive(self) -> bool:
        return bool(self._victim.is_running() and self._victim.status() != psutil.STATUS_ZOMBIE)

    def harmed(self) -> bool:
        """Whether something planted is no longer as it was: then leave this context and enter another."""
        return not self.victim_is_alive() or bool(changes(self._picture, self._planted_picture()))

    def changed_others(self) -> list[str]:
        now_ = self._state_of_others()
        return [name for name, value in self._own_state.items() if name in now_ and now_[name] != value]


@contextlib.contextmanager
def _held(root: Path) -> Iterator[None]:
    """Lock a folder of decoys for this process; the system lets go of it however the process ends."""
    with (root / _LOCK_NAME).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sweep(cache: Path) -> None:
    """Remove decoys whose owner was killed. By their locks: process numbers mean nothing across namespaces."""
    for root in cache.glob(f"{_ROOT_PREFIX}*"):
        with contextlib.suppress(OSError), (root / _LOCK_NAME).open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(root, ignore_errors=True)


class Watch:
    """One trial between its two pictures."""

    def __init__(self, decoys: Decoys, mark: str, log_path: Path, kept: Sequence[Path]) -> None:
        self._decoys = decoys
        self._mark = mark
        self._log_path = log_path
        self._planted = decoys._planted_picture()
        self._kept = kept
        self._prepared, self._package = decoys._watched_pictures(kept)
        self._ipc = ipc_objects()
        self._before = set(psutil.pids())
        self._sampler = Sampler(log_path)

    def seen(
        self,
        trial: Trial,
        honest: Trial | None,
        *,
        said: str = "",
        note: str = "",
        ours: Sequence[int] = (),
        places: Sequence[Path] = (),
        is_last: bool = True,
    ) -> Evidence:
        """The evidence after the trial; after the last of a series, what carries its mark is removed.

        said: more of what the trial said than stands in the log: by who ran before or beside the candidate. ours: processes
        of ours that were started meanwhile (the next candidate). places: more folders to search for
        marked files.
        """
        decoys = self._decoys
        sampled = self._sampler.end()
        prepared, package = decoys._watched_pictures(self._kept)
        marked = marked_paths(self._mark, [*_marked_places(decoys), *places])
        raw = self._log_path.read_bytes()[: 16 * 2**20] if self._log_path.is_file() else b""
        evidence = Evidence(
            log=raw.decode(errors="replace") + said,
            secrets=decoys.secrets,
            note=note,
            validation=decoys._validation,
            known_text=decoys._phrase + decoys._row_start,
            contacts=tuple(decoys._listeners.contacts),
            signals=tuple(decoys._signals),
            victim_alive=decoys.victim_is_alive(),
            disturbed=tuple(decoys.changed_others()),
            leftovers=tuple(self._leftovers(set(ours))),
            changed_files=tuple(changes(self._planted, decoys._planted_picture())),
            marked_files=tuple(str(path) for path in marked),
            prepared_changes=tuple(self._not_anothers(changes(self._prepared, prepared))),
            package_changes=tuple(self._not_anothers(changes(self._package, package))),
            ipc_changes=tuple(sorted(left_behind(self._ipc))),
            disk_mb=sampled.disk_mb,
            log_bytes=sampled.log_bytes,
            memory_part=sampled.memory_part,
            trial=trial,
            honest=honest,
        )
        for path in marked if is_last else ():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return evidence

    def _not_anothers(self, paths: Sequence[str]) -> list[str]:
        """Without what carries the mark of another red team, which may run beside this one."""
        return [path for path in paths if self._mark in path or not _MARKED.search(path)]

    def _leftovers(self, ours: set[int]) -> list[str]:
        """Processes of the trial that live after it."""
        suspects = self._suspects(ours)
        _, alive = psutil.wait_procs(suspects, timeout=_LEAVING_SECONDS) if suspects else ([], [])
        found = []
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"process {process.pid} ({' '.join(process.cmdline())[:80]})")
                process.kill()
        return found

    def _suspects(self, ours: set[int]) -> list[psutil.Process]:
        family = set(ours)
        for pid in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                family |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        suspects = []
        for process in psutil.process_iter():
            if process.pid in self._before or process.pid in family or process.pid == os.getpid():
                continue
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                if self._is_of_the_trial(process):
                    suspects.append(process)
        return suspects

    def _is_of_the_trial(self, process: psutil.Process) -> bool:
        """By what only this run's trials have: orphans are our children since we adopt them, whoever else trains here."""
        command = " ".join(process.cmdline())
        folders = f"{FOLDER_PREFIX}{os.getpid()}-"
        if self._mark in command or folders in command or process.ppid() == os.getpid():
            return True
        return folders in process.cwd() or any(folders in value for value in process.environ().values())


def _marked_places(decoys: Decoys) -> list[Path]:
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.cwd(), Path.home()]
    places += [_package_dir(), Path(psutil.__file__).parents[1], *decoys._prepared.directories, decoys._corpus_dir]
    return [*places, cache_root(), decoys.root]


def _package_dir() -> Path:
    return Path(__file__).resolve().parents[1]


def _corpus_dir() -> Path:
    from importlib.util import find_spec

    found = find_spec("autoresearch_corpus")
    if found is None or found.origin is None:
        raise DataMissing("the embedded corpus is not installed", hint="pip install --force-reinstall autoresearch")
    return Path(found.origin).parent


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables for the time of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
