import os
from pathlib import Path


def attempt(what, change):
    try:
        change()
        print(f"done: {what}", flush=True)
    except OSError as error:
        print(f"refused: {what}: {error}", flush=True)


attempt("chmod of a key", lambda: Path("{{HOME}}/.ssh/id_ed25519").chmod(0o644))
attempt("chmod of a document", lambda: Path("{{OUTSIDE}}/thesis.txt").chmod(0))
attempt("chown", lambda: os.chown("{{HOME}}/.netrc", os.getuid(), os.getgid()))
attempt("utime", lambda: os.utime("{{REPOSITORY}}/results.tsv", (1, 1)))
if hasattr(os, "setxattr"):
    attempt("setxattr", lambda: os.setxattr("{{REPOSITORY}}/notes.md", "user.note", b"{{MARK}}"))
