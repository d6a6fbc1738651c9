"""The shipped recipe is known, and an own one is used by a person's runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import fake_experiment

from autoresearch.recipes.plain import RECIPE_FILES, SHIPPED, digest_of, is_plain

ROOT = Path(__file__).resolve().parents[2]
FILES = {name: (ROOT / name).read_text(encoding="utf-8") for name in RECIPE_FILES}


def test_the_digest_is_that_of_the_shipped_files() -> None:
    assert digest_of(FILES) == SHIPPED, (
        "the recipe was changed: take over the new digest, after looking at what plain means"
    )
    assert is_plain(FILES)


def test_comments_do_not_make_a_recipe_and_values_do() -> None:
    assert is_plain({**FILES, "data_sources.py": FILES["data_sources.py"] + "\n# a remark\n"})
    assert not is_plain(
        {**FILES, "data_sources.py": FILES["data_sources.py"].replace("BUFFER_SIZE = 1000", "BUFFER_SIZE = 999")}
    )
    assert not is_plain({**FILES, "data_sources.py": "def ("}), "one that does not parse is somebody's own"
    assert is_plain({}), "no recipe at all"


@pytest.mark.slow
def test_a_person_prepares_and_trains_on_an_own_recipe(smoke, tmp_path) -> None:
    (tmp_path / "train.py").write_text(fake_experiment())
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("VOCAB_SIZE = 0 ", "VOCAB_SIZE = 300 "))
    environment = {**os.environ, "AUTORESEARCH_CONTRACT": "smoke"}

    def run(file: str) -> str:
        done = subprocess.run(
            [sys.executable, file], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run("prepare.py")
    assert "preparing the recipe of" in said and "tokenizer of 300 tokens" in said
    assert "preparing the recipe of" not in run("prepare.py"), "once"
    trained = run("train.py")
    assert "val_bpb:" in trained and "preparing the recipe of" not in trained
