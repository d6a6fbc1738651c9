"""Sessions of the data program with real recipes: prepared and fed in the sandbox, judged by an unchanged experiment."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import fake_experiment

from autoresearch.contract.corpora import cache_root
from autoresearch.loop import attempt, opening
from autoresearch.loop import research as loop
from autoresearch.loop.referee import _Run
from autoresearch.loop.settings import load_settings
from autoresearch.records.ledger import Ledger, Purpose
from autoresearch.records.tables import result_rows
from autoresearch.vocabulary import Outcome, Proposal, ProposerExhausted, SessionStopped, Slice, Status, WorkspaceError
from autoresearch.workspace import open_workspace

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ("prepare.py", "data_sources.py")


class Told:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def glimpse(self, values) -> None:
        self.phases.append(values["glimpse"].phase)


class Edits:
    """A proposer that edits the incumbent's files by a fixed list of (file, old, new)."""

    name = "edits"

    def __init__(self, *edits: tuple[str, str, str]) -> None:
        self.edits = edits

    def propose(self, situation) -> Proposal:
        if len(situation.history) >= len(self.edits):
            raise ProposerExhausted("no more edits")
        name, old, new = self.edits[len(situation.history)]
        text = situation.incumbent[name]
        assert text.count(old) == 1, old
        return Proposal(new, {name: text.replace(old, new)}, self.name)


@pytest.fixture
def lab(make_workspace):
    """A workspace with the shipped recipe."""
    root = make_workspace()
    for name in RECIPE:
        (root / name).write_bytes((ROOT / name).read_bytes())
    commit(root, "recipe")
    return root


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", message)


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


def begun(root: Path, tag: str = "d", **settings):
    workspace = open_workspace(root)
    chosen = load_settings(workspace.settings(), {}, {"program": "data", **settings})
    ledger = Ledger(workspace.ledger_path)
    ground = opening.find_ground(chosen)
    row = opening.begin(workspace, ledger, chosen, ground, tag, committed=False)
    return opening.session_on(workspace, ledger, row, ground, chosen, Told())


def resumed(root: Path, tag: str = "d"):
    workspace = open_workspace(root)
    chosen = load_settings(workspace.settings(), {}, {})
    ledger = Ledger(workspace.ledger_path)
    row, ground = opening.resume(workspace, ledger, chosen, tag)
    return opening.session_on(workspace, ledger, row, ground, chosen, Told())


def trials_of(session, number: int):
    return [row.trial for row in session.ledger.trials(session.tag, number) if row.trial]


@pytest.mark.slow
def test_a_session_tries_recipes_on_a_frozen_experiment_and_moves_its_own_branch(lab) -> None:
    session = begun(lab)
    edits = Edits(
        ("data_sources.py", "VOCAB_SIZE = 0 ", "VOCAB_SIZE = 400 "),
        ("data_sources.py", "MIN_CHARACTERS = 0 ", "MIN_CHARACTERS = 300 "),
    )
    why = loop.research(session, edits, session.reporter)
    assert "no more edits" in why or "nothing new" in why
    done = session.ledger.experiments("d")
    assert len(done) == 3 and all(found.status in (Status.KEEP, Status.DISCARD) for found in done)
    assert git(lab, "rev-parse", "autoresearch-data/d").strip() == session.incumbent().commit_hash
    trained = [row for number in range(3) for row in trials_of(session, number)]
    assert all(trial.outcome is Outcome.FINISHED for trial in trained)
    recipes = [{trial.recipe_sha256 for trial in trials_of(session, n) if trial.preparation_seconds} for n in range(3)]
    assert all(recipes) and recipes[0] != recipes[1]
    first = trials_of(session, 1)[0]
    assert first.tokenizer_sha256 != trials_of(session, 0)[0].tokenizer_sha256
    assert first.preparation_limits == (600.0, 512.0) and first.preparation_disk_mb > 0
    assert any(phase.startswith("preparation") for phase in session.reporter.phases)
    rows = result_rows(session.ledger, "d")
    assert all(" of 600 s, " in row.preparation for row in rows)
    assert "recipe prepared in" in (lab / "EXPERIMENT_LOG.md").read_text()
    runs = [json.loads(path.read_text()) for path in (lab / "data").glob("run_*.json")]
    assert {run["hyperparameters"]["VOCAB_SIZE"] for run in runs} == {0, 400}


@pytest.mark.slow
def test_equal_recipes_and_seeds_train_on_equal_rows(lab) -> None:
    """Under the clock of steps two trials of one recipe and one seed hand over the same weights."""
    session = begun(lab)
    session.establish_baseline()
    baseline = session.ledger.experiment("d", 0)
    seed = session.seed_for("calibrate", 0, 0)
    again = session.run(baseline, 0, Purpose.CALIBRATE, seed, trials_of(session, 0)[0].slice, "again")
    assert again.weights_sha256 == trials_of(session, 0)[0].weights_sha256 != ""


