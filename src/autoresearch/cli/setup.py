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
    from autoresearch.backends.hardware import Hardware
    from autoresearch.sandbox.layers import Layer
    from autoresearch.sources.gather import Gathered


def doctor(options: argparse.Namespace) -> int:
    """What this machine has, what fits it, and what to install for more."""
    from autoresearch.backends.defaults import SHAPES, is_compiled, memory_watermark, suggestion_for, training_memory_gb
    from autoresearch.backends.hardware import default_preset, detect, experiment_file
    from autoresearch.contract.corpora import cache_root
    from autoresearch.proposers.agent_clients import agent_names
    from autoresearch.providers.specification import PROVIDERS
    from autoresearch.sandbox.layers import all_layers, probe

    hardware = detect()
    fits = default_preset(hardware)
    start = suggestion_for(hardware, fits)
    constants = {name.upper(): value for name, value in asdict(start).items()}
    needs_gb = training_memory_gb(start, SHAPES[fits], compiled=is_compiled(hardware))
    file = experiment_file(hardware.backend)
    prepared = {name: _prepared(name) for name in PRESETS}
    tools = {name: shutil.which(name) for name in ("git", "make", "uv", "g++", "bwrap", "nvidia-smi")}
    agents = {name: shutil.which(name) for name in agent_names()}
    names = ("torch", "mlx", "numpy", "optuna", "rustbpe", "tiktoken", "matplotlib", "openai", "anthropic", "mcp")
    packages = {name: _version(name) for name in names}
    keys = [name for found in PROVIDERS.values() for name in found.key_names if os.environ.get(name, "").strip()]
    layers = all_layers()
    sealed = probe().level
    attention = _attention_paths(hardware, fits)
    advice = _advice(packages, tools, prepared, fits, hardware.backend)
    if options.json:
        screen.print_json(
            {
                "python": sys.version.split()[0],
                "backend": hardware.backend,
                "chip": hardware.chip,
                "memory_gb": hardware.memory_gb,
                "cores": hardware.cores,
                "driver": hardware.driver,
                "peak_flops": hardware.peak_flops,
                "peak_is_estimate": hardware.peak_is_estimate,
                "dtypes": hardware.dtypes,
                "attention": attention,
                "contract": fits,
                "experiment_file": file,
                "constants": constants,
                "constants_memory_gb": round(needs_gb, 2),
                "memory_watermark": memory_watermark(hardware, fits),
                "prepared": prepared,
                "sealed": sealed,
                "layers": [asdict(layer) for layer in layers],
                "tools": tools,
                "agents": agents,
                "keys": keys,
                "packages": packages,
                "cache": str(cache_root()),
                "note": hardware.note,
                "advice": advice,
            }
        )
        return 0
    peak = (
        "unknown: MFU is not reported"
        if hardware.peak_flops is None
        else f"{hardware.peak_flops / 1e12:.1f} TFLOP/s ({'an estimate' if hardware.peak_is_estimate else 'dense bf16'})"
    )
    rows = [
        ("python", f"{sys.version.split()[0]} at {sys.executable}"),
        ("device", f"{hardware.backend}: {hardware.chip}"),
        ("memory", f"{hardware.memory_gb:.1f} GB, {hardware.cores} cores"),
        ("driver", hardware.driver or "unknown"),
        ("peak", peak),
        ("dtypes", ", ".join(hardware.dtypes)),
        ("attention", _attention_line(attention)),
        ("contract", f"{fits} fits this machine (of {', '.join(PRESETS)})"),
        (
            "constants",
            f"suggested for {fits} in {file}: {', '.join(f'{name} = {value}' for name, value in constants.items())}"
            f" (about {needs_gb:.1f} GB)",
        ),
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


def _attention_paths(hardware: Hardware, preset: str) -> dict[str, str]:
    """Each way to a short window for the preset's rows and heads, best first: why it does not serve here, or ""."""
    from autoresearch.backends.defaults import SHAPES, is_compiled

    if hardware.backend == "mlx":
        return {"mx.fast.scaled_dot_product_attention": ""}
    import torch

    from autoresearch.backends.attention import present_on, survey

    compiles, shape = is_compiled(hardware), SHAPES[preset]
    device = torch.device("cuda" if hardware.backend == "rocm" else hardware.backend)
    return survey(
        present_on(device, compiles=compiles),
        dtype=torch.bfloat16 if compiles else torch.float32,
        head_dim=shape.head_dim,
        window=shape.seq_len // 2,  # SHORT_WINDOW_DIVISOR of train.py
        length=shape.seq_len,
    )


def _attention_line(paths: dict[str, str]) -> str:
    """What windows take here, then why what comes before it in order of preference does not serve."""
    taken = next(path for path, why in paths.items() if not why)
    better = list(paths)[: list(paths).index(taken)]
    return "; ".join([f"windows by {taken}", *(f"{path} {paths[path]}" for path in better)])


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
    packages: dict[str, str | None], tools: dict[str, str | None], prepared: dict[str, str], fits: str, backend: str
) -> list[str]:
    advice = []
    if packages["torch"] is None and backend != "mlx":
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
    from autoresearch.cli.downloads import shown_downloads
    from autoresearch.contract import prepared as data
    from autoresearch.contract.corpora import cache_root
    from autoresearch.sources.gather import gather

    settings = _settings_anywhere(options)
    rules = rules_for(settings.contract or default_preset(detect()))
    root = cache_root()
    dataset = settings.dataset or rules.dataset
    with shown_downloads(sys.stderr if options.json else sys.stdout) as tell:
        gathered = gather(
            dataset,
            root,
            num_shards=settings.num_shards,
            workers=options.download_workers,
            tell=tell,
            command=data.prepare_command(rules, dataset, settings.num_shards),
        )
        if not options.json:
            screen.say("\n".join(_lines_of(gathered)))
        say = None if options.json else tell.say
        ready = data.prepare(rules, gathered.corpus, root, say, force=options.force)
    _say_prepared(ready, rules.preset, gathered, as_json=options.json)
    if options.stats:
        from autoresearch.cli.statistics import say_statistics

        return say_statistics(ready, rules, as_json=options.json)
    return 0


