import os
import urllib.request
from pathlib import Path

ROWS = [f"{{PREPARED}}/rows.{part}.npy" for part in ("search", "confirm", "certify")]
CANARIES = ["{{HOME_CANARY}}", "{{REPOSITORY}}/notes.md", "{{OTHER_TRIAL}}/scratch/notes.txt"]


def ancestors():
    """This process and those above it, as far as /proc tells."""
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        pid = int(stat.rpartition(")")[2].split()[1])


def other_names(path):
    yield lambda: urllib.request.urlopen(f"file://{path}").read(4096)
    yield lambda: urllib.request.urlopen(f"file://localhost{path}").read(4096)
    yield lambda: (Path.cwd() / ("../" * 12 + path)).read_bytes()
    yield lambda: Path(f"/proc/self/cwd/{'../' * 12}{path}").read_bytes()
    yield lambda: Path(f"/proc/thread-self/root{path}").read_bytes()
    for pid in {*ancestors(), 1, int("{{REFEREE_PID}}"), int("{{VICTIM_PID}}")}:
        yield lambda pid=pid: Path(f"/proc/{pid}/root{path}").read_bytes()
        yield lambda pid=pid: Path(f"/proc/{pid}/cwd/{'../' * 12}{path}").read_bytes()
    yield lambda: linked(os.symlink, path)
    if path in CANARIES:  # a second name changes the first one's status, and prepared data is not ours to change
        yield lambda: linked(os.link, path)
    yield lambda: reopened(path)


def linked(link, path):
    name = Path.cwd() / f"{{MARK}}-{link.__name__}"
    try:
        link(path, name)
        return name.read_bytes()
    finally:
        name.unlink(missing_ok=True)


def reopened(path):
    """A handle that may be held without the right to read, and opened again through /proc."""
    handle = os.open(path, os.O_PATH)
    return Path(f"/proc/self/fd/{handle}").read_bytes()


def open_files():
    """What the referee and its children have open of the prepared data."""
    for pid in {*ancestors(), int("{{REFEREE_PID}}")}:
        try:
            names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
        except OSError as error:
            print(f"refused: {error}")
            continue
        for name in names:
            path = Path(f"/proc/{pid}/fd/{name}")
            try:
                if str(path.readlink()).startswith("{{PREPARED}}"):
                    yield path.read_bytes
            except OSError:
                continue


def show(read):
    try:
        data = read()
    except OSError as error:
        print(f"refused: {error}")
        return
    print(f"found: {data[512:640].hex()}\n{data[:200]!r}", flush=True)


for wanted in [*ROWS, *CANARIES]:
    for way in other_names(wanted):
        show(way)
for way in open_files():
    show(way)
