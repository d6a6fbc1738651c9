"""Sessions whose ideas come from a language model: real servers on loopback, the real loop, the `smoke` contract."""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_models import ScriptedModels, reply, status

from autoresearch.loop import minds, opening
from autoresearch.loop import research as loop
from autoresearch.loop.settings import load_settings
from autoresearch.records.calls import CallBook, Cost
from autoresearch.records.ledger import Ledger
from autoresearch.records.tables import result_rows
from autoresearch.vocabulary import ProviderUnavailable, SessionStopped, SpendingCapReached, Status, UsageError
from autoresearch.workspace import open_workspace

KEY = "sk-planted-0123456789abcdef0123456789abcdef"


class Told:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def glimpse(self, values) -> None:
        pass

    def note(self, text) -> None:
        self.notes.append(text)


class Night:
    """A session and its proposer, opened as the command line opens them."""

    def __init__(self, root: Path, tag: str = "t", environment=None, **settings) -> None:
        self.told, self.stop = Told(), threading.Event()
        self.workspace = open_workspace(root)
        chosen = load_settings(self.workspace.settings(), {}, settings)
        self.ledger = Ledger(self.workspace.ledger_path)
        if self.ledger.session(tag):
            row, ground = opening.resume(self.workspace, self.ledger, chosen, tag)
        else:
            ground = opening.find_ground(chosen)
            row = opening.begin(self.workspace, self.ledger, chosen, ground, tag, committed=False)
        self.proposer = minds.proposer_for(
            self.workspace,
            chosen,
            tag,
            preset=row.preset,
            entry=row.entry,
            stop=self.stop,
            say=self.told.note,
            environment={} if environment is None else environment,
        )
        self.session = opening.session_on(self.workspace, self.ledger, row, ground, chosen, self.told, self.stop)

    def go(self) -> str:
        return loop.research(self.session, self.proposer, self.told)

    def experiments(self):
        return [found for found in self.ledger.experiments(self.session.tag) if found.number]


def idea(value: float, why: str = "sharper") -> str:
    return f"IDEA: {why} {value}\nMECHANISM: a steeper distribution\nTOPIC: sharpness\nSET: SHARPNESS = {value}\n"


@pytest.mark.slow
def test_a_model_proposes_and_its_row_says_who_why_and_at_what_cost(make_workspace):
    with ScriptedModels(reply(idea(1.0)), reply("no idea at all"), reply(idea(0.1))) as server:
        night = Night(
            make_workspace(),
            proposer="llm",
            model=f"{server.openai('m')}?input_usd=1000&output_usd=2000",
            experiments=2,
        )
        assert night.go() == "2 experiments done"
    kept, discarded = night.experiments()
    assert (kept.status, discarded.status) == (Status.KEEP, Status.DISCARD)
    assert kept.proposal.details["mechanism"] == "a steeper distribution"
    assert kept.proposal.details["model"] == "openai:m"
    assert "SHARPNESS = 1.0" in kept.proposal.files["train.py"]
    # 100 tokens in and 20 out a call; the second experiment took two, the first of which could not be used
    costs = [row.cost_usd for row in result_rows(night.ledger, "t") if row.experiment]
    assert costs == pytest.approx([0.14, 0.28])
    assert night.workspace.results_path.read_text().splitlines()[2].split("\t")[13] == "0.1400"


@pytest.mark.slow
def test_what_the_model_is_told_names_noise_budget_and_the_verdict_on_its_last_idea(make_workspace):
    with ScriptedModels(reply(idea(0.1, "planted words")), reply(idea(1.0))) as server:
        night = Night(make_workspace(), proposer="llm", model=server.openai("m"), experiments=2)
        night.go()
        second = server.requests[1].prompt
    assert "planted words 0.1" in second and "discard" in second
    assert "8 steps" in second and f"{night.session.noise().sd:.4f}" in second


@pytest.mark.slow
def test_a_cap_on_money_ends_a_pure_session_and_not_a_hybrid_one(make_workspace):
    with ScriptedModels(reply(idea(1.0))) as server:
        chain = f"{server.openai('m')}?input_usd=1&output_usd=1"
        night = Night(make_workspace(), proposer="llm", model=chain, usd=1e-6, experiments=3)
        why = night.go()
        assert "USD" in why and night.experiments() == []
        assert server.requests == [], "the cap is checked before a call"
        both = Night(
            make_workspace(folder="other"), proposer="hybrid", model=chain, usd=1e-6, model_share=1.0, experiments=2
        )
        assert both.go() == "2 experiments done"
    assert [found.proposal.details["fell_back"] for found in both.experiments()] == ["the spending cap is reached"] * 2


@pytest.mark.slow
def test_an_outage_pauses_the_night_and_one_without_end_stops_it(make_workspace, monkeypatch):
    monkeypatch.setattr(loop, "_PAUSES", (0.0, 0.0))

    class Moody:
        name = "moody"

        def __init__(self, failures: int, then) -> None:
            self.failures, self.then = failures, then

        def propose(self, situation):
            if self.failures:
                self.failures -= 1
                raise ProviderUnavailable("nobody answers", hint="ask again")
            return self.then.propose(situation)

    night = Night(make_workspace(), proposer="search", experiments=1)
    searching = night.proposer
    night.proposer = Moody(2, searching)
    assert night.go() == "1 experiments done"
    assert sum("nobody answers" in note for note in night.told.notes) == 2
    gone = Night(make_workspace(folder="other"), proposer="search", experiments=1)
    gone.proposer = Moody(3, searching)
    with pytest.raises(SessionStopped, match="moody had no idea") as stopped:
        gone.go()
    assert stopped.value.hint == "ask again"


