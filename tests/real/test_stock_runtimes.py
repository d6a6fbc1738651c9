"""Exports in runtimes that are not ours: llama.cpp (cyllama) and transformers compute what the checkpoint computes."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import TEXT, full_config, portable_config, some_ids, tokenizer, write_checkpoint

from autoresearch.quantize.checkpoint import open_checkpoint
from autoresearch.quantize.gguf import open_gguf, write_gguf
from autoresearch.quantize.hf_folder import write_hf_folder
from autoresearch.quantize.reference import ReferenceGPT, load_reference
from autoresearch.quantize.sampling import Wish, sample_ids


def needs(name: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name} here: pip install {package}")


class LlamaCpp:
    """A GGUF in llama.cpp on one CPU thread, keys and values in float32 and attention unfused: its most exact setting."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        import cyllama.llama.llama_cpp as llama

        llama.disable_logging()
        llama.ggml_backend_load_all()
        self._llama = llama
        how = llama.LlamaModelParams()
        how.n_gpu_layers = 0
        # get_logits of cyllama 0.2.18 asks its model for a number that only the vocabulary has
        counted = type("CountedModel", (llama.LlamaModel,), {"n_vocab": vocab_size})
        self._model = counted(str(path), how)
        self.vocab = self._model.get_vocab()
        room = llama.LlamaContextParams()
        room.n_ctx = 64
        room.n_threads = room.n_threads_batch = 1
        room.type_k = room.type_v = 0  # float32
        room.flash_attn_type = 0  # its fused attention rounds to float16: 5e-3 instead of 5e-6 in the logits
        self._context = llama.LlamaContext(self._model, room)

    def logits(self, tokens: list[int], at: int = 0) -> torch.Tensor:
        """[T, V] of tokens that stand at positions `at` and after."""
        rows = []
        for position, token in enumerate(tokens, start=at):
            self._context.decode(self._llama.llama_batch_get_one([token], position))
            rows.append(np.array(self._context.get_logits(), dtype=np.float32))
        return torch.from_numpy(np.stack(rows))


@pytest.mark.local_llm
@needs("cyllama", "cyllama")
@needs("gguf", "'autoresearch[export]'")
class TestLlamaCpp:
    @pytest.mark.parametrize(
        ("kind", "close"),
        # types that round the activations too differ from our float32 arithmetic on the same file by more
        [("f32", 5e-5), ("bf16", 0.2), ("q8_0", 0.5), ("q4_0", 0.7)],
    )
    def test_logits_are_those_of_the_file(self, tmp_path, kind, close):
        config = portable_config()
        checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", config))
        write_gguf(checkpoint, tmp_path / "m.gguf", type_name=kind)
        found = open_gguf(tmp_path / "m.gguf")
        ids = some_ids(config)[:1]
        ours = ReferenceGPT(found.config).take(found.tensors)(ids)[0]
        theirs = LlamaCpp(tmp_path / "m.gguf", config.vocab_size).logits(ids[0].tolist())
        torch.testing.assert_close(theirs, ours, atol=close, rtol=0)
        if kind == "f32":
            torch.testing.assert_close(theirs, load_reference(checkpoint)(ids)[0], atol=close, rtol=0)

    def test_greedy_text_is_the_checkpoints(self, tmp_path):
        config = portable_config()
        checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", config))
        write_gguf(checkpoint, tmp_path / "m.gguf", type_name="f32")
        model = LlamaCpp(tmp_path / "m.gguf", config.vocab_size)
        text = [380, 73, 116]
        ours = list(sample_ids(load_reference(checkpoint), text, Wish(24, temperature=0), stop_from=10**9))
        theirs, last = [], model.logits(text)[-1]
        for position in range(24):
            theirs.append(int(last.argmax()))
            last = model.logits(theirs[-1:], at=len(text) + position)[-1]
        assert theirs == ours

    def test_text_without_longer_numbers_gets_our_tokens(self, tmp_path):
        checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", portable_config()))
        write_gguf(checkpoint, tmp_path / "m.gguf")
        model = LlamaCpp(tmp_path / "m.gguf", 384)  # a vocabulary without its model is freed memory
        vocab = model.vocab
        for text in (
            TEXT.replace("1000", "10").replace("2026", "26"),
            "It's 12 o'clock, 7 p.m.\n\n  x\t y",
            "東京 é 🙂 \r\n",
        ):
            assert list(vocab.tokenize(text, False, False)) == tokenizer().encode(text)
        assert list(vocab.tokenize("2026", False, False)) != tokenizer().encode("2026")  # what the note says
        assert (vocab.token_bos(), vocab.token_eos()) == (380, 380)
        assert list(vocab.tokenize("a", True, False)) == [380, 97]


@needs("transformers", "'autoresearch[export]'")
class TestTransformers:
    CONFIGS = {  # noqa: RUF012
        "ApertusForCausalLM": portable_config(),
        "NanoChatForCausalLM": portable_config(softcap=15.0),
        "AutoresearchForCausalLM": full_config(),
    }

    @pytest.fixture(params=list(CONFIGS))
    def loaded(self, request, tmp_path, monkeypatch):
        """(their model, their tokenizer, ours)"""
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own imports
            import transformers
            from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
        checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", self.CONFIGS[request.param]))
        write_hf_folder(checkpoint, tmp_path / "hf")
        own = {"trust_remote_code": request.param == "AutoresearchForCausalLM"}
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", **own).eval()
        assert type(theirs).__name__ == request.param
        return theirs, AutoTokenizer.from_pretrained(tmp_path / "hf", **own), load_reference(checkpoint)

    @pytest.mark.slow
    def test_it_computes_generates_and_encodes_the_same(self, loaded):
        theirs, words, ours = loaded
        ids = some_ids(ours.config)
        with torch.no_grad():
            torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=2e-5, rtol=0)
            start = torch.tensor([[380, 73, 116]])
            wanted = [
                *start[0].tolist(),
                *sample_ids(ours, start[0].tolist(), Wish(20, temperature=0), stop_from=10**9),
            ]
            for cached in (True, False):
                made = theirs.generate(start, max_new_tokens=20, do_sample=False, eos_token_id=None, use_cache=cached)
                assert made[0].tolist() == wanted
            padded = torch.cat([torch.full((1, 4), 380), ids[:1, :5]], 1)
            seen = torch.tensor([[0] * 4 + [1] * 5])
            last = theirs(padded, attention_mask=seen).logits[0, -1]
            torch.testing.assert_close(last, ours(ids[:1, :5])[0, -1], atol=2e-5, rtol=0)
        for text in ("It's 1234567 o'clock in 2026", "  x\n\n y\t\r\n", "café 東京 🙂", "a<|reserved_0|>b"):
            assert words(text, add_special_tokens=False)["input_ids"] == tokenizer().encode(text)
            assert words.decode(tokenizer().encode(text)) == text
        assert words("a")["input_ids"] == [380, 97]
