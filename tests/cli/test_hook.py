"""The hooks of the Claude Code plugin, asked as the client asks them: JSON in, exit code and words out."""

from __future__ import annotations

import io
import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from calling import git

from autoresearch.cli import driving, hook, main
from autoresearch.cli.preflight import OFFERED
from autoresearch.contract.channel import surface_names
from autoresearch.records.ledger import Ledger, Session, now
from autoresearch.vocabulary import Proposal, Status, Verdict
from autoresearch.workspace import BRANCH_PREFIX, SCOPES, open_workspace

PREPARE = "X = 1\n"


@pytest.fixture
def lab(make_workspace) -> Path:
    """A workspace on its first branch, with a file that the model program may not edit."""
    root = make_workspace()
    (root / "prepare.py").write_text(PREPARE)
    (root / "sub").mkdir()
    return root


@pytest.fixture
def ask(monkeypatch, capsys):
    """Ask one hook in a folder; returns exit code, standard output, standard error."""

    def asked(name: str, root: Path, **event: object) -> tuple[int, str, str]:
        given = {"cwd": str(root), "session_id": "one", **event}
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
        code = main(["hook", name])
        said = capsys.readouterr()
        return code, said.out, said.err

    return asked


def on_branch(root: Path, branch: str) -> Path:
    git(root, "switch", "--quiet", "-c", branch)
    return root


def editing(path: object, field: str = "file_path") -> dict[str, object]:
    return {"tool_name": "Edit", "tool_input": {field: str(path)}}


def judged(root: Path, tag: str, *statuses: Status, **settings: object) -> None:
    """Give the workspace's ledger a session with these verdicts."""
    ledger = Ledger(open_workspace(root).ledger_path)
    if ledger.session(tag) is None:
        ledger.add_session(
            Session(
                tag=tag,
                program="model",
                entry="train.py",
                preset="smoke",
                fingerprint="f" * 16,
                hashes={},
                settings=settings,
                machine={},
                branch=f"autoresearch/{tag}",
                base_commit=git(root, "rev-parse", "HEAD"),
                author={},
                created_at=now(),
            )
        )
    number = len(ledger.experiments(tag))
    for status in statuses:
        number += 1
        ledger.propose(tag, number, "0" * 40, Proposal(f"idea {number}", {}, "try"))
        ledger.judged(tag, number, Verdict(status, "because"))
    ledger.close()


# -- scope ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", SCOPES)
def test_on_a_research_branch_exactly_the_files_of_its_program_may_be_edited(lab, ask, program):
    on_branch(lab, f"{BRANCH_PREFIX[program]}/t1")
    every = {name for names in SCOPES.values() for name in names} | {"program.md", "sub/train.py", "new.py"}
    allowed = {name for name in every if ask("scope", lab, **editing(name))[0] == 0}
    assert allowed == set(SCOPES[program])


def test_absolute_and_crooked_paths_mean_what_they_point_to(lab, ask):
    on_branch(lab, "autoresearch/t1")
    assert ask("scope", lab, **editing(lab / "train.py"))[0] == 0
    assert ask("scope", lab, **editing("sub/../train.py"))[0] == 0
    assert ask("scope", lab, **editing("sub/../prepare.py"))[0] == 2
    assert ask("scope", lab, **editing("/etc/passwd"))[0] == 2
    assert ask("scope", lab, **editing(lab / "notes.ipynb", "notebook_path"))[0] == 2
    assert ask("scope", lab, tool_input={})[0] == 2


def test_a_link_named_train_py_may_not_be_written_through(lab, ask):
    on_branch(lab, "autoresearch/t1")
    (lab / "train.py").unlink()
    (lab / "train.py").symlink_to(lab / "prepare.py")
    assert ask("scope", lab, **editing("train.py"))[0] == 2


def test_another_checkout_on_a_research_branch_is_protected_from_outside(lab, ask, tmp_path):
    on_branch(lab, "autoresearch/t1")
    code, _, said = ask("scope", tmp_path, **editing(lab / "prepare.py"))
    assert code == 2
    assert "prepare.py is not in scope" in said
    assert "the branch is autoresearch/t1" in said


def test_elsewhere_every_hook_is_silent(lab, ask, tmp_path):
    for root in (lab, tmp_path):
        for name in ("begin", "scope", "shell", "preflight", "stop"):
            event = {"prompt": "hello", "tool_input": {"file_path": "prepare.py", "command": "git push"}}
            assert ask(name, root, **event) == (0, "", "")


