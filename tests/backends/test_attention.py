"""Each attention kernel sees exactly its window, and the choice among them follows what is there."""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.backends import attention
from autoresearch.backends.attention import PATHS, Present, attention_for, choose, present_on, survey, why_not

CPU = torch.device("cpu")
HOPPER = Present("cuda", capability=(9, 0), has_fa3=True, has_varlen=True, has_flex=True, compiles=True)
SHORT = {"dtype": torch.bfloat16, "head_dim": 128, "window": 1024, "length": 2048}


def naive(q, k, v, window):
    """Loops over queries, float64. q [B, T, H, D], k and v [B, T, KV, D]."""
    groups = q.size(2) // k.size(2)
    k, v = (t.repeat_interleave(groups, dim=2) for t in (k, v))
    rows = []
    for t in range(q.size(1)):
        keys = slice(max(0, t - window + 1), t + 1)
        scores = torch.einsum("bhd,bshd->bhs", q[:, t], k[:, keys]) / q.size(-1) ** 0.5
        rows.append(torch.einsum("bhs,bshd->bhd", torch.softmax(scores, dim=-1), v[:, keys]))
    return torch.stack(rows, dim=1)


def some(length, heads=2, kv_heads=2, head_dim=8, seed=0, dtype=torch.float32, device=CPU):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, length, h, head_dim) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(*shape, generator=generator).to(device, dtype) for shape in shapes]


def check(kernel, window, tensors, rtol=1e-4, atol=1e-5):
    """Values and gradients of a kernel against the loops."""
    grad = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(9)).to(tensors[0])
    got_in = [t.clone().requires_grad_() for t in tensors]
    wide_in = [t.detach().cpu().double().requires_grad_() for t in tensors]
    got, expected = kernel(*got_in), naive(*wide_in, window)
    got.backward(grad)
    expected.backward(grad.cpu().double())
    torch.testing.assert_close(got.detach().cpu().double(), expected.detach(), rtol=rtol, atol=atol)
    for a, b in zip(got_in, wide_in, strict=True):
        torch.testing.assert_close(a.grad.cpu().double(), b.grad, rtol=rtol, atol=atol)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(window=st.integers(1, 20), length=st.integers(1, 24), kv_heads=st.sampled_from([1, 2]), data=st.data())
def test_both_kernels_of_a_cpu_see_exactly_the_window(window, length, kv_heads, data):
    tensors = some(length, kv_heads=kv_heads)
    longest = data.draw(st.integers(length, 30))
    check(attention.sdpa_mask(window, longest, CPU), window, tensors)
    check(attention.sdpa_blocks(window, CPU), window, tensors)