@pytest.mark.slow
def test_stopping_while_a_model_rests_ends_the_session_at_once(make_workspace):
    night = Night(make_workspace(), proposer="search", experiments=1)

    class Gone:
        name = "gone"

        def propose(self, situation):
            night.stop.set()
            raise ProviderUnavailable("nobody answers")

    night.proposer = Gone()
    assert night.go() == "stopped"


@pytest.mark.slow
def test_a_session_is_replayed_from_its_stored_exchanges_without_a_server(make_workspace):
    root = make_workspace()
    with ScriptedModels(reply(idea(1.0)), reply("nonsense"), reply(idea(1.5))) as server:
        first = Night(root, proposer="llm", model=server.openai("m"), experiments=2)
        first.go()
    again = Night(root, tag="again", proposer="llm", model="replay:t", experiments=2)
    assert again.go() == "2 experiments done"
    texts = [[found.proposal.files["train.py"] for found in night.experiments()] for night in (first, again)]
    assert texts[0] == texts[1]
    third = Night(root, tag="third", proposer="hybrid", model="replay:t", model_share=1.0, experiments=3)
    third.go()
    assert third.experiments()[2].proposal.details["fell_back"], "the recording is at its end"


@pytest.mark.slow
def test_no_key_reaches_anything_that_a_session_writes(make_workspace, capfd, tmp_path):
    """A server that answers with the key in its error, and a model that writes it into its idea."""
    told_key = f"IDEA: use {KEY}\nMECHANISM: {KEY}\nSET: SHARPNESS = 1.0\n"
    with ScriptedModels(status(500, f"bad key {KEY}"), reply(told_key)) as server:
        night = Night(
            make_workspace(),
            proposer="llm",
            model=f"{server.openai('m')}?key=OPENAI_API_KEY",
            environment={"OPENAI_API_KEY": KEY},
            experiments=1,
        )
        night.go()
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    out, err = capfd.readouterr()
    assert KEY not in out + err + "\n".join(night.told.notes)
    night.ledger.close()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    with closing(sqlite3.connect(night.workspace.ledger_path)) as db:
        dump = "\n".join(db.iterdump())
    assert KEY not in dump and "use " in dump


def test_what_is_missing_is_said_before_a_session_is_made(make_workspace):
    root = make_workspace()
    for settings, said in (
        ({"proposer": "llm"}, "names? no model|none is named"),
        ({"proposer": "hybrid", "model": "nobody:m"}, "nobody"),
        ({"proposer": "oracle"}, "unknown proposer"),
        ({"proposer": "cli:no-such-agent-anywhere"}, "no-such-agent-anywhere"),
    ):
        with pytest.raises(UsageError, match=said):
            minds.proposer_for(
                open_workspace(root),
                load_settings({}, {}, settings),
                "t",
                preset="smoke",
                entry="train.py",
                stop=threading.Event(),
                say=print,
                environment={"PATH": "/usr/bin"},
            )


@pytest.mark.slow
def test_an_agents_account_is_in_its_row_and_counts_against_the_caps(make_workspace, tmp_path):
    agent = tmp_path / "agent.py"
    agent.write_text(
        "import pathlib, re\n"
        "path = pathlib.Path('train.py')\n"
        "path.write_text(re.sub(r'SHARPNESS = 0.5', 'SHARPNESS = 1.0', path.read_text()))\n"
        "print('sharper')\n"
    )
    night = Night(
        make_workspace(),
        proposer=f"cli:{sys.executable} {agent}",
        experiments=1,
        sandbox="none",
        environment={"PATH": str(Path(sys.executable).parent)},
    )
    assert night.go() == "1 experiments done"
    (experiment,) = night.experiments()
    assert experiment.status is Status.KEEP and experiment.proposal.proposer.startswith("cli:")
    with closing(CallBook(night.workspace.ledger_path)) as book:
        assert [call.purpose for call in book.of("t", 1)] == ["agent"]
        settings = load_settings({}, {}, {"usd": 2.0, "tokens": 1000})
        with pytest.raises(SpendingCapReached, match="does not say what it spent"):
            minds.room_left(book, "t", settings)
    book = CallBook(tmp_path / "another.sqlite3")
    with closing(book):
        book.add_external("t", 1, "agent", "cli:x", "m", cost=Cost(400, 100, usd=1.5), seconds=1.0)
        assert minds.room_left(book, "t", settings) == pytest.approx(0.5)
        assert minds.room_left(book, "t", replace(settings, usd=None)) is None
        book.add_external("t", 1, "agent", "cli:x", "m", cost=Cost(400, 200, usd=0.1), seconds=1.0)
        with pytest.raises(SpendingCapReached, match="tokens"):
            minds.room_left(book, "t", settings)
        with pytest.raises(SpendingCapReached, match="USD"):
            minds.room_left(book, "t", replace(settings, tokens=None, usd=1.6))


@pytest.mark.slow
def test_the_snapshot_of_an_idea_names_its_cost(make_workspace):
    with ScriptedModels(reply(idea(1.0))) as server:
        chain = f"{server.openai('m')}?input_usd=1000&output_usd=2000"
        night = Night(make_workspace(), proposer="llm", model=chain, experiments=1)
        night.go()
    metrics = json.loads((night.workspace.snapshot_dir("t", 1) / "metrics.json").read_text())
    assert metrics["row"]["cost_usd"] == pytest.approx(0.14)
