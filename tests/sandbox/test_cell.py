"""What a candidate can do in its cell, tried by one script per kind, and what it leaves behind."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cells import EVERY, SEALING, Started, linux_only, run_script, seal_of, until
from patience import PATIENCE

import autoresearch
import autoresearch_corpus
from autoresearch.sandbox import bubblewrap
from autoresearch.sandbox.cell import MAX_FILE_MB, Cell, remove_folder
from autoresearch.sandbox.seal import Kind, Part, Seal

ROOT = Path(__file__).parents[2]
sealed_kind = pytest.mark.parametrize("kind", SEALING)
every_kind = pytest.mark.parametrize("kind", EVERY)

BEGIN = """
import base64, ctypes, errno, getpass
goals = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
found = {}

def could(name, act):
    try:
        act()
    except OSError as error:
        found[name] = error.errno or str(error)
    else:
        found[name] = True

def call(name, *arguments):
    ctypes.set_errno(0)
    found[name] = True if getattr(libc, name)(*arguments) >= 0 else ctypes.get_errno()

def number(name, *arguments):
    ctypes.set_errno(0)
    found[name] = True if libc.syscall(*arguments) >= 0 else ctypes.get_errno()

"""

# Nothing in it harms a machine when it is let: it runs without a seal too.
HARMLESS = """
for name in ("HOME", "TORCHINDUCTOR_CACHE_DIR"):
    os.makedirs(os.environ[name], exist_ok=True)
    could(f"write {name}", lambda: open(os.environ[name] + "/mine", "wb").write(b"x"))
found["environment"] = dict(os.environ)
found["directory"] = os.getcwd()
found["getpass"] = getpass.getuser()
found["descriptors"] = sorted(int(name) for name in os.listdir("/proc/self/fd"))
found["limits"] = {name: resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_CORE", "RLIMIT_FSIZE")}
found["oom"] = int(open("/proc/self/oom_score_adj").read())
could("a huge file", lambda: os.ftruncate(os.open(os.environ["HOME"] + "/huge", os.O_CREAT | os.O_WRONLY), goals["huge"]))

def reach(family, kind, address):
    knocking = socket.socket(family, kind)
    knocking.settimeout(2.0)
    knocking.connect(address)
    knocking.send(b"knock")

could("TCP", lambda: reach(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", goals["tcp"])))
could("UDP", lambda: reach(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", goals["udp"])))
could("local socket", lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, goals["local"]))
could("abstract socket", lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, chr(0) + goals["local"]))
could("local datagram", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"knock", goals["datagram"]))
could("stream pair", lambda: socket.socketpair())
"""

# Aimed at files and a process made for it; but as root, and let, some of it would change the machine: in a seal only.
HOSTILE = """
for name, path in goals["read"].items():
    could(f"read {name}", lambda: open(path, "rb").read(1))
for name, path in goals["list"].items():
    could(f"list {name}", lambda: os.listdir(path))
for name, path in goals["write"].items():
    could(f"write {name}", lambda: open(path, "wb").write(b"x"))
could("write core_pattern", lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)))
could("write a program of ours", lambda: os.close(os.open(json.__file__, os.O_WRONLY)))
for name in ("another trial", "home"):
    could(f"close {name}", lambda: os.chmod(goals["read"][name], 0))
    could(f"date {name}", lambda: os.utime(goals["read"][name], (0, 0)))
    could(f"label {name}", lambda: os.setxattr(goals["read"][name], "user.note", b"x"))
found["status"] = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
could("name service", lambda: socket.getaddrinfo("example.org", 80))