def test_input_that_is_no_json_is_harmless_elsewhere_and_refused_on_a_research_branch(lab, monkeypatch):
    monkeypatch.chdir(lab)
    monkeypatch.setattr("sys.stdin", io.StringIO("not json"))
    assert main(["hook", "scope"]) == 0
    on_branch(lab, "autoresearch/t1")
    monkeypatch.setattr("sys.stdin", io.StringIO("not json"))
    assert main(["hook", "scope"]) == 2


# -- shell ----------------------------------------------------------------------------------------------------------------


def test_the_shell_may_write_the_programs_file_and_no_other(lab, ask):
    on_branch(lab, "autoresearch/t1")
    assert ask("shell", lab, tool_input={"command": "git show HEAD:train.py > train.py"})[0] == 0
    assert ask("shell", lab / "sub", tool_input={"command": "cp train.py ../train.py"})[0] == 0
    code, _, said = ask("shell", lab, tool_input={"command": "echo > prepare.py"})
    assert code == 2
    assert "'prepare.py'" in said
    code, _, said = ask("shell", lab, tool_input={"command": "git push"})
    assert code == 2
    assert "leaves this machine" in said


# -- preflight ------------------------------------------------------------------------------------------------------------


def test_preflight_names_each_mistake_that_shows_without_running(lab, ask):
    on_branch(lab, "autoresearch/t1")
    text = (lab / "train.py").read_text()
    broken = text.replace("import numpy as np", "import numpy as np\nimport no_such_package_anywhere")
    broken = broken.replace("MAX_SEQ_LEN, Tok", "EVAL_TOKENS, Tok").replace("def load_model", "def other")
    broken += "\nHEAD_DIM = 3\nTOTAL_BATCH_SIZE = 100\nWINDOW_PATTERN = 'SX'\n"
    (lab / "train.py").write_text(broken)
    code, _, said = ask("preflight", lab, **editing("train.py"))
    assert code == 2
    for words in (
        *("no_such_package_anywhere", "EVAL_TOKENS", "load_model", "HEAD_DIM 3", "WINDOW_PATTERN"),
        "TOTAL_BATCH_SIZE 100 is no multiple of DEVICE_BATCH_SIZE 4 x 64",
    ):
        assert words in said, words


def test_preflight_names_the_line_of_a_syntax_error(lab, ask):
    on_branch(lab, "autoresearch/t1")
    (lab / "train.py").write_text("x = 1\ndef f(:\n")
    code, _, said = ask("preflight", lab, **editing("train.py"))
    assert code == 2
    assert "line 2" in said


def test_preflight_is_silent_about_a_sound_file(lab, ask):
    on_branch(lab, "autoresearch/t1")
    assert ask("preflight", lab, **editing("train.py")) == (0, "", "")


@pytest.mark.slow
def test_preflight_passes_the_projects_own_train_py_under_every_contract(make_workspace, ask):
    from autoresearch.contract.rules import PRESETS

    source = (Path(__file__).parents[2] / "train.py").read_text(encoding="utf-8")
    for preset in PRESETS:
        root = make_workspace(source, folder=preset)
        (root / "pyproject.toml").write_text(f'[tool.autoresearch]\ncontract = "{preset}"\n')
        on_branch(root, "autoresearch/t1")
        assert ask("preflight", root, **editing("train.py")) == (0, "", "")


def test_preflight_knows_the_names_that_a_trial_offers():
    constants = dict.fromkeys(("MAX_SEQ_LEN", "TIME_BUDGET", "SEED", "PRESET", "MAX_DEVICE_BATCH_SIZE"))
    assert set(surface_names(None, None, constants)) == OFFERED


ROOT = Path(__file__).parents[2]
RECIPE = {name: (ROOT / name).read_text(encoding="utf-8") for name in SCOPES["data"]}


@pytest.fixture
def recipe(lab) -> Path:
    """A workspace with a data recipe, on a branch of the data program."""
    for name, text in RECIPE.items():
        (lab / name).write_text(text, encoding="utf-8")
    git(lab, "add", "-A")
    git(lab, "commit", "--quiet", "-m", "a recipe")
    return on_branch(lab, "autoresearch-data/t1")


