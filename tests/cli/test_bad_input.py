"""Every bad input is refused with what is wrong and the next thing to type."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess

import pytest
from calling import WORSE_SHARPNESS, call, done, edit, git, refused

from autoresearch.records.ledger import Ledger
from autoresearch.workspace import open_workspace


def cache_copy(smoke, tmp_path):
    """A copy of the prepared cache that a test may damage: (environment, folder of the prepared data)."""
    prepared = smoke[1].directory
    shutil.copytree(prepared.parent, tmp_path / "cache" / prepared.parent.name)
    return {"AUTORESEARCH_CACHE": str(tmp_path / "cache")}, tmp_path / "cache" / prepared.parent.name / prepared.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", [("research", "a"), ("try", "-m", "x"), ("status",), ("history",), ("calibrate",), ("train",)]
)
def test_outside_a_git_repository_every_verb_of_a_workspace_says_how_to_get_one(tmp_path, verb):
    hint = refused(call(tmp_path, *verb), 1, "not inside a git repository")
    assert "autoresearch init mylab" in hint


@pytest.mark.slow
def test_a_repository_without_an_experiment_file_is_not_a_workspace(tmp_path):
    git(tmp_path, "init", "--quiet")
    hint = refused(call(tmp_path, "research", "a"), 1, "no train.py")
    assert hint.startswith("autoresearch init")


@pytest.mark.slow
def test_an_empty_repository_has_no_commit_to_start_from(make_workspace, tmp_path):
    root = make_workspace()
    fresh = tmp_path / "fresh"
    shutil.copytree(root, fresh, ignore=shutil.ignore_patterns(".git"))
    git(fresh, "init", "--quiet")
    hint = refused(call(fresh, "research", "a"), 1, "no commit yet")
    assert "git commit" in hint


@pytest.mark.slow
def test_research_refuses_a_dirty_experiment_file_and_says_which_commit_would_be_used(make_workspace):
    root = make_workspace()
    edit(root, WORSE_SHARPNESS)
    before = (root / "train.py").read_text()
    hint = refused(call(root, "research", "a"), 1, "uncommitted changes", git(root, "rev-parse", "HEAD")[:10])
    assert "--committed" in hint
    assert (root / "train.py").read_text() == before
    assert not git(root, "branch", "--list", "autoresearch/*")


@pytest.mark.slow
def test_committed_starts_from_the_commit_and_leaves_the_edit_alone(make_workspace):
    root = make_workspace()
    edit(root, WORSE_SHARPNESS)
    before = (root / "train.py").read_text()
    done(root, "research", "a", "--committed", "--experiments", "1", "--json")
    assert (root / "train.py").read_text() == before
    assert "SHARPNESS = 0.5 " in (root / "logs" / "a" / "0" / "train.py").read_text()


@pytest.mark.slow
def test_missing_data_names_the_command_that_prepares_it(make_workspace, tmp_path):
    result = call(make_workspace(), "research", "a", environment={"AUTORESEARCH_CACHE": str(tmp_path / "empty")})
    assert refused(result, 1, "nothing prepared", "smoke") == "autoresearch prepare --contract smoke"


@pytest.mark.slow
def test_an_unknown_contract_names_the_known_ones(make_workspace):
    result = call(make_workspace(), "research", "a", "--contract", "huge")
    refused(result, 2, "'huge'", "tiny", "small", "standard", "long", "smoke")


@pytest.mark.slow
def test_an_unknown_dataset_names_the_known_ones(make_workspace):
    result = call(make_workspace(), "prepare", "--dataset", "pile")
    refused(result, 2, "'pile'", "embedded", "climbmix", "tinystories")


@pytest.mark.slow
def test_an_unknown_proposer_names_the_known_ones_and_begins_nothing(make_workspace):
    root = make_workspace()
    refused(call(root, "research", "a", "--proposer", "oracle"), 2, "'oracle'", "search:tpe", "search:cmaes")
    assert not git(root, "branch", "--list", "autoresearch/*")


@pytest.mark.slow
def test_an_unknown_program_names_the_known_ones(make_workspace):
    refused(call(make_workspace(), "research", "a", "--program", "music"), 2, "'music'", "model", "data")


@pytest.mark.slow
def test_an_unknown_setting_in_pyproject_names_the_known_ones(make_workspace):
    result = call(make_workspace(settings="experiment = 3\n"), "research", "a")
    refused(result, 2, "pyproject.toml", "'experiment'", "experiments", "keep_probability")


@pytest.mark.slow
def test_an_unknown_setting_in_the_environment_names_its_variable(make_workspace):
    result = call(make_workspace(), "research", "a", environment={"AUTORESEARCH_EXPERIMENT": "3"})
    refused(result, 2, "AUTORESEARCH_EXPERIMENT", "known:", "experiments")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("experiments = 0\n", "experiments = 0"),
        ('threads = "two"\n', "threads"),
        ("keep_probability = 1.5\n", "keep_probability"),
    ],
)
def test_a_setting_with_an_impossible_value_is_named(make_workspace, settings, said):
    refused(call(make_workspace(settings=settings), "research", "a"), 2, said)


@pytest.mark.slow
def test_a_pyproject_that_is_not_toml_is_named(make_workspace):
    root = make_workspace()
    (root / "pyproject.toml").write_text("[tool.autoresearch\n")
    assert "git checkout -- pyproject.toml" in refused(call(root, "research", "a"), 1, "pyproject.toml")


@pytest.mark.slow
def test_a_tag_in_use_is_refused_and_resume_is_offered(make_workspace):
    root = make_workspace()
    git(root, "branch", "autoresearch/a")
    hint = refused(call(root, "research", "a"), 1, "'a' is in use", "autoresearch/a")
    assert hint.startswith("autoresearch research a --resume")


@pytest.mark.slow
def test_a_tag_that_cannot_be_a_branch_is_refused(make_workspace):
    refused(call(make_workspace(), "research", "night of/the.lock"), 2, "run tag")


@pytest.mark.slow
def test_resume_of_a_session_that_never_was_names_the_known_ones(make_workspace):
    refused(call(make_workspace(), "research", "a", "--resume"), 1, "no session 'a'", "known: none")


@pytest.mark.slow
def test_verbs_that_look_say_how_to_begin_a_first_session(make_workspace):
    root = make_workspace()
    for verb in (("status",), ("history",), ("show", "1"), ("diff", "1")):
        assert refused(call(root, *verb), 1, "no session") == "autoresearch research TAG"


def test_a_ledger_without_a_session_counts_as_none_begun(make_workspace):
    root = make_workspace()
    Ledger(open_workspace(root).ledger_path).close()  # what a session that was refused early leaves
    assert refused(call(root, "history"), 1, "no session was ever begun") == "autoresearch research TAG"


@pytest.mark.slow
def test_calibration_with_one_run_is_refused(make_workspace):
    refused(call(make_workspace(), "calibrate", "--repeats", "1"), 2, "at least two")


@pytest.mark.slow
def test_a_truncated_prepared_file_is_named_with_the_command_that_mends_it(make_workspace, smoke, tmp_path):
    environment, folder = cache_copy(smoke, tmp_path)
    path = folder.parent / "tokens" / smoke[1].tokens_dir.name / smoke[1].shards[0].tokens_path.name
    with path.open("r+b") as stream:
        stream.truncate(1000)
    hint = refused(call(make_workspace(), "research", "a", environment=environment), 1, path.name, "1000 bytes")
    assert hint.startswith("autoresearch prepare")
    done(tmp_path, *hint.split()[1:], environment=environment)
    assert path.stat().st_size > 1000


@pytest.mark.slow
def test_an_altered_tokenizer_of_the_same_size_is_found(make_workspace, smoke, tmp_path):
    environment, folder = cache_copy(smoke, tmp_path)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[:-200] + text[-200:].replace("7", "8"))
    hint = refused(call(make_workspace(), "research", "a", environment=environment), 1, "tokenizer")
    assert hint.startswith("autoresearch prepare")


@pytest.mark.slow
def test_a_truncated_manifest_is_named(make_workspace, smoke, tmp_path):
    environment, folder = cache_copy(smoke, tmp_path)
    (folder / "manifest.json").write_text('{"format": "autoresearch-prep')
    hint = refused(call(make_workspace(), "research", "a", environment=environment), 1, "manifest.json")
    assert hint.startswith("autoresearch prepare")


@pytest.mark.slow
def test_a_truncated_shard_is_named(tmp_path):
    from autoresearch.contract.corpora import open_corpus

    whole = open_corpus("embedded", tmp_path).train_shards[0].read_bytes()
    shards = tmp_path / "cache" / "climbmix" / "given"
    shards.mkdir(parents=True)
    (shards / "shard_00000.parquet").write_bytes(whole[: len(whole) // 2])
    (shards / "shard_06542.parquet").write_bytes(whole)
    environment = {"AUTORESEARCH_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = call(tmp_path, "prepare", "--contract", "standard", environment=environment)
    assert "autoresearch prepare --contract standard" in refused(result, 1, "shard_00000.parquet")
    assert not list(shards.parent.glob("prepared-*"))


@pytest.mark.slow
def test_an_absent_corpus_says_what_to_put_where(tmp_path):
    environment = {"AUTORESEARCH_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = call(tmp_path, "prepare", "--contract", "standard", environment=environment)
    folder = str(tmp_path / "cache" / "climbmix" / "given")
    hint = refused(result, 1, "no climbmix here", "HF_HUB_OFFLINE", folder, "shard_00000.parquet")
    assert "autoresearch prepare --contract standard" in hint


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"not a database\n" * 400])
def test_a_damaged_ledger_is_named_and_its_hint_brings_the_session_back(lived_workspace, damage):
    root = lived_workspace
    rows = done(root, "history", "--json")
    path = open_workspace(root).ledger_path
    path.write_bytes(damage(path.read_bytes()))
    hint = refused(call(root, "research", "a", "--resume"), 1, str(path))
    subprocess.run(hint.split("   (")[0], shell=True, check=True)
    assert done(root, "history", "--json") == rows


def read_only(root) -> tuple[str, ...]:
    """A command prefix under which `root` is a read-only file system, or the mode bits of a person who is not root."""
    if os.geteuid() != 0:
        root.chmod(0o555)
        return ()
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, str(root))
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("root passes permission checks, and this machine lets us mount nothing read-only")
    return prefix


@pytest.mark.slow
def test_a_read_only_workspace_is_refused_before_anything_runs(make_workspace):
    root = make_workspace()
    before = read_only(root)
    try:
        hint = refused(call(root, "research", "a", before=before), 1, "read-only" if before else str(root))
    finally:
        root.chmod(0o755)
    assert "chmod u+w" in hint


@pytest.mark.slow
def test_two_sessions_on_one_tag_at_once_are_refused(make_workspace):
    root = make_workspace()
    path = open_workspace(root).lock_path("a")
    path.parent.mkdir(parents=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write("4242")
        stream.flush()
        assert refused(call(root, "research", "a"), 1, "running already", "4242") == "autoresearch status --watch"
    assert not git(root, "branch", "--list", "autoresearch/*")


@pytest.mark.slow
def test_no_git_identity_says_how_to_give_one(make_workspace):
    root = make_workspace()
    result = call(root, "research", "a", environment={"GIT_CONFIG_GLOBAL": os.devnull})
    assert "git config --global user.name" in refused(result, 1, "git does not know who you are")
    assert not git(root, "for-each-ref", "refs/autoresearch")


@pytest.mark.slow
def test_the_branch_of_a_session_that_is_checked_out_is_not_moved(lived_workspace):
    root = lived_workspace
    git(root, "switch", "--quiet", "autoresearch/a")
    result = call(root, "research", "a", "--resume")
    assert "switch --detach" in refused(result, 1, "checked out")


@pytest.mark.slow
def test_init_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "notes.txt").write_text("mine")
    hint = refused(call(tmp_path, "init", "lab"), 1, "not empty")
    assert hint == "autoresearch init lab-2"
    assert [path.name for path in (tmp_path / "lab").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_train_of_a_file_that_is_not_there_is_refused(make_workspace):
    refused(call(make_workspace(), "train", "trane.py"), 2, "trane.py")


@pytest.mark.parametrize(
    "arguments", [(), ("reserch",), ("try",), ("show", "first"), ("research", "a", "--experiments", "some")]
)
def test_wrong_usage_exits_with_2_and_shows_the_usage(tmp_path, arguments):
    result = call(tmp_path, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: autoresearch")


@pytest.mark.slow
def test_train_without_the_names_it_imports_is_refused(make_workspace):
    refused(call(make_workspace(), "train"), 2, "no prepare.py in")


@pytest.mark.slow
def test_train_under_a_settings_file_that_is_not_toml_is_refused(make_workspace):
    root = make_workspace()
    (root / "pyproject.toml").write_text("broken = [\n")
    refused(call(root, "train"), 1, "pyproject.toml cannot be read")
