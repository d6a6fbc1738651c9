"""`python train.py` becomes train_mlx.py where MLX is in force, and nowhere else."""

from __future__ import annotations

import sys
import types

import pytest

from autoresearch.backends import handover
from autoresearch.backends.handover import hand_over_to_mlx
from autoresearch.backends.machine import Machine, hide_accelerators_environment
from autoresearch.vocabulary import UsageError

MAC = Machine("Darwin", "arm64", "Apple M4", frozenset(), 2**34, 8, mlx="0.32.4", mlx_build="metal")
LINUX = Machine("Linux", "x86_64", "Xeon", frozenset(), 2**34, 2, mlx="0.32.4", mlx_build="cpu")


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Path of a train.py with a train_mlx.py beside it, run by hand: `prepare` came from a file."""
    (tmp_path / "train_mlx.py").touch()
    prepare = types.ModuleType("prepare")
    prepare.__file__ = str(tmp_path / "prepare.py")
    monkeypatch.setitem(sys.modules, "prepare", prepare)
    monkeypatch.setattr(sys, "argv", ["train.py", "--flag"])
    monkeypatch.setattr(handover, "find_openblas", lambda: "a/libopenblas.so.0")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    return tmp_path / "train.py"


@pytest.fixture
def executed():
    """What was executed: (program, arguments, environment)."""
    return []


def run(train, machine, executed):
    hand_over_to_mlx(str(train), machine, lambda *call: executed.append(call))


def test_on_a_mac_with_mlx_the_file_beside_it_goes_on_with_the_same_arguments(train, executed):
    run(train, MAC, executed)
    ((program, arguments, environment),) = executed
    assert program == sys.executable
    assert arguments == [sys.executable, str(train.with_name("train_mlx.py")), "--flag"]
    assert "LD_PRELOAD" not in environment


def test_on_linux_it_must_be_asked_for_and_gets_the_fast_blas(train, executed, monkeypatch):
    run(train, LINUX, executed)
    assert executed == []
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    run(train, LINUX, executed)
    assert executed[0][2]["LD_PRELOAD"] == "a/libopenblas.so.0"


def test_a_preload_of_the_users_own_stays(train, executed, monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    monkeypatch.setenv("LD_PRELOAD", "mine.so")
    run(train, LINUX, executed)
    assert executed[0][2]["LD_PRELOAD"] == "mine.so"


def test_a_sealed_trial_never_hands_over(train, executed, monkeypatch):
    monkeypatch.setitem(sys.modules, "prepare", types.ModuleType("prepare"))
    run(train, MAC, executed)
    monkeypatch.delitem(sys.modules, "prepare")
    run(train, MAC, executed)
    assert executed == []


def test_another_backend_that_was_asked_for_stays(train, executed, monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mps")
    run(train, MAC, executed)
    assert executed == []


def test_a_contract_that_hides_accelerators_keeps_torch_on_a_mac(train, executed, monkeypatch):
    for name, value in hide_accelerators_environment().items():
        monkeypatch.setenv(name, value)
    run(train, MAC, executed)
    assert executed == []


def test_without_the_other_file_torch_goes_on_unless_mlx_was_asked_for(train, executed, monkeypatch):
    train.with_name("train_mlx.py").unlink()
    run(train, MAC, executed)
    assert executed == []
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    with pytest.raises(UsageError, match=r"no train_mlx\.py beside train\.py"):
        run(train, MAC, executed)


def test_mlx_that_is_asked_for_and_not_installed_is_said_before_anything_is_executed(train, executed, monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    bare = Machine("Linux", "x86_64", "Xeon", frozenset(), 2**34, 2)
    with pytest.raises(UsageError, match="not installed"):
        run(train, bare, executed)
    assert executed == []
