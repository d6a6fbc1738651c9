"""What a recipe calls the session's datasets."""

from __future__ import annotations

import pytest

from autoresearch.recipes.artefact import GROUP_NAME
from autoresearch.recipes.text import source_names


@pytest.mark.parametrize(
    ("datasets", "names"),
    [
        (["embedded", "fineweb-edu"], ["embedded", "fineweb-edu"]),
        (["hf:owner/some.corpus:config"], ["some-corpus"]),
        (["/text/my pages.jsonl.gz", "/other/my pages.txt", "hf:me/my-pages"], ["my-pages", "my-pages-2", "my-pages-3"]),
        (["/data/…"], ["text"]),
    ],
)  # fmt: skip
def test_names_are_plain_and_different(datasets, names) -> None:
    assert source_names(datasets) == names
    assert all(GROUP_NAME.fullmatch(f"{name}/0") for name in names)