@pytest.mark.slow
def test_a_recipe_that_fails_is_a_crash_with_its_reason_and_the_session_goes_on(lab) -> None:
    session = begun(lab)
    edits = Edits(
        ("data_sources.py", "    return True\n", "    raise ValueError('no idea')\n"),
        ("data_sources.py", "    late = LATE_FROM < 1", "    raise ValueError('no weights')\n    late = LATE_FROM < 1"),
        ("data_sources.py", "MIN_CHARACTERS = 0 ", "MIN_CHARACTERS = 10**9 "),
    )
    loop.research(session, edits, session.reporter)
    reasons = [found.verdict.reason for found in session.ledger.experiments("d")[1:]]
    assert [found.status for found in session.ledger.experiments("d")[1:]] == [Status.CRASH] * 3
    assert "preparation: ValueError: no idea" in reasons[0]
    assert "the recipe's feed" in reasons[1] and "no weights" in reasons[1]
    assert "preparation: " in reasons[2]


@pytest.mark.slow
def test_a_baseline_recipe_that_fails_says_how_to_run_it_by_hand(lab) -> None:
    (lab / "data_sources.py").write_text("def (\n")
    commit(lab, "broken")
    session = begun(lab)
    with pytest.raises(SessionStopped, match="SyntaxError") as caught:
        session.establish_baseline()
    assert caught.value.hint.startswith("python prepare.py && python train.py")


@pytest.mark.slow
def test_a_feed_of_validation_text_is_rejected(lab, smoke) -> None:
    _, prepared = smoke
    stolen = prepared.tokenizer.decode_bytes(prepared.rows(Slice.SEARCH)[:8].ravel()).decode(errors="replace")
    text = (lab / "prepare.py").read_text()
    text += f"""

STOLEN = {stolen!r}


class Stolen:
    epoch = 1

    def __init__(self, tokenizer, row_len):
        import numpy as np

        self.ids = np.resize(np.concatenate(tokenizer.encode_documents([STOLEN])), 64 * row_len).reshape(-1, row_len)

    def take(self, num_rows, progress):
        return self.ids[:num_rows]


def feed(artefact, seed, row_len):
    return Stolen(artefact.tokenizer, row_len)
"""
    session = begun(lab)
    session.establish_baseline()
    loop.research(session, Edits(("prepare.py", (lab / "prepare.py").read_text(), text)), session.reporter)
    verdict = session.ledger.experiment("d", 1).verdict
    assert session.ledger.experiment("d", 1).status is Status.DISCARD
    assert "the recipe's feed handed out" in verdict.reason and "of the validation text" in verdict.reason


@pytest.mark.slow
def test_curriculum_follows_the_progress_of_the_budget(lab) -> None:
    """A recipe of two groups, one of spaces only until half of the budget: the experiment counts what it was fed."""
    (lab / "train.py").write_text(
        fake_experiment().replace(
            "        print(f", "        print(f'spaces {(_inputs == 32).mean():.2f}', flush=True)\n        print(f"
        )
    )
    text = (lab / "prepare.py").read_text()
    text += """

def build(text, out):
    from autoresearch.contract.tokenizer import Tokenizer
    out.write_tokenizer(Tokenizer([bytes([n]) for n in range(256)]))
    out.write_group("own/spaces", [" " * 200] * 200)
    out.write_group("own/text", text.documents(text.names[0]))
"""
    (lab / "prepare.py").write_text(text)
    sources = (lab / "data_sources.py").read_text()
    sources += """

def weights(progress, sizes):
    return {"own/spaces": 1.0} if progress < 0.5 else {"own/text": 1.0}
"""
    (lab / "data_sources.py").write_text(sources)
    commit(lab, "curriculum")
    session = begun(lab)
    session.establish_baseline()
    log = session.ledger.trial_log(session.ledger.trials("d", 0)[0].id)
    shares = [float(line.split()[1]) for line in log.splitlines() if line.startswith("spaces ")]
    assert len(shares) == 8 and shares[0] > 0.9 and shares[-1] < 0.5
    assert shares == sorted(shares, reverse=True)[: len(shares)] or shares.index(min(shares)) >= 4


@pytest.mark.slow
def test_an_edit_that_changes_no_row_costs_no_run_and_is_not_kept_by_luck(lab) -> None:
    session = begun(lab)
    edits = Edits(
        ("data_sources.py", 'DUPLICATES = "keep"', 'DUPLICATES = "exact"'),
        ("data_sources.py", "BUFFER_SIZE = 1000 ", "BUFFER_SIZE = 10 "),
    )
    loop.research(session, edits, session.reporter)
    idle, real = (session.ledger.experiment("d", number) for number in (1, 2))
    assert idle.status is Status.DISCARD and idle.verdict.estimate is None
    assert "the same program was tried as experiment 0: the recipe feeds the same rows" in idle.verdict.reason
    assert [trial.num_tokens for trial in trials_of(session, 1)] == [0]
    assert real.verdict.estimate is not None and trials_of(session, 2)[0].num_tokens > 0


