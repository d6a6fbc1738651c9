"""`try` as several agents call it at once: real processes, one checkout or several worktrees, one queue."""

from __future__ import annotations

import json
import signal

import pytest
from calling import call, done, git, refused
from trying import FLATTER, end, experiments, flatter, incumbent_text, is_training, num_waiting, start, start_try, until

from autoresearch.loop.opening import session_lock
from autoresearch.workspace import open_workspace

ANSWER = """\
{"tag": "a", "experiment": 3, "status": "discard", "reason": "gain GAIN, P(better) 0.00: not promising enough to repeat",
 "val_bpb": 0.0, "gain": 0.0, "interval": [0.0, 0.0], "p_better": 0.0, "noise": 0.0,
 "incumbent": {"experiment": INCUMBENT, "val_bpb": 0.0}, "commit": "COMMIT",
 "checkout": "incumbent's file restored", "queue_seconds": 0.0, "seconds": 0.0, "limits": {"experiments_left": 2},
 "next": "edit the incumbent's train.py with the next idea"}
"""


def zeroed(value):
    """The same with every fraction as 0.0: names, order, kinds and words stay."""
    if isinstance(value, dict):
        return {name: zeroed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [zeroed(item) for item in value]
    return 0.0 if isinstance(value, float) else value


def in_order(root) -> list[str]:
    """Descriptions of the session's tries in the order of their numbers, each of which was judged once."""
    tries = [found for found in experiments(root) if found.proposal.proposer == "try"]
    assert all(found.status is not None for found in tries)
    assert [found.judged_order for found in tries] == sorted({found.judged_order for found in tries})
    return [found.proposal.description for found in tries]


def slow(text: str) -> str:
    """The same program, but its candidate takes long enough to be caught at work."""
    return text.replace("def main():\n", "def main():\n    import time\n\n    time.sleep(3)\n")


@pytest.mark.slow
def test_an_agent_reads_one_line_and_nothing_else(lived_workspace):
    root = lived_workspace
    before = incumbent_text(root)
    kept = [found.number for found in experiments(root) if found.status == "keep"][-1]
    (root / "train.py").write_text(flatter(root, 0.05))
    result = call(root, "try", "-m", "flatter", "--tag", "a", "--json", "--experiments", "5")
    assert (result.returncode, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    golden = ANSWER.replace("INCUMBENT", str(kept)).replace("COMMIT", git(root, "rev-parse", "refs/autoresearch/a/3"))
    assert json.dumps(zeroed(found)) == json.dumps(json.loads(golden.replace("GAIN", f"{found['gain']:+.4f}")))
    low, high = found["interval"]
    assert low < found["gain"] < high < 0
    assert found["val_bpb"] == pytest.approx(found["incumbent"]["val_bpb"] - found["gain"], abs=1e-5)
    assert (root / "train.py").read_text() == before


@pytest.mark.slow
def test_three_agents_in_one_checkout_are_served_in_the_order_of_their_calls(lived_workspace):
    root = lived_workspace
    with session_lock(open_workspace(root), "a"):
        agents = []
        for value in FLATTER[:3]:  # each edits the file that the one before has just called with
            (root / "train.py").write_text(flatter(root, value))
            agents.append(start_try(root, f"sharpness {value}"))
            until(lambda: num_waiting(root) == len(agents), *agents)
    answers = []
    for agent in agents:
        code, out, err = end(agent)
        assert code == 0, err
        assert "waiting for the turn: " in err
        answers.append(json.loads(out))
    assert [answer["experiment"] for answer in answers] == [3, 4, 5]
    assert in_order(root) == [f"sharpness {value}" for value in FLATTER[:3]]
    for value, found in zip(FLATTER, experiments(root)[3:], strict=False):
        assert f"SHARPNESS = {value} " in found.proposal.files["train.py"]  # as it was at the call
    edited_on = "left as it was: train.py was edited again since this call"
    assert [answer["checkout"] for answer in answers] == [edited_on, edited_on, "incumbent's file restored"]
    assert (root / "train.py").read_text() == incumbent_text(root)
    assert num_waiting(root) == 0


@pytest.mark.slow
def test_agents_in_two_worktrees_share_one_session_and_lose_nothing(lived_workspace, tmp_path):
    root, other = lived_workspace, tmp_path / "other"
    git(root, "worktree", "add", "--quiet", "--detach", str(other))
    with session_lock(open_workspace(root), "a"):
        agents = []
        for place, value in zip((root, other, root), FLATTER, strict=False):
            text = flatter(root, value)
            (place / "train.py").write_text(text)
            agents.append(start_try(place, f"sharpness {value}"))
            until(lambda: num_waiting(other) == len(agents), *agents)
    assert [end(agent)[0] for agent in agents] == [0, 0, 0]
    assert in_order(root) == [f"sharpness {value}" for value in FLATTER[:3]]
    for place in (root, other):
        assert (place / "train.py").read_text() == incumbent_text(root)


@pytest.mark.slow
def test_two_agents_that_begin_a_session_at_once_begin_one(make_workspace):
    root = make_workspace()
    base = (root / "train.py").read_text()
    agents = []
    for value in FLATTER[:2]:
        (root / f"idea{value}.txt").write_text(base.replace("SHARPNESS = 0.5", f"SHARPNESS = {value}"))
        agents.append(start_try(root, f"sharpness {value}", "--edit", f"idea{value}.txt"))
    results = [end(agent) for agent in agents]
    assert [code for code, _, _ in results] == [0, 0], results
    assert sorted(json.loads(out)["experiment"] for _, out, _ in results) == [1, 2]
    assert [found.number for found in experiments(root)] == [0, 1, 2]
    assert (root / "train.py").read_text() == base


@pytest.mark.slow
def test_what_a_killed_agent_left_is_finished_by_the_next_and_blocks_nobody(lived_workspace):
    root = lived_workspace
    (root / "train.py").write_text(slow(flatter(root, 0.05)))
    first = start_try(root, "killed while it trained")
    until(lambda: is_training(root, 3), first)
    (root / "train.py").write_text(flatter(root, 0.06))
    second = start_try(root, "killed while it waited")
    until(lambda: num_waiting(root) == 1, second)
    (root / "train.py").write_text(flatter(root, 0.07))
    third = start_try(root, "lived")
    until(lambda: num_waiting(root) == 2, third)
    for process in (second, first):
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, out, err = end(third)
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["experiment"], answer["finished_first"]) == (4, [3])
    assert in_order(root) == ["killed while it trained", "lived"]
    assert num_waiting(root) == 0


@pytest.mark.slow
def test_the_same_call_again_goes_on_with_what_an_interrupt_left(lived_workspace):
    root = lived_workspace
    (root / "train.py").write_text(edited := slow(flatter(root, 0.05)))
    agent = start_try(root, "interrupted")
    until(lambda: is_training(root, 3), agent)
    agent.send_signal(signal.SIGTERM)
    code, out, err = end(agent)
    assert (code, out) == (130, "")
    assert "to go on: autoresearch try" in err
    assert (root / "train.py").read_text() == edited
    answer = json.loads(done(root, "try", "-m", "again", "--tag", "a", "--json"))
    assert (answer["experiment"], "finished_first" in answer) == (3, False)
    assert in_order(root) == ["interrupted"]


@pytest.mark.slow
def test_try_waits_for_a_night_of_research_on_its_tag(lived_workspace):
    root = lived_workspace
    (root / "train.py").write_text(flatter(root, 0.05))
    night = start(root, "research", "a", "--resume", "--experiments", "4", "--json")
    until(lambda: len(experiments(root)) > 3, night)
    code, out, err = end(start_try(root, "while others sleep"))
    assert code == 0, err
    assert f"session a is running already (process {night.pid})" in err
    assert end(night)[0] == 0
    assert json.loads(out)["experiment"] == 5
    assert in_order(root) == ["while others sleep"]


@pytest.mark.slow
def test_patience_has_an_end_and_leaves_no_row(lived_workspace):
    root = lived_workspace
    (root / "train.py").write_text(edited := flatter(root, 0.05))
    with session_lock(open_workspace(root), "a"):
        result = call(root, "try", "-m", "flatter", "--tag", "a", "--json", "--wait", "0")
        assert "--wait" in refused(result, 1, "gave up after waiting 0 s for session a")
    assert (result.stdout, num_waiting(root)) == ("", 0)
    assert len(experiments(root)) == 3
    assert (root / "train.py").read_text() == edited


@pytest.mark.slow
def test_ctrl_c_while_waiting_leaves_the_queue_and_the_edit(lived_workspace):
    root = lived_workspace
    (root / "train.py").write_text(edited := flatter(root, 0.05))
    with session_lock(open_workspace(root), "a"):
        agent = start_try(root, "flatter")
        until(lambda: num_waiting(root) == 1, agent)
        agent.send_signal(signal.SIGINT)
        code, out, err = end(agent)
        assert num_waiting(root) == 0
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert (len(experiments(root)), (root / "train.py").read_text()) == (3, edited)


@pytest.mark.slow
def test_the_persons_limit_stops_the_next_try_and_is_told_before(make_workspace):
    root = make_workspace()
    (root / "train.py").write_text((root / "train.py").read_text().replace("SHARPNESS = 0.5", "SHARPNESS = 0.05"))
    first = json.loads(done(root, "try", "-m", "one", "--tag", "a", "--json", "--experiments", "1", "--hours", "9"))
    said = "the session's limit of 1 experiments is reached: stop here"
    assert (first["limits"]["experiments_left"], first["next"]) == (0, said)
    (root / "train.py").write_text(flatter(root, 0.06))
    result = call(root, "try", "-m", "two", "--tag", "a", "--json")
    refused(result, 1, said)
    assert (result.stdout, len(experiments(root))) == ("", 2)
    status = json.loads(done(root, "status", "--tag", "a", "--json"))
    assert status["limits"]["experiments_left"] == 0
    assert 8 < status["limits"]["hours_left"] < 9
    assert status["waiting"] == 0
    assert status["noise"] > status["measured_noise"] > 0


@pytest.mark.slow
def test_an_edit_from_standard_input_is_tried_and_the_checkout_stays(lived_workspace):
    root = lived_workspace
    (root / "train.py").write_text("# mine\n")
    code, out, err = end(start_try(root, "flatter", "--edit", "-"), flatter(root, 0.05))
    assert code == 0, err
    assert json.loads(out)["checkout"] == "left as it was: the text came with the call"
    assert in_order(root) == ["flatter"]
    assert (root / "train.py").read_text() == "# mine\n"
    refusing = call(root, "try", "-m", "x", "--tag", "a", "--edit", "nowhere.py")
    assert "--edit FILE" in refused(refusing, 2, "cannot be read from nowhere.py")
