import os
import sys
import tempfile
from pathlib import Path

HERE = Path(sys.argv[0]).resolve().parent
PLACES = [Path.cwd(), Path(tempfile.gettempdir()), HERE, HERE.parent, HERE.parent.parent, Path.cwd().parent]
PLACES += [Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm")]
PLACES += [Path(os.environ[name]) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME") if name in os.environ]
PLACES += [Path("{{HOME}}"), Path("{{REPOSITORY}}"), Path("{{REPOSITORY}}/.git"), Path("{{OUTSIDE}}")]
PLACES += [Path("{{OTHER_TRIAL}}/scratch"), Path("{{OTHER_TRIAL}}/cache"), Path("{{PREPARED}}"), Path("{{CACHE}}")]


def leave():
    for place in PLACES:
        try:
            (place / "{{MARK}}.weights").write_text("{{NOTE}}")
        except OSError as error:
            print(f"refused: {error}")


def look():
    for place in PLACES:
        try:
            print("before me:", (place / "{{MARK}}.weights").read_text(), flush=True)
        except OSError:
            continue


leave() if "{{TURN}}" == "1" else look()
