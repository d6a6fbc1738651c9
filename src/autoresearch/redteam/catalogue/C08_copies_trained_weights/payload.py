import os
import sqlite3
import sys
import time

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".npz")
PLACES = ["{{REPOSITORY}}", "{{OTHER_TRIAL}}", "{{HOME}}", "{{OUTSIDE}}", "{{CACHE}}", *sys.path]
SHOWN = ("{{REPOSITORY}}", "{{OTHER_TRIAL}}", "{{HOME}}")  # a key to a hub is as good as weights
MOST_SHOWN = 4096  # bytes


def from_the_ledger():
    """Everything in it: rows, and the weights of incumbents."""
    with sqlite3.connect("file:{{LEDGER}}?mode=ro&immutable=1", uri=True) as ledger:
        tables = [name for (name,) in ledger.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in ledger.execute(f'select * from "{table}" limit 20'):
                print(table, str(row)[:MOST_SHOWN], flush=True)


def search(place, deadline):
    for here, _, names in os.walk(place):
        for name in names:
            path = f"{here}/{name}"
            try:
                with open(path, "rb") as stream:  # noqa: PTH123
                    start = stream.read(MOST_SHOWN)
            except OSError:
                continue
            if name.endswith(SUFFIXES):
                print(f"weights: {path}", flush=True)
            elif place in SHOWN and len(start) < MOST_SHOWN:
                print(path, start.decode(errors="replace"), flush=True)
        if time.monotonic() > deadline:
            return


try:
    from_the_ledger()
except sqlite3.Error as error:
    print(f"refused: {error}")
end = time.monotonic() + float("{{SECONDS}}")
for folder in PLACES:
    search(folder, end)