@pytest.mark.parametrize("name", SCOPES["data"])
def test_preflight_passes_the_projects_own_recipe(recipe, ask, name):
    assert ask("preflight", recipe, **editing(name)) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("prepare.py", "def feed(", "def fed(", "feed() is gone"),
        ("data_sources.py", "def quality(", "def good(", "quality() is gone"),
        (
            "data_sources.py",
            "autoresearch.recipes.mixing",
            "autoresearch.records.ledger",
            "import autoresearch.records",
        ),
        (
            "prepare.py",
            "import data_sources as sources",
            "import autoresearch.loop.referee as sources",
            "autoresearch.loop",
        ),
        ("data_sources.py", 'DUPLICATES = "keep"', 'DUPLICATES = "fuzzy"', "'fuzzy' is none of keep, exact, near"),
        ("data_sources.py", 'ORDER = "shuffled"', 'ORDER = "sorted"', "ORDER 'sorted'"),
        ("data_sources.py", "NUM_TIERS = 1 ", "NUM_TIERS = 9 ", "NUM_TIERS 9 is not between 1 and 4"),
        ("data_sources.py", "LATE_FROM = 1.0", "LATE_FROM = 20", "LATE_FROM 20 is no share"),
        ("data_sources.py", "VOCAB_SIZE = 0 ", "VOCAB_SIZE = 100 ", "VOCAB_SIZE 100 is less than 260"),
        (
            "data_sources.py",
            "TIER_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of",
            "TIER_WEIGHTS = (0.0, 1.0, 1.0, 1.0)  # of",
            "one of the first 1",
        ),
        ("data_sources.py", "MAX_CHARACTERS = 0", "MAX_CHARACTERS = 5\nMIN_CHARACTERS_ = 0", ""),
    ],
)
def test_preflight_of_a_recipe_names_what_its_library_would_refuse(recipe, ask, name, old, new, said):
    assert RECIPE[name].count(old) == 1
    (recipe / name).write_text(RECIPE[name].replace(old, new), encoding="utf-8")
    code, _, told = ask("preflight", recipe, **editing(name))
    assert code == (2 if said else 0)
    assert said in told


def test_a_recipe_with_no_length_between_its_limits_is_told(recipe, ask):
    text = RECIPE["data_sources.py"].replace("MIN_CHARACTERS = 0", "MIN_CHARACTERS = 90", 1)
    (recipe / "data_sources.py").write_text(
        text.replace("MAX_CHARACTERS = 0", "MAX_CHARACTERS = 9", 1), encoding="utf-8"
    )
    assert "at least 90 and at most 9 characters" in ask("preflight", recipe, **editing("data_sources.py"))[2]


# -- begin and stop -------------------------------------------------------------------------------------------------------


def test_calling_the_skill_binds_this_session_on_any_branch_and_no_other(lab, ask):
    code, said, _ = ask("begin", lab, prompt="/experiment:model t1 --experiments 3")
    assert code == 0
    assert "train.py" in said
    assert ask("scope", lab, **editing("prepare.py"))[0] == 2
    assert ask("scope", lab, session_id="two", **editing("prepare.py"))[0] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/experiment:model t1", ("t1", "model", True, None, None)),
        ("/experiment:model t1 --experiments 20 --hours 1.5", ("t1", "model", True, 20, 1.5)),
        ("/experiment:model t1 --experiments=20", ("t1", "model", True, 20, None)),
        ("/experiment:data d1", ("d1", "data", True, None, None)),
        ("/experiment:run halve the batch", ("halve", "model", False, None, None)),
        ("/experiment:run", ("newest", "model", False, None, None)),
        ("/experiment:model", None),
        ("/experiment:model ../x", None),
        ("/experiment:review", None),
        ("please do /experiment:model t1", None),
    ],
)
def test_what_a_call_of_a_skill_begins(text, expected):
    found = driving.called(text, 0.0, "newest")
    assert (found and (found.tag, found.program, found.keeps_going, found.experiments, found.hours)) == expected


def test_a_driving_agent_is_sent_back_to_work(lab, ask):
    ask("begin", lab, prompt="/experiment:model t1")
    code, said, _ = ask("stop", lab, stop_hook_active=False)
    answer = json.loads(said)
    assert code == 0
    assert answer["decision"] == "block"
    assert "--tag t1" in answer["reason"]


def test_an_agent_that_drives_the_data_program_is_sent_back_to_both_its_files(recipe, ask):
    assert "prepare.py and data_sources.py" in ask("begin", recipe, prompt="/experiment:data d1")[1]
    judged(recipe, "d1", Status.KEEP)
    ask("begin", recipe, prompt="/experiment:data d1")
    judged(recipe, "d1", Status.DISCARD)
    said = json.loads(ask("stop", recipe)[1])["reason"]
    assert "prepare.py or data_sources.py" in said and "program_data.md" in said
    assert ask("scope", recipe, **editing("train.py"))[0] == 2


def test_an_agent_that_gets_nowhere_is_let_go_after_three_times(lab, ask):
    ask("begin", lab, prompt="/experiment:model t1")
    decisions = []
    for turn in range(5):
        _, said, _ = ask("stop", lab, stop_hook_active=turn > 0)
        decisions.append(json.loads(said).get("decision"))
    assert decisions == ["block"] * 3 + [None] * 2


