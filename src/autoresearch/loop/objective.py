"""What a session judges on: val_bpb as measured, or val_bpb after something was done to the weights.

The loop knows an objective by its name and by what it makes of weights; what that is (quantization) comes from the roof.
"""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from autoresearch.contract.rules import rules_for
from autoresearch.loop.verdict import Noise, noise_of
from autoresearch.records.ledger import Ledger, Session

PLAIN = "bpb"  # val_bpb of the weights as they were handed over
NAME = re.compile(r"bpb(@[1-8]bit(:[a-z0-9_]{1,40})?)?")


class Objective(Protocol):
    """One objective other than PLAIN."""

    @property
    def name(self) -> str:
        """As it is written in settings, tables and the ledger: `bpb@4bit`."""

    def transform(self, weights: bytes) -> bytes:
        """The weights to score, as safetensors with the same names, types, shapes and metadata. The same bytes give the same.

        Raises:
            UnfitWeights: nothing can be made of these; the candidate's own failure.
        """


def objective_of(session: Session) -> str:
    """The name of the objective that a session was begun with; PLAIN for one that is older than objectives."""
    return str(session.settings.get("objective") or PLAIN)


def judged_on(session: Session) -> str:
    """What the session's scores are, for people: `val_bpb`, or the objective's name."""
    name = objective_of(session)
    return "val_bpb" if name == PLAIN else name


def fingerprint_under(fingerprint: str, objective: str) -> str:
    """Sixteen hex digits: the contract's fingerprint for PLAIN, else one of its own, so that no two objectives compare."""
    if objective == PLAIN:
        return fingerprint
    return hashlib.sha256(f"{fingerprint} {objective}".encode()).hexdigest()[:16]


def noise_in(ledger: Ledger, session: Session) -> Noise:
    """Spread of one trial's score under the session's objective, pooled from every repeat under its fingerprint.

    The prior is the session's own where it was begun with one, else the contract's.
    """
    rules = rules_for(session.preset)
    prior = session.settings.get("noise_prior") or rules.noise_prior
    groups = ledger.score_groups(session.fingerprint)
    return noise_of(groups, prior=float(prior), prior_weight=rules.noise_prior_weight)
