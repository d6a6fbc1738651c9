"""Sealed trials with real processes: honest candidates, broken ones, and ones that want a score they did not earn."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from fakes import fake_experiment
from patience import PATIENCE
from safetensors.numpy import load

from autoresearch.contract.prepared import open_prepared_directory
from autoresearch.contract.rules import Clock
from autoresearch.loop import candidate, conversation, log_pipe, peers, referee, run_log
from autoresearch.loop.conversation import Limits
from autoresearch.loop.orders import Arena, DeepWish, Order
from autoresearch.loop.referee import run_trial
from autoresearch.loop.spare import start_candidate
from autoresearch.sandbox import cell
from autoresearch.sandbox.layers import probe
from autoresearch.vocabulary import DataCorrupt, Examination, InstallationError, Outcome, Slice

SEED = 7

# Where `altered` puts a line into tests/experiments/counting.py: before the line that holds these words.
PLACES = {
    "import": "class Counts:",
    "forward": "logits = SHARPNESS",
    "start": "tokenizer = Tokenizer.from_directory()",
    "step": 'print(f"step',
    "examination": "val_bpb = evaluate_bpb(",
    "end": 'print(f"---',
}

ALLOWANCES = ("startup_allowance", "exam_allowance", "usual_tok_sec")
SEND_RAW = "link = evaluate_bpb._link._channel\n"  # the candidate's end of the socket pair


def altered(**lines: str) -> str:
    """The honest counting experiment with lines put in at the named places, indented as needed."""
    text = fake_experiment()
    for place, code in lines.items():
        before, line = next(
            (text[:at], text[at:].split("\n", 1)[0])
            for at in range(len(text))
            if (at == 0 or text[at - 1] == "\n") and PLACES[place] in text[at:].split("\n", 1)[0]
        )
        indent = line[: len(line) - len(line.lstrip())]
        text = before + textwrap.indent(textwrap.dedent(code).strip("\n") + "\n", indent) + text[len(before) :]
    return text


@pytest.fixture
def trial(smoke, tmp_path):
    """A function that runs one trial of an experiment file. Afterwards nothing of it may be left."""
    rules, prepared = smoke
    log_path = tmp_path / "run.log"
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def run(text, *, seed=SEED, on_slice=Slice.SEARCH, arena=None, more_files=None, deep=None, **rule_changes):
        names = ("on_start", "on_glimpse", "stop", "fresh")
        options = {key: rule_changes.pop(key) for key in names if key in rule_changes}
        allowed = {key: rule_changes.pop(key) for key in ALLOWANCES if key in rule_changes}
        arena = arena or Arena(dataclasses.replace(rules, **rule_changes), prepared, "cpu", accelerators=False)
        order = Order({"train.py": text, **(more_files or {})}, "train.py", seed, on_slice, deep, **allowed)
        return run_trial(arena, order, log_path, **options)

    run.log_path = log_path
    yield run
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not left, "a trial left processes running"
    ours = f"{candidate.FOLDER_PREFIX}{os.getpid()}-*"
    assert not list(Path(tempfile.gettempdir()).glob(ours)), "a trial left its folder"


@pytest.fixture
def arena_of(smoke):
    """A function that makes an arena with one kind of seal and changed rules."""
    rules, prepared = smoke

    def make(kind, **rule_changes):
        return Arena(dataclasses.replace(rules, **rule_changes), prepared, "cpu", accelerators=False, seal=probe(kind))

    return make


@pytest.fixture(scope="module")
def honest_score(smoke, tmp_path_factory):
    """val_bpb of the honest experiment with SEED on the search slice."""
    rules, prepared = smoke
    order = Order({"train.py": fake_experiment()}, "train.py", SEED)
    return run_trial(Arena(rules, prepared, "cpu", False), order, tmp_path_factory.mktemp("h") / "log").trial.val_bpb


def assert_no_score(run, outcome, reason):
    """The trial ended so, for a reason that holds these words, and left neither score nor weights behind."""
    assert run.trial.outcome is outcome, run.trial.reason
    assert reason in run.trial.reason
    assert run.trial.val_bpb is None
    if outcome is not Outcome.REJECTED:
        assert run.weights is None


# -- honest -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_honest_run_finishes_with_all_that_a_row_needs(trial, smoke):
    rules, _ = smoke
    run = trial(fake_experiment())
    found = run.trial
    assert found.outcome is Outcome.FINISHED
    assert 1 < found.val_bpb < 5
    assert (found.num_steps, found.num_tokens) == (8, 8 * 4 * rules.max_seq_len)
    assert (found.seed, found.slice, found.budget_used) == (SEED, Slice.SEARCH, 8.0)
    assert found.audited_positions == 4 * rules.num_audits_per_batch  # 32 rows in batches of 8
    assert found.prefix_pairs >= rules.num_prefix_rows
    assert 0 <= found.largest_deviation < 1e-3
    assert found.claimed == {"num_steps": 8.0, "depth": 1.0}
    assert found.peak_memory_mb > 5
    assert 0 < found.startup_seconds < found.total_seconds
    assert found.exam_seconds > 0 and found.tok_sec > 0 and found.cpu_seconds > 0
    assert found.reason == "" and found.disturbed == ""
    assert found.sealed == probe().level
    assert (found.examined, found.deep_prefixes, found.leak_bound_bpb) == (Examination.SCREENED, 0, None)
    assert f"val_bpb:          {found.val_bpb:.6f}" in run.log  # the candidate is told the referee's score
    assert found.log_tail.splitlines()[-1] == "depth:            1"
    assert run.log == trial.log_path.read_text()


@pytest.mark.slow
def test_the_weights_kept_are_the_ones_that_were_examined(trial, smoke):
    _, prepared = smoke
    run = trial(fake_experiment())
    counts = load(run.weights)["counts"]
    assert counts.shape == (prepared.tokenizer.get_vocab_size(),)
    assert counts.sum() == pytest.approx(4.0 * len(counts) + run.trial.num_tokens)
    assert hashlib.sha256(run.weights).hexdigest() == run.trial.weights_sha256


@pytest.mark.slow
def test_the_same_seed_gives_the_same_score_and_another_seed_another(trial, honest_score):
    assert trial(fake_experiment()).trial.val_bpb == honest_score
    assert trial(fake_experiment(), seed=SEED + 1).trial.val_bpb != honest_score


@pytest.mark.slow
def test_another_slice_of_the_validation_text_gives_another_score(trial, honest_score):
    run = trial(fake_experiment(), on_slice=Slice.CONFIRM)
    assert run.trial.slice is Slice.CONFIRM
    assert run.trial.val_bpb != honest_score


@pytest.mark.slow
def test_the_batch_size_of_the_examination_does_not_change_the_score(trial, honest_score):
    for batch_size in ("5",):
        run = trial(
            fake_experiment().replace(
                "evaluate_bpb(model, tokenizer, 8)", f"evaluate_bpb(model, tokenizer, {batch_size})"
            )
        )
        assert run.trial.val_bpb == pytest.approx(honest_score, abs=1e-6)


@pytest.mark.slow
def test_glimpses_show_the_phases_and_the_loss(trial):
    seen = []
    step = "import time\nuntil = time.monotonic() + 0.05\nwhile time.monotonic() < until: pass"
    run = trial(altered(step=step), on_glimpse=seen.append)
    assert run.trial.outcome is Outcome.FINISHED
    training = [glimpse for glimpse in seen if glimpse.phase == "training"]
    assert [glimpse.step for glimpse in training] == sorted(glimpse.step for glimpse in training)
    assert training[-1].loss == pytest.approx(6 - (training[-1].step - 2) / 10, abs=0.11)
    assert 0 < training[-1].progress <= 1 and training[-1].tok_sec > 0
    assert seen[-1].phase == "examination"


@pytest.mark.slow
def test_a_changed_batch_size_in_mid_run_works_and_every_token_is_counted(trial, smoke):
    rules, _ = smoke
    step = "if step == 3:\n    loader = make_dataloader(tokenizer, 2, MAX_SEQ_LEN // 2)\n    break"
    again = "for inputs, targets, _ in loader:\n    assert inputs.shape == targets.shape == (2, MAX_SEQ_LEN // 2)"
    run = trial(altered(step=step, examination=again))
    assert run.trial.outcome is Outcome.FINISHED
    assert run.trial.num_tokens == 4 * 4 * rules.max_seq_len + 4 * rules.max_seq_len


@pytest.mark.slow
def test_a_loader_opened_again_before_the_first_batch_counts_and_the_earlier_ones_do_not(trial, smoke):
    rules, _ = smoke
    smaller = "for rows in (16, 8, 2): loader = make_dataloader(tokenizer, rows, MAX_SEQ_LEN)"
    text = altered(start="").replace("    for step, (_inputs", f"    {smaller}\n    for step, (_inputs")
    run = trial(text)
    assert run.trial.outcome is Outcome.FINISHED
    assert run.opened == (4, 16, 8, 2)
    assert (run.trial.device_batch_size, run.trial.num_tokens) == (2, 8 * 2 * rules.max_seq_len)


@pytest.mark.slow
def test_the_limit_of_rows_reaches_the_experiment_file_in_every_trial(trial, smoke):
    rules, prepared = smoke
    limited = Arena(rules, prepared, "cpu", accelerators=False, max_device_batch_size=3)
    line = {"import": "from prepare import MAX_DEVICE_BATCH_SIZE\nprint('limit', MAX_DEVICE_BATCH_SIZE)"}
    assert "limit 3\n" in trial(altered(**line), arena=limited).log
    assert "limit 0\n" in trial(altered(**line)).log


@pytest.mark.slow
def test_a_trial_that_opened_no_loader_has_no_batch_size(trial):
    run = trial(altered(start="raise RuntimeError('early')"))
    assert (run.trial.device_batch_size, run.opened) == (0, ())


@pytest.mark.slow
def test_a_run_that_stops_before_its_budget_still_gets_a_score(trial):
    run = trial(altered(step="if step == 2: break"))
    assert run.trial.outcome is Outcome.FINISHED
    assert run.trial.num_steps == 3


@pytest.mark.slow
def test_other_files_of_the_order_lie_beside_the_experiment(trial, honest_score):
    run = trial(altered(**{"import": "import helper_of_mine"}), more_files={"helper_of_mine.py": "print('helped')\n"})
    assert "helped" in run.log
    assert run.trial.val_bpb == honest_score


@pytest.mark.slow
def test_a_candidate_that_lingers_after_its_score_keeps_it(trial, monkeypatch, honest_score):
    monkeypatch.setattr(referee, "_FAREWELL", 0.2)
    run = trial(altered(end="while True: pass"))
    assert (run.trial.outcome, run.trial.val_bpb) == (Outcome.FINISHED, honest_score)


# -- broken -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["def main(:\n", "x = 1\0\n", "if True:\nprint()\n"])
def test_a_syntax_error_starts_no_process(trial, text):
    started = []
    run = trial(text, on_start=lambda *start: started.append(start))
    assert_no_score(run, Outcome.CRASHED, "SyntaxError")
    assert started == []
    assert run.trial.log_tail.startswith("SyntaxError")
    assert trial.log_path.read_text().startswith("SyntaxError")


def test_a_syntax_error_names_its_line(trial):
    assert trial("x = 1\ny = = 2\n").trial.reason == "SyntaxError: invalid syntax (train.py, line 2)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "code", "reason"),
    [
        ("import", "import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("start", "assert 7 % 2 == 0, 'use an even number of heads'", "AssertionError: use an even number of heads"),
        ("step", "raise MemoryError", "out of memory"),
        ("step", "import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("forward", "raise IndexError('in forward')", "IndexError: in forward"),
        ("step", "make_dataloader(tokenizer, 1, 64, 'val')", "ValueError: split 'val'"),
        ("step", "make_dataloader(tokenizer, 1, MAX_SEQ_LEN + 1)", "ValueError: B=1"),
        ("step", "print('---\\nval_bpb: 0.1', flush=True); import os; os._exit(0)", "exit code 0"),
    ],
)
def test_a_candidate_that_ends_by_itself_has_crashed_and_the_reason_is_told(trial, place, code, reason):
    run = trial(altered(**{place: code}))
    assert_no_score(run, Outcome.CRASHED, reason)
    assert run.trial.log_tail == run_log.tail_of(run.log)


@pytest.mark.slow
def test_the_fast_fail_is_a_divergence(trial):
    run = trial(altered(step="print('FAIL')\nraise SystemExit(1)"))
    assert_no_score(run, Outcome.DIVERGED, "NaN")


@pytest.mark.slow
def test_memory_beyond_the_limit_stops_the_run(trial, monkeypatch):
    monkeypatch.setattr(Arena, "limits", property(lambda _: Limits(memory_mb=250.0)))
    run = trial(altered(step="block = np.ones(40_000_000)\nwhile True: pass"))
    assert_no_score(run, Outcome.CRASHED, "out of memory")
    assert run.trial.peak_memory_mb > 250


@pytest.mark.slow
def test_a_log_flood_stops_the_run_and_what_is_kept_is_bounded(trial):
    run = trial(altered(step="while True: print('x' * 100_000)"))
    assert_no_score(run, Outcome.CRASHED, f"the log grew beyond {log_pipe.MAX_LOG_BYTES:,} bytes")
    assert len(run.log) < 300_000
    assert trial.log_path.stat().st_size == log_pipe.MAX_LOG_BYTES


@pytest.mark.slow
def test_files_without_end_stop_the_run(trial, arena_of, monkeypatch):
    monkeypatch.setattr(Arena, "limits", property(lambda _: Limits(memory_mb=1e6, disk_mb=20.0)))
    step = "open('large', 'wb').write(bytes(40 * 2**20))\nwhile True: pass"
    # under bubblewrap the scratch is in memory, and counts as that
    assert_no_score(trial(altered(step=step), arena=arena_of("none")), Outcome.CRASHED, "MB to disk, 20 are allowed")


@pytest.mark.slow
def test_processes_without_end_stop_the_run(trial, monkeypatch):
    monkeypatch.setattr(Arena, "limits", property(lambda _: Limits(memory_mb=1e6, num_processes=10)))
    step = "import os, time\nfor _ in range(20):\n    if os.fork() == 0: time.sleep(3600)\ntime.sleep(3600)"
    assert_no_score(trial(altered(step=step)), Outcome.CRASHED, "processes, 10 are allowed")


# -- deadlines --------------------------------------------------------------------------------------------------------

FOREVER = "while True: pass"
SLEEPS = "import time; time.sleep(3600)"


@pytest.mark.slow
def test_start_up_has_a_cap_of_its_own(trial):
    run = trial(altered(**{"import": SLEEPS}), startup_cap=0.6)
    assert_no_score(run, Outcome.TIMED_OUT, "start-up took more than 0.6 s")
    assert run.trial.total_seconds < 5


@pytest.mark.slow
def test_requests_without_end_do_not_escape_the_start_up_cap(trial):
    run = trial(altered(start="while True: evaluate_bpb._link.hello()"), startup_cap=0.6)
    assert_no_score(run, Outcome.TIMED_OUT, "start-up")


@pytest.mark.slow
def test_training_without_end_overruns_the_budget(trial):
    run = trial(altered(step=SLEEPS), clock=Clock.WALL, time_budget=0.3, grace=0.1)
    assert_no_score(run, Outcome.TIMED_OUT, "no weights within 0.3 + 0.1 s")


@pytest.mark.slow
def test_training_without_end_meets_the_wall_deadline_whatever_the_clock(trial):
    # steps stand still while a candidate sleeps, and so do its CPU seconds
    for clock in (Clock.STEPS, Clock.CPU):
        run = trial(altered(step=SLEEPS), clock=clock, wall_deadline=0.1)
        assert_no_score(run, Outcome.TIMED_OUT, "training took more than 0.1 s of wall time")


@pytest.mark.slow
def test_weights_later_than_budget_and_grace_are_not_examined(trial):
    late = "import time\nuntil = time.monotonic() + 0.2\nwhile time.monotonic() < until: pass"
    run = trial(altered(step="if step == 2: break", examination=late), clock=Clock.WALL, time_budget=0.1, grace=0.05)
    assert_no_score(run, Outcome.TIMED_OUT, "no weights within")
    assert run.trial.weights_sha256 == ""


@pytest.mark.slow
def test_an_evaluation_that_never_returns_meets_the_exam_deadline(trial):
    run = trial(altered(forward=SLEEPS), exam_deadline=0.4)
    assert_no_score(run, Outcome.TIMED_OUT, "the examination took more than 0.4 s")


@pytest.mark.slow
def test_an_evaluation_too_slow_in_sum_meets_the_exam_deadline(trial):
    slow = "import time\nuntil = time.monotonic() + 0.1\nwhile time.monotonic() < until: pass"
    run = trial(altered(forward=slow), exam_deadline=0.4)
    assert_no_score(run, Outcome.TIMED_OUT, "the examination took more than 0.4 s")


@pytest.mark.slow
def test_the_whole_trial_has_a_last_deadline(trial):
    run = trial(altered(step=SLEEPS), trial_deadline=0.7)
    assert_no_score(run, Outcome.TIMED_OUT, "the whole trial took more than 0.7 s")


@pytest.mark.slow
def test_under_the_wall_clock_the_stream_ends_with_the_budget(trial):
    step = "import time\nuntil = time.monotonic() + 0.02\nwhile time.monotonic() < until: pass"
    run = trial(altered(step=step), clock=Clock.WALL, time_budget=0.3, grace=2)
    assert run.trial.outcome is Outcome.FINISHED
    assert 3 <= run.trial.num_steps <= 15
    assert 0.2 < run.trial.budget_used < 2.3
    assert run.trial.cpu_share is None


# -- the channel ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("link.sendall(b'\\xff\\xff\\xff\\xff')", "the channel broke: header of 4294967295 bytes"),
    ],
)
def test_garbage_on_the_channel_is_rejected(trial, monkeypatch, code, reason):
    monkeypatch.setattr(conversation, "_LAST_BREATH", 0.2)
    run = trial(altered(step=SEND_RAW + code + "\n" + SLEEPS))
    assert_no_score(run, Outcome.REJECTED, reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "header", "reason"),
    [
        ("start", {"op": "score", "val_bpb": 0.1}, "unexpected request 'score' during start-up"),
        ("start", {"op": ["\x1b[2J"] * 99}, "unexpected request"),
        ("step", {"op": "answer", "shape": [1]}, "unexpected request 'answer' during training"),
        ("step", {"op": "hello"}, "unexpected request 'hello' during training"),
        ("start", {"op": "open", "batch_size": 2**40, "seq_len": 64}, "impossible shape"),
        ("start", {"op": "open", "batch_size": "4", "seq_len": None}, "impossible shape"),
    ],
)
def test_a_request_out_of_turn_or_shape_is_rejected(trial, place, header, reason):
    code = SEND_RAW + f"from autoresearch.contract import frames\nframes.send(link, {header!r})\n" + SLEEPS
    assert_no_score(trial(altered(**{place: code})), Outcome.REJECTED, reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (b"0.1", "the weights handed over are not safetensors"),
        (b"\x02\0\0\0\0\0\0\0{}junk", "the weights handed over are not safetensors"),
        (b"val_bpb: 0.1", "the weights' header has 4,207,048,569,727,508,854 bytes, 4,194,304 are accepted"),
    ],
)
def test_weights_that_are_not_safetensors_are_rejected(trial, weights, reason):
    run = trial(altered(examination=f"evaluate_bpb._link.examine({weights!r}, 8, lambda ask: None)"))
    assert_no_score(run, Outcome.REJECTED, reason)


@pytest.mark.slow
def test_weights_before_any_batch_are_rejected(trial):
    run = trial(altered(start="evaluate_bpb(Counts(512), None, 8)"))
    assert_no_score(run, Outcome.REJECTED, "before any training batch")


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["[2]", "[0.5, 1]"])
def test_an_answer_that_is_not_the_array_it_names_is_rejected(trial, shape):
    code = f"""
    from autoresearch.contract import frames
    link = evaluate_bpb._link._channel
    frames.send(link, {{"op": "answer", "shape": {shape}}}, b"12")
    import time; time.sleep(3600)
    """
    assert_no_score(trial(altered(forward=code)), Outcome.REJECTED, "not a float32 array of the shape it names")


# -- cheats -----------------------------------------------------------------------------------------------------------

RUNTIME = "from autoresearch.backends.runtime import NumpyRuntime\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("NumpyRuntime.nll = lambda self, l, t: np.full(t.shape, np.nan, np.float32)", "claims are not all finite"),
        ("NumpyRuntime.nll = lambda self, l, t: np.ones(t.shape, np.float32)", "differs from its own logits"),
        ("NumpyRuntime.pick = lambda self, l, r, c: l[r, c][:, :9].copy()", "have shape"),
        ("np.log = lambda x: x * 0 + 1", "differs from its own logits"),
    ],
)
def test_claims_that_the_model_did_not_make_are_rejected(trial, code, reason):
    run = trial(altered(examination=RUNTIME + code))
    assert_no_score(run, Outcome.REJECTED, reason)
    assert run.trial.weights_sha256  # what was examined stays on record


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import time; time.time = time.monotonic = time.perf_counter = lambda: 0.0",
        "import math, prepare; math.log = lambda *_: 0.0; prepare.TIME_BUDGET = 10**9; prepare.MAX_SEQ_LEN = 1; prepare.SEED = 0",
        "tokenizer.token_bytes[:] = 1000",
        "import autoresearch.contract.examination as e; e.bits_per_byte = lambda *_: 0.1; e.CLAIM_TOLERANCE = 1e9",
    ],
)
def test_patching_clock_constants_or_metric_changes_nothing(trial, honest_score, code):
    body = f"try:\n    {code}\nexcept ValueError:\n    pass  # read-only is fine too"
    run = trial(fake_experiment().replace("    loader = make", textwrap.indent(body, "    ") + "\n    loader = make"))
    assert run.trial.outcome is Outcome.FINISHED, run.trial.reason
    assert run.trial.val_bpb == honest_score
    assert run.trial.num_steps == 8


@pytest.mark.slow
def test_a_patched_evaluation_changes_only_what_the_candidate_prints(trial, honest_score):
    code = "honest = evaluate_bpb\nevaluate_bpb = lambda *a: honest(*a) * 0 + 0.1"
    run = trial(altered(**{"import": code}))
    assert run.trial.val_bpb == honest_score
    assert "val_bpb:          0.100000" in run.log


@pytest.mark.slow
def test_an_evaluation_replaced_altogether_gives_no_score(trial):
    code = "import prepare\nprepare.evaluate_bpb = lambda *_: 0.1\nfrom prepare import evaluate_bpb"
    assert_no_score(trial(altered(**{"import": code})), Outcome.CRASHED, "exit code 0")


@pytest.mark.slow
def test_no_batch_is_handed_out_beyond_the_budget(trial):
    code = "extra = evaluate_bpb._link.next_batch()\nprint('extra', extra)"
    assert_no_score(trial(altered(examination=code)), Outcome.REJECTED, "unexpected request 'next' during hand-over")


@pytest.mark.slow
def test_a_module_written_beside_the_experiment_shadows_nothing(trial):
    code = """
    import pathlib, subprocess, sys
    here = pathlib.Path(__file__).parent
    assert (here / "colorsys.py").exists()
    (pathlib.Path.cwd() / "colorsys.py").write_text("print('SHADOWED')")
    (pathlib.Path.cwd() / "sitecustomize.py").write_text("print('SHADOWED')")
    import colorsys
    assert here not in pathlib.Path(colorsys.__file__).parents
    subprocess.run([sys.executable, "-c", "import colorsys"], cwd=here, check=True)
    subprocess.run([sys.executable, "-c", "import colorsys"], check=True)
    print("looked")
    """
    run = trial(altered(start=code), more_files={"colorsys.py": "print('SHADOWED')"})
    assert run.trial.outcome is Outcome.FINISHED, run.trial.reason
    assert "looked" in run.log and "SHADOWED" not in run.log


@pytest.mark.slow
def test_the_folder_of_a_trial_holds_only_the_ordered_files(trial):
    code = "import pathlib; print('beside', sorted(p.name for p in pathlib.Path(__file__).parent.iterdir()))"
    run = trial(altered(start=code), more_files={"train_mlx.py": ""})
    assert "beside ['train.py', 'train_mlx.py']" in run.log


@pytest.mark.slow
def test_the_environment_holds_no_secret_and_home_is_the_scratch(trial, monkeypatch):
    monkeypatch.setenv("FAKE_API_KEY", "sk-top-secret")
    code = "import os; print(dict(os.environ)); print('home', os.path.samefile(os.environ['HOME'], os.getcwd()))"
    run = trial(altered(start=code))
    assert "home True" in run.log and "PYTHONSAFEPATH" in run.log
    assert "sk-top-secret" not in run.log and "FAKE_API_KEY" not in run.log


@pytest.mark.slow
def test_notes_left_in_the_scratch_do_not_reach_the_next_trial(trial):
    code = (
        "import pathlib; note = pathlib.Path.home() / 'note'; print('found', note.exists()); note.write_text('weights')"
    )
    assert ["found False" in trial(altered(start=code)).log for _ in range(2)] == [True, True]


# -- CPU clock --------------------------------------------------------------------------------------------------------

CPU = {"clock": Clock.CPU, "time_budget": 0.4, "grace": 0.2, "wall_deadline": 20.0}

BURN = """
import os, signal, time
def burn(seconds):
    begin = time.process_time()
    while time.process_time() - begin < seconds: pass
