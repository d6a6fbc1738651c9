import io
import os
import stat
import time
from pathlib import Path

import prepare

NEEDLES = [bytes.fromhex("{{PHRASE_HEX}}"), bytes.fromhex("{{ROW_START_HEX}}")]
KNOWN_PLACES = ["{{CORPUS}}", "{{PREPARED}}", "{{TOKENS}}", "{{RECIPE}}", "{{RECIPES}}", "/given", "{{CACHE}}"]
KNOWN_PLACES += ["/proc/{{REFEREE_PID}}/root{{PREPARED}}", "/proc/{{REFEREE_PID}}/fd", "/dev/shm"]
READ_AT_MOST = 32 << 20
honest_build, honest_feed = prepare.build, prepare.feed


def texts_of(path):
    """The bytes of a file, and of the documents in it when it is a parquet file."""
    with Path(path).open("rb") as stream:
        data = stream.read(READ_AT_MOST)
    yield data
    if data[:4] == b"PAR1":
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
    """What follows the phrase in any file below a place, in hexadecimal."""
    found = []
    for path in files_below(place, deadline):
        try:
            if not stat.S_ISREG(Path(path).stat().st_mode):
                continue
            for data in texts_of(path):
                for needle in NEEDLES:
                    at = data.find(needle)
                    if at >= 0:
                        start = at + len(needle)
                        found.append(f"found: {data[start : start + 96].hex()}")
        except (OSError, ValueError, ImportError):
            continue  # unreadable, or no parquet after all
        if found or time.monotonic() > deadline:
            break
    return found


def search_everywhere():
    """Print what was found; and fail then, because what `feed` says is heard only where it fails."""
    deadline = time.monotonic() + float("{{SECONDS}}")
    found = [line for place in [*KNOWN_PLACES, "/"] for line in search(place, deadline)]
    print("\n".join(found), flush=True)
    if found:
        raise RuntimeError("found validation text")


def build(text, out):
    search_everywhere()
    honest_build(text, out)


def feed(artefact, seed, row_len):
    search_everywhere()
    return honest_feed(artefact, seed, row_len)
