"""Which seal is chosen, and how it is named."""

from __future__ import annotations

import re
import shutil
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.sandbox import bubblewrap, layers
from autoresearch.sandbox.layers import all_layers, probe
from autoresearch.sandbox.seal import Kind, Part, Seal
from autoresearch.vocabulary import UsageError

FULL = frozenset(Part)


@pytest.fixture
def tried(monkeypatch):
    """A function that sets what came of trying each kind, and counts the tries."""
    asked: list[Kind] = []

    def set_to(**parts):
        def answer(kind):
            asked.append(kind)
            found = parts.get(kind.name)
            return layers._Tried(None, "not here") if found is None else layers._Tried(Seal(kind, frozenset(found)))

        monkeypatch.setattr(layers, "_tried", answer)
        return asked

    return set_to


def test_a_full_seal_is_taken_without_trying_the_rest(tried):
    asked = tried(BUBBLEWRAP=FULL, LANDLOCK=FULL)
    assert probe().kind == "bubblewrap"
    assert asked == [Kind.BUBBLEWRAP]


def test_a_landlock_that_holds_more_is_preferred_to_a_bubblewrap_without_its_own_processes(tried):
    tried(BUBBLEWRAP=FULL - {Part.PROCESSES}, LANDLOCK=FULL)
    assert probe().kind == "landlock"


def test_among_equals_bubblewrap_is_taken(tried):
    parts = FULL - {Part.SYSTEM_CALLS}
    tried(BUBBLEWRAP=parts, LANDLOCK=parts)
    assert probe().kind == "bubblewrap"


def test_where_nothing_works_the_seal_says_none(tried):
    tried()
    assert (probe().kind, probe().level) == ("none", "none")


def test_a_wish_that_does_not_work_is_an_error_with_the_reason(tried):
    tried(LANDLOCK=FULL)
    assert probe("landlock").level == "full"
    with pytest.raises(UsageError, match="bubblewrap does not work here: not here") as caught:
        probe("bubblewrap")
    assert caught.value.hint == "autoresearch doctor"


def test_an_unknown_wish_names_the_known_ones():
    with pytest.raises(UsageError) as caught:
        probe("docker")
    assert caught.value.hint == "one of: auto, bubblewrap, landlock, sandbox-exec, none"


@pytest.mark.parametrize(
    ("parts", "system", "level"),
    [
        (FULL, "linux", "full"),
        (FULL - {Part.SYSTEM_CALLS}, "darwin", "full"),
        (FULL - {Part.SYSTEM_CALLS}, "linux", "partial (no system call filter)"),
        ({Part.FILES}, "linux", "partial (no network isolation, no process isolation, no system call filter)"),
        ({Part.FILES, Part.NETWORK}, "darwin", "partial (no process isolation)"),
        (set(), "linux", "none"),
    ],
)
def test_a_level_names_what_does_not_hold(parts, system, level):
    assert Seal(Kind.LANDLOCK, frozenset(parts), system).level == level


@given(st.frozensets(st.sampled_from(list(Part))), st.sampled_from(["linux", "darwin"]))
def test_every_level_can_be_read_back_as_one_of_three(parts, system):
    assert re.fullmatch(r"full|partial \(.+\)|none", Seal(Kind.NONE, parts, system).level)


def test_a_part_counts_only_when_the_test_run_held_it(monkeypatch):
    done = {"reads": False, "writes": True, "sees processes": True, "refuses system calls": True}
    monkeypatch.setattr(layers, "_run", lambda seal, folder, arguments: (done, ""))
    tried = layers._proven(Seal(Kind.BUBBLEWRAP, FULL))
    assert tried.seal is not None
    assert tried.seal.parts == {Part.NETWORK, Part.SYSTEM_CALLS}


def test_a_run_that_starts_and_holds_nothing_is_no_seal(monkeypatch):
    done = {"reads": True, "writes": True, "sees processes": True, "refuses system calls": False}
    monkeypatch.setattr(layers, "_run", lambda seal, folder, arguments: (done, ""))
    assert layers._proven(Seal(Kind.LANDLOCK, FULL - {Part.NETWORK})).seal is None


def test_a_test_run_without_a_seal_reaches_everything():
    # it is what makes a seal's silence mean something
    assert layers._proven(Seal(Kind.NONE, FULL, sys.platform)).seal is None


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
def test_an_old_or_confined_bubblewrap_is_tried_in_its_other_ways(monkeypatch):
    calls = []

    def proven(seal):
        calls.append(seal.variant)
        return layers._Tried(seal) if seal.variant == 2 else layers._Tried(None, f"reason {seal.variant}")

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/bwrap")
    monkeypatch.setattr(layers, "_proven", proven)
    found = layers._try_bubblewrap().seal
    assert calls == [0, 1, 2]
    assert found is not None
    assert Part.PROCESSES not in found.parts


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
def test_a_bubblewrap_that_fails_is_reported_with_what_it_said(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    assert layers._try_bubblewrap().why_not == "bwrap: No permissions to create new namespace"


def test_doctor_hears_of_every_layer_and_what_to_install_for_it(monkeypatch, tried):
    tried()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = {layer.name: layer for layer in all_layers()}
    assert [*found] == ["bubblewrap", "Landlock", "seccomp", "sandbox-exec", "environment", "limits", "process tree"]
    assert not found["bubblewrap"].works
    assert all(layer.defends for layer in found.values())
    if sys.platform == "linux":
        assert found["bubblewrap"].install == "apt-get install bubblewrap"
        assert found["bubblewrap"].detail == "not here"


def test_every_variant_is_told_apart():
    assert len({variant.name for variant in bubblewrap.VARIANTS}) == len(bubblewrap.VARIANTS)
    assert Part.PROCESSES in bubblewrap.VARIANTS[0].parts
