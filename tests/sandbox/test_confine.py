"""Stage 0: what it does to itself before the module runs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.sandbox import confine
from autoresearch.sandbox.confine import Orders, set_limits
from autoresearch.sandbox.environment import interpreter


def run(orders: Orders, *command: str) -> subprocess.CompletedProcess:
    """Stage 0 with these orders, then a module of the standard library."""
    descriptor = os.memfd_create("orders")
    os.write(descriptor, orders.to_json().encode())
    try:
        return subprocess.run(
            [*interpreter("autoresearch.sandbox.confine"), "--orders", str(descriptor), "--", *command],
            pass_fds=[descriptor], capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(descriptor)


@pytest.mark.slow
@given(
    st.builds(
        Orders,
        oom_score_adj=st.none() | st.integers(0, 1000),
        limits=st.dictionaries(st.sampled_from(["RLIMIT_CORE", "RLIMIT_FSIZE"]), st.integers(0, 2**40)),
        drops_capabilities=st.booleans(),
        landlock_abi=st.integers(0, 9),
        rules=st.lists(st.tuples(st.text(), st.integers(0, 2**16)).map(list)),
        seccomp=st.text("ABC="),
        parent=st.none() | st.integers(1, 2**22),
    )
)
def test_orders_survive_the_way(orders):
    assert Orders.from_json(orders.to_json()) == orders


def test_orders_are_this_json():
    assert json.loads(Orders(limits={"RLIMIT_CORE": 0}).to_json()) == {
        "oom_score_adj": None,
        "limits": {"RLIMIT_CORE": 0},
        "drops_capabilities": True,
        "landlock_abi": 0,
        "rules": [],
        "seccomp": "",
        "parent": None,
    }


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="orders travel in a memfd here")


@linux_only
def test_the_module_runs_as_main_with_its_own_arguments():
    done = run(Orders(parent=os.getpid()), "timeit", "-n1", "-r1", "import sys; print(sys.argv[0], sys.argv[1:])")
    assert done.returncode == 0, done.stderr
    assert "timeit.py ['-n1', '-r1'," in done.stdout


@linux_only
def test_it_ends_when_its_parent_is_not_who_it_expects():
    done = run(Orders(parent=1), "timeit", "-n1", "pass")
    assert (done.returncode, done.stderr) == (1, "the referee is gone\n")


@linux_only
def test_it_does_not_start_the_module_when_the_kernel_refuses_a_step():
    done = run(Orders(landlock_abi=1, rules=[["/", 1 << 40 | 1]], seccomp="AAAA"), "timeit", "-n1", "print('ran')")
    assert done.returncode != 0
    assert "ran" not in done.stdout


def test_a_limit_never_rises_above_the_one_in_force(monkeypatch):
    asked = {}
    monkeypatch.setattr(resource, "getrlimit", lambda number: (10, 100 if number == resource.RLIMIT_FSIZE else -1))
    monkeypatch.setattr(resource, "setrlimit", lambda number, values: asked.update({number: values}))
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    set_limits({"RLIMIT_FSIZE": 5000, "RLIMIT_CORE": 0})
    assert asked == {resource.RLIMIT_FSIZE: (100, 100), resource.RLIMIT_CORE: (0, 0)}


def test_called_by_hand_it_says_how_it_is_called():
    with pytest.raises(SystemExit, match="usage: "):
        confine.main([])
