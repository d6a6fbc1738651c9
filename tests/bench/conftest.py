"""A measuring child sets the environment of its process, which here is everyone's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield
