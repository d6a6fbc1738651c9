"""What a candidate is started with."""

from __future__ import annotations

import sys
from pathlib import PurePosixPath

from autoresearch.sandbox.environment import clean_environment, interpreter

SCRATCH = PurePosixPath("/scratch")


def test_a_candidates_environment_holds_no_secret_and_no_home(monkeypatch):
    for name in ("FAKE_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_TOKEN", "AUTORESEARCH_CACHE", "PYTHONPATH", "LD_PRELOAD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HOME", "/somewhere/else")
    environment = clean_environment(SCRATCH, accelerators=True, threads=1)
    assert "secret" not in environment.values()
    assert {environment[name] for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")} == {str(SCRATCH)}


def test_accelerators_are_hidden_unless_they_are_wanted(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert clean_environment(SCRATCH, accelerators=True, threads=1)["CUDA_VISIBLE_DEVICES"] == "3"
    assert clean_environment(SCRATCH, accelerators=False, threads=1)["CUDA_VISIBLE_DEVICES"] not in ("3", "0")


def test_a_leased_number_means_the_same_device_to_cuda_as_to_us():
    assert clean_environment(SCRATCH, accelerators=True, threads=1)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_number_of_threads_reaches_every_maths_library():
    environment = clean_environment(SCRATCH, accelerators=False, threads=3)
    assert {environment[f"{library}_NUM_THREADS"] for library in ("OMP", "MKL", "OPENBLAS")} == {"3"}


def test_compile_caches_lie_in_the_cache_folder_and_else_in_scratch():
    apart = clean_environment(SCRATCH, accelerators=False, threads=1, cache=PurePosixPath("/cache"))
    assert (apart["TORCHINDUCTOR_CACHE_DIR"], apart["TRITON_CACHE_DIR"]) == ("/cache/inductor", "/cache/triton")
    together = clean_environment(SCRATCH, accelerators=False, threads=1)
    assert together["TRITON_CACHE_DIR"] == "/scratch/triton"


def test_candidates_start_with_our_own_interpreter_isolated_and_never_through_uv():
    command = interpreter("some.module")
    assert command[0] == sys.executable
    assert "-P" in command and "-s" in command
    assert command[-2:] == ["-m", "some.module"]