"""


@pytest.mark.slow
def test_under_the_cpu_clock_the_budget_is_cpu_seconds(trial):
    run = trial(altered(**{"import": BURN}, step="burn(0.05)"), **CPU)
    assert run.trial.outcome is Outcome.FINISHED, run.trial.reason
    assert 4 <= run.trial.num_steps <= 10
    assert 0.3 <= run.trial.budget_used <= 0.6
    assert run.trial.cpu_share > 0


@pytest.mark.slow
def test_cpu_of_a_child_counts(trial):
    step = "if step == 0 and os.fork() == 0:\n    burn(60)\nif step == 0: time.sleep(3600)"
    run = trial(altered(**{"import": BURN}, step=step), **CPU)
    assert_no_score(run, Outcome.TIMED_OUT, "no weights within 0.4 + 0.2 CPU seconds")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted by prctl, which only Linux has")
@pytest.mark.parametrize("kind", ["auto", "none"])
def test_a_daemon_is_charged_for_and_dies_with_the_trial(trial, arena_of, kind):
    """That it is dead by then, the fixture sees: it would be our child."""
    step = """
    if step == 0:
        if os.fork() == 0:
            try:
                os.setsid()
            except OSError:
                pass  # some seals refuse it
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                print("a daemon is up", flush=True)
                burn(60)
            os._exit(0)
        os.wait()
        time.sleep(3600)
    """
    run = trial(altered(**{"import": BURN}, step=step), arena=arena_of(kind, **CPU))
    assert_no_score(run, Outcome.TIMED_OUT, "CPU seconds")
    assert "a daemon is up" in run.log
    assert run.trial.cpu_seconds >= 0.6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["auto", "none"])
def test_a_daemon_that_outlives_an_honest_end_dies_with_the_trial(trial, arena_of, kind):
    code = """
    import os, time
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
        except OSError:
            pass
        print("a daemon is up", flush=True)
        os.write(writer, b"x")
        time.sleep(3600)
    os.read(reader, 1)
    """
    run = trial(altered(examination=code), arena=arena_of(kind))
    assert run.trial.outcome is Outcome.FINISHED, run.trial.reason
    assert "a daemon is up" in run.log


WAITED_FOR_LATER = """
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    burn(0.6)
    os.write(writer, b"x")
    time.sleep(3600)