could("signal the referee", lambda: os.kill(goals["referee"], 0))
could("signal a stranger", lambda: os.kill(goals["stranger"], signal.SIGKILL))
could("referee's environment", lambda: open(f"/proc/{goals['referee']}/environ", "rb").read(1))
could("stranger's environment", lambda: open(f"/proc/{goals['stranger']}/environ", "rb").read(1))
could("stranger's memory", lambda: os.close(os.open(f"/proc/{goals['stranger']}/mem", os.O_RDONLY)))
could("slow a stranger down", lambda: os.setpriority(os.PRIO_PROCESS, goals["stranger"], 19))
could("pin a stranger", lambda: os.sched_setaffinity(goals["stranger"], {0}))
could("limit a stranger", lambda: resource.prlimit(goals["stranger"], resource.RLIMIT_CPU, (1, 1)))
could("its own priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, 19))
could("its own limit", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)))
could("its own processors", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
found["seen"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())

call("mount", b"none", goals["mountpoint"].encode(), b"tmpfs", 0, None)
call("umount2", goals["hidden"].encode(), 2)
could("list the text", lambda: os.listdir(goals["hidden"]))
call("unshare", 0x10000000)
call("setns", 0, 0)
call("chroot", b"/")
call("ptrace", 16, goals["stranger"], None, None)
call("personality", 0x0040000)
call("shmget", 0, 4096, 0o1600)
import mmap
with open(json.__file__, "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)
    call("mincore", ctypes.byref(ctypes.c_char.from_buffer(pages)), ctypes.c_size_t(4096), ctypes.create_string_buffer(8))
    could("read without waiting", lambda: os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT))
    could("read with a vector", lambda: os.preadv(file.fileno(), [bytearray(1)], 0))
libc.prctl(4, 0, 0, 0, 0)
found["dumpable"] = libc.prctl(3, 0, 0, 0, 0)
number("clone3", 435, None, 0)
number("io_uring", 425, 1, None)
number("bpf", 321 if os.uname().machine == "x86_64" else 280, 0, None, 0)
could("make a device", lambda: os.mknod(os.environ["HOME"] + "/disk", 0o60600, os.makedev(254, 0)))
"""

END = """
say("FOUND" + base64.b64encode(json.dumps(found).encode()).decode())
"""


class Outside:
    """What the script must not reach: files, sockets and a process, made for it."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.trials = folder / "another-trial"
        self.trials.mkdir()
        self.secret = self.trials / "train.py"
        self.secret.write_text("secret")
        home = tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".autoresearch-test-")  # noqa: SIM115
        self.home = Path(stack.enter_context(home).name)
        self.home.write_text("secret")
        self.sockets = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            self.sockets.append(self._bound(stack, socket.AF_INET, kind, ("127.0.0.1", 0)))
        # short names: a socket's path must fit into 108 bytes
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ar-")))
        self.local, self.datagram = str(short / "s"), str(short / "d")
        for kind, name in (
            (socket.SOCK_STREAM, self.local),
            (socket.SOCK_STREAM, f"\0{self.local}"),
            (socket.SOCK_DGRAM, self.datagram),
        ):
            self.sockets.append(self._bound(stack, socket.AF_UNIX, kind, name))
        sleeping = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
        self.stranger = stack.enter_context(subprocess.Popen(sleeping, stdin=subprocess.PIPE))
        stack.callback(self.stranger.kill)

    @staticmethod
    def _bound(stack, family, kind, address) -> socket.socket:
        made = stack.enter_context(socket.socket(family, kind))
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    def goals(self) -> dict:
        corpus = Path(autoresearch_corpus.__file__)
        return {
            "read": {
                "home": str(self.home),
                "another trial": str(self.secret),
                "repository": str(ROOT / "pyproject.toml"),
                "git": str(ROOT / ".git" / "HEAD"),
                "corpus": str(next(path for path in sorted(corpus.parent.rglob("*.parquet")))),
                "corpus code": str(corpus),
                "passwords": "/etc/shadow",
                "users": "/etc/passwd",
                "documentation": "/usr/share/doc",
                "disk": "/dev/vda",
                "instrument": autoresearch.__file__,
            },
            "list": {"repository": str(ROOT), "trials": str(self.trials), "tests": str(ROOT / "tests")},
            "write": {
                "another trial": str(self.trials / "written"),
                "its own file": None,  # filled in when its path is known
                "temporary": f"/tmp/{self.trials.parent.name}-written",
                "shared memory": f"/dev/shm/{self.trials.parent.name}-written",
                "etc": "/etc/autoresearch-test-written",
                "var": "/var/tmp/autoresearch-test-written",
                "dev": "/dev/autoresearch-test-written",
                "root": "/autoresearch-test-written",
                "packages": str(Path(autoresearch.__file__).parent / "written.py"),
            },
            "huge": (MAX_FILE_MB + 1) * 2**20,
            "tcp": self.sockets[0].getsockname()[1],
            "udp": self.sockets[1].getsockname()[1],
            "local": self.local,
            "datagram": self.datagram,
            "referee": os.getpid(),
            "stranger": self.stranger.pid,
            "hidden": str(corpus.parent),
        }

    def knocks(self) -> list[int]:
        """Which of the sockets somebody reached."""
        reached = []
        for number, listening in enumerate(self.sockets):
            listening.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                if listening.type == socket.SOCK_STREAM:
                    listening.accept()[0].close()
                else:
                    listening.recv(100)
                reached.append(number)
        return reached


