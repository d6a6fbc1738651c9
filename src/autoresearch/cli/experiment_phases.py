"""What the phases of `autoresearch experiment` do: a sealed trial, then the verbs that quantize, benchmark and export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoresearch.loop.phases import Phase
from autoresearch.loop.settings import Settings
from autoresearch.loop.training_phase import CHECKPOINT_DIR
from autoresearch.repository import check_tag
from autoresearch.workspace import Workspace

DEFAULT_BITS = "2,3,4"
# Settings that the trial depends on; the others are a session's.
_OF_THE_TRIAL = ("contract", "dataset", "num_shards", "file", "program", "seed", "threads", "sandbox")


@dataclass(frozen=True)
class Plan:
    """One experiment as it was asked for. commit: whose experiment file is trained. bits: as `--bits` takes them."""

    tag: str
    commit: str
    bits: str
    benchmark: bool
    settings: Settings

    def as_json(self) -> dict[str, Any]:
        """For the record."""
        return {**asdict(self), "settings": asdict(self.settings)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        """What `as_json` gave."""
        return Plan(**{**values, "settings": Settings(**values["settings"])})


Commands = Callable[[Plan, Path], list[list[str]]]
"""Calls of `autoresearch` that make one phase, each a list of arguments; the path is logs/TAG."""

GGUF_NAME = "export/model.gguf"
HF_NAME = "export/hf"


def _exports(folder: Path, *more: str) -> list[list[str]]:
    checkpoint = str(folder / CHECKPOINT_DIR)
    return [
        ["export", checkpoint, "--format", "gguf", "--out", str(folder / GGUF_NAME), *more],
        ["export", checkpoint, "--format", "hf", "--out", str(folder / HF_NAME), *more],
    ]


def _contract(plan: Plan) -> list[str]:
    """The contract's flags, as the trial had them."""
    given = {"--contract": plan.settings.contract, "--dataset": plan.settings.dataset}
    return [word for flag, value in given.items() if value for word in (flag, value)]


# What each phase after the trial calls: the verbs as a person would type them.
COMMANDS: dict[str, Commands] = {
    "quantize": lambda plan, folder: [
        [
            *("quantize", str(folder / CHECKPOINT_DIR), "--bits", plan.bits, "--tag", plan.tag),
            *("--out", str(folder / "quantized.safetensors"), *_contract(plan)),
        ]
    ],
    "benchmark": lambda plan, folder: [
        [
            *("tq-benchmark", str(folder / CHECKPOINT_DIR), "--bits", plan.bits, "--tag", plan.tag),
            *("--out", str(folder / "benchmark"), *_contract(plan)),
        ]
    ],
    "convert": lambda _plan, folder: _exports(folder),
    "verify": lambda plan, folder: _exports(folder, "--verify", *_contract(plan)),
}
_STATUS = {"quantize": "quant", "benchmark": "bench"}
_OUTPUTS = {
    "quantize": ("quantize.json", "quantized.safetensors"),
    "benchmark": ("benchmark",),
    "convert": (GGUF_NAME, HF_NAME),
}


def phases_of(workspace: Workspace, plan: Plan) -> list[Phase]:
    """The phases of an experiment, in order; the benchmark only where it was asked for."""
    folder = workspace.session_dir(check_tag(plan.tag))
    of_trial = {name: value for name, value in asdict(plan.settings).items() if name in _OF_THE_TRIAL}
    found = [
        Phase(
            "train",
            lambda: _train(workspace, plan, folder),
            status="train",
            settings={"commit": plan.commit, **of_trial},
            outputs=(CHECKPOINT_DIR,),
        )
    ]
    for name, command in COMMANDS.items():
        if name == "benchmark" and not plan.benchmark:
            continue
        found.append(
            Phase(
                name,
                partial(_verbs, command(plan, folder)),
                status=_STATUS.get(name, ""),
                settings={"calls": _relative(command(plan, folder), folder)},
                made_from=("train", "convert") if name == "verify" else ("train",),
                outputs=_OUTPUTS.get(name, ()),
            )
        )
    return found


def _relative(calls: list[list[str]], folder: Path) -> list[list[str]]:
    """The calls without the place of the workspace, so that a moved one is not another experiment."""
    return [[argument.replace(str(folder), "") for argument in arguments] for arguments in calls]


def _verbs(calls: list[list[str]]) -> int:
    """These calls one after the other, until one fails."""
    return next((code for arguments in calls if (code := _verb(arguments))), 0)


def _verb(arguments: list[str]) -> int:
    """Another verb of this program, in this process.

    Raises:
        AutoresearchError: as the verb raises it. SystemExit: wrong usage.
    """
    from autoresearch.cli.parser import parse

    options = parse(arguments)
    code: int = options.run(options)
    return code


def _train(workspace: Workspace, plan: Plan, folder: Path) -> int:
    """The sealed trial."""
    from autoresearch.cli import screen
    from autoresearch.cli.work import interruptible
    from autoresearch.loop.opening import find_ground
    from autoresearch.loop.training_phase import train_once
    from autoresearch.sandbox.process_tree import shield_referee

    shield_referee()
    ground = find_ground(plan.settings)
    with interruptible() as stop:
        train_once(
            workspace,
            ground,
            plan.settings,
            plan.commit,
            folder,
            plan.tag,
            say=lambda text: screen.say(text),
            stop=stop,
        )
    return 0
