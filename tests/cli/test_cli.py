"""Every verb does what its help says, called as a person would call it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calling import ANOTHER_SHARPNESS, WORSE_SHARPNESS, call, done, edit, git, refused

ROOT = Path(__file__).parents[2]


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


# -- setting up ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_doctor_names_the_contract_that_fits_and_what_is_prepared(smoke, tmp_path):
    found = json.loads(done(tmp_path, "doctor", "--json"))
    assert found["contract"] in ("tiny", "small", "standard")
    assert found["prepared"]["smoke"] == "ready"
    assert found["prepared"]["standard"] == "not prepared"
    assert f"autoresearch prepare --contract {found['contract']}" in found["advice"]
    text = done(tmp_path, "doctor")
    assert found["chip"] in text
    assert found["driver"] in text
    assert set(found["constants"]) == {"DEPTH", "DEVICE_BATCH_SIZE", "TOTAL_BATCH_SIZE"}
    assert all(f"{name} = {value}" in text for name, value in found["constants"].items())
    assert 0 < found["constants_memory_gb"] < found["memory_gb"]
    assert found["experiment_file"] in ("train.py", "train_mlx.py")
    assert found["sealed"] in text
    taken = next(path for path, why in found["attention"].items() if not why)
    assert f"windows by {taken}" in text


@pytest.mark.slow
def test_doctor_names_the_variables_that_hold_keys_and_no_key(smoke, tmp_path, monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", "gsk_planted0123456789")
    found = done(tmp_path, "doctor", "--json")
    assert "GROQ_API_KEY" in json.loads(found)["keys"]
    assert set(json.loads(found)["agents"]) == {"claude", "codex", "gemini", "opencode"}
    assert "planted" not in found + done(tmp_path, "doctor")


@pytest.mark.slow
def test_init_makes_a_workspace_with_one_commit_that_holds_the_files_of_this_installation(tmp_path):
    out = done(tmp_path, "init", "my lab")
    root = tmp_path / "my lab"
    assert str(root) in out
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "log", "--format=%s") == "Start a workspace"
    for name in ("train.py", "prepare.py", "data_sources.py", "program.md", ".gitignore"):
        assert (root / name).read_bytes() == (ROOT / name).read_bytes()
    assert 'name = "my-lab"' in (root / "pyproject.toml").read_text()
    # it is a workspace: the verbs that look find it and ask for a first session
    refused(call(root, "status"), 1, "no session")


@pytest.mark.slow
def test_prepare_is_done_once_and_says_where(smoke, tmp_path):
    found = json.loads(done(tmp_path, "prepare", "--contract", "smoke", "--json"))
    assert found["directory"] == str(smoke[1].directory)
    assert found["train_tokens"] == smoke[1].num_train_tokens
    assert found["tokenizer"] == smoke[1].hashes["tokenizer"]
    assert "training a tokenizer" not in done(tmp_path, "prepare", "--contract", "smoke")


@pytest.mark.slow
@pytest.mark.parametrize("command", [["-m", "autoresearch", "train"], ["train.py"]], ids=["train", "python"])
def test_train_and_plain_python_run_the_file_in_one_process(make_workspace, command):
    root = make_workspace()
    for name in ("prepare.py", "data_sources.py"):
        shutil.copy(ROOT / name, root)
    ran = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    summary = dict(re.findall(r"^(\w+):\s+([\d.]+)$", ran.stdout.split("---\n")[1], flags=re.MULTILINE))
    assert 1 < float(summary["val_bpb"]) < 8
    assert summary["num_steps"] == "8"
    assert not (root / "results.tsv").exists()  # a score from here is no record


# -- research -----------------------------------------------------------------------------------------------------------


def test_every_line_of_research_in_json_is_json_and_the_last_is_the_end(session_output):
    lines = json_lines(session_output)
    assert lines[-1]["event"] == "end"
    assert lines[-1]["tag"] == "a"
    assert lines[-1]["num_experiments"] == 2
    assert all("event" in line for line in lines)


def test_a_session_leaves_branch_refs_tables_and_snapshots(lived_workspace):
    root = lived_workspace
    rows = table(root / "results.tsv")
    assert [row["experiment"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["description"] == "baseline"
    kept = [row for row in rows if row["status"] == "keep"][-1]
    assert git(root, "rev-parse", "autoresearch/a").startswith(kept["commit"])
    assert len(git(root, "for-each-ref", "refs/autoresearch/a").splitlines()) == 3
    assert {path.name for path in (root / "logs" / "a" / "1").iterdir()} >= {
        "diff.patch",
        "run.log",
        "metrics.json",
        "train.py",
    }
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "branch", "--show-current") not in ("autoresearch/a", "")


@pytest.mark.slow
def test_resume_goes_on_where_the_session_ended(lived_workspace):
    out = done(lived_workspace, "research", "a", "--resume", "--experiments", "3")
    assert "3 experiments, " in out
    assert "to go on: autoresearch research a --resume" in out
    assert [row["experiment"] for row in table(lived_workspace / "results.tsv")] == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_a_whole_session_runs_in_a_path_with_spaces_and_non_ascii_letters(make_workspace):
    root = make_workspace(folder="Été à Köln/мой lab 実験")
    out = done(root, "research", "nuit", "--experiments", "2")
    assert "2 experiments, " in out
    assert str(root / "logs" / "nuit") in out
    assert len(table(root / "results.tsv")) == 3
    assert (root / "progress.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_workspace_below_the_top_of_its_repository_runs_too(make_workspace, tmp_path):
    root = make_workspace(folder="labs/one")
    shutil.rmtree(root / ".git")
    git(root.parent, "init", "--quiet")
    git(root.parent, "add", "-A")
    git(root.parent, "commit", "--quiet", "-m", "two labs")
    done(root, "research", "a", "--experiments", "1", "--json")
    (changed,) = git(root.parent, "diff", "--name-only", "HEAD", "refs/autoresearch/a/1").splitlines()
    assert changed == "one/train.py"


@pytest.mark.slow
def test_calibrate_reports_the_noise_of_the_baseline(make_workspace):
    root = make_workspace()
    found = json_lines(done(root, "calibrate", "--repeats", "3", "--json"))[-1]
    assert found["event"] == "noise"
    assert found["commit"] == git(root, "rev-parse", "HEAD")
    assert found["degrees"] == 2
    assert found["sd"] > 0
    assert found["measured_sd"] > 0


# -- try ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_try_keeps_a_better_edit_and_moves_the_session_but_not_the_checkout(make_workspace):
    root = make_workspace()
    edit(root, ANOTHER_SHARPNESS)
    edited = (root / "train.py").read_text()
    head = git(root, "rev-parse", "HEAD")
    verdict = json_lines(done(root, "try", "-m", "sharper", "--tag", "a", "--json"))[-1]
    assert verdict["status"] == "keep"
    assert verdict["gain"] > 0
    assert git(root, "rev-parse", "autoresearch/a") == verdict["commit"]
    assert git(root, "rev-parse", "HEAD") == head
    assert (root / "train.py").read_text() == edited


@pytest.mark.slow
def test_try_discards_a_worse_edit_brings_the_file_back_and_keeps_the_edit_under_its_ref(make_workspace):
    root = make_workspace()
    before = (root / "train.py").read_text()
    edit(root, WORSE_SHARPNESS)
    out = done(root, "try", "-m", "flatter", "--tag", "a")
    assert any(line.startswith("#1 discard  flatter") for line in out.splitlines())
    assert (root / "train.py").read_text() == before
    assert "SHARPNESS = 0.05" in git(root, "show", "refs/autoresearch/a/1:train.py")


@pytest.mark.slow
def test_try_records_an_edit_outside_the_scope_as_a_refused_row(make_workspace):
    root = make_workspace()
    edit(root, ANOTHER_SHARPNESS)
    (root / "helper.py").write_text("VALUE = 1\n")
    verdict = json_lines(done(root, "try", "-m", "two files", "--tag", "a", "--json"))[-1]
    assert verdict["status"] == "discard"
    assert "touches helper.py" in verdict["reason"]
    row = table(root / "results.tsv")[-1]
    assert (row["description"], row["status"], row["sealed"]) == ("two files", "discard", "not run")


@pytest.mark.slow
def test_try_refuses_an_edit_of_the_seed_alone_without_a_run(make_workspace):
    root = make_workspace(
        (ROOT / "tests/experiments/counting.py")
        .read_text()
        .replace("SHARPNESS = 0.5", "RANDOM_SEED = 1\nSHARPNESS = 0.5")
    )
    edit(root, ("RANDOM_SEED = 1", "RANDOM_SEED = 2"))
    verdict = json_lines(done(root, "try", "-m", "lucky", "--tag", "a", "--json"))[-1]
    assert verdict["status"] == "discard"
    assert "seed" in verdict["reason"]
    assert table(root / "results.tsv")[-1]["trials"] == "0"


@pytest.mark.slow
def test_a_crash_in_try_is_a_row_with_the_end_of_its_log(make_workspace):
    root = make_workspace()
    before = (root / "train.py").read_text()
    edit(root, ("def main():\n", "def main():\n    raise RuntimeError('heads do not divide')\n"))
    verdict = json_lines(done(root, "try", "-m", "odd heads", "--tag", "a", "--json"))[-1]
    assert verdict["status"] == "crash"
    assert "heads do not divide" in verdict["reason"]
    assert "RuntimeError" in verdict["log_tail"]
    row = table(root / "results.tsv")[-1]
    assert (row["status"], row["val_bpb"]) == ("crash", "0.000000")
    assert (root / "train.py").read_text() == before


@pytest.mark.slow
def test_try_without_an_edit_has_nothing_to_try(lived_workspace):
    incumbent = git(lived_workspace, "show", "autoresearch/a:train.py")
    (lived_workspace / "train.py").write_text(incumbent + "\n")
    hint = refused(call(lived_workspace, "try", "-m", "nothing"), 2, "nothing to try")
    assert "edit train.py" in hint


# -- looking ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_status_says_what_ended_and_how_to_go_on(lived_workspace):
    found = json.loads(done(lived_workspace, "status", "--json"))
    assert found["session"] == "a"
    assert found["num_experiments"] == 2
    assert "research a --resume" in found["state"]
    assert "research a --resume" in done(lived_workspace, "status")


@pytest.mark.slow
def test_history_shows_every_experiment_and_draws_the_chart_that_was_asked_for(lived_workspace):
    rows = json_lines(done(lived_workspace, "history", "--json"))
    assert [row["experiment"] for row in rows] == [0, 1, 2]
    out = done(lived_workspace, "history", "a", "--chart", "night.png")
    assert all(row["description"] in out for row in rows)
    assert (lived_workspace / "night.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_history_write_brings_tables_and_snapshots_back_after_git_clean(lived_workspace):
    root = lived_workspace
    kept = ("results.tsv", "results_history.tsv", "EXPERIMENT_LOG.md")
    tables = {name: (root / name).read_bytes() for name in kept}
    snapshots = {path.relative_to(root): path.read_bytes() for path in (root / "logs" / "a").glob("[0-9]*/*")}
    assert any(path.name == "checkpoint.safetensors" for path in snapshots)
    git(root, "clean", "-xfd")
    assert not (root / "logs").exists()
    done(root, "history", "--write")
    assert {name: (root / name).read_bytes() for name in kept} == tables
    assert {path.relative_to(root): path.read_bytes() for path in (root / "logs" / "a").glob("[0-9]*/*")} == snapshots


@pytest.mark.slow
def test_history_of_an_unknown_session_names_the_known_ones(lived_workspace):
    refused(call(lived_workspace, "history", "b"), 2, "'b'", "known: a")


@pytest.mark.slow
def test_show_tells_one_experiment_in_full(lived_workspace):
    found = json.loads(done(lived_workspace, "show", "1", "--json"))
    out = done(lived_workspace, "show", "1")
    assert found["description"] in out
    assert found["commit"] in out
    assert f"seed {found['trials'][0]['seed']}" in out
    refused(call(lived_workspace, "show", "99"), 1, "no experiment 99")


@pytest.mark.slow
def test_diff_shows_what_an_experiment_changed_and_how_two_differ(lived_workspace):
    one = done(lived_workspace, "diff", "1")
    assert one == (lived_workspace / "logs" / "a" / "1" / "diff.patch").read_text()
    assert len(re.findall(r"^[+-][^+-]", one, flags=re.MULTILINE)) == 2
    assert (
        git(lived_workspace, "diff", "refs/autoresearch/a/1", "refs/autoresearch/a/2")
        == done(lived_workspace, "diff", "1", "2").strip()
    )


@pytest.mark.slow
def test_output_that_nobody_reads_to_the_end_is_not_an_error(lived_workspace):
    shell = f'"{sys.executable}" -m autoresearch history | head -1; exit ${{PIPESTATUS[0]}}'
    result = subprocess.run(["bash", "-c", shell], cwd=lived_workspace, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert result.returncode == 0, result.stderr


def test_version_is_the_packages(tmp_path):
    from autoresearch import __version__

    assert done(tmp_path, "--version").strip() == f"autoresearch {__version__}"