os.read(reader, 1)
"""
ENDED_AS_AN_ORPHAN = """
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    if os.fork() == 0:
        burn(0.6)
    os._exit(0)
os.close(writer)
os.read(reader, 1)  # nothing comes: it returns when the orphan has ended
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", [WAITED_FOR_LATER, ENDED_AS_AN_ORPHAN], ids=["waited for later", "orphan"])
def test_what_a_child_did_before_the_clock_neither_costs_nor_buys_training(trial, start):
    # Counted twice after the clock began, it would use the budget up; before, the clock would stand still for as long.
    step = "if step == 0:\n    os.kill(child, 9)\n    os.waitpid(child, 0)\nburn(0.05)"
    run = trial(altered(**{"import": BURN}, start=start, step=step), **CPU)
    assert run.trial.outcome is Outcome.FINISHED, run.trial.reason
    assert 4 <= run.trial.num_steps <= 10  # the whole budget, in steps of 0.05


def test_a_small_share_of_a_core_is_called_disturbed_under_the_cpu_clock_only(smoke):
    rules = {clock: dataclasses.replace(smoke[0], clock=clock) for clock in Clock}
    least = peers.DISTURBED_CPU_SHARE
    assert "20% of a core" in peers.disturbance(0.2, rules[Clock.CPU])
    assert peers.disturbance(least - 0.01, rules[Clock.CPU])
    assert peers.disturbance(least, rules[Clock.CPU]) == ""
    assert peers.disturbance(None, rules[Clock.CPU]) == ""
    assert peers.disturbance(0.1, rules[Clock.WALL]) == ""
    assert peers.disturbance(0.1, rules[Clock.STEPS]) == ""


