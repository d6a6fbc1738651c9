"""Which attention kernel runs here, and the kernels behind one call: causal, with a window of exactly w keys in all of them.

`choose` is a pure function of what is there; `attention_for` builds what it chose. In order of preference for a short window:

    fa3          FlashAttention 3 through `kernels`, where that package is installed and a build lies in its cache (never downloaded)
    varlen       PyTorch's own FlashAttention with a window, `torch.nn.attention.varlen` (from 2.13 on; CUDA, 16 bits)
    flex         FlexAttention compiled with a block mask: CUDA and ROCm. It has no backward pass on a CPU
    sdpa_blocks  scaled_dot_product_attention on blocks of w queries and 2w keys: any device, from four windows a row on
    sdpa_mask    scaled_dot_product_attention with a cached mask: any device; costs it its flash kernel on CUDA

and `sdpa`, its causal form, where the window is the row. FlashAttention's `window_size` counts keys to the left of the query, so a window of
w is (w - 1, 0) there.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]

PATHS = ("fa3", "varlen", "flex", "sdpa_blocks", "sdpa_mask", "sdpa")
HALF = (torch.bfloat16, torch.float16)
# The Hub's builds of FlashAttention 3, the published choice for Hopper first.
FA3_REPOSITORIES = ("varunneal/flash-attention-3", "kernels-community/flash-attn3")
LARGEST_FLASH_HEAD = 256  # channels, of FlashAttention 2 and 3
SMALLEST_FLEX_HEAD = 16
BLOCKS_FROM = 4  # windows a row: blocks of 2w keys then do half the work of a whole mask, and pay for their copies


@dataclass(frozen=True)
class Present:
    """What there is to choose from. capability: of a CUDA device, (9, 0) for Hopper; None elsewhere."""

    device: str
    is_rocm: bool = False
    capability: tuple[int, int] | None = None
    has_fa3: bool = False
    has_varlen: bool = False
    has_flex: bool = False
    compiles: bool = False


@dataclass(frozen=True)
class Attention:
    """Causal attention over `window` keys, as it was chosen. q [B, T, H, D], k and v [B, T, KV, D] -> [B, T, H, D]."""

    window: int
    path: str
    kernel: Kernel

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, k, v)


def why_not(path: str, present: Present, *, dtype: torch.dtype, head_dim: int, window: int, length: int) -> str | None:
    """Why a path cannot or should not serve; None where it can. dtype: of q, k and v."""
    short = window < length
    if path in ("fa3", "varlen"):
        if present.device != "cuda" or present.is_rocm:
            return "needs CUDA"
        if dtype not in HALF:
            return "needs bfloat16 or float16"
        if head_dim > LARGEST_FLASH_HEAD or head_dim % 8:
            return f"needs a head dimension that 8 divides, up to {LARGEST_FLASH_HEAD}"
        if present.capability is None or present.capability < (8, 0):
            return "needs compute capability 8.0 or later"
    if path == "fa3":
        if present.capability is not None and present.capability >= (10, 0):
            return "has no builds for compute capability 10 and later"
        return None if present.has_fa3 else "`kernels` or a cached build is missing"
    if path == "varlen":
        if not short:
            return "the window is the row"
        return None if present.has_varlen else "torch.nn.attention.varlen has no window here"
    if path == "flex":
        if not short:
            return "the window is the row"
        if present.device not in ("cuda", "xpu"):
            return "has no backward pass on this device"
        if not present.compiles:
            return "is slow unless it is compiled"
        if head_dim < SMALLEST_FLEX_HEAD:
            return f"needs a head dimension of {SMALLEST_FLEX_HEAD} or more"
        return None if present.has_flex else "torch.nn.attention.flex_attention is missing"
    if path == "sdpa_blocks":
        return None if window * BLOCKS_FROM <= length else f"pays from {BLOCKS_FROM} windows a row on"
    if path == "sdpa_mask":
        return None if short else "the window is the row"
    return "sees every earlier key" if short else None


def choose(present: Present, *, dtype: torch.dtype, head_dim: int, window: int, length: int) -> str:
    """The first of PATHS that serves rows of `length` positions."""
    return next(
        path
        for path in PATHS
        if why_not(path, present, dtype=dtype, head_dim=head_dim, window=window, length=length) is None
    )


def survey(present: Present, *, dtype: torch.dtype, head_dim: int, window: int, length: int) -> dict[str, str]:
    """Every path in order of preference, with why it does not serve; "" for those that do, of which the first is taken."""
    return {
        path: why_not(path, present, dtype=dtype, head_dim=head_dim, window=window, length=length) or ""
        for path in PATHS
    }


def attention_for(
    window: int,
    length: int,
    *,
    present: Present,
    dtype: torch.dtype,
    head_dim: int,
    device: torch.device,
) -> Attention:
    """The attention to use for a window on rows of up to `length` positions; a mask is made here, once."""
    window = min(window, length)
    path = choose(present, dtype=dtype, head_dim=head_dim, window=window, length=length)
    makers: Mapping[str, Callable[[], Kernel]] = {
        "fa3": lambda: fa3(window, length, load_fa3()),
        "varlen": lambda: varlen(window),
        "flex": lambda: flex(window, length, device),
        "sdpa_blocks": lambda: sdpa_blocks(window, device),
        "sdpa_mask": lambda: sdpa_mask(window, length, device),
        "sdpa": lambda: causal,
    }
    return Attention(window, path, makers[path]())


def describe(attentions: list[Attention]) -> str:
    """One line for a log: which window goes which way."""
    return ", ".join(f"{window} keys by {path}" for window, path in sorted({(a.window, a.path) for a in attentions}))


# ------------------------------------------------------------------------------------------------------ what there is


def present_on(device: torch.device, *, compiles: bool) -> Present:
    """What there is for a device; imports nothing heavy for a CPU. compiles: whether torch.compile is in use."""
    if device.type != "cuda":
        return Present(device.type, has_flex=device.type == "xpu" and _has_flex(), compiles=compiles)
    is_rocm = torch.version.hip is not None
    return Present(
        device.type,
        is_rocm=is_rocm,
        capability=None if is_rocm else torch.cuda.get_device_capability(device),
        has_fa3=not is_rocm and fa3_repository() is not None,
        has_varlen=_varlen_has_a_window(),
        has_flex=_has_flex(),
        compiles=compiles,
    )


def _has_flex() -> bool:
    return importlib.util.find_spec("torch.nn.attention.flex_attention") is not None


def _varlen_has_a_window() -> bool:
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    from torch.nn.attention.varlen import varlen_attn

    return {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def fa3_repository(environment: Mapping[str, str] | None = None) -> str | None:
    """The repository whose build of FlashAttention 3 is in the cache of `kernels`; None where there is none."""
    if importlib.util.find_spec("kernels") is None:
        return None
    variables = os.environ if environment is None else environment
    home = Path(variables.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    folder = Path(variables.get("KERNELS_CACHE") or variables.get("HF_HUB_CACHE") or home / "hub")
    for repository in FA3_REPOSITORIES:
        name = repository.replace("/", "--")
        for kind in ("kernels", "models"):  # as newer and older releases file it
            snapshots = folder / f"{kind}--{name}" / "snapshots"
            if snapshots.is_dir() and any(snapshots.glob("*/build/*")):
                return repository
    return None


@cache
def load_fa3() -> Any:
    """`flash_attn_func` of the cached build. The Hub's client is told to stay off the network."""
    repository = fa3_repository()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from kernels import get_kernel  # type: ignore[import-not-found,unused-ignore]

    more = {"trust_remote_code": True} if "trust_remote_code" in inspect.signature(get_kernel).parameters else {}
    kernel = get_kernel(repository, revision="main", **more)
    return getattr(kernel, "flash_attn_interface", kernel).flash_attn_func