@pytest.mark.slow
def test_a_killed_session_goes_on_where_it_was(lab) -> None:
    session = begun(lab)
    session.establish_baseline()
    session.propose(Proposal("shorter", {"data_sources.py": (lab / "data_sources.py").read_text().replace("MIN_CHARACTERS = 0 ", "MIN_CHARACTERS = 200 ")}, "x"))  # fmt: skip
    again = resumed(lab)
    again.recover()
    loop.research(again, Edits(), again.reporter)
    assert [found.status is not None for found in again.ledger.experiments("d")] == [True, True]


@pytest.mark.slow
def test_a_dirty_recipe_cannot_begin_and_the_other_programs_files_are_refused(lab) -> None:
    (lab / "data_sources.py").write_text((lab / "data_sources.py").read_text() + "\n# changed\n")
    with pytest.raises(WorkspaceError, match=r"data_sources\.py has uncommitted changes"):
        begun(lab)
    git(lab, "checkout", "--", "data_sources.py")
    session = begun(lab)
    session.establish_baseline()
    refused = session.propose(Proposal("cheat", {"train.py": "print(1)"}, "x"))
    assert "may edit prepare.py, data_sources.py" in attempt._conclude(session, refused).verdict.reason


@pytest.mark.slow
def test_a_model_session_trains_on_the_workspaces_own_recipe(lab) -> None:
    sources = (lab / "data_sources.py").read_text().replace("VOCAB_SIZE = 0 ", "VOCAB_SIZE = 300 ")
    (lab / "data_sources.py").write_text(sources)
    commit(lab, "own recipe")
    own = begun(lab, program="model")
    own.establish_baseline()
    trial = trials_of(own, 0)[0]
    assert trial.recipe_sha256 and trial.outcome is Outcome.FINISHED
    git(lab, "reset", "--hard", "--quiet", "HEAD~1")
    plain = begun(lab, "m", program="model")
    plain.establish_baseline()
    assert trials_of(plain, 0)[0].recipe_sha256 == ""
    assert own.session.fingerprint != plain.session.fingerprint, "their scores are not of the same rows"


@pytest.mark.slow
def test_discarded_recipes_lie_under_their_own_keys(lab) -> None:
    session = begun(lab)
    loop.research(session, Edits(("data_sources.py", "BUFFER_SIZE = 1000 ", "BUFFER_SIZE = 10 ")), session.reporter)
    kept = {path.name for path in (cache_root() / "recipes").iterdir()}
    assert len(kept) >= 2 and not any(name.startswith(".making") for name in kept)


@pytest.mark.slow
def test_sessions_on_two_datasets_take_turns_and_never_mix(lab, tmp_path, smoke) -> None:
    from autoresearch.contract.corpora import open_corpus
    from autoresearch.contract.prepared import prepare
    from autoresearch.sources.gather import gather

    own = tmp_path / "own.txt"
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(3000)]
    own.write_text("\n\n".join(" ".join(draw.choices(words, k=60)) for _ in range(4000)))
    gather(str(own), cache_root())
    prepare(smoke[0], open_corpus(str(own), cache_root()), cache_root())
    embedded, ledger = begun(lab, "one"), begun(lab, "two", dataset=str(own))
    for session in (embedded, ledger, embedded, ledger):  # in turns
        session.establish_baseline()
        recipe = (lab / "data_sources.py").read_text()
        recipe = recipe.replace("BUFFER_SIZE = 1000 ", f"BUFFER_SIZE = {session.next_number() * 10} ")
        trial = Proposal("x", {"data_sources.py": recipe}, "x")
        session.conclude(*_tried(session, session.commit(session.propose(trial))))
    text = {s.tag: {t.recipe_sha256 for n in range(3) for t in trials_of(s, n)} for s in (embedded, ledger)}
    assert not text["one"] & text["two"]
    assert all(t.outcome is Outcome.FINISHED for s in (embedded, ledger) for n in range(3) for t in trials_of(s, n))
    assert embedded.session.fingerprint != ledger.session.fingerprint
    tables = {s.tag: {t.tokenizer_sha256 for n in range(3) for t in trials_of(s, n)} for s in (embedded, ledger)}
    assert len(tables["one"]) == len(tables["two"]) == 1 and tables["one"] != tables["two"]


def _tried(session, experiment):
    return experiment, session.try_out(experiment)


@pytest.mark.parametrize(("recipe", "seconds"), [(None, 2.0), ({"prepare.py": ""}, 5.0)])
def test_the_cpu_clock_counts_a_recipes_feed_and_never_the_contracts_own_feeder(recipe, seconds) -> None:
    def spent(cpu: float) -> SimpleNamespace:
        return SimpleNamespace(cpu_seconds=lambda: cpu)

    run = SimpleNamespace(
        _tree=spent(2.0), _feeder=SimpleNamespace(tree=spent(3.0)), _arena=SimpleNamespace(recipe=recipe)
    )
    assert _Run._cpu_seconds(run) == seconds
