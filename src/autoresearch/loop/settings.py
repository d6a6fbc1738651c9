"""Session settings: one frozen dataclass, from [tool.autoresearch], then the environment, then flags."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from autoresearch.loop.objective import NAME
from autoresearch.vocabulary import UsageError

ENVIRONMENT_PREFIX = "AUTORESEARCH_"
# Named by other parts of the program; not session settings, though they share the prefix.
_OTHER_VARIABLES = frozenset({"BACKEND", "CACHE", "SAVE"})


@dataclass(frozen=True)
class Settings:
    """How a session is run. None means: no limit, or decided by what is found on this machine.

    contract: preset name. dataset: corpus name. num_shards: training shards of it, -1: all. proposer: who has the ideas (hybrid where a model is named, else search).
    model: chain of language models in order of preference. usd, tokens: caps of a session. model_share: share of a hybrid's
    experiments that the model proposes. prompt_tokens, reply_tokens: most that is sent and asked for. model_seconds:
    patience with one call. agent_turns, agent_minutes: patience with a coding agent. program: model or data. file: what research edits first
    (train.py, or data_sources.py in the data program).
    experiments, hours: limits. seed: of the session; every trial's seed comes from it. calibration: baseline repeats.
    keep_probability: provisional keeps. max_pairs: most repeats of one idea. refresh_every: re-run the incumbent after
    so many experiments. crash_streak: stop after so many crashes in a row. threads: CPU threads of a candidate. max_device_batch_size: most rows of a forward pass; both measured where None.
    blas: what does the matrix products of MLX on a CPU: auto (the system's OpenBLAS where there is one), none, or a library's path.
    sandbox: auto (the strongest that works here), bubblewrap, landlock, sandbox-exec or none. objective: what is judged:
    bpb, or bpb@4bit after quantization (1 to 8 bits, bpb@4bit:METHOD). noise_prior: spread of one trial's score, in bits
    per byte, that is assumed until repeats say otherwise (None: the contract's).
    """

    contract: str | None = None
    dataset: str | None = None
    num_shards: int | None = None
    proposer: str | None = None
    model: str | None = None
    usd: float | None = None
    tokens: int | None = None
    model_share: float = 0.3
    prompt_tokens: int = 24_000
    reply_tokens: int = 16_384
    model_seconds: float = 600.0
    agent_turns: int = 40
    agent_minutes: float = 10.0
    program: str = "model"
    file: str | None = None
    experiments: int | None = None
    hours: float | None = None
    seed: int = 0
    calibration: int = 3
    keep_probability: float = 0.8
    max_pairs: int = 3
    refresh_every: int = 8
    crash_streak: int = 8
    threads: int | None = None
    max_device_batch_size: int | None = None
    blas: str = "auto"
    sandbox: str = "auto"
    objective: str = "bpb"
    noise_prior: float | None = None

    @property
    def entry(self) -> str:
        """The file in force: the one named, else the program's usual one."""
        return self.file or {"data": "data_sources.py"}.get(self.program, "train.py")

    @property
    def proposer_name(self) -> str:
        """The proposer in force: the one named, else hybrid where a language model is configured, else search."""
        return self.proposer or ("hybrid" if self.model else "search")


def known_settings() -> tuple[str, ...]:
    return tuple(f.name for f in fields(Settings))


def load_settings(table: Mapping[str, Any], environment: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Settings in force; later sources win, and a flag of None is one that was not given.

    Raises:
        UsageError: an unknown key (the message names the known ones), or a value of the wrong kind.
    """
    values: dict[str, Any] = {}
    for key, value in table.items():
        values[_known(key, "[tool.autoresearch] in pyproject.toml")] = value
    for variable, text in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name != variable and name not in _OTHER_VARIABLES:
            values[_known(name.lower(), f"environment variable {variable}")] = text
    values.update({key: value for key, value in flags.items() if value is not None})
    hints = typing.get_type_hints(Settings)
    return _checked(Settings(**{key: _converted(key, value, hints[key]) for key, value in values.items()}))


def _known(key: str, where: str) -> str:
    if key not in known_settings():
        raise UsageError(
            f"{where}: unknown setting {key!r}; known: {', '.join(known_settings())}",
            hint="autoresearch research --help",
        )
    return key


def _converted(key: str, value: Any, hint: Any) -> Any:
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType]
    kind = kinds[0]
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    try:
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            return float(value)
        if kind is int and isinstance(value, str):
            return int(value)
    except ValueError:
        pass  # said below, with the key's name
    raise UsageError(f"setting {key} = {value!r} is not {_article(kind.__name__)}", hint="autoresearch research --help")


def _article(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "str": "a text"}[kind]


def _checked(settings: Settings) -> Settings:
    positive = (
        *(
            "experiments",
            "hours",
            "calibration",
            "max_pairs",
            "refresh_every",
            "crash_streak",
            "threads",
            "max_device_batch_size",
        ),
        *("usd", "tokens", "prompt_tokens", "reply_tokens", "model_seconds", "agent_turns", "agent_minutes"),
        "noise_prior",
    )
    for key in positive:
        value = getattr(settings, key)
        if value is not None and not 0 < value < math.inf:  # refuses nan too
            raise UsageError(
                f"setting {key} = {value} must be more than zero and finite", hint="autoresearch research --help"
            )
    if settings.num_shards is not None and settings.num_shards < 1 and settings.num_shards != -1:
        raise UsageError(
            f"setting num_shards = {settings.num_shards} must be 1 or more, or -1 for all", hint="--num-shards 10"
        )
    if settings.calibration < 2:
        raise UsageError(
            "setting calibration must be at least 2: one run says nothing about noise", hint="--calibration 3"
        )
    if not NAME.fullmatch(settings.objective):
        raise UsageError(
            f"setting objective = {settings.objective!r} is no objective: bpb, or bpb@4bit with 1 to 8 bits",
            hint="--objective bpb@4bit",
        )
    if not 0 <= settings.model_share <= 1:
        raise UsageError("setting model_share must be between 0 and 1", hint="--model-share 0.3")
    if not 0.5 < settings.keep_probability < 1:
        raise UsageError("setting keep_probability must be between 0.5 and 1", hint="--keep-probability 0.8")
    return settings