def remove_written(goals: dict) -> None:
    """Whatever a broken seal let the script write."""
    for path in goals["write"].values():
        Path(path).unlink(missing_ok=True)


_STORIES: dict[str, tuple[dict, Outside, Cell]] = {}


@pytest.fixture(scope="module")
def _stack():
    with contextlib.ExitStack() as stack:
        yield stack
    _STORIES.clear()


@pytest.fixture
def attack(_stack, tmp_path_factory):
    """A function that gives what the script found in a cell of one kind; the script runs once per kind."""

    def of(kind: str) -> tuple[dict, Outside, Cell]:
        seal_of(kind)
        if kind not in _STORIES:
            folder = tmp_path_factory.mktemp("outside")
            outside = Outside(folder, _stack)
            goals = outside.goals()
            inside = "/trial" if kind == "bubblewrap" else str(folder / "cell" / "trial")
            scratch = "/scratch" if kind == "bubblewrap" else str(folder / "cell" / "scratch")
            goals["write"]["its own file"] = f"{inside}/script.py"
            goals["read"]["its own file"] = f"{inside}/script.py"
            goals["list"]["its own folder"] = inside
            goals["mountpoint"] = scratch
            os.environ["FAKE_API_KEY"] = "secret"
            _stack.callback(remove_written, goals)
            script = BEGIN + HARMLESS + ("" if kind == "none" else HOSTILE) + END
            started = Started(kind, script, folder / "cell", arguments=[json.dumps(goals)])
            _stack.callback(started.end)
            del os.environ["FAKE_API_KEY"]
            found = json.loads(base64.b64decode(started.word("FOUND")))
            started.tree.wait(PATIENCE)
            _STORIES[kind] = (found, outside, started.cell)
        return _STORIES[kind]

    return of


# -- files ------------------------------------------------------------------------------------------------------------


@sealed_kind
@pytest.mark.parametrize(
    "goal",
    [
        *("home", "another trial", "repository", "git", "corpus", "corpus code"),
        *("passwords", "users", "documentation", "disk"),
    ],
)
def test_what_a_candidate_needs_not_it_cannot_read(attack, kind, goal):
    found, _, _ = attack(kind)
    assert found[f"read {goal}"] in (errno.EACCES, errno.EPERM, errno.ENOENT)


@sealed_kind
@pytest.mark.parametrize("goal", ["repository", "trials", "tests"])
def test_other_folders_cannot_be_listed(attack, kind, goal):
    found, _, _ = attack(kind)
    assert found[f"list {goal}"] is not True or (goal, kind) == ("repository", "bubblewrap")
    # bubblewrap makes the folders on the way to our package, and they hold nothing else
    if found[f"list {goal}"] is True:
        assert found["read repository"] == errno.ENOENT


@sealed_kind
@pytest.mark.parametrize("goal", ["another trial", "home"])
def test_modes_times_and_labels_of_files_outside_stay_as_they_are(attack, kind, goal):
    found, outside, _ = attack(kind)
    path = {"another trial": outside.secret, "home": outside.home}[goal]
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) != 0
    assert status.st_mtime > 1e9
    assert not os.listxattr(path)
    assert found[f"label {goal}"] is not True


@sealed_kind
def test_its_own_file_and_our_package_can_be_read(attack, kind):
    found, _, _ = attack(kind)
    assert found["read its own file"] is True
    assert found["list its own folder"] is True
    assert found["read instrument"] is True


@sealed_kind
@pytest.mark.parametrize("goal", ["another trial", "its own file", "etc", "var", "dev", "root", "packages"])
def test_nothing_outside_scratch_and_cache_can_be_written(attack, kind, goal):
    found, _, _ = attack(kind)
    assert found[f"write {goal}"] in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS)


@sealed_kind
def test_a_program_that_others_run_cannot_be_written(attack, kind):
    found, _, _ = attack(kind)
    assert found["write a program of ours"] in (errno.EACCES, errno.EROFS)


@linux_only
@sealed_kind
def test_settings_of_the_kernel_cannot_be_written_even_by_root(attack, kind):
    found, _, _ = attack(kind)
    assert found["write core_pattern"] in (errno.EACCES, errno.EROFS)


