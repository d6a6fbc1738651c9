"""`prepare --stats` as a person calls it."""

import dataclasses
import json
from pathlib import Path

import pytest
from calling import done

from autoresearch.cli.statistics import _measured_speed
from autoresearch.contract.rules import rules_for


@pytest.mark.slow
def test_stats_print_a_page_and_leave_a_picture_beside_the_prepared_folder(smoke, tmp_path: Path) -> None:
    page = done(tmp_path, "prepare", "--contract", "smoke", "--stats")
    assert "2,176 documents" in page
    assert "time to exhaust it: unknown" in page
    picture = Path(page.rsplit("picture: ", 1)[1].strip())
    assert picture == smoke[1].directory.with_suffix(".svg")
    assert picture.read_text().startswith("<svg")
    prepared, counted = map(
        json.loads, done(tmp_path, "prepare", "--contract", "smoke", "--stats", "--json").splitlines()
    )
    assert prepared["contract"] == counted["contract"] == "smoke"
    assert counted["num_tokens"] == smoke[1].num_train_tokens
    assert counted["picture"] == str(picture)


@pytest.mark.slow
def test_the_speed_is_that_of_the_newest_trial_of_the_contract(make_workspace, monkeypatch) -> None:
    root = make_workspace()
    monkeypatch.chdir(root)
    tiny = dataclasses.replace(rules_for("tiny"), preset="smoke")
    assert _measured_speed(tiny) is None
    done(root, "research", "nov21", "--experiments", "1")
    speed = _measured_speed(tiny)
    assert speed is not None
    assert speed.tok_sec > 0
    assert speed.measured_by.startswith("session nov21, experiment ")
    assert _measured_speed(rules_for("tiny")) is None, "of another contract"
    assert _measured_speed(rules_for("smoke")) is None, "its clock counts steps"


def test_outside_of_a_workspace_nobody_has_measured_a_speed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _measured_speed(rules_for("tiny")) is None
