"""Verbs that set things up: doctor, init, prepare."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch.cli import screen
from autoresearch.cli.work import settings_for
from autoresearch.contract.rules import PRESETS, rules_for
from autoresearch.vocabulary import AutoresearchError, WorkspaceError
from autoresearch.workspace import create_workspace, open_workspace

if TYPE_CHECKING:
    from autoresearch.sandbox.layers import Layer


def doctor(options: argparse.Namespace) -> int:
    """What this machine has, what fits it, and what to install for more."""
    from autoresearch.backends.hardware import default_preset, detect
    from autoresearch.contract.corpora import cache_root
    from autoresearch.proposers.agent_clients import agent_names
    from autoresearch.providers.specification import PROVIDERS
    from autoresearch.sandbox.layers import all_layers, probe

    hardware = detect()
    fits = default_preset(hardware)
    prepared = {name: _prepared(name) for name in PRESETS}
    tools = {name: shutil.which(name) for name in ("git", "make", "uv", "g++", "bwrap", "nvidia-smi")}
    agents = {name: shutil.which(name) for name in agent_names()}
    names = ("torch", "numpy", "optuna", "rustbpe", "tiktoken", "matplotlib", "openai", "anthropic", "mcp")
    packages = {name: _version(name) for name in names}
    keys = [name for found in PROVIDERS.values() for name in found.key_names if os.environ.get(name, "").strip()]
    layers = all_layers()
    sealed = probe().level
    advice = _advice(packages, tools, prepared, fits)
    if options.json:
        screen.print_json(
            {
                "python": sys.version.split()[0],
                "backend": hardware.backend,
                "chip": hardware.chip,
                "memory_gb": hardware.memory_gb,
                "cores": hardware.cores,
                "peak_flops": hardware.peak_flops,
                "dtypes": hardware.dtypes,
                "contract": fits,
                "prepared": prepared,
                "sealed": sealed,
                "layers": [asdict(layer) for layer in layers],
                "tools": tools,
                "agents": agents,
                "keys": keys,
                "packages": packages,
                "cache": str(cache_root()),
                "advice": advice,
            }
        )
        return 0
    peak = (
        "unknown: MFU is not reported"
        if hardware.peak_flops is None
        else f"{hardware.peak_flops / 1e12:.1f} TFLOP/s (dense bf16)"
    )
    rows = [
        ("python", f"{sys.version.split()[0]} at {sys.executable}"),
        ("device", f"{hardware.backend}: {hardware.chip}"),
        ("memory", f"{hardware.memory_gb:.1f} GB, {hardware.cores} cores"),
        ("peak", peak),
        ("dtypes", ", ".join(hardware.dtypes)),
        ("attention", "PyTorch scaled_dot_product_attention, windows through a cached mask"),
        ("contract", f"{fits} fits this machine (of {', '.join(PRESETS)})"),
        ("data", ", ".join(f"{name} {state}" for name, state in prepared.items())),
        ("cache", str(cache_root())),
        ("sealed", sealed),
        ("tools", ", ".join(f"{name} {'yes' if path else 'no'}" for name, path in tools.items())),
        ("agents", ", ".join(f"{name} {'yes' if path else 'no'}" for name, path in agents.items())),
        ("keys", ", ".join(keys) or "none in the environment: models of your own need none"),
        ("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())),
    ]
    if hardware.note:
        rows.append(("note", hardware.note))
    print("\n".join(f"{name:>10}  {value}" for name, value in rows))
    for layer in layers:
        print(f"     layer  {_layer_line(layer)}")
    for line in advice:
        print(f"      next  {line}")
    return 0


def _layer_line(layer: Layer) -> str:
    """One layer in one line: does it work, what it defends, and what to type for it or for more of it."""
    text = f"{layer.name:<12}  {'yes' if layer.works else 'no ':<3}  {layer.defends}  ({layer.detail})"
    return f"{text}  to get it: {layer.install}" if layer.install else text


def _prepared(preset: str) -> str:
    from autoresearch.contract.corpora import cache_root
    from autoresearch.contract.prepared import open_prepared

    rules = rules_for(preset)
    try:
        open_prepared(rules, rules.dataset, cache_root())
    except AutoresearchError as error:
        return "damaged" if type(error).__name__ == "DataCorrupt" else "not prepared"
    return "ready"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _advice(
    packages: dict[str, str | None], tools: dict[str, str | None], prepared: dict[str, str], fits: str
) -> list[str]:
    advice = []
    if packages["torch"] is None:
        advice.append("pip install 'autoresearch[train]'   (train.py needs torch)")
    if tools["git"] is None:
        advice.append("install git: every experiment is a commit")
    if packages["matplotlib"] is None:
        advice.append("pip install 'autoresearch[plot]'   (for the PNG chart)")
    if prepared[fits] != "ready":
        advice.append(f"autoresearch prepare --contract {fits}")
    return advice


def init(options: argparse.Namespace) -> int:
    """A new workspace in a git repository of its own."""
    folder = Path(options.dir).absolute()
    made = create_workspace(folder, requirement=_requirement())
    print(f"made {folder}: {', '.join(made)}")
    print(f"next: cd {options.dir} && autoresearch prepare && autoresearch research TAG")
    return 0


def _requirement() -> str:
    """How a new workspace depends on this installation: by path when it is not from a registry."""
    direct = metadata.distribution("autoresearch").read_text("direct_url.json")
    if direct:
        import json

        url = json.loads(direct).get("url")
        if url:
            return f"autoresearch[train,plot] @ {url}"
    return f"autoresearch[train,plot]>={metadata.version('autoresearch')}"


def prepare(options: argparse.Namespace) -> int:
    """Get data and tokenizer ready for one contract."""
    from autoresearch.backends.hardware import default_preset, detect
    from autoresearch.contract import prepared as data
    from autoresearch.contract.corpora import cache_root, open_corpus

    settings = _settings_anywhere(options)
    rules = rules_for(settings.contract or default_preset(detect()))
    root = cache_root()
    corpus = open_corpus(settings.dataset or rules.dataset, root)
    say = None if options.json else print
    ready = data.prepare(rules, corpus, root, say, force=options.force)
    return _say_prepared(ready, rules.preset, as_json=options.json)


def _settings_anywhere(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Settings of the workspace we stand in; outside of one, of the environment and flags alone."""
    from autoresearch.loop.settings import load_settings

    try:
        workspace = open_workspace()
    except WorkspaceError:
        return load_settings({}, os.environ, {"contract": options.contract, "dataset": options.dataset})
    return settings_for(workspace, options)


def _say_prepared(ready, preset: str, *, as_json: bool) -> int:  # type: ignore[no-untyped-def]
    values = {
        "contract": preset,
        "directory": str(ready.directory),
        "train_tokens": ready.num_train_tokens,
        **ready.hashes,
    }
    if as_json:
        screen.print_json(values)
    else:
        print(
            f"ready: {preset}, {ready.num_train_tokens:,} training tokens, vocabulary {ready.tokenizer.get_vocab_size()}"
        )
        print(f"   in: {ready.directory}")
    return 0
