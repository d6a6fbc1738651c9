"""Numbers by the classical optimizer, structure by a language model: the combination that did best when compared.

"Centaur" (Ferreira and others, arXiv:2603.24647; CMA-ES with a model on 30 % of the trials, 0.9739 against 0.9768 for TPE
and 0.9770 for a strong code agent alone, 24 GPU hours each): the optimizer proposes, and on a set share of experiments
the model does. Most of these are edits of structure, which no optimizer makes; on a part of them the model is shown the
optimizer's state and may overrule its next numbers.

Whose turn it is depends on the seed and the experiment's number alone, so a resumed session goes on as it would have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from autoresearch.proposers.llm import LanguageModelProposer
from autoresearch.proposers.situation import Situation
from autoresearch.vocabulary import Proposal, ProposerExhausted, ProviderUnavailable, SpendingCapReached, UsageError

# Of the model's experiments, those that may overrule the optimizer's numbers. In the comparison above a model that chose
# numbers alone did worst of all (0.9904 against 0.9873 at random), so most of its turns go to structure.
OVERRIDE_SHARE = 0.25

CAPPED = "the spending cap is reached"


class NumberSearch(Protocol):
    """A classical search that can also say what it has learned."""

    name: str

    def propose(self, situation: Situation) -> Proposal:
        """The next edit of constants."""

    def learned(self, situation: Situation) -> str:
        """What the history says of each constant, as text."""


class HybridProposer:
    """Two proposers that take turns: `mind` on `share` of the experiments, `numbers` on the others and in its place.

    `override` is the part of the mind's turns in which it may only set numbers. `say` tells the user, once, that the
    session goes on without the model.
    """

    def __init__(
        self,
        numbers: NumberSearch,
        mind: LanguageModelProposer,
        *,
        share: float = 0.3,
        override: float = OVERRIDE_SHARE,
        seed: int = 0,
        name: str = "hybrid",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = name
        self._numbers = numbers
        self._mind = mind
        self._share = share
        self._override = override
        self._seed = seed
        self._say = say
        self._is_capped = False

    def propose(self, situation: Situation) -> Proposal:
        """The next idea, by whoever has the turn. `details["fell_back"]` says why the other one had it.

        Raises:
            ProposerExhausted: the search has nothing new, and no model answers.
            UsageError: the incumbent lacks the file to edit, or has nothing to search, and no model answers.
        """
        missing = ""
        if self.has_mind(situation.number):
            proposal = self._of_mind(situation)
            if isinstance(proposal, Proposal):
                return self._named(proposal)
            missing = proposal
        try:
            proposal = self._numbers.propose(situation)
        except (ProposerExhausted, UsageError) as silent:
            # after a model's keep the file may have no constants left to search
            return self._in_place_of_numbers(situation, silent, asked=bool(missing))
        return self._named(proposal, missing)

    def has_mind(self, number: int) -> bool:
        """Whether the model has the turn at this experiment: of the first n, n times the share, give or take one."""
        return _turns(number, self._share, self._offset("turn")) > _turns(number - 1, self._share, self._offset("turn"))

    def may_overrule(self, number: int) -> bool:
        """Whether the model, in its turn, is asked for numbers: the same rule, counted over its turns."""
        turn, offset = _turns(number, self._share, self._offset("turn")), self._offset("override")
        return _turns(turn, self._override, offset) > _turns(turn - 1, self._override, offset)

    def _offset(self, what: str) -> float:
        return random.Random(f"{self._seed}:{what}").random()

    def _of_mind(self, situation: Situation) -> Proposal | str:
        """The model's proposal, or why there is none."""
        if self._is_capped:
            return CAPPED
        try:
            return self._asked(situation)
        except ProviderUnavailable as unavailable:
            return unavailable.message
        except SpendingCapReached as reached:
            self._is_capped = True
            self._say(f"{reached.message}; from here on {self._numbers.name} proposes alone")
            return CAPPED

    def _asked(self, situation: Situation) -> Proposal:
        if self.may_overrule(situation.number):
            try:
                planned, state = self._numbers.propose(situation), self._numbers.learned(situation)
            except (ProposerExhausted, UsageError):
                return self._mind.propose(situation)  # no numbers to overrule
            return self._mind.propose_numbers(situation, f"it would try next: {planned.description}\n{state}", planned)
        return self._mind.propose(situation)

    def _in_place_of_numbers(
        self, situation: Situation, silent: ProposerExhausted | UsageError, *, asked: bool
    ) -> Proposal:
        if asked:
            raise silent
        proposal = self._of_mind(situation)
        if isinstance(proposal, str):
            raise silent
        return self._named(proposal, silent.message)

    def _named(self, proposal: Proposal, fell_back: str = "") -> Proposal:
        details = {**proposal.details, "fell_back": fell_back} if fell_back else proposal.details
        return replace(proposal, proposer=f"{self.name}/{proposal.proposer}", details=details)


def _turns(number: int, share: float, offset: float) -> int:
    """How many of the first `number` experiments are the model's: evenly spread, never off by one or more."""
    return math.floor(number * share + offset)
