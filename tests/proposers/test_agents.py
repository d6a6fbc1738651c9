"""Coding agents as proposers, with small Python programs for agents: honest, clumsy and hostile ones."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from autoresearch.proposers.agents import AgentOptions, ExternalCall, make_agent
from autoresearch.proposers.situation import PastExperiment, Situation
from autoresearch.providers.exchange import Interrupted
from autoresearch.sandbox.desk import bubblewrap_for_desks, installed_text
from autoresearch.vocabulary import ProviderUnavailable, SpendingCapReached, Status, UsageError
from autoresearch.workspace import admitted, banner_for, refusal_of

SURFACE = banner_for("model") + "\nLEARNING_RATE = 0.1\nDEPTH = 2\n"
EDIT = 'import pathlib; p = pathlib.Path("train.py"); p.write_text(p.read_text().replace("0.1", "0.2"))\n'
KEY = "sk-ant-planted-key-0123456789abcdef"

SEALS = [
    pytest.param(
        True, marks=pytest.mark.skipif(bubblewrap_for_desks() is None, reason="no bubblewrap here"), id="sealed"
    ),
    pytest.param(False, id="open"),
]


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "lab"
    (root / ".git").mkdir(parents=True)
    (root / ".git" / "ledger").write_text("secret ledger")
    (root / "prepare.py").write_text("MAX_SEQ_LEN = 64\n")
    (root / "results.tsv").write_text("secret results")
    return root


@pytest.fixture
def agent(tmp_path, workspace):
    """A function that makes the proposer of a script, which runs in its folder."""
    made = tmp_path / "programs"
    made.mkdir()

    def make(script: str, *, words: str = "", front: str = "", environment=None, **options):
        path = made / f"agent{len(list(made.iterdir()))}.py"
        path.write_text(script)
        variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), **(environment or {})}
        (tmp_path / "home").mkdir(exist_ok=True)
        given = AgentOptions("train.py", "smoke", workspace, environment=variables, **options)
        return make_agent(f"cli:{front} {sys.executable} {path} {words}", given)

    return make


def situation(**more) -> Situation:
    return Situation({"train.py": SURFACE}, **more)


def leftovers() -> list[str]:
    mine = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    return [" ".join(process.cmdline()) for process in mine if "agent" in " ".join(process.cmdline())]


# -- what an honest agent gives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", SEALS)
def test_the_edited_file_and_the_idea_become_the_proposal(agent, sealed):
    idea = "IDEA: double the rate\\nTOPIC: learning rate\\nMECHANISM: few steps\\nEXPECT: +0.004\\nLESSON: none yet"
    proposal = agent(EDIT + f'pathlib.Path("IDEA.txt").write_text("{idea}")', sealed=sealed).propose(situation())
    assert proposal.files == {"train.py": SURFACE.replace("0.1", "0.2")}
    assert proposal.description == "double the rate"
    assert proposal.details["topic"] == "learning-rate"
    assert proposal.details["mechanism"] == "few steps"
    assert proposal.details["expected"] == 0.004
    assert proposal.details["changes"] == {"LEARNING_RATE": [0.1, 0.2]}
    assert proposal.details["agent_sealed"] == ("bubblewrap" if sealed else "none")
    assert refusal_of(admitted(proposal, "model")) == ""


def test_an_agent_that_says_nothing_of_its_idea_gets_a_description(agent):
    assert agent(EDIT).propose(situation()).description.startswith("an edit by cli:python")


def test_the_template_fields_name_the_task_the_folder_and_the_file(agent):
    script = EDIT + (
        "import sys, os\ntask, folder, file, prompt = sys.argv[1:]\n"
        'assert "val_bpb" in open(task).read() and os.path.samefile(folder, ".") and os.path.samefile(file, "train.py")\n'
        'pathlib.Path("IDEA.txt").write_text(prompt)'
    )
    proposal = agent(script, words="{prompt_file} {folder} {file} '{prompt}'").propose(situation())
    assert proposal.description.startswith("Read TASK.md in this folder")


def test_the_task_tells_the_scores_the_record_and_how_to_answer(agent):
    past = PastExperiment(
        1, "wider layers", {"train.py": SURFACE + "WIDE = 1\n"}, {"mechanism": "capacity"}, Status.DISCARD, 1.9, -0.01
    )
    script = EDIT + (
        'task = open("TASK.md").read()\n'
        'wanted = ["1.8000", "wider layers", "IDEA.txt", "40 turns", "It is `train.py` in your folder"]\n'
        'pathlib.Path("IDEA.txt").write_text("missing: " + str([w for w in wanted if w not in task]))'
    )
    told = agent(script).propose(situation(history=[past], val_bpb=1.8, noise=0.01))
    assert told.description == "missing: []"
    assert "LEARNING_RATE" not in told.details["agent_log"]


def test_the_last_message_describes_an_edit_without_an_idea_file(agent, monkeypatch):
    from autoresearch.proposers.agent_brief import written_idea

    assert written_idea("", "\n  I doubled the rate.\nMore.", "cli:x").description == "I doubled the rate."


# -- what it cannot see or do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", SEALS)
def test_an_agent_is_given_no_key_but_its_own(agent, sealed):
    script = EDIT + 'import os\npathlib.Path("IDEA.txt").write_text(" ".join(sorted(os.environ)))'
    environment = {"OPENAI_API_KEY": KEY, "MY_KEY": "x" * 20, "AUTORESEARCH_CACHE": "/x", "AWS_SECRET": "y" * 20}
    told = agent(script, front="MY_KEY=$MY_KEY MODE=fast", environment=environment, sealed=sealed).propose(situation())
    names = told.description.split()
    assert "MY_KEY" in names and "MODE" in names and "PATH" in names
    assert not {"OPENAI_API_KEY", "AUTORESEARCH_CACHE", "AWS_SECRET"} & set(names)


def test_keys_of_other_agents_are_not_in_the_environment_of_one():
    from autoresearch.proposers.agent_clients import client_of
    from autoresearch.proposers.agent_run import agent_environment

    held = {"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "b", "GEMINI_API_KEY": "c", "AWS_REGION": "d", "HOME": "/h"}
    assert set(held) & set(agent_environment(client_of("claude"), held)) == {"ANTHROPIC_API_KEY", "HOME"}
    assert set(held) & set(agent_environment(client_of("codex"), held)) == {"OPENAI_API_KEY", "HOME"}
    bedrock = agent_environment(client_of("claude"), {**held, "CLAUDE_CODE_USE_BEDROCK": "1"})
    assert "AWS_REGION" in bedrock and bedrock["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.skipif(bubblewrap_for_desks() is None, reason="no bubblewrap here")
def test_a_sealed_agent_finds_neither_ledger_nor_results_nor_home_nor_devices(agent, workspace, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "text").write_text("validation text")
    secret = tmp_path / "home" / ".ssh"
    secret.mkdir(parents=True)
    (secret / "id").write_text("key")
    places = [workspace / ".git" / "ledger", workspace / "results.tsv", cache / "text", secret / "id"]
    script = EDIT + (
        "import os\n"
        f"found = [n for n in {list(map(str, places))} if os.path.exists(n)]\n"
        'gpus = [n for n in os.listdir("/dev") if n.startswith(("nvidia", "kfd", "dri"))]\n'
        'others = [n for n in os.listdir("/proc") if n.isdigit() and int(n) > 50]\n'
        "try:\n    open('/etc/planted', 'w')\n    wrote = True\nexcept OSError:\n    wrote = False\n"
        'pathlib.Path("IDEA.txt").write_text(f"{found} {gpus} {others} {wrote}")'
    )
    assert all(place.exists() for place in places)
    told = agent(script, hidden=(cache,)).propose(situation())
    assert told.description == "[] [] [] False"


@pytest.mark.skipif(bubblewrap_for_desks() is None, reason="no bubblewrap here")
def test_a_sealed_agent_cannot_read_the_embedded_validation_text(agent):
    (text,) = map(str, installed_text())
    script = (
        EDIT + f'import os; pathlib.Path("IDEA.txt").write_text(str(os.path.isdir({text!r}) and os.listdir({text!r})))'
    )
    assert any(Path(text).iterdir())
    assert agent(script).propose(situation()).description in ("[]", "False")


@pytest.mark.parametrize("sealed", SEALS)
def test_the_folder_is_no_part_of_the_workspace_and_gone_afterwards(agent, workspace, sealed):
    script = EDIT + 'pathlib.Path("IDEA.txt").write_text(str(pathlib.Path.cwd()))'
    place = Path(agent(script, sealed=sealed).propose(situation()).description)
    assert not place.is_relative_to(workspace)
    assert not place.parent.exists()


def test_a_folder_for_temporary_files_inside_the_workspace_is_refused(agent, workspace, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(workspace))
    with pytest.raises(UsageError, match="inside the workspace"):
        agent(EDIT).propose(situation())


# -- scope ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", SEALS)
@pytest.mark.parametrize(
    "deed",
    [
        'pathlib.Path("outside.py").write_text("x")',
        'pathlib.Path("train_mlx.py").write_text("x")',
        'pathlib.Path("lib").mkdir(); pathlib.Path("lib/inner.py").write_text("x")',
        'import os; os.mkfifo("pipe")',
        'import os; os.symlink("/etc", "link")',
    ],
)
def test_a_file_outside_the_scope_is_refused_by_name(agent, deed, sealed):
    proposal = agent(EDIT + deed, sealed=sealed).propose(situation())
    (name,) = proposal.details["outside"]
    assert proposal.files[name] == ""
    refused = admitted(proposal, "model")
    assert repr(name) in refusal_of(refused) and refused.files == {}


def test_a_changed_copy_is_outside_the_scope_too(agent):
    script = EDIT + 'q = pathlib.Path("prepare.py"); q.unlink(); q.write_text("MAX_SEQ_LEN = 1")'
    proposal = agent(script, sealed=False).propose(situation())
    assert proposal.details["outside"] == ["prepare.py"]


@pytest.mark.skipif(bubblewrap_for_desks() is None, reason="no bubblewrap here")
def test_a_sealed_agent_cannot_change_the_copies(agent):
    script = EDIT + (
        "try:\n    q = pathlib.Path('prepare.py'); q.chmod(0o600); q.write_text('x')\n"
        "except OSError as error:\n    pathlib.Path('IDEA.txt').write_text(type(error).__name__)"
    )
    assert agent(script).propose(situation()).description == "OSError"


@pytest.mark.parametrize("sealed", SEALS)
@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ('import os; os.remove("train.py"); os.symlink("/etc/passwd", "train.py")', "symbolic link"),
        ('import os; os.remove("train.py"); os.mkfifo("train.py")', "no plain file"),
        ('import os; os.remove("train.py"); os.mkdir("train.py")', "no plain file"),
        ('import os; os.remove("train.py")', "was removed"),
        ('open("train.py", "ab").write(b"\\xff")', "not UTF-8"),
        ('open("train.py", "a").write("#" * 10**7)', "larger than"),
    ],
)
def test_what_is_no_text_file_any_more_is_refused_and_not_read(agent, deed, why, sealed):
    proposal = agent(deed, sealed=sealed).propose(situation())
    assert proposal.files == {}
    assert why in refusal_of(admitted(proposal, "model"))
    assert "root:" not in str(proposal)


def test_the_agents_own_state_and_litter_are_not_outside_the_scope(agent):
    script = EDIT + 'import os; os.makedirs(".claude/x"); os.makedirs("__pycache__"); open("__pycache__/a.pyc", "w")'
    assert "outside" not in agent(script).propose(situation()).details


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", SEALS)
def test_an_agent_that_hangs_is_ended_at_its_limit_and_its_edit_taken(agent, sealed, tmp_path, monkeypatch):
    script = EDIT + "import threading; threading.Event().wait()"
    (tmp_path / "own").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "own"))
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("autoresearch.proposers.agent_run.time", clock)

    def wait(seconds: float) -> bool:
        """Its hour is over once the edit is there, however long that takes here."""
        edited = [path for path in (tmp_path / "own").glob("*/desk/train.py") if "0.2" in path.read_text()]
        clock.now = 3600.0 if edited else 0.0
        return False

    calls: list[ExternalCall] = []
    proposal = agent(script, minutes=59.0, sealed=sealed, record=calls.append, wait=wait).propose(situation())
    assert "0.2" in proposal.files["train.py"]
    assert proposal.details["agent_ended"] == "it was ended after 3600 seconds"
    assert calls[0].why == "it was ended after 3600 seconds" and calls[0].cost.estimated
    assert leftovers() == []


@pytest.mark.parametrize("sealed", SEALS)
def test_a_daemon_does_not_outlive_its_agent(agent, sealed):
    daemon = (
        "import os, threading\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        threading.Event().wait()\n    os._exit(0)\n"
    )
    agent(EDIT + daemon, sealed=sealed).propose(situation())
    assert leftovers() == []


def test_a_hundred_megabytes_of_output_neither_block_nor_fill_the_proposal(agent):
    script = EDIT + 'import sys\nfor _ in range(1600): sys.stdout.write("x" * 65536)\nprint("\\nlast words")'
    details = agent(script).propose(situation()).details
    assert details["agent_log"].endswith("last words\n") or details["agent_log"].endswith("last words")
    assert len(details["agent_log"]) <= 4096


def test_a_printed_key_reaches_no_record(agent):
    script = (
        EDIT
        + f'print("{KEY}"); print("my key is", "planted-secret-value"); pathlib.Path("IDEA.txt").write_text("{KEY}")'
    )
    calls: list[ExternalCall] = []
    maker = agent(
        script + "\nraise SystemExit('failed with planted-secret-value')",
        environment={"SOME_TOKEN": "planted-secret-value"},
        record=calls.append,
    )
    proposal = maker.propose(situation())
    for text in (str(proposal), str(calls), repr(maker._options)):
        assert KEY not in text and "planted-secret-value" not in text
    assert "[redacted]" in proposal.details["agent_log"]


@pytest.mark.parametrize("place", ["train.py", "planted-secret-value"])
def test_a_key_in_a_file_or_in_its_name_is_not_handed_on(agent, place):
    script = EDIT + f'open("{place}", "a").write("# planted-secret-value")'
    proposal = agent(
        script, environment={"SOME_TOKEN": "planted-secret-value"}, front="SOME_TOKEN=$SOME_TOKEN"
    ).propose(situation())
    assert "planted-secret-value" not in str(proposal)
    assert refusal_of(admitted(proposal, "model")) != ""


def test_the_users_stop_ends_the_agent(agent):
    stop = threading.Event()
    stop.set()
    calls: list[ExternalCall] = []
    with pytest.raises(Interrupted):
        agent("import threading; threading.Event().wait()", wait=stop.wait, record=calls.append).propose(situation())
    assert leftovers() == []
    assert [call.why for call in calls] == ["it was interrupted"]


def test_a_cap_is_asked_before_the_agent_runs(agent, tmp_path):
    def refuse():
        raise SpendingCapReached("no room")

    calls: list[ExternalCall] = []
    with pytest.raises(SpendingCapReached):
        agent(EDIT, may_spend=refuse, record=calls.append).propose(situation())
    assert calls == []


# -- second attempts --------------------------------------------------------------------------------------------------

SECOND = 'import pathlib\nif "Your first attempt" not in open("TASK.md").read():\n    {first}\nelse:\n    {second}\n'
MEND = 'pathlib.Path("train.py").write_text(open("train.py").read().replace("0.1", "0.2").replace("(", ""))'


@pytest.mark.parametrize(
    "first",
    [
        "pass",
        'open("train.py", "a").write("# a remark")',
        'open("train.py", "a").write("(")',
        'pathlib.Path("train.py").write_text(open("train.py").read().replace("DEPTH = 2", "DEPTH = 3"))',
    ],
    ids=["nothing", "a comment", "a syntax error", "a program that was tried"],
)
def test_an_attempt_that_cannot_be_new_has_a_second_one(agent, first):
    tried = PastExperiment(1, "deeper", {"train.py": SURFACE.replace("= 2", "= 3")}, {}, Status.DISCARD, 1.9, -0.01)
    calls: list[ExternalCall] = []
    maker = agent(SECOND.format(first=first, second=MEND), record=calls.append)
    proposal = maker.propose(situation(history=[tried]))
    assert "LEARNING_RATE = 0.2" in proposal.files["train.py"]
    assert proposal.details["calls"] == len(calls) == 2


def test_an_agent_that_changes_nothing_twice_is_unavailable(agent):
    calls: list[ExternalCall] = []
    with pytest.raises(ProviderUnavailable, match="changed nothing"):
        agent("pass", record=calls.append).propose(situation())
    assert len(calls) == 2


def test_an_agent_that_fails_says_how(agent):
    with pytest.raises(ProviderUnavailable, match="exit code 3: not logged in"):
        agent('print("not logged in"); raise SystemExit(3)').propose(situation())


def test_an_edit_counts_although_its_agent_failed_afterwards(agent):
    proposal = agent(EDIT + "raise SystemExit(3)").propose(situation())
    assert "0.2" in proposal.files["train.py"]
    assert "exit code 3" in proposal.details["agent_ended"]


# -- names and command lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cli:", "cli:a 'b", "cli:python3 {nonsense}", "cli:X=1"])
def test_a_command_line_that_cannot_be_run_is_a_usage_error_with_a_hint(name, workspace):
    with pytest.raises(UsageError) as caught:
        make_agent(name, AgentOptions("train.py", "smoke", workspace))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("claude", "@anthropic-ai/claude-code"),
        ("codex", "@openai/codex"),
        ("gemini", "@google/gemini-cli"),
        ("opencode", "opencode-ai"),
    ],
)
def test_a_missing_program_says_how_to_install_it(name, package, workspace, tmp_path):
    with pytest.raises(UsageError) as caught:
        make_agent(f"cli:{name}", AgentOptions("train.py", "smoke", workspace, environment={"PATH": str(tmp_path)}))
    assert caught.value.hint == f"npm install -g {package}"


def test_words_after_a_known_name_are_added_before_the_prompt():
    from autoresearch.proposers.agent_clients import Errand, client_of

    words = client_of("claude --model opus").command(Errand(Path("/f"), ("train.py",), "do it", 7, 1.5))
    assert words[-3:] == ["--model", "opus", "do it"]
    assert words[words.index("--max-turns") + 1] == "7"
    assert words[words.index("--max-budget-usd") + 1] == "1.5000"


def test_no_shell_reads_a_template(agent, tmp_path):
    script = EDIT + 'import sys; pathlib.Path("IDEA.txt").write_text(sys.argv[1])'
    assert agent(script, words="'$(touch x); `id`'").propose(situation()).description == "$(touch x); `id`"


# -- what known agents say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "output", "tokens", "usd", "message"),
    [
        (
            "claude",
            'warning\n{"type":"result","result":"Doubled.","is_error":false,"num_turns":3,"total_cost_usd":0.07,'
            '"usage":{"input_tokens":100,"cache_creation_input_tokens":5,"cache_read_input_tokens":20,"output_tokens":7},'
            '"modelUsage":{"claude-opus-4-8[1m]":{}}}',
            132,
            0.07,
            "Doubled.",
        ),
        (
            "codex",
            '{"type":"item.completed","item":{"type":"agent_message","text":"Doubled."}}\n'
            '{"type":"turn.completed","usage":{"input_tokens":100,"cached_input_tokens":20,"output_tokens":7}}',
            107,
            None,
            "Doubled.",
        ),
        (
            "gemini",
            'noise {\n{\n  "response": "Doubled.",\n  "stats": {"models": {"gemini-x": {"tokens": '
            '{"prompt": 100, "candidates": 5, "thoughts": 2, "cached": 20, "tool": 0}}}}\n}\n',
            107,
            None,
            "Doubled.",
        ),
        (
            "opencode",
            '{"type":"step_finish","part":{"tokens":{"input":80,"output":5,"reasoning":2,"cache":{"read":20,"write":0}},'
            '"cost":0.01}}\n{"type":"text","part":{"text":"Doubled."}}',
            107,
            0.01,
            "Doubled.",
        ),
    ],
)
def test_tokens_cost_and_last_words_are_read_from_what_an_agent_prints(name, output, tokens, usd, message):
    from autoresearch.proposers.agent_clients import client_of

    account = client_of(name).account(output)
    assert (account.tokens, account.usd, account.message) == (tokens, usd, message)


@pytest.mark.parametrize("name", ["claude", "codex", "gemini", "opencode"])
@pytest.mark.parametrize(
    "output",
    [
        "",
        "{",
        "{}",
        '{"type":"result","usage":7,"modelUsage":[],"errors":{}}',
        '{"type":"turn.completed","usage":{"input_tokens":-1,"output_tokens":"x"}}',
        '{"type":"step_finish","part":{"tokens":{"input":1e400,"cache":3},"cost":"NaN"}}',
        '{"response":null,"stats":{"models":{"m":null}}}',
        "{" * 5000,
        "[" * 100_000,
    ],
)
def test_nonsense_in_an_agents_output_is_no_error_and_costs_nothing_negative(name, output):
    from autoresearch.proposers.agent_clients import client_of

    account = client_of(name).account(output)
    assert (account.tokens or 0) >= 0 and (account.usd or 0) >= 0


def test_the_standing_instructions_end_where_the_agents_own_way_to_answer_begins():
    from autoresearch.proposers.agent_brief import ANSWER_TITLE
    from autoresearch.proposers.prompt import system_prompt

    assert system_prompt("model", "train.py").count(ANSWER_TITLE) == 1
    assert system_prompt("data", "prepare.py").count(ANSWER_TITLE) == 1