def test_causal_attention_sees_all_earlier_keys():
    check(attention.causal, 13, some(13, kv_heads=1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("length", [128, 40])
def test_flex_sees_exactly_the_window_forwards_on_a_cpu(length):
    """It has no backward pass on a CPU. Rows of another length than the mask was made for go by a plain mask."""
    kernel = attention.flex(37, 128, CPU)
    q, k, v = some(length, heads=2, kv_heads=1, head_dim=16)
    with torch.no_grad():
        expected = naive(q.double(), k.double(), v.double(), 37)
        torch.testing.assert_close(kernel(q, k, v).double(), expected, rtol=1e-4, atol=1e-5)


def test_flash_attention_3_is_asked_for_one_key_less_to_the_left_than_the_window():
    asked = []

    def flash_attn_func(q, k, v, *, causal, window_size):
        asked.append((causal, window_size))
        return v, "sums"

    q, k, v = some(8)
    assert attention.fa3(4, 8, flash_attn_func)(q, k, v) is v
    assert attention.fa3(8, 8, lambda *a, **b: flash_attn_func(*a, **b)[0])(q, k, v) is v
    assert asked == [(True, (3, 0)), (True, (-1, 0))]


def test_varlen_gets_rows_as_documents_and_one_key_less_to_the_left(monkeypatch):
    asked = {}

    def varlen_attn(q, k, v, starts_q, starts_k, max_q, max_k, **more):
        asked.update(more, shapes=(q.shape, k.shape), starts=starts_q.tolist(), max=(max_q, max_k))
        assert starts_k is starts_q
        return q

    module = types.ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = varlen_attn
    monkeypatch.setitem(sys.modules, module.__name__, module)
    q, k, v = some(6, heads=2, kv_heads=1)
    assert attention.varlen(4)(q, k, v).shape == q.shape
    assert asked["shapes"] == ((12, 2, 8), (12, 1, 8))
    assert asked["starts"] == [0, 6, 12]
    assert (asked["max"], asked["window_size"], asked["enable_gqa"]) == ((6, 6), (3, 0), True)
    attention.varlen(100)(q, k, v)
    assert asked["window_size"] == (5, 0)


# --------------------------------------------------------------------------------------------------------- the choice


def test_the_fastest_that_is_there_is_chosen():
    here = HOPPER
    assert choose(here, **SHORT) == "fa3"
    here = replace(here, has_fa3=False)
    assert choose(here, **SHORT) == "varlen"
    here = replace(here, has_varlen=False)
    assert choose(here, **SHORT) == "flex"
    here = replace(here, compiles=False)
    assert choose(here, **SHORT) == "sdpa_mask"
    assert choose(here, **SHORT | {"window": 512}) == "sdpa_blocks"
    assert choose(here, **SHORT | {"window": 2048}) == "sdpa"


@pytest.mark.parametrize(
    ("here", "asked", "path"),
    [
        (HOPPER, {"window": 2048}, "fa3"),
        (HOPPER, {"dtype": torch.float32}, "flex"),
        (HOPPER, {"head_dim": 512}, "flex"),
        (HOPPER, {"head_dim": 8}, "fa3"),
        (replace(HOPPER, capability=(10, 0)), {}, "varlen"),
        (replace(HOPPER, capability=(10, 0)), {"window": 2048}, "sdpa"),
        (replace(HOPPER, capability=(7, 5)), {}, "flex"),
        (replace(HOPPER, capability=(7, 5), has_flex=False), {}, "sdpa_mask"),
        (Present("cuda", is_rocm=True, has_varlen=True, has_flex=True, compiles=True), {}, "flex"),
        (Present("cuda", is_rocm=True, has_flex=True), {"window": 256}, "sdpa_blocks"),
        (Present("mps", has_flex=True, compiles=True), {}, "sdpa_mask"),
        (Present("cpu", has_flex=True, compiles=True), {"window": 256}, "sdpa_blocks"),
        (Present("cpu"), {"window": 4096}, "sdpa"),
    ],
)
def test_a_path_is_passed_over_where_it_cannot_serve(here, asked, path):
    assert choose(here, **SHORT | asked) == path


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    here=st.builds(
        Present,
        st.sampled_from(["cuda", "cpu", "mps", "xpu"]),
        is_rocm=st.booleans(),
        capability=st.sampled_from([None, (7, 0), (8, 6), (9, 0), (10, 0), (12, 0)]),
        has_fa3=st.booleans(),
        has_varlen=st.booleans(),
        has_flex=st.booleans(),
        compiles=st.booleans(),
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    head_dim=st.integers(1, 512),
    window=st.integers(1, 4096),
)
def test_something_always_serves_and_a_short_window_is_never_dropped(here, dtype, head_dim, window):
    asked = {"dtype": dtype, "head_dim": head_dim, "window": window, "length": 2048}
    path = choose(here, **asked)
    assert path in PATHS
    assert (path == "sdpa") <= (window >= 2048)
    assert all(why_not(other, here, **asked) for other in PATHS[: PATHS.index(path)])
    assert path == next(other for other, why in survey(here, **asked).items() if not why)


@pytest.mark.slow
def test_what_is_built_is_what_was_chosen_and_the_log_names_it():
    def of(window):
        return attention_for(window, 64, present=Present("cpu"), dtype=torch.float32, head_dim=8, device=CPU)

    built = [of(window) for window in (16, 40, 64, 200, 16)]
    assert [a.path for a in built] == ["sdpa_blocks", "sdpa_mask", "sdpa", "sdpa", "sdpa_blocks"]
    assert [a.window for a in built] == [16, 40, 64, 64, 16]
    for one in built:
        check(one, one.window, some(64))
    assert attention.describe(built) == "16 keys by sdpa_blocks, 40 keys by sdpa_mask, 64 keys by sdpa"


# ------------------------------------------------------------------------------------------------------ what is there


def test_a_cpu_is_looked_at_without_loading_a_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail(f"looked for {name}"))
    assert present_on(CPU, compiles=False) == Present("cpu")


def test_varlen_of_this_torch_has_a_window():
    """torch 2.11 had varlen_attn without one, 2.13 has it: where this fails the choice falls to FlexAttention by itself."""
    from torch.nn.attention import varlen

    has_window = "window_size" in varlen.varlen_attn.__kwdefaults__
    assert attention._varlen_has_a_window() == has_window


def a_cache_with(folder: Path, kind: str, repository: str, variant: str = "torch213-cu130"):
    (folder / f"{kind}--{repository.replace('/', '--')}" / "snapshots" / "0123" / "build" / variant).mkdir(parents=True)


@pytest.fixture
def kernels(monkeypatch):
    """A `kernels` package that is installed, and remembers what it was asked for."""
    module = types.ModuleType("kernels")
    module.asked = []

    def get_kernel(repository, revision=None, trust_remote_code=False):
        module.asked.append((repository, revision, trust_remote_code))
        return types.SimpleNamespace(flash_attn_interface=types.SimpleNamespace(flash_attn_func="the function"))

    module.get_kernel = get_kernel
    module.__spec__ = importlib.util.spec_from_loader("kernels", loader=None)
    monkeypatch.setitem(sys.modules, "kernels", module)
    return module


@pytest.mark.parametrize("kind", ["kernels", "models"])
def test_a_cached_build_of_flash_attention_3_is_found_and_nothing_else_is(tmp_path, kernels, kind):
    there = {"HF_HOME": str(tmp_path)}
    assert attention.fa3_repository(there) is None
    (tmp_path / "hub" / f"{kind}--varunneal--flash-attention-3" / "snapshots" / "0").mkdir(parents=True)  # no build
    assert attention.fa3_repository(there) is None
    a_cache_with(tmp_path / "hub", kind, "kernels-community/flash-attn3")
    assert attention.fa3_repository(there) == "kernels-community/flash-attn3"
    a_cache_with(tmp_path / "hub", kind, "varunneal/flash-attention-3")
    assert attention.fa3_repository(there) == "varunneal/flash-attention-3"
    assert attention.fa3_repository({**there, "KERNELS_CACHE": str(tmp_path / "elsewhere")}) is None


def test_without_the_package_no_cache_counts(tmp_path, monkeypatch):
    a_cache_with(tmp_path / "hub", "kernels", "varunneal/flash-attention-3")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert attention.fa3_repository({"HF_HOME": str(tmp_path)}) is None


def test_the_cached_build_is_loaded_without_the_network(tmp_path, kernels, monkeypatch):
    a_cache_with(tmp_path, "kernels", "varunneal/flash-attention-3")
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # set, so that what load_fa3 leaves here is undone after the test
    attention.load_fa3.cache_clear()
    assert attention.load_fa3() == "the function"
    attention.load_fa3.cache_clear()
    assert kernels.asked == [("varunneal/flash-attention-3", "main", True)]
    import os

    assert os.environ["HF_HUB_OFFLINE"] == "1"


# ---------------------------------------------------------------------------------------------------------- on a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("path", ["fa3", "varlen", "flex", "sdpa_blocks", "sdpa_mask"])
@pytest.mark.parametrize("window", [1, 100, 128])
def test_each_kernel_of_a_gpu_sees_exactly_the_window(path, window):
    device = torch.device("cuda")
    here = present_on(device, compiles=True)
    asked = {"dtype": torch.bfloat16, "head_dim": 64, "window": window, "length": 512}
    why = why_not(path, here, **asked)
    if why:
        pytest.skip(why)
    kernel = {
        "fa3": lambda: attention.fa3(window, 512, attention.load_fa3()),
        "varlen": lambda: attention.varlen(window),
        "flex": lambda: attention.flex(window, 512, device),
        "sdpa_blocks": lambda: attention.sdpa_blocks(window, device),
        "sdpa_mask": lambda: attention.sdpa_mask(window, 512, device),
    }[path]()
    tensors = some(512, heads=4, kv_heads=2, head_dim=64, dtype=torch.bfloat16, device=device)
    check(kernel, window, tensors, rtol=0.05, atol=0.05)