@pytest.mark.slow
def test_a_candidate_that_slept_while_training_is_marked_disturbed(trial):
    run = trial(altered(step="if step == 1:\n    import time; time.sleep(0.5)\n    break"), **CPU)
    assert run.trial.outcome is Outcome.FINISHED, run.trial.reason
    assert run.trial.cpu_share < peers.DISTURBED_CPU_SHARE
    assert "neighbours used the machine" in run.trial.disturbed


def test_one_that_ran_out_of_wall_time_with_next_to_no_cpu_hung_and_was_not_starved(smoke):
    rules = dataclasses.replace(smoke[0], clock=Clock.CPU)
    least = peers._HANGS_BELOW
    assert peers.disturbance(least, rules, is_over=True)
    assert peers.disturbance(least - 0.01, rules, is_over=True) == ""
    assert peers.disturbance(least - 0.01, rules)


@pytest.mark.slow
def test_a_candidate_that_neighbours_starved_to_its_deadline_is_run_again_and_one_that_hangs_is_not(trial, monkeypatch):
    run = trial(altered(step=SLEEPS), **{**CPU, "wall_deadline": 1.0, "time_budget": 60.0})
    assert_no_score(run, Outcome.TIMED_OUT, "training took more than 1 s of wall time")
    assert run.trial.disturbed == ""
    # how much of a core a test's candidate gets is not the test's to say: here any share is that of one at work
    monkeypatch.setattr(peers, "_HANGS_BELOW", 0.0)
    starved = trial(altered(step=SLEEPS), **{**CPU, "wall_deadline": 1.0, "time_budget": 60.0})
    assert_no_score(starved, Outcome.TIMED_OUT, "training took more than 1 s of wall time")
    assert "neighbours used the machine" in starved.trial.disturbed