@sealed_kind
def test_what_goes_to_tmp_or_shared_memory_never_reaches_the_machine(attack, kind):
    found, outside, _ = attack(kind)
    for goal, place in (("temporary", "/tmp"), ("shared memory", "/dev/shm")):
        assert found[f"write {goal}"] is (True if kind == "bubblewrap" else errno.EACCES)
        assert not (Path(place) / f"{outside.trials.parent.name}-written").exists()


@every_kind
def test_scratch_and_cache_can_be_written(attack, kind):
    found, _, cell = attack(kind)
    assert found["write HOME"] is True
    assert found["write TORCHINDUCTOR_CACHE_DIR"] is True
    assert (cell.cache_dir / "inductor" / "mine").read_bytes() == b"x"
    assert (cell.scratch_dir / "mine").exists() == (kind != "bubblewrap")


@sealed_kind
def test_the_text_stays_hidden_when_its_mount_is_attacked(attack, kind):
    found, _, _ = attack(kind)
    assert found["umount2"] == errno.EPERM
    assert found["list the text"] is not True or kind == "landlock"  # Landlock lets names be listed, not read
    assert found["read corpus"] is not True


# -- network ----------------------------------------------------------------------------------------------------------


@sealed_kind
@pytest.mark.parametrize("way", ["TCP", "local socket", "abstract socket", "local datagram", "name service"])
def test_nobody_answers(attack, kind, way):
    found, _, _ = attack(kind)
    assert found[way] is not True


@sealed_kind
def test_nothing_sent_arrives(attack, kind):
    _, outside, _ = attack(kind)
    assert outside.knocks() == []


def test_the_sockets_are_there_to_be_reached_without_a_seal(attack):
    _, outside, _ = attack("none")
    assert len(outside.knocks()) == 5


@every_kind
def test_a_pair_of_connected_sockets_is_allowed(attack, kind):
    found, _, _ = attack(kind)
    assert found["stream pair"] is True


# -- processes --------------------------------------------------------------------------------------------------------


@sealed_kind
def test_other_processes_can_be_neither_ended_nor_read(attack, kind):
    found, outside, _ = attack(kind)
    assert found["signal the referee"] in (errno.EPERM, errno.ESRCH)
    assert found["signal a stranger"] in (errno.EPERM, errno.ESRCH)
    assert outside.stranger.poll() is None
    for what in ("referee's environment", "stranger's environment", "stranger's memory"):
        assert found[what] in (errno.EACCES, errno.EPERM, errno.ENOENT)


@linux_only
@sealed_kind
def test_other_processes_can_be_neither_slowed_nor_limited_but_itself_can(attack, kind):
    found, outside, _ = attack(kind)
    for what in ("slow a stranger down", "pin a stranger", "limit a stranger"):
        assert found[what] in (errno.EPERM, errno.ESRCH)
    assert os.getpriority(os.PRIO_PROCESS, outside.stranger.pid) == os.getpriority(os.PRIO_PROCESS, 0)
    for what in ("its own priority", "its own limit", "its own processors"):
        assert found[what] is True


def test_in_a_namespace_nobody_else_is_seen(attack):
    found, _, _ = attack("bubblewrap")
    assert found["seen"][0] == 1
    assert len(found["seen"]) <= 3


@sealed_kind
@pytest.mark.parametrize("call", ["mount", "unshare", "setns", "chroot", "ptrace", "personality", "shmget"])
def test_system_calls_that_attack_are_refused(attack, kind, call):
    found, _, _ = attack(kind)
    assert found[call] == errno.EPERM


@sealed_kind
def test_calls_that_hide_their_arguments_are_not_there(attack, kind):
    found, _, _ = attack(kind)
    assert found["clone3"] == errno.ENOSYS
    assert (found["io_uring"], found["bpf"]) == (errno.EPERM, errno.EPERM)


@sealed_kind
def test_pages_of_files_that_others_read_too_carry_no_notes(attack, kind):
    found, _, _ = attack(kind)
    assert found["mincore"] == errno.EPERM
    assert found["read without waiting"] == errno.EOPNOTSUPP
    assert found["read with a vector"] is True


@sealed_kind
def test_it_cannot_hide_its_open_files_from_us(attack, kind):
    found, _, _ = attack(kind)
    assert found["dumpable"] == 1


@sealed_kind
def test_it_holds_no_capability_and_gains_none(attack, kind):
    found, _, _ = attack(kind)
    status = {name: value.strip() for name, value in found["status"].items()}
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert found["make a device"] in (errno.EPERM, errno.EACCES)


