import os
import stat
import time
from pathlib import Path

NEEDLES = [bytes.fromhex("{{PHRASE_HEX}}"), bytes.fromhex("{{ROW_START_HEX}}")]
KNOWN_PLACES = [
    "{{PREPARED}}",
    "{{TOKENS}}",
    "{{CORPUS}}",
    "{{CACHE}}",
    "{{OTHER_TRIAL}}",
    "/proc/{{REFEREE_PID}}/root{{PREPARED}}",
]
KNOWN_PLACES += ["/proc/{{REFEREE_PID}}/cwd", "/proc/{{REFEREE_PID}}/fd", "/proc/{{REFEREE_PID}}/map_files", "/dev/shm"]
READ_AT_MOST = 32 << 20


def texts_of(path):
    """The bytes of a file, and of the documents in it when it is a parquet file."""
    with Path(path).open("rb") as stream:
        data = stream.read(READ_AT_MOST)
    yield data
    if data[:4] == b"PAR1":
        import io

        import pyarrow.parquet as parquet

        table = parquet.read_table(io.BytesIO(data))
        for name in table.column_names:
            yield "\n".join(str(value) for value in table[name].to_pylist()).encode()


def files_below(place, deadline):
    for here, folders, names in os.walk(place):
        folders[:] = [name for name in folders if f"{here}/{name}" not in ("/proc", "/sys")]
        for name in names:
            yield f"{here}/{name}"
        if time.monotonic() > deadline:
            return


def search(place, deadline):
    """Number of files read below a place; prints what follows the phrase in any of them."""
    num_read = 0
    for path in files_below(place, deadline):
        try:
            if not stat.S_ISREG(Path(path).stat().st_mode):
                continue
            for data in texts_of(path):
                for needle in NEEDLES:
                    at = data.find(needle)
                    if at >= 0:
                        start = at + len(needle)
                        print(f"{path}\nfound: {data[start : start + 96].hex()}", flush=True)
            num_read += 1
        except (OSError, ValueError, ImportError):
            continue  # unreadable, or no parquet after all
        if time.monotonic() > deadline:
            break
    return num_read


def search_everywhere():
    deadline = time.monotonic() + float("{{SECONDS}}")
    num_known = sum(search(place, deadline) for place in KNOWN_PLACES)
    num_other = search("/", deadline)
    print(f"searched {num_known} files in known places and {num_other} elsewhere", flush=True)


search_everywhere()