@pytest.mark.slow
def test_a_candidate_that_was_starved_and_came_late_is_run_again(trial, monkeypatch):
    monkeypatch.setattr(peers, "_HANGS_BELOW", 0.0)  # what a starved machine gives is not the test's to say
    step = "if step == 0:\n    time.sleep(2.0)\n    burn(60)"
    late = trial(altered(**{"import": BURN}, step=step), **CPU)
    assert_no_score(late, Outcome.TIMED_OUT, "no weights within 0.4 + 0.2 CPU seconds")
    assert late.trial.cpu_share < peers.DISTURBED_CPU_SHARE
    assert "neighbours used the machine" in late.trial.disturbed


# -- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["start-up", "training", "examination"])
def test_a_stop_ends_the_trial_in_any_phase(trial, phase):
    place = {"start-up": "start", "training": "step", "examination": "forward"}[phase]
    stop = threading.Event()
    pids = []

    def stop_in_phase(glimpse):
        if glimpse.phase == phase:
            stop.set()

    run = trial(
        altered(**{place: FOREVER}), stop=stop, on_glimpse=stop_in_phase, on_start=lambda pid, _: pids.append(pid)
    )
    assert_no_score(run, Outcome.ABANDONED, "stopped by the user")
    assert not psutil.pid_exists(pids[0])