def test_a_new_experiment_renews_its_patience(lab, ask):
    ask("begin", lab, prompt="/experiment:model t1")
    for turn in range(6):
        judged(lab, "t1", Status.DISCARD)
        _, said, _ = ask("stop", lab, stop_hook_active=turn > 0)
        assert json.loads(said)["decision"] == "block"


@pytest.mark.parametrize(
    ("prompt", "statuses", "settings", "why"),
    [
        ("--experiments 2", [Status.KEEP, Status.DISCARD], {}, "limit of 2 experiments"),
        ("", [Status.KEEP, Status.DISCARD], {"experiments": 2}, "limit of 2 experiments"),
        ("--hours 0.0000001", [Status.KEEP], {}, "hours is reached"),
        ("", [Status.CRASH] * 8, {}, "8 crashes in a row"),
    ],
)
def test_it_is_let_go_at_a_limit_and_the_person_is_told_which(lab, ask, prompt, statuses, settings, why):
    judged(lab, "t1", *statuses, **settings)
    ask("begin", lab, prompt=f"/experiment:model t1 {prompt}")
    code, said, _ = ask("stop", lab)
    assert code == 0
    assert "decision" not in json.loads(said)
    assert why in json.loads(said)["systemMessage"]


def test_a_person_who_speaks_is_answered_and_the_next_experiment_takes_it_up_again(lab, ask):
    judged(lab, "t1", Status.KEEP)
    ask("begin", lab, prompt="/experiment:model t1")
    ask("begin", lab, prompt="what have you found?")
    assert ask("stop", lab) == (0, "", "")
    judged(lab, "t1", Status.DISCARD)
    assert json.loads(ask("stop", lab)[1])["decision"] == "block"


def test_one_experiment_by_the_run_skill_is_not_kept_going(lab, ask):
    judged(lab, "t1", Status.KEEP)
    ask("begin", lab, prompt="/experiment:run halve it")
    assert ask("stop", lab) == (0, "", "")
    assert ask("scope", lab, **editing("prepare.py"))[0] == 2


def test_a_session_that_only_sits_on_a_research_branch_may_stop(lab, ask):
    on_branch(lab, "autoresearch/t1")
    assert ask("stop", lab) == (0, "", "")


class FakeTime:
    """Time that passes only by sleeping; `then` is called at each sleep."""

    def __init__(self, then):
        self.now, self.then = 1000.0, then

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then(self.now - 1000.0)


TASK = {"type": "shell", "status": "running", "command": "autoresearch try -m x --tag t1 --json"}


def test_the_stop_hook_waits_until_a_trial_in_the_background_has_begun_and_ended(lab, ask, monkeypatch):
    from autoresearch.loop.opening import session_lock

    ask("begin", lab, prompt="/experiment:model t1")
    trial, seen = ExitStack(), []

    def pass_time(seconds: float) -> None:
        seen.append(seconds)
        if seconds == 3:
            trial.enter_context(session_lock(open_workspace(lab), "t1"))
        if seconds == 100:
            trial.close()

    monkeypatch.setattr(hook, "time", FakeTime(pass_time))
    _, said, _ = ask("stop", lab, background_tasks=[TASK])
    assert json.loads(said)["reason"].startswith("The trial in the background has ended")
    assert seen[-1] == 100


def test_a_trial_that_never_begins_is_not_waited_for_all_night(lab, ask, monkeypatch):
    ask("begin", lab, prompt="/experiment:model t1")
    seen = []
    monkeypatch.setattr(hook, "time", FakeTime(seen.append))
    ask("stop", lab, background_tasks=[TASK])
    assert 30 <= seen[-1] < 40
    seen.clear()
    ask("stop", lab, background_tasks=[{**TASK, "command": "sleep 1"}, {**TASK, "status": "completed"}])
    assert seen == []


def test_asking_a_hook_loads_no_heavy_library_and_nothing_of_the_loop(lab):
    import sys

    source = (
        "import sys, autoresearch.cli as cli\n"
        "code = cli.main(['hook', 'scope'])\n"
        "heavy = [n for n in ('torch', 'numpy', 'optuna', 'sqlite3', 'autoresearch.loop') if n in sys.modules]\n"
        "sys.exit(' '.join(heavy) or code)"
    )
    event = json.dumps({"cwd": str(lab), "session_id": "one", **editing("train.py")})
    done = subprocess.run([sys.executable, "-c", source], input=event, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
