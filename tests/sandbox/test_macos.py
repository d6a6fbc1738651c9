"""The profile for sandbox-exec, as text; the probe runs it where there is a Mac."""

from __future__ import annotations

from pathlib import Path

from autoresearch.sandbox.allowed import Allowed
from autoresearch.sandbox.macos import profile

ALLOWED = Allowed(
    read=(Path("/usr/lib"), Path('/opt/odd "name"')), hidden=(Path("/usr/lib/corpus"),), listed=(Path("/src"),)
)
# /nonexistent is its own real path everywhere
TEXT = profile(
    ALLOWED, readable=[Path("/nonexistent/trial")], writable=[Path("/nonexistent/scratch")], accelerators=False
)


def test_the_profile_is_this_text():
    begin = TEXT.index('(allow file-read* (literal "/src"))')
    assert TEXT[:31] == "(version 1)\n(deny default)\n(all"
    assert TEXT[begin:] == (
        '(allow file-read* (literal "/src"))\n'
        '(allow file-read* file-map-executable (subpath "/usr/lib"))\n'
        '(allow file-read* file-map-executable (subpath "/opt/odd \\"name\\""))\n'
        '(allow file-read* file-map-executable (subpath "/nonexistent/trial"))\n'
        '(allow file-read* file-map-executable (subpath "/nonexistent/scratch"))\n'
        '(deny file-read* (subpath "/usr/lib/corpus"))\n'
        '(allow file-write* (subpath "/nonexistent/scratch"))\n'
        "(deny network*)\n"
    )


def test_every_bracket_of_the_profile_is_closed():
    depth = 0
    for character in TEXT.replace('\\"', ""):
        depth += {"(": 1, ")": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0


def test_the_graphics_card_is_reached_only_with_accelerators():
    with_card = profile(ALLOWED, readable=[], writable=[], accelerators=True)
    assert "(allow iokit-open)" in with_card
    assert "iokit" not in TEXT


def test_nothing_is_allowed_on_the_network():
    assert not [line for line in TEXT.splitlines() if line.startswith("(allow network")]