# -- environment and limits -------------------------------------------------------------------------------------------


@every_kind
def test_the_environment_is_clean_and_names_its_own_folders(attack, kind):
    found, _, cell = attack(kind)
    environment = found["environment"]
    assert "secret" not in environment.values()
    assert environment["HOME"] == environment["TMPDIR"] == cell.inside(cell.scratch_dir)
    assert environment["TRITON_CACHE_DIR"] == cell.inside(cell.cache_dir / "triton")
    assert found["directory"] == environment["HOME"]
    assert found["getpass"] == "candidate"


@every_kind
def test_orders_and_arguments_are_not_left_open(attack, kind):
    found, _, _ = attack(kind)
    # standard ones, the pipe that the test passes, and the listing itself
    assert len(found["descriptors"]) == 5


@every_kind
def test_it_leaves_no_core_file_and_no_file_beyond_the_limit(attack, kind):
    found, _, _ = attack(kind)
    assert found["limits"]["RLIMIT_CORE"] == [0, 0]
    assert found["limits"]["RLIMIT_FSIZE"] == [MAX_FILE_MB * 2**20] * 2
    assert found["a huge file"] == errno.EFBIG


@linux_only
@every_kind
def test_it_is_the_first_to_go_when_memory_runs_out(attack, kind):
    found, _, _ = attack(kind)
    assert found["oom"] == 1000


# -- honest work ------------------------------------------------------------------------------------------------------


@every_kind
def test_processes_of_its_own_work(tmp_path, kind):
    code, said = run_script(
        kind,
        """
        import multiprocessing as mp

        def square(pipe, number):
            pipe.send(number * number)

        if __name__ == "__main__":
            for method in ("fork", "spawn"):
                ours, theirs = mp.get_context(method).Pipe()
                process = mp.get_context(method).Process(target=square, args=(theirs, 4))
                process.start()
                say(f"{method}={ours.recv()}")
                process.join()
            child = subprocess.run([sys.executable, "-c", "print('child')"], start_new_session=True, capture_output=True)
            say(child.stdout.decode())
        """,
        tmp_path / "cell",
    )
    assert {"fork=16", "spawn=16", "child"} <= set(said.split()), said
    assert code == 0


@every_kind
def test_semaphores_work_but_under_landlock_where_they_would_be_shared_with_the_machine(tmp_path, kind):
    script = """
    import multiprocessing as mp
    try:
        queue = mp.Queue()
        queue.put(5)
        say(f"queue={queue.get()}")
    except PermissionError:
        say("refused")
    """
    _, said = run_script(kind, script, tmp_path / "cell")
    assert ("refused" if kind == "landlock" else "queue=5") in said.split(), said


@pytest.mark.slow
@every_kind
def test_torch_trains_inside(tmp_path, kind):
    pytest.importorskip("torch")
    code, said = run_script(
        kind,
        """
        import torch
        weights = torch.randn(32, 32, requires_grad=True)
        (torch.randn(8, 32) @ weights).square().mean().backward()
        say(f"grad={weights.grad.shape[0]}")
        """,
        tmp_path / "cell",
        seconds=120.0,
    )
    assert "grad=32" in said.split(), said
    assert code == 0


def test_the_candidate_finds_its_file_at_a_fixed_place_in_a_namespace_and_where_it_is_elsewhere(tmp_path):
    wrapped = Cell(Seal(Kind.BUBBLEWRAP), tmp_path / "a", accelerators=False, threads=1)
    assert wrapped.inside(wrapped.trial_dir / "train.py") == "/trial/train.py"
    assert wrapped.inside(wrapped.cache_dir) == "/cache"
    plain = Cell(Seal(Kind.LANDLOCK), tmp_path / "b", accelerators=False, threads=1)
    assert plain.inside(plain.trial_dir / "train.py") == str(plain.trial_dir / "train.py")


def test_without_accelerators_no_device_node_is_passed(tmp_path, monkeypatch):
    nodes = [Path("/dev/nvidia0")]
    monkeypatch.setattr(
        "autoresearch.sandbox.cell.lease", lambda environment: type("L", (), {"nodes": nodes, "variables": {}})
    )
    for accelerators in (True, False):
        cell = Cell(Seal(Kind.BUBBLEWRAP), tmp_path, accelerators=accelerators, threads=1)
        assert ("/dev/nvidia0" in cell._bubblewrap(cell.environment())) == accelerators
        cell = Cell(Seal(Kind.LANDLOCK), tmp_path, accelerators=accelerators, threads=1)
        assert ("/dev/nvidia0" in dict(cell._rules(cell.environment()))) == accelerators


