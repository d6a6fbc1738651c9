"""Proposers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autoresearch.proposers.situation import Proposer
from autoresearch.vocabulary import UsageError


@dataclass(frozen=True)
class ProposerOptions:
    """What every proposer is made from."""

    preset: str
    seed: int
    surface: str  # the file that is edited


# `variant` is what follows the colon: "cmaes" in "search:cmaes", or "".
Factory = Callable[[str, ProposerOptions], Proposer]


def _make_search(variant: str, options: ProposerOptions) -> Proposer:
    from autoresearch.proposers.search import SearchProposer

    return SearchProposer(options.preset, seed=options.seed, surface=options.surface, method=variant or "tpe")


# Complete names, in the order they are shown, each with what makes it.
_REGISTRY: Mapping[str, Factory] = {
    "search": _make_search,
    "search:tpe": _make_search,
    "search:cmaes": _make_search,
    "search:random": _make_search,
}


def known_proposers() -> tuple[str, ...]:
    """Names that `make_proposer` takes."""
    return tuple(_REGISTRY)


def make_proposer(name: str, *, preset: str, seed: int = 0, surface: str = "train.py") -> Proposer:
    """The proposer of that name, for sessions under `preset` that edit `surface`.

    Raises:
        UsageError: no such proposer or preset; the message names the known ones.
    """
    factory = _REGISTRY.get(name)
    if factory is None:
        raise UsageError(
            f"unknown proposer {name!r}; known: {', '.join(_REGISTRY)}",
            hint="autoresearch research TAG --proposer search",
        )
    return factory(name.partition(":")[2], ProposerOptions(preset=preset, seed=seed, surface=surface))