def _lines_of(gathered: Gathered) -> list[str]:
    """What a dataset is, for people: where it comes from, what of it is in use, and how much of the exam it holds."""
    source = gathered.source
    origin = "the installed package"
    match source["kind"]:
        case "hub":
            origin = f"{source['repository']} at commit {str(source['commit'])[:12]}"
        case "files":
            origin = str(source["path"])
        case "folder":
            origin = "shards put there by hand"
    chosen = gathered.num_shards is not None
    used = f", {gathered.num_shards} of {gathered.num_files} training shards" if chosen else ""
    lines = [f"{gathered.dataset}: {origin}{used}, {_size(gathered.bytes)}"]
    if gathered.validation is not None:
        held = gathered.validation
        lines.append(f"validation: {held.documents:,} documents of {held.source}, sha256 {held.sha256[:16]}…")
    overlap = gathered.overlap
    equal = f"{overlap.exact_documents:,} training documents equal a validation document"
    if overlap.exact_documents and chosen:
        equal += " and were left out"
    near = "the validation text has no run of 13 words"
    if overlap.ngram_share is not None:
        near = f"{overlap.ngram_share:.2%} of the validation text's runs of 13 words stand in training text"
    lines.append(f"overlap: {equal}; {near}")
    return lines


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _settings_anywhere(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Settings of the workspace we stand in; outside of one, of the environment and flags alone."""
    from autoresearch.loop.settings import load_settings

    try:
        workspace = open_workspace()
    except WorkspaceError:
        flags = {name: getattr(options, name) for name in ("contract", "dataset", "num_shards")}
        return load_settings({}, os.environ, flags)
    return settings_for(workspace, options)


def _say_prepared(ready, preset: str, gathered: Gathered, *, as_json: bool) -> None:  # type: ignore[no-untyped-def]
    values = {
        "contract": preset,
        "directory": str(ready.directory),
        "train_tokens": ready.num_train_tokens,
        **ready.hashes,
        "dataset": gathered.dataset,
        "source": dict(gathered.source),
        "num_shards": gathered.num_shards,
        "num_files": gathered.num_files,
        "bytes": gathered.bytes,
        "fetched_bytes": gathered.fetched_bytes,
        "overlap": asdict(gathered.overlap),
    }
    if as_json:
        screen.print_json(values)
    else:
        print(
            f"ready: {preset}, {ready.num_train_tokens:,} training tokens, vocabulary {ready.tokenizer.get_vocab_size()}"
        )
        print(f"   in: {ready.directory}")
