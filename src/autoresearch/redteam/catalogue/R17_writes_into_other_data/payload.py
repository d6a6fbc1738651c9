from pathlib import Path

import prepare

PLACES = ["{{PREPARED}}", "{{TOKENS}}", "{{CORPUS}}", "{{CACHE}}", "{{PACKAGE}}", "{{SITE_PACKAGES}}", "{{OUTSIDE}}"]
PLACES += ["{{RECIPES}}", "{{RECIPE}}", "{{RECIPE}}/artefact", "/proc/{{REFEREE_PID}}/root{{PREPARED}}"]
honest_build, honest_feed = prepare.build, prepare.feed


def leave_in(places):
    for place in places:
        try:
            Path(place, "{{MARK}}").touch()
        except OSError as error:
            print(f"refused: {error}", flush=True)


def build(text, out):
    leave_in([*PLACES, out._folder.parent, Path(__file__).parent])
    honest_build(text, out)


def feed(artefact, seed, row_len):
    leave_in([*PLACES, artefact.directory, artefact.directory.parent])
    return honest_feed(artefact, seed, row_len)
