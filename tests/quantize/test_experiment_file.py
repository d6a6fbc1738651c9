"""Whether an experiment file still defines the shipped model."""

from pathlib import Path

import pytest

from autoresearch.quantize.experiment_file import edited_parts

SHIPPED = Path(__file__).resolve().parents[2] / "train.py"


@pytest.fixture
def beside(tmp_path):
    def write(*changes: tuple[str, str]) -> Path:
        text = SHIPPED.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (tmp_path / "train.py").write_text(text, encoding="utf-8")
        return tmp_path / "train.py"

    return write


def test_constants_comments_and_docstrings_are_no_edit(beside):
    changes = [("ROPE_BASE = 10000.0", "ROPE_BASE = 500.0"), ('"""RMS norm over the last dimension', '"""Another word')]
    assert edited_parts(beside(*changes), SHIPPED) == []
    assert edited_parts(SHIPPED, SHIPPED) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            ("nn.Linear(4 * config.n_embd, config.n_embd, bias=False)", "nn.Linear(4 * config.n_embd, config.n_embd)"),
            "MLP",
        ),
        (("def norm(x):\n", "def norm(x, scale=1.0):\n"), "norm"),
        (("x = x0\n", "x = 2 * x0\n"), "GPT.hidden"),
    ],
)
def test_another_model_is_named_by_its_part(beside, change, part):
    assert edited_parts(beside(change), SHIPPED) == [part]


@pytest.mark.slow
def test_another_optimizer_is_no_other_model(beside):
    assert edited_parts(beside(("self.num_steps += 1", "self.num_steps += 2")), SHIPPED) == []


def test_what_is_not_there_says_nothing_and_what_is_no_python_says_all(tmp_path):
    assert edited_parts(tmp_path / "train.py", SHIPPED) == []
    (tmp_path / "train.py").write_bytes(b"\x00 def (")
    assert edited_parts(tmp_path / "train.py", SHIPPED) == ["the whole file"]
