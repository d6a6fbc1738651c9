"""What each version of Landlock can hold; the rules themselves are tried in test_cell.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.sandbox.landlock import DEVICE, READ, WRITE, Right, handled, missing_from


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        (7, []),
        (6, []),
        (5, ["signals and abstract sockets"]),
        (3, ["TCP", "device controls", "signals and abstract sockets"]),
        (
            1,
            [
                "moving files between folders",
                "truncating files",
                "TCP",
                "device controls",
                "signals and abstract sockets",
            ],
        ),
    ],
)
def test_what_an_old_kernel_lacks_is_named(version, missing):
    assert missing_from(version) == missing


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_newer_kernel_holds_at_least_what_an_older_one_does(one, other):
    older, newer = sorted((one, other))
    assert handled(older) & handled(newer) == handled(older)
    assert set(missing_from(newer)) <= set(missing_from(older))


def test_rights_have_the_kernels_numbers():
    assert (int(handled(1)), int(handled(2)), int(handled(3)), int(handled(5))) == (0x1FFF, 0x3FFF, 0x7FFF, 0xFFFF)


def test_reading_writes_nothing_and_nobody_makes_a_device():
    changes = Right.WRITE_FILE | Right.TRUNCATE | Right.REMOVE_FILE | Right.MAKE_REG | Right.REFER
    assert not READ & changes
    assert not (READ | WRITE | DEVICE) & (Right.MAKE_CHAR | Right.MAKE_BLOCK)
