"""One measuring process, from inside: what it serves, when it ends, and what it says when it cannot measure."""

from __future__ import annotations

from pathlib import Path

import pytest
from measuring import CountedClock, counted, order_for

from autoresearch.bench.child import measure, micro_steps_in
from autoresearch.bench.order import Mode, Order, Task
from autoresearch.vocabulary import UsageError

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


@pytest.fixture(autouse=True)
def _contract(smoke, monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_CONTRACT", "smoke")


def run(tmp_path, text: str, **more) -> dict:
    path = tmp_path / "train.py"
    path.write_text(text)
    return CountedClock().run(order_for(path, **more), tmp_path / "log", tmp_path)


def test_as_many_steps_are_measured_as_were_ordered(tmp_path):
    found = run(tmp_path, counted(3), steps=7)
    assert found["step_seconds"] == [3.0] * 7
    assert found["warm_up_steps"] == 6
    assert (found["rows"], found["seq_len"], found["micro_steps"]) == (2, 64, 1)


def test_the_contract_s_own_text_is_handed_out_where_it_is_prepared(tmp_path, monkeypatch):
    assert run(tmp_path, counted(3))["text"] == "prepared"
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "empty"))
    assert run(tmp_path, counted(3))["text"] == "synthetic"


def test_synthetic_tokens_are_of_the_contract_s_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "empty"))
    check = "assert 256 < int(inputs.max()) < 512 and tokenizer.get_vocab_size() == 512, (inputs.max(),)"
    assert run(tmp_path, counted(3, and_then=check))["text"] == "synthetic"


def test_a_training_loop_that_catches_every_exception_still_ends(tmp_path):
    head, _loop = counted(3).split("for inputs")
    text = head + (
        'batches = iter(make_dataloader(tokenizer, ROWS, MAX_SEQ_LEN, "train"))\n'
        "while True:\n"
        "    try:\n"
        "        next(batches)\n"
        "        work(3)\n"
        "    except Exception:\n"
        "        continue\n"
    )
    assert len(run(tmp_path, text)["step_seconds"]) == 5


@pytest.mark.slow
def test_batches_may_be_fetched_by_a_thread_of_the_file_s_own(tmp_path):
    head, _loop = counted(3).split("for inputs")
    text = head + (
        "import queue, threading\n"
        "fetched = queue.Queue(maxsize=1)\n"
        "def fetch():\n"
        '    for batch in make_dataloader(tokenizer, ROWS, MAX_SEQ_LEN, "train"):\n'
        "        work(3)\n"
        "        fetched.put(batch)\n"
        "threading.excepthook = lambda _: None\n"
        "threading.Thread(target=fetch, daemon=True).start()\n"
        "while True:\n"
        "    fetched.get()\n"
    )
    assert run(tmp_path, text)["step_seconds"] == [3.0] * 5


def test_a_file_that_ends_by_itself_too_early_is_told_how_many_steps_it_took(tmp_path):
    text = counted(3, and_then="if micro_step == 4: break") + "evaluate_bpb(None, tokenizer, ROWS)"
    text = text.replace("evaluate_bpb(None", "class M:\n    def state_dict(self): return {}\nevaluate_bpb(M()")
    with pytest.raises(UsageError, match="ended after 3 steps") as told:
        run(tmp_path, text)
    assert "--contract" in told.value.hint


def test_rows_longer_than_the_contract_s_are_refused_with_its_name(tmp_path):
    with pytest.raises(UsageError, match="rows of 128 tokens, and contract smoke has rows of 64"):
        run(tmp_path, counted(3).replace('MAX_SEQ_LEN, "train"', '2 * MAX_SEQ_LEN, "train"'))


def test_a_file_that_was_changed_after_it_was_read_is_not_measured(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(counted(3))
    order = order_for(path)
    path.write_text(counted(6))
    with pytest.raises(UsageError, match="changed"):
        measure(order)


def test_nothing_of_a_measured_file_stays_behind(tmp_path):
    import sys

    before = {name: sys.modules.get(name) for name in ("prepare", "experiment", "__main__")}
    path, arguments = list(sys.path), list(sys.argv)
    run(tmp_path, counted(3))
    assert {name: sys.modules.get(name) for name in before} == before
    assert (sys.path, sys.argv) == (path, arguments)


@pytest.mark.parametrize(("total", "expected"), [(512, 4), (128, 1), (100, None), (300, None), ("128", None)])
def test_micro_steps_follow_from_the_total_batch_where_it_divides(total, expected):
    assert micro_steps_in({"TOTAL_BATCH_SIZE": total}, 2, 64) == expected


def test_an_order_survives_the_way_to_the_other_process(tmp_path):
    (tmp_path / "train.py").write_text(counted(3))
    order = order_for(tmp_path / "train.py", Task.PARTS, Mode.COMPILED, rows=2, seq_len=64, micro_steps=3)
    assert Order.from_json(order.to_json()) == order


@pytest.mark.slow
def test_the_shipped_file_is_measured_in_all_its_parts():
    order = order_for(TRAIN, Task.PARTS, Mode.EAGER, steps=3, rows=2, seq_len=64, micro_steps=1)
    assert order.is_named
    found = measure(order)
    assert list(found["parts"]) == ["data", "forward", "backward", "optimizer"]
    assert all(len(samples) == 3 and min(samples) > 0 for samples in found["parts"].values())
    assert found["compiled"] is False
    assert found["num_params"] > 10_000 and found["flops_per_token"] > 10_000
    # 32 validation rows in batches of 2, prefixes of 8 rows before and of 4 after
    assert found["num_eval_batches"] == 16 + 4 + 2
    assert len(found["eval_batch_seconds"]) == 3