# ------------------------------------------------------------------------------------------------------------ kernels


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All keys up to the query's own."""
    return _sdpa(q, k, v, None)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """A bool mask [T, T'] says which keys are seen; None is causal."""
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=q.size(2) != k.size(2),
    )
    return y.transpose(1, 2)


def window_mask(length: int, window: int, device: torch.device | None = None) -> Tensor:
    """bool [T, T]: query i sees key j when i - window < j <= i."""
    place = torch.arange(length, device=device or torch.device("cpu"))
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window)


def sdpa_mask(window: int, length: int, device: torch.device) -> Kernel:
    """With a mask for the longest row; a shorter one takes its corner, which is the same band."""
    whole = window_mask(length, window, device)

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T = q.size(1)
        return _sdpa(q, k, v, None if window >= T else whole[:T, :T])

    return kernel


def sdpa_blocks(window: int, device: torch.device) -> Kernel:
    """Rows cut into blocks of `window` queries, each of which sees keys of its own block and of the one before."""
    place = torch.arange(2 * window, device=device)
    distance = place[window:, None] - place[None, :]
    band = (distance >= 0) & (distance < window)  # [w, 2w]

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, T, H, D = q.shape
        if window >= T:
            return causal(q, k, v)
        num_blocks = -(-T // window)
        missing = num_blocks * window - T
        if missing:  # keys after the last query are seen by none that is kept
            q, k, v = (F.pad(t, (0, 0, 0, 0, 0, missing)) for t in (q, k, v))
        first = causal(q[:, :window], k[:, :window], v[:, :window])
        queries = q[:, window:].reshape(B * (num_blocks - 1), window, H, D)
        rest = _sdpa(queries, _with_block_before(k, window), _with_block_before(v, window), band)
        return torch.cat((first, rest.reshape(B, -1, H, D)), dim=1)[:, :T]

    return kernel


def _with_block_before(x: Tensor, window: int) -> Tensor:
    """[B, n * w, KV, D] -> [B * (n - 1), 2w, KV, D]: each block but the first, behind the block before it."""
    blocks = x.unflatten(1, (-1, window))
    return torch.cat((blocks[:, :-1], blocks[:, 1:]), dim=2).flatten(0, 1)


def fa3(window: int, length: int, flash_attn_func: Any) -> Kernel:
    """FlashAttention 3, whose rows are laid out as ours."""
    left = -1 if window >= length else window - 1

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = flash_attn_func(q, k, v, causal=True, window_size=(left, 0))
        y: Tensor = out[0] if isinstance(out, tuple) else out  # some builds return the sums of exponentials too
        return y

    return kernel


def varlen(window: int) -> Kernel:
    """PyTorch's FlashAttention: the rows of a batch as documents of equal length."""
    from torch.nn.attention import varlen as module

    attend: Any = module.varlen_attn  # typed differently from release to release

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, T = q.shape[:2]
        starts = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
        y = attend(
            *(t.flatten(0, 1) for t in (q, k, v)),
            starts,
            starts,
            T,
            T,
            window_size=(min(window, T) - 1, 0),
            enable_gqa=q.size(2) != k.size(2),
        )
        result: Tensor = y.unflatten(0, (B, T))
        return result

    return kernel


def flex(window: int, length: int, device: torch.device) -> Kernel:
    """FlexAttention with a block mask for rows of `length`; other lengths go through a plain mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    blocks = create_block_mask(sees, None, None, length, length, device=str(device))
    masked = sdpa_mask(window, length, device)
    run: Any = flex_attention if device.type == "cpu" else torch.compile(flex_attention, dynamic=False)

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.size(1) != length:
            return masked(q, k, v)
        y = run(*(t.transpose(1, 2) for t in (q, k, v)), block_mask=blocks, enable_gqa=q.size(2) != k.size(2))
        result: Tensor = y.transpose(1, 2)
        return result

    return kernel