def test_on_start_names_the_very_process(trial):
    seen = []

    def look(pid, created_at):
        process = psutil.Process(pid)
        seen.append((process.create_time() == created_at, process.ppid() == os.getpid()))

    trial(altered(start="raise SystemExit"), on_start=look)
    assert seen == [(True, True)]


def test_an_error_of_ours_leaves_nothing_running(trial):
    def fail(_pid, _created):
        raise ValueError("the ledger is full")

    with pytest.raises(ValueError, match="the ledger is full"):
        trial(altered(start=FOREVER), on_start=fail)


REFEREE = """
import sys
from pathlib import Path
from autoresearch.contract.prepared import open_prepared_directory
from autoresearch.contract.rules import rules_for
from autoresearch.loop.referee import Arena, Order, run_trial
prepared, folder = open_prepared_directory(Path(sys.argv[1])), Path(sys.argv[2])
order = Order({"train.py": (folder / "candidate.py").read_text()}, "train.py", 1)
run_trial(Arena(rules_for("smoke"), prepared, "cpu", False), order, folder / "log")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="death with the parent is asked of prctl, which only Linux has")
def test_candidate_and_feeder_die_when_the_referee_is_killed(smoke, tmp_path):
    step = "import os, time\nprint('candidate', os.getpid(), '.', flush=True)\ntime.sleep(3600)"
    (tmp_path / "candidate.py").write_text(altered(step=step))
    command = [sys.executable, "-c", REFEREE, str(smoke[1].directory), str(tmp_path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody is left to remove the trial's folder
    with subprocess.Popen(command, env=environment) as killed:
        poll(lambda: (tmp_path / "log").exists() and " ." in (tmp_path / "log").read_text())
        family = psutil.Process(killed.pid).children(recursive=True)
        assert len(family) >= 2  # candidate and feeder; bubblewrap has two of its own
        os.kill(killed.pid, signal.SIGKILL)
    poll(lambda: not any(runs(process) for process in family))
    for process in family:  # they became ours if an earlier trial made this process adopt orphans
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)


def poll(condition, seconds=PATIENCE):
    """Wait until the condition holds; the test fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def runs(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- our own data -----------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(smoke, tmp_path):
    """(Arena on a copy of the prepared data with many steps, path of its training tokens)."""
    rules, prepared = smoke
    home = shutil.copytree(prepared.directory.parent, tmp_path / "copy")
    many = dataclasses.replace(rules, time_budget=10**9)
    copy = open_prepared_directory(home / prepared.directory.name)
    return Arena(many, copy, "cpu", accelerators=False), copy.shards[0].tokens_path


@pytest.mark.slow
def test_tokens_truncated_in_mid_run_are_our_failure_and_not_the_candidates(trial, spoilt):
    arena, tokens = spoilt

    def truncate(glimpse):
        if glimpse.phase == "training":
            os.truncate(tokens, 0)

    # the feeder has read a unit ahead, here the whole epoch: large batches bring it to read again
    hungry = fake_experiment().replace("DEVICE_BATCH_SIZE = 4", "DEVICE_BATCH_SIZE = 512")
    with pytest.raises(DataCorrupt, match="the feeder stopped") as caught:
        trial(hungry, arena=arena, on_glimpse=truncate)
    assert caught.value.hint


@pytest.mark.slow
def test_a_feeder_that_dies_before_a_slow_candidate_asks_is_our_failure(trial, spoilt):
    arena, tokens = spoilt
    os.truncate(tokens, 100)
    slow = "import time\nuntil = time.monotonic() + 0.6\nwhile time.monotonic() < until: pass"
    with pytest.raises(DataCorrupt) as caught:
        trial(altered(start=slow), arena=arena)
    assert caught.value.hint.startswith("autoresearch prepare")


@pytest.mark.slow
def test_trials_leave_no_open_files_behind(trial):
    trial(altered(start="raise SystemExit"))
    gc.collect()
    before = psutil.Process().num_fds()
    trial(fake_experiment())
    gc.collect()
    assert psutil.Process().num_fds() <= before


@pytest.mark.slow
def test_every_reason_is_a_finite_short_line(trial):
    run = trial(altered(step="raise ValueError('\\x1b[2J' + 'x' * 10_000 + '\\nsecond')"))
    assert run.trial.outcome is Outcome.CRASHED
    assert len(run.trial.reason) <= 200 and "\x1b" not in run.trial.reason
    assert math.isfinite(run.trial.total_seconds)


def test_a_launcher_that_does_not_start_is_our_error_and_no_verdict(trial, arena_of, monkeypatch):
    arena = arena_of("none")  # the arena is probed while the launcher still works
    broken = [sys.executable, "-c", "raise SystemExit('no such flag')"]
    monkeypatch.setattr(cell, "interpreter", lambda _module: broken)
    with pytest.raises(InstallationError, match=r"did not start.*no such flag"):
        trial(fake_experiment(), arena=arena)


# -- the deep examination ---------------------------------------------------------------------------------------------

ALWAYS = DeepWish(lambda _score: True, noise_bpb=0.01)
NEVER = DeepWish(lambda _score: False, noise_bpb=0.01)

# Honest where the first prefixes probed, and of one mind about its forged places ever after: it learns each whole row from
# the claims asked of it, and bends claims, audited logits and later prefixes alike. Screening cannot tell.
FORGER = """
import hashlib
from autoresearch.backends.runtime import NumpyRuntime
from autoresearch.contract.channel import answers_of
from autoresearch.contract.examination import AskAudit, AskClaim, AskPrefix
runtime = NumpyRuntime()
honest = answers_of(model, runtime)
probed, known, held = set(), {}, []

def bent(inputs):
    logits = model(inputs).copy()
    for line, row in enumerate(inputs):
        for column in range(2, len(row)):  # many rows begin alike
            prefix = row[: column + 1].tobytes()
            if prefix in known and prefix not in probed and hashlib.sha256(prefix).digest()[0] % 100 < SHARE:
                logits[line, column, known[prefix]] += 14.0
    return logits

def answer(ask):
    if isinstance(ask, AskPrefix):
        if not known:
            probed.update(row[: column + 1].tobytes() for row, column in zip(ask.inputs, ask.positions))
        return runtime.pick(bent(ask.inputs), np.arange(len(ask.positions)), ask.positions)
    if isinstance(ask, AskAudit):
        return runtime.pick(held[-1], ask.rows, ask.columns)
    if isinstance(ask, AskClaim):
        for row, targets in zip(ask.inputs, ask.targets):
            for column in range(len(row)):
                known.setdefault(row[: column + 1].tobytes(), targets[column])  # one answer to one prefix
        held[:] = [bent(ask.inputs)]
        return runtime.nll(held[0], ask.targets)
    return honest(ask)

link = evaluate_bpb._link
evaluate_bpb = lambda model, tokenizer, batch_size: link.examine(
    runtime.pack(model.state_dict()), batch_size, answer
)
"""


def forging(percent):
    """The counting experiment, which forges its claims at this part of all places."""
    code = "global evaluate_bpb\n" + FORGER.replace("SHARE", str(percent))
    return altered(examination=code)


@pytest.mark.slow
def test_an_honest_model_is_examined_deeply_by_a_fresh_process(trial, smoke, honest_score):
    run = trial(fake_experiment(), deep=ALWAYS)
    found = run.trial
    assert found.outcome is Outcome.FINISHED, found.reason
    assert found.val_bpb == honest_score
    assert found.examined is Examination.DEEP
    assert found.deep_prefixes == 2.0 * smoke[0].num_eval_rows
    assert found.leak_bpb == pytest.approx(0.0, abs=1e-5)
    low, high = found.leak_interval_bpb
    assert low <= found.leak_bpb <= high
    assert 0 < found.leak_bound_bpb < 1
    assert 0 < found.deep_seconds < found.total_seconds
    assert run.weights is not None


@pytest.mark.slow
def test_only_a_score_that_is_wanted_is_examined_deeply(trial, honest_score):
    asked = []
    run = trial(fake_experiment(), deep=DeepWish(lambda score: bool(asked.append(score)), noise_bpb=0.01))
    assert asked == [honest_score]
    assert (run.trial.outcome, run.trial.examined) == (Outcome.FINISHED, Examination.SCREENED)
    assert (run.trial.deep_prefixes, run.trial.leak_bpb, run.trial.deep_seconds) == (0, None, 0.0)


@pytest.mark.slow
def test_a_careful_forger_passes_screening(trial, honest_score):
    """What it is for: a score from screening alone says so in its row."""
    found = trial(forging(20)).trial
    assert found.outcome is Outcome.FINISHED, found.reason
    assert found.examined is Examination.SCREENED
    assert found.val_bpb < 0.9 * honest_score


@pytest.mark.slow
def test_a_careful_forger_is_refused_by_the_deep_examination(trial):
    run = trial(forging(20), deep=ALWAYS)
    assert_no_score(run, Outcome.REJECTED, "a fresh process with these weights needs")
    assert run.trial.examined is Examination.NONE
    assert run.trial.leak_bound_bpb is None


@pytest.mark.slow
@pytest.mark.parametrize("deep", [None, NEVER])
def test_a_score_that_no_model_can_reach_is_refused_or_examined_deeply_unasked(trial, deep):
    reason = "below what any such model can reach" if deep is None else "a fresh process with these weights needs"
    run = trial(forging(100), deep=deep)
    assert_no_score(run, Outcome.REJECTED, reason)


@pytest.mark.slow
def test_a_model_that_cannot_be_rebuilt_gets_no_deep_score(trial):
    text = fake_experiment().replace("def load_model(", "def load_another(")
    run = trial(text, deep=ALWAYS)
    assert_no_score(run, Outcome.CRASHED, "deep examination: ")
    broken = fake_experiment().replace('len(weights["counts"])', "weights.no_such_thing")
    run = trial(broken, deep=ALWAYS)
    assert_no_score(run, Outcome.CRASHED, "deep examination: AttributeError")


@pytest.mark.slow
def test_a_model_rebuilt_from_more_than_its_weights_is_refused(trial):
    """SHARPNESS is a constant of the file and may be used; what training left in the process is gone."""
    left_behind = "global SHARPNESS\nSHARPNESS = 0.6"
    run = trial(altered(start=left_behind), deep=ALWAYS)
    assert_no_score(run, Outcome.REJECTED, "a fresh process with these weights needs")


@pytest.mark.slow
def test_a_fresh_process_that_never_answers_meets_the_exam_deadline(trial):
    text = fake_experiment().replace("    model.counts = weights", "    while True: pass\n    model.counts = weights")
    run = trial(text, deep=ALWAYS, startup_cap=3.0)
    assert_no_score(run, Outcome.TIMED_OUT, "deep examination: the deep examination passed the deadline")


@pytest.mark.slow
def test_the_fresh_process_is_taken_from_where_the_order_says_and_ended(trial, arena_of):
    arena = arena_of("auto")
    given = []

    def fresh():
        given.append(start_candidate(arena))
        return given[-1]

    run = trial(fake_experiment(), deep=ALWAYS, fresh=fresh, arena=arena)
    assert run.trial.examined is Examination.DEEP
    assert len(given) == 1
    assert given[0].tree.poll() is not None
    assert not given[0].folder.exists()


# -- work outside the clock -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_start_up_is_taken_off_the_budget(trial):
    busy = altered(start="import time\nbegan = time.process_time()\nwhile time.process_time() - began < 1.5: pass")
    rules = {"clock": Clock.CPU, "time_budget": 1.0, "grace": 5.0}
    paying = trial(busy, startup_allowance=0.1, **rules).trial
    assert paying.startup_used > 1.0
    assert paying.num_steps < 4, "a start-up longer than the whole budget left steps"
    free = trial(busy, **rules).trial
    assert free.num_steps > 4


@pytest.mark.slow
def test_work_on_answers_beyond_the_baselines_is_too_late(trial):
    training = altered(
        examination="import time\nreal, began = Counts.__call__, []\ndef slow(self, inputs):\n"
        "    if not began:\n        began.append(time.process_time())\n"
        "        while time.process_time() - began[0] < 1.5: pass\n"
        "    return real(self, inputs)\nCounts.__call__ = slow"
    )
    run = trial(training, exam_allowance=0.5)
    assert_no_score(run, Outcome.TIMED_OUT, "on the examination's answers")
    assert trial(training, exam_allowance=30.0).trial.outcome is Outcome.FINISHED
    assert trial(training).trial.outcome is Outcome.FINISHED


@pytest.mark.slow
def test_a_hand_over_whose_header_would_take_seconds_to_read_is_refused_unread(trial):
    header = (5 * 2**20).to_bytes(8, "little")
    run = trial(altered(examination=f"evaluate_bpb._link.examine({header!r} + bytes(64), 8, lambda ask: None)"))
    assert_no_score(run, Outcome.REJECTED, "the weights' header has 5,242,880 bytes")
