from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.providers.tokens import estimated_tokens

ROOT = Path(__file__).parents[2]
# Tokens in SmolLM2's vocabulary, counted with cyllama 0.2.18 on 2026-11-21.
COUNTED = {
    "results": ("\n".join(f"{i} 1.{i * 7919 % 1000000:06d} 0.0{i % 97} keep" for i in range(500)), 9829),
    "chinese": ("学习率从零点零四改为零点零八，验证损失下降。" * 50, 1950),
    "signs": ("✅🚀 loss ↓ — “good” ≈ 0.1 " * 40, 760),
    "russian": ("Скорость обучения увеличена вдвое, потери на проверке уменьшились. " * 30, 1442),
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_estimate_is_over_the_count_and_not_far_over(name):
    text, tokens = COUNTED[name]
    assert tokens <= estimated_tokens(text) <= 1.5 * tokens


def test_source_code_is_between_two_and_four_bytes_a_token():
    text = (ROOT / "train.py").read_text(encoding="utf-8")
    assert len(text) / 4 < estimated_tokens(text) < len(text) / 2


@given(st.text(max_size=300), st.text(max_size=300))
def test_more_text_is_never_fewer_tokens(first, second):
    assert 0 <= estimated_tokens(first) <= estimated_tokens(f"{first}\n{second}")


def test_an_empty_text_is_nothing():
    assert estimated_tokens("") == 0
