"""A session on the surface: the rules of `loop/session.py` with the referee's trial replaced by surface plus noise.

The verdicts are the real ones (`loop/verdict.py`): three baseline runs, one trial of a candidate, paired repeats on
the confirm slice while it is promising, the incumbent run again every eight experiments. All of them count as trials,
because all of them cost a budget. Noise is Gaussian, independent between trials, with the spread of the repeats in the
recording; the judge does not know it and pools its own, as in a session.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from search_surface.surface import PRESET, OutOfSurface, Surface

from autoresearch.contract.rules import rules_for
from autoresearch.loop.outlook import budget_in_words
from autoresearch.loop.settings import Settings
from autoresearch.loop.verdict import Estimate, Evidence, Policy, estimate_of, judge, judge_failure, noise_of
from autoresearch.proposers.novelty import is_seed_only, same_program
from autoresearch.proposers.situation import MachineFacts, PastExperiment, Proposer, Situation
from autoresearch.vocabulary import Outcome, Proposal, ProposerExhausted, Status, Verdict

ENTRY = "train.py"
_SETTINGS = Settings()
_SECONDS = 26.0  # of a trial, what the recorded ones took
_IDEAS_PER_TRIAL = 3  # a proposer whose ideas are refused unseen would never come to an end


@dataclass
class Course:
    """What one simulated session did. `best` holds (trials used, true val_bpb of the incumbent) at every change of it."""

    method: str
    seed: int
    ground: str = ""  # what else decided it: the recording, the number of trials, the model
    best: list[tuple[int, float]] = field(default_factory=list)
    trials: int = 0
    experiments: int = 0
    keeps: int = 0
    crashes: int = 0
    refused: int = 0
    ended: str = ""
    proposing_seconds: float = 0.0

    def true_value_after(self, trials: int) -> float:
        """True val_bpb of the incumbent when that many trials were used."""
        return [value for used, value in self.best if used <= trials][-1]

    def trials_to(self, score: float) -> int | None:
        """Trials until the incumbent was truly that good; None when it never was."""
        return next((used for used, value in self.best if value <= score), None)


class _OutOfTrials(Exception):
    """The budget is spent in the middle of an experiment, which then has no verdict."""


class SurfaceSession:
    """One session of a proposer, with a number of trials to spend."""

    def __init__(
        self, surface: Surface, noise: float, source: str, *, method: str, seed: int, trials: int, tok_sec: float
    ) -> None:
        self._surface, self._noise, self._budget = surface, noise, trials
        self._rng = np.random.default_rng([seed, 20261121])
        self._rules = rules_for(PRESET)
        self._policy = Policy(keep=_SETTINGS.keep_probability, max_pairs=_SETTINGS.max_pairs)
        self._source = source
        self._kept: tuple[int, Estimate | None] = (0, None)  # number, and the estimate with which it won its place
        self._groups: dict[tuple[int, str], list[float]] = {}
        self._true = {0: surface.val_bpb(source)}
        self._last_run = 0
        self._tok_sec = tok_sec
        self.history: list[PastExperiment] = []
        self.course = Course(method, seed)

    def run(self, proposer: Proposer) -> Course:
        """Spend the trials."""
        course = self.course
        self._note_incumbent()
        try:
            for _ in range(_SETTINGS.calibration):
                self._trial(0, "search")
            while course.experiments < _IDEAS_PER_TRIAL * self._budget:
                self._refresh_if_due()
                began = time.monotonic()
                proposal = proposer.propose(self.situation())
                course.proposing_seconds += time.monotonic() - began
                self._conclude(proposal, *self._verdict_on(proposal))
            course.ended = f"{course.experiments} ideas"
        except _OutOfTrials:
            course.ended = f"{self._budget} trials"
        except ProposerExhausted as exhausted:
            course.ended = exhausted.message
        return course

    def situation(self) -> Situation:
        """What `loop/outlook.py` tells a proposer."""
        estimate = self._incumbent_estimate()
        return Situation(
            incumbent={ENTRY: self._source},
            history=list(self.history),
            tag=f"surface-{self.course.seed}",
            incumbent_number=self._kept[0],
            val_bpb=estimate.mean,
            val_bpb_error=estimate.error,
            noise=self._pooled_noise(),
            baseline_val_bpb=float(np.mean(self._groups[0, "search"])),
            machine=MachineFacts(
                budget=budget_in_words(self._rules), tok_sec=self._tok_sec, memory_gb=4.0, peak_memory_gb=0.4
            ),
        )

    def _trial(self, number: int, part: str) -> float:
        if self.course.trials >= self._budget:
            raise _OutOfTrials
        self.course.trials += 1
        score = self._true[number] + self._noise * float(self._rng.standard_normal())
        self._groups.setdefault((number, part), []).append(score)
        return score

    def _pooled_noise(self) -> float:
        rules = self._rules
        groups = list(self._groups.values())
        return noise_of(groups, prior=rules.noise_prior, prior_weight=rules.noise_prior_weight).sd

    def _incumbent_estimate(self) -> Estimate:
        number, prior = self._kept
        scores = self._groups.get((number, "search"), []) if number == 0 else self._groups.get((number, "again"), [])
        found = estimate_of(scores, self._pooled_noise(), prior)
        assert found is not None
        return found

    def _refresh_if_due(self) -> None:
        number = self._kept[0]
        upcoming = self.course.experiments + 1
        if upcoming - self._last_run > _SETTINGS.refresh_every:
            self._trial(number, "search" if number == 0 else "again")
            self._last_run = upcoming

    def _verdict_on(self, proposal: Proposal) -> tuple[Verdict, Outcome, str, float | None, int]:
        """Verdict, outcome, log, true value, and trials of one idea."""
        number = self.course.experiments + 1
        text = proposal.files.get(ENTRY, self._source)
        if refusal := self._refusal_of(text):
            self.course.refused += 1
            return judge_failure(Outcome.REJECTED, refusal), Outcome.REJECTED, "", None, 0
        before = self.course.trials
        try:
            self._true[number] = self._surface.val_bpb(text)
        except OutOfSurface as crash:
            self._true[number] = float("nan")
            self._trial(number, "search")  # a crash costs its start
            del self._groups[number, "search"]
            self.course.crashes += 1
            return judge_failure(Outcome.CRASHED, str(crash)), Outcome.CRASHED, str(crash), None, 1
        first = [self._trial(number, "search")]
        pairs: list[tuple[float, float]] = []
        incumbent = self._kept[0]
        while True:
            evidence = Evidence(self._incumbent_estimate(), first, pairs, self._pooled_noise())
            verdict = judge(evidence, self._policy)
            if verdict.status is not None:
                return verdict, Outcome.FINISHED, "", self._true[number], self.course.trials - before
            pairs.append((self._trial(number, "confirm"), self._trial(incumbent, "confirm")))
            self._last_run = number

    def _refusal_of(self, text: str) -> str:
        """As `loop/research.py` refuses: nothing new is not run."""
        if same_program(text, self._source):
            return "the edit changes nothing but layout or comments"
        if is_seed_only(self._source, text):
            return "the edit only changes the random seed"
        for past in self.history:
            tried = past.files.get(ENTRY)
            if tried is not None and same_program(tried, text):
                return f"the same program was tried as experiment {past.number}"
        return ""

    def _conclude(
        self, proposal: Proposal, verdict: Verdict, outcome: Outcome, log: str, true: float | None, trials: int
    ) -> None:
        self.course.experiments += 1
        number = self.course.experiments
        self.history.append(
            PastExperiment(
                number=number,
                description=proposal.description,
                files=dict(proposal.files),
                details=json.loads(json.dumps(proposal.details)),  # as the ledger gives them back
                status=verdict.status,
                val_bpb=verdict.estimate,
                gain=verdict.gain,
                tag=f"surface-{self.course.seed}",
                proposer=proposal.proposer,
                base=self._kept[0],
                interval=verdict.interval,
                p_better=verdict.p_better,
                reason=verdict.reason,
                outcome=outcome,
                log_tail=log,
                seconds=_SECONDS * trials,
                tok_sec=self._tok_sec if true is not None else None,
            )
        )
        if verdict.status is Status.KEEP:
            assert verdict.estimate is not None and verdict.interval is not None
            error = (verdict.interval[1] - verdict.interval[0]) / (2 * 1.96)
            self._kept = (number, Estimate(verdict.estimate, error))
            self._source = proposal.files[ENTRY]
            self._last_run = number
            self.course.keeps += 1
            self._note_incumbent()

    def _note_incumbent(self) -> None:
        self.course.best.append((self.course.trials, self._true[self._kept[0]]))


def usual_speed(rows: list[dict[str, object]]) -> float:
    """Median tokens per second of the recorded baseline."""
    return float(median(float(str(row["tok_sec"])) for row in rows if row["repeats"] == -1))
