"""Text from a model: seeds, ends, lengths."""

import pytest
import torch
from small_models import full_config, tokenizer, weights_of

from autoresearch.quantize.reference import ReferenceGPT
from autoresearch.quantize.sampling import Wish, sample_ids, sample_text
from autoresearch.vocabulary import UsageError

CONFIG = full_config()


@pytest.fixture(scope="module")
def model():
    return ReferenceGPT(CONFIG).take(weights_of(CONFIG)).eval()


def ids(model, prompt, wish, stop_from=10**9):
    return list(sample_ids(model, prompt, wish, stop_from=stop_from))


def test_greedy_text_is_the_likeliest_token_each_time(model):
    text = [380, 1, 2]
    wanted = []
    for _ in range(20):
        wanted.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        text.append(wanted[-1])
    assert ids(model, [380, 1, 2], Wish(20, temperature=0)) == wanted


def test_a_seed_gives_the_same_text_and_another_seed_another(model):
    first = ids(model, [380], Wish(25, temperature=1.5, seed=3))
    assert first == ids(model, [380], Wish(25, temperature=1.5, seed=3))
    assert first != ids(model, [380], Wish(25, temperature=1.5, seed=4))


def test_the_best_one_token_is_greedy_at_any_temperature(model):
    assert ids(model, [380], Wish(20, temperature=5.0, top_k=1)) == ids(model, [380], Wish(20, temperature=0))


def test_only_the_best_k_are_drawn(model):
    best = set(model(torch.tensor([[380]]))[0, -1].topk(3).indices.tolist())
    drawn = {ids(model, [380], Wish(1, temperature=9.0, top_k=3, seed=seed))[0] for seed in range(60)}
    assert drawn == best


@pytest.mark.slow
def test_it_goes_on_past_the_models_length(model):
    assert len(ids(model, [380], Wish(100, temperature=1.0))) == 100
    assert len(ids(model, list(range(90)), Wish(3))) == 3


@pytest.mark.slow
def test_a_special_ends_the_document_and_is_not_part_of_it(model):
    every = ids(model, [380], Wish(200, temperature=2.0))
    limit = sorted(every)[-1]
    assert ids(model, [380], Wish(200, temperature=2.0), stop_from=limit) == every[: every.index(limit)]


def test_text_arrives_in_whole_characters(model):
    pieces = list(sample_text(model, tokenizer(), "東", Wish(60, temperature=3.0)))
    assert all(pieces) and "".join(pieces).encode()


@pytest.mark.parametrize(
    "wish", [Wish(0), Wish(5, temperature=-1.0), Wish(5, temperature=float("nan")), Wish(5, top_k=0)]
)
def test_wishes_that_make_no_sense_are_refused(model, wish):
    with pytest.raises(UsageError):
        ids(model, [380], wish)


@pytest.mark.parametrize("prompt", [[], [9999], [-1]])
def test_prompts_that_are_none_are_refused(model, prompt):
    with pytest.raises(UsageError):
        ids(model, prompt, Wish(3))
