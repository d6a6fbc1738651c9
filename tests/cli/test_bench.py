"""`autoresearch bench` as a person calls it: real processes, the record, the status file, and every way to go wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from calling import call, done, refused

ROOT = Path(__file__).parents[2]
QUICK = ("--steps", "3", "--rounds", "1")
LOOP = """
from prepare import MAX_SEQ_LEN, Tokenizer, evaluate_bpb, make_dataloader
print("this is NAME", flush=True)
tokenizer = Tokenizer.from_directory()
for step, (inputs, targets, epoch) in enumerate(make_dataloader(tokenizer, 2, MAX_SEQ_LEN, "train")):
    BODY
"""


def loop(name: str, body: str = "pass") -> str:
    return LOOP.replace("NAME", name).replace("BODY", body)


@pytest.mark.slow
def test_two_files_are_compared_and_all_of_it_is_recorded(make_workspace, tmp_path):
    root = make_workspace(loop("ours"))
    other = tmp_path / "elsewhere" / "train.py"
    other.parent.mkdir()
    other.write_text(loop("yours", "sum(range(100_000))"))
    (other.parent / "prepare.py").write_text("MAX_SEQ_LEN = 2048\n")
    report = json.loads(done(root, "bench", "--compare", "../elsewhere/train.py", *QUICK, "--json"))
    (path,) = (root / "data").glob("bench_*.json")
    assert report.pop("written_to") == f"data/{path.name}"
    assert report == json.loads(path.read_text())
    ours, yours = report["measurements"]
    assert ours["sha256"] != yours["sha256"] and yours["path"] == "../elsewhere/train.py"
    assert ours["text"] == {"kind": "prepared", "dataset": "embedded"}
    assert report["comparisons"][0]["order"] == "AB"
    assert any("MAX_SEQ_LEN = 2048" in note for note in report["notes"])
    logs = {log.name[16:]: log.read_text() for log in (root / "logs" / "bench").iterdir()}
    assert logs == {"A-own-whole-1.log": "this is ours\n", "B-own-whole-1.log": "this is yours\n"}
    status = dict(line.split("=", 1) for line in (root / "bench_status.txt").read_text().splitlines())
    assert list(status) == ["phase", "progress", "updated_at", "pid", "message"]
    assert (status["phase"], status["progress"]) == ("ended", "1")


@pytest.mark.slow
def test_the_shipped_file_is_shown_in_its_parts(make_workspace):
    root = make_workspace((ROOT / "train.py").read_text())
    text = done(root, "bench", "--steps", "3")
    for part in ("data", "forward", "backward", "optimizer", "overhead"):
        assert f"\n    {part} " in text
    assert "train.py, eager, torch on cpu" in text
    assert "of the file" not in text and "not measured" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "arguments", "code", "said", "hint"),
    [
        (loop("x"), ("absent.py",), 2, "no file absent.py", "autoresearch bench"),
        ("def f(:\n", (), 2, "train.py, line 1", "py_compile"),
        ("print('hello')\n", (), 2, "takes no make_dataloader", "from prepare import"),
        (loop("x").replace("evaluate_bpb", "EVAL_TOKENS"), (), 2, "takes EVAL_TOKENS from prepare", "take it out"),
        (loop("x", "raise ValueError('the width is odd')"), QUICK, 1, "ValueError: the width is odd", "less logs"),
        (loop("x", "import os; os.kill(os.getpid(), 9)"), QUICK, 1, "signal 9", "less logs"),
        (
            loop("x", "import threading; threading.Event().wait()"),
            (*QUICK, "--limit", "4"),
            1,
            "within 4 s",
            "--limit 16",
        ),
        (loop("x", "break"), QUICK, 2, "ended after 0 steps", "--contract"),
        (loop("x").replace("2, MAX", "2, 4 * MAX"), QUICK, 2, "rows of 256 tokens", "--contract"),
        (loop("x"), ("--compiled",), 2, "cannot be compiled from outside", "autoresearch bench train.py"),
        (loop("x"), ("--steps", "2"), 2, "--steps", "--steps 20"),
    ],
)
def test_what_goes_wrong_is_told_with_the_next_thing_to_type(make_workspace, text, arguments, code, said, hint):
    root = make_workspace(text)
    assert hint in refused_with_traceback(call(root, "bench", *arguments), code, said)
    assert not list((root / "data").glob("bench_*")) if (root / "data").exists() else True


def refused_with_traceback(result, code: int, said: str) -> str:
    """As `refused`; the end of a crashed file's log is quoted, its traceback included."""
    if said.startswith(("ValueError", "within")):
        assert "  | " in result.stderr
        result.stderr = result.stderr.replace("Traceback", "")
    return refused(result, code, said)


@pytest.mark.slow
def test_nothing_prepared_is_measured_on_random_tokens_and_said(make_workspace, tmp_path):
    root = make_workspace(loop("x"))
    text = done(root, "bench", *QUICK, environment={"AUTORESEARCH_CACHE": str(tmp_path / "empty")})
    assert "synthetic tokens of embedded" in text
    assert "note: nothing is prepared for contract smoke" in text


def test_the_tool_is_the_same_program_as_the_verb(monkeypatch):
    path = ROOT / "tools" / "bench.py"
    spec = importlib.util.spec_from_file_location("__main__", path)
    called = []
    monkeypatch.setattr("autoresearch.cli.main", lambda arguments: called.append(arguments) or 0)
    monkeypatch.setattr(sys, "argv", ["bench.py", "train.py", "--steps", "9"])
    with pytest.raises(SystemExit) as end:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert end.value.code == 0
    assert called == [["bench", "train.py", "--steps", "9"]]
