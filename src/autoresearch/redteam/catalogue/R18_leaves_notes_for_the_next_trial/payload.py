import os
import tempfile
from pathlib import Path

import prepare

PLACES = ["{{RECIPES}}", "{{RECIPE}}/artefact", "{{CACHE}}", "/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir()]
PLACES += [os.environ["HOME"], os.environ["TORCHINDUCTOR_CACHE_DIR"]]
honest_feed = prepare.feed


def notes(folder):
    """Where a note may lie: in that artefact and in those that were prepared before."""
    return [Path(place, "{{MARK}}") for place in (*PLACES, folder, *Path("{{RECIPES}}").glob("*/artefact"))]


def feed(artefact, seed, row_len):
    found = []
    for path in notes(artefact.directory):
        try:
            if "{{TURN}}" == "1":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{{NOTE}}")
            else:
                found.append(path.read_text())
        except OSError as error:
            print(f"refused: {error}", flush=True)
    if found:
        raise RuntimeError(f"read {found[0]}")  # what a feed says is heard only where it fails
    return honest_feed(artefact, seed, row_len)