def test_a_partial_seal_filters_no_system_calls_it_did_not_prove(tmp_path):
    cell = Cell(Seal(Kind.LANDLOCK, frozenset({Part.FILES}), landlock_abi=3), tmp_path, accelerators=False, threads=1)
    assert cell._orders(cell.environment()).seccomp == ""


def test_bubblewrap_is_told_to_share_nothing():
    assert {"--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"} <= set(bubblewrap.ISOLATION)
    assert "--die-with-parent" in bubblewrap.ISOLATION


# -- what it leaves ---------------------------------------------------------------------------------------------------


@every_kind
def test_its_disk_use_is_seen_while_it_runs(start, kind):
    place = "TORCHINDUCTOR_CACHE_DIR" if kind == "bubblewrap" else "HOME"
    hungry = start(
        kind,
        f"""
        folder = os.environ["{place}"]
        os.makedirs(folder, exist_ok=True)
        with open(folder + "/block", "wb") as file:
            file.write(bytes(8 << 20))
            file.flush()
            say("written")
            time.sleep(3600)
        """,
    )
    hungry.word("written")
    assert 8.0 <= hungry.cell.disk_mb() < 9.0


@linux_only
@every_kind
def test_a_deleted_file_that_is_still_open_counts(start, kind):
    place = "TORCHINDUCTOR_CACHE_DIR" if kind == "bubblewrap" else "HOME"
    hiding = start(
        kind,
        f"""
        folder = os.environ["{place}"]
        os.makedirs(folder, exist_ok=True)
        file = open(folder + "/block", "wb")
        file.write(bytes(8 << 20))
        file.flush()
        os.unlink(folder + "/block")
        say("deleted")
        time.sleep(3600)
        """,
    )
    hiding.word("deleted")
    assert 8.0 <= hiding.cell.disk_mb() < 9.0


def test_empty_files_count_by_their_inodes_and_in_bounded_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("autoresearch.sandbox.cell._ENTRIES_PER_LOOK", 50)
    cell = Cell(Seal(Kind.NONE), tmp_path, accelerators=False, threads=1)
    for number in range(60):
        (cell.scratch_dir / str(number)).touch()
    assert cell.disk_mb() == pytest.approx(50 * 4096 / 2**20)
    for _ in range(3):
        assert cell.disk_mb() == pytest.approx(60 * 4096 / 2**20)


def test_a_cell_that_has_written_nothing_uses_nothing(tmp_path):
    assert Cell(Seal(Kind.NONE), tmp_path, accelerators=False, threads=1).disk_mb() == 0.0


@every_kind
def test_nothing_of_a_cell_is_left_after_it_is_removed(start, kind):
    ended = start(kind, "open(os.environ['HOME'] + '/note', 'w').write('for the next one')")
    until(lambda: ended.tree.poll() is not None)
    ended.tree.kill()
    ended.cell.remove()
    assert not ended.cell.folder.exists()


def test_a_folder_deeper_than_any_path_is_removed(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    here = os.open(victim, os.O_RDONLY)
    name = "d" * 250
    for _ in range(20):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("leaf", os.O_CREAT, dir_fd=here))
    os.close(here)
    remove_folder(victim)
    assert not victim.exists()


def test_what_a_link_leads_to_is_not_removed(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    victim = tmp_path / "victim"
    (victim / "inner").mkdir(parents=True)
    (victim / "link").symlink_to(kept)
    (victim / "inner" / "link").symlink_to(kept)
    remove_folder(victim)
    assert not victim.exists()
    assert (kept / "file").read_text() == "x"
    pointer = tmp_path / "pointer"
    pointer.symlink_to(kept)
    remove_folder(pointer)
    assert (kept / "file").exists()


def test_folders_without_any_permission_are_removed(tmp_path):
    victim = tmp_path / "victim"
    (victim / "a" / "b").mkdir(parents=True)
    (victim / "a" / "b" / "file").write_text("x")
    for path in (victim / "a" / "b", victim / "a", victim):
        path.chmod(0)
    assert stat.S_IMODE(victim.stat().st_mode) == 0
    remove_folder(victim)
    assert not victim.exists()
