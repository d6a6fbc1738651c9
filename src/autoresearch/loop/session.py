"""A session's transitions: each reads the ledger, acts, and records, so that any of them can be run again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from autoresearch.contract.channel import REBUILD
from autoresearch.loop.candidate import remove_dead_folders
from autoresearch.loop.orders import Arena, DeepWish, Glimpse, Order, allowance
from autoresearch.loop.peers import beside_its_peers, median_speed, score_of
from autoresearch.loop.referee import run_trial
from autoresearch.loop.session_records import SessionRecords
from autoresearch.loop.settings import Settings
from autoresearch.loop.spare import Spare
from autoresearch.loop.verdict import Estimate, Evidence, Noise, Policy, estimate_of, judge, judge_failure, noise_of
from autoresearch.proposers.constants import defines_function, read_constants
from autoresearch.records.ledger import Experiment, Ledger, Purpose, Session, State, TrialRow, now
from autoresearch.records.run_report import RunIdentity, run_json, write_run
from autoresearch.repository import Identity
from autoresearch.sandbox.process_tree import kill_leftover
from autoresearch.vocabulary import (
    LedgerError,
    Outcome,
    Proposal,
    SessionStopped,
    Slice,
    Status,
    Trial,
    Verdict,
    WorkspaceError,
)
from autoresearch.workspace import Workspace, admitted, refusal_of

BASELINE = 0
_RERUNS = 1  # times a disturbed run is repeated before it is taken as it is, marked
_FAR_OUTSIDE = 6.0  # standard deviations of one trial below the incumbent: by chance once in a billion


class Reporter(Protocol):
    """What a session tells whoever watches."""

    def glimpse(self, values: Mapping[str, Any]) -> None:
        """A running trial, about four times a second."""

    def note(self, text: str) -> None:
        """One line worth keeping on the screen."""


class Stopped(Exception):
    """The user asked to stop; nothing is lost."""


class ResearchSession:
    """One session on one branch. All state is in the ledger; this object only carries the doors to it."""

    def __init__(
        self,
        workspace: Workspace,
        ledger: Ledger,
        session: Session,
        arena: Arena,
        settings: Settings,
        reporter: Reporter,
        stop: threading.Event,
    ) -> None:
        self.workspace = workspace
        self.ledger = ledger
        self.session = session
        self.arena = arena
        self.settings = settings
        self.reporter = reporter
        self.stop = stop
        self.spare = Spare(arena)
        self.records = SessionRecords(workspace, ledger, session)
        self.policy = Policy(keep=settings.keep_probability, max_pairs=settings.max_pairs)

    # -- what the ledger says -----------------------------------------------------------------------------------------

    @property
    def tag(self) -> str:
        return self.session.tag

    def incumbent(self) -> Experiment:
        """The experiment that was kept last; the baseline before any other."""
        kept = [found for found in self.ledger.experiments(self.tag) if found.status is Status.KEEP]
        return kept[-1] if kept else self.ledger.experiment(self.tag, BASELINE)

    def noise(self) -> Noise:
        """Spread of one trial, pooled from every repeat under this fingerprint."""
        groups = self.ledger.score_groups(self.session.fingerprint)
        rules = self.arena.rules
        return noise_of(groups, prior=rules.noise_prior, prior_weight=rules.noise_prior_weight)

    def incumbent_estimate(self) -> Estimate:
        """Mean val_bpb of the incumbent on the search slice: its place when it was kept, and its re-runs since."""
        incumbent = self.incumbent()
        noise = self.noise().sd
        verdict = incumbent.verdict
        prior = None
        if incumbent.number != BASELINE and verdict and verdict.estimate is not None and verdict.interval:
            prior = Estimate(verdict.estimate, (verdict.interval[1] - verdict.interval[0]) / (2 * 1.96))
        purposes = (Purpose.CALIBRATE, Purpose.REFRESH)
        scores = [
            s
            for row in self._trials_of(incumbent.commit_hash)
            if row.purpose in purposes and (s := score_of(row)) is not None
        ]
        found = estimate_of(scores, noise, prior)
        if found is None:
            raise LedgerError(
                f"session {self.tag} has no score of its baseline", hint=f"autoresearch history {self.tag}"
            )
        return found

    def _trials_of(self, commit: str | None) -> list[TrialRow]:
        return [row for row in self.ledger.trials(self.tag) if row.commit_hash == commit]

    # -- transitions --------------------------------------------------------------------------------------------------

    def recover(self) -> list[str]:
        """Tidy what a kill left: running trials, folders, verdicts not yet settled. Says what it found."""
        found: list[str] = []
        for row in self.ledger.running_trials(self.tag):
            alive = (
                row.pid is not None and row.pid_created_at is not None and kill_leftover(row.pid, row.pid_created_at)
            )
            gone = Trial(Outcome.ABANDONED, reason="the session ended while it ran", seed=row.seed, slice=row.slice)
            self.ledger.end_trial(row.id, gone, "")
            found.append(
                f"trial {row.id} of experiment {row.number} was cut off{', its process still ran and was ended' if alive else ''}; it is run again"
            )
        remove_dead_folders()
        self.records.sweep()
        for experiment in self.ledger.experiments(self.tag):
            if experiment.state is State.JUDGED:
                found.append(
                    f"experiment {experiment.number} was judged ({experiment.status}) but not settled; settled now"
                )
                self.settle(experiment)
        for line in found:
            self.ledger.add_event(self.tag, line)
        self.records.write_tables()
        return found

    def open_experiment(self) -> Experiment | None:
        """The experiment that was begun and not judged, if there is one."""
        for experiment in self.ledger.experiments(self.tag):
            if experiment.state in (State.PROPOSED, State.COMMITTED):
                return experiment
        return None

    def calibrate(self, repeats: int) -> None:
        """Run the incumbent until it has `repeats` undisturbed scores on the search slice.

        Raises:
            SessionStopped: it does not run.
        """
        incumbent = self.incumbent()
        assert incumbent.commit_hash is not None
        begun = [
            row for row in self._trials_of(incumbent.commit_hash) if row.purpose is Purpose.CALIBRATE and row.trial
        ]
        scores = sum(score_of(row) is not None for row in begun)
        while scores < repeats:
            seed = self.seed_for("calibrate", incumbent.number, scores)
            what = f"{'baseline' if incumbent.number == BASELINE else 'incumbent'}, run {scores + 1} of {repeats}"
            trial = self.run(incumbent, incumbent.number, Purpose.CALIBRATE, seed, Slice.SEARCH, what)
            if trial.val_bpb is None:
                raise SessionStopped(
                    f"the {'baseline' if incumbent.number == BASELINE else 'incumbent'} does not run ({trial.outcome}: {trial.reason})\n{trial.log_tail}".rstrip(),
                    hint=f"autoresearch train {self.session.entry}   (then commit the mended file and start a new tag)",
                )
            scores += 1

    def establish_baseline(self) -> None:
        """Measure the baseline and its noise, and keep it as the first incumbent; nothing when that is done.

        Raises:
            SessionStopped: it does not run.
        """
        baseline = self.ledger.experiment(self.tag, BASELINE)
        if baseline.state is State.COMMITTED:
            if not self.can_be_rebuilt():
                self.reporter.note(
                    f"no deep examination: {self.session.entry} defines no {REBUILD}(weights), so scores are only screened "
                    "(docs/contract.md)"
                )
            self.calibrate(self.settings.calibration)
            noise = self.noise()
            estimate = self.incumbent_estimate()
            margin = 1.96 * estimate.error
            verdict = Verdict(
                status=Status.KEEP,
                reason=f"baseline: mean {estimate.mean:.4f}, noise {noise.sd:.4f}",
                estimate=estimate.mean,
                interval=(-margin, margin),
                gain=0.0,
                noise=noise.sd,
                num_trials=sum(score_of(row) is not None for row in self._trials_of(baseline.commit_hash)),
            )
            self.conclude(baseline, verdict)

    def refresh_if_due(self) -> None:
        """Re-run the incumbent now and then: machines drift, and a lucky first score must not stay."""
        incumbent = self.incumbent()
        ran = [
            row
            for row in self._trials_of(incumbent.commit_hash)
            if row.trial and row.trial.outcome is not Outcome.ABANDONED
        ]
        last = max((row.number for row in ran), default=0)
        upcoming = self.next_number()
        if upcoming - last > self.settings.refresh_every:
            seed = self.seed_for("refresh", incumbent.number, upcoming)
            self.run(incumbent, upcoming, Purpose.REFRESH, seed, Slice.SEARCH, f"incumbent #{incumbent.number} again")

    def next_number(self) -> int:
        return max(found.number for found in self.ledger.experiments(self.tag)) + 1

    def propose(self, proposal: Proposal) -> Experiment:
        """Record an idea against the incumbent. One that cannot be stored, or is out of scope, is recorded as refused."""
        incumbent = self.incumbent().commit_hash
        assert incumbent is not None
        stored = admitted(proposal, self.session.program)
        return self.ledger.propose(self.tag, self.next_number(), incumbent, stored)

    def commit(self, experiment: Experiment) -> Experiment:
        """Make the candidate's commit and its ref. The user's checkout, index and branch do not move."""
        if experiment.state is not State.PROPOSED or refusal_of(experiment.proposal):
            return experiment
        message = (
            f"{experiment.proposal.description}\n\n"
            f"Experiment {experiment.number} of session {self.tag}, proposed by {experiment.proposal.proposer}.\n"
        )
        repository = self.workspace.repository
        commit = repository.commit_files(
            experiment.incumbent,
            self.workspace.in_repository(experiment.proposal.files),
            message,
            identity=Identity(**self.session.author),
            when=int(datetime.fromisoformat(experiment.proposed_at).timestamp()),
        )
        repository.set_ref(f"refs/autoresearch/{self.tag}/{experiment.number}", commit)
        self.ledger.committed(self.tag, experiment.number, commit)
        return self.ledger.experiment(self.tag, experiment.number)

    def try_out(self, experiment: Experiment) -> Verdict:
        """Run trials of a committed candidate until a verdict is reached; trials already done are not run again."""
        number = experiment.number
        first = self._done(number, Purpose.FIRST)
        if first is None:
            seed = self.seed_for("first", number, 0)
            first = self.run(experiment, number, Purpose.FIRST, seed, Slice.SEARCH, experiment.proposal.description)
        if first.val_bpb is None:
            return judge_failure(first.outcome, first.reason)
        incumbent = self._experiment_of(experiment.incumbent)
        pairs: list[tuple[float, float]] = []
        while True:
            noise = self.noise().sd
            verdict = judge(Evidence(self.incumbent_estimate(), [first.val_bpb], pairs, noise), self.policy)
            if verdict.status is not None:
                return verdict
            seed = self.seed_for("pair", number, len(pairs))
            described = f"{experiment.proposal.description} (repeat {len(pairs) + 1})"
            arms = []
            for purpose, who in ((Purpose.PAIR, experiment), (Purpose.PAIRED_INCUMBENT, incumbent)):
                trial = self._done(number, purpose, len(pairs))
                if trial is None:
                    trial = self.run(who, number, purpose, seed, Slice.CONFIRM, described)
                arms.append(trial)
            candidate, opponent = arms
            if candidate.val_bpb is None:
                return judge_failure(candidate.outcome, f"on a repeat: {candidate.reason}")
            if opponent.val_bpb is None:
                raise SessionStopped(
                    f"the incumbent (experiment {incumbent.number}) no longer runs ({opponent.outcome}: {opponent.reason})\n{opponent.log_tail}".rstrip(),
                    hint=f"autoresearch research {self.tag} --resume   (when the machine is well again)",
                )
            pairs.append((candidate.val_bpb, opponent.val_bpb))

    def conclude(self, experiment: Experiment, verdict: Verdict) -> Experiment:
        """Record the verdict, then settle it."""
        self.ledger.judged(self.tag, experiment.number, verdict)
        return self.settle(self.ledger.experiment(self.tag, experiment.number))

    def settle(self, experiment: Experiment) -> Experiment:
        """Move the branch for a keep, mark the experiment settled, and write its records. Safe to repeat."""
        if experiment.status is Status.KEEP:
            assert experiment.commit_hash is not None
            self._advance_branch(experiment.incumbent, experiment.commit_hash)
        self.records.write_tables()
        self.records.write_snapshot(experiment)
        self.ledger.settled(self.tag, experiment.number)  # last: a kill before it has all of this done again
        self.ledger.back_up()
        return self.ledger.experiment(self.tag, experiment.number)

    def _advance_branch(self, old: str, new: str) -> None:
        ref = f"refs/heads/{self.session.branch}"
        stands = self.workspace.repository.resolve(ref)
        if stands == new:
            return
        if stands != old:
            raise WorkspaceError(
                f"branch {self.session.branch} was moved to {(stands or 'nowhere')[:10]} by someone else; this session left it at {old[:10]}",
                hint=f"git branch -f {self.session.branch} {old[:10]} && autoresearch research {self.tag} --resume",
            )
        self.workspace.repository.set_ref(ref, new, expect=old)

    # -- trials -------------------------------------------------------------------------------------------------------

    def seed_for(self, purpose: str, number: int, repeat: int) -> int:
        """The seed of one trial: from the session's, so that research cannot choose it."""
        text = f"{self.settings.seed}/{self.tag}/{purpose}/{number}/{repeat}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % 2**31

    def run(self, who: Experiment, number: int, purpose: Purpose, seed: int, part: Slice, what: str) -> Trial:
        """One trial of a commit, repeated when the neighbours disturbed it.

        Raises:
            Stopped: the user asked to stop; the trial is recorded as abandoned and will be run again.
        """
        for attempt in range(_RERUNS + 1):
            trial = self._run_once(who, number, purpose, seed, part, what)
            if trial.outcome is Outcome.ABANDONED:
                raise Stopped
            if not trial.disturbed or attempt == _RERUNS:
                break
            self.reporter.note(f"disturbed, run again: {trial.disturbed}")
        return trial

    def _run_once(self, who: Experiment, number: int, purpose: Purpose, seed: int, part: Slice, what: str) -> Trial:
        assert who.commit_hash is not None
        files = {self.session.entry: self._text_of(who)}
        trial_id = self.ledger.start_trial(
            self.tag, number, who.commit_hash, purpose, seed, part, self.session.fingerprint
        )
        identity = RunIdentity(
            session=self.session,
            experiment=number,
            trial_id=trial_id,
            commit=who.commit_hash,
            description=what,
            purpose=purpose,
            seed=seed,
            slice=part,
            started_at=now(),
            hyperparameters=self._hyperparameters(files[self.session.entry]),
        )
        write_run(self.workspace.data_dir, run_json(identity, None))
        done = run_trial(
            self.arena,
            Order(
                files,
                self.session.entry,
                seed,
                part,
                self._deep_wish(who, purpose),
                is_trusted=who.number == BASELINE,
                **self._allowances() if who.number != BASELINE else {},
            ),
            self.workspace.run_log_path,
            on_start=lambda pid, created: self.ledger.trial_process(trial_id, pid, created),
            on_glimpse=lambda glimpse: self._show(glimpse, number, purpose, what),
            on_examination=lambda: self.spare.start(files[self.session.entry]),
            spare=self.spare.take(),
            fresh=lambda: self.spare.fresh(files[self.session.entry]),
            stop=self.stop,
        )
        baseline = self.ledger.experiment(self.tag, BASELINE).commit_hash
        peers = self._trials_of(who.commit_hash)
        trial = beside_its_peers(done.trial, peers, self._trials_of(baseline), self.arena.rules.clock)
        if done.weights is not None and purpose in (Purpose.CALIBRATE, Purpose.FIRST, Purpose.PAIR):
            # stored for every finished candidate; those of discarded ones are dropped with the verdict
            self.records.keep_weights(done.weights)
        self.ledger.end_trial(trial_id, trial, done.log)
        write_run(self.workspace.data_dir, run_json(identity, trial))
        return trial

    def _deep_wish(self, who: Experiment, purpose: Purpose) -> DeepWish | None:
        """Which of a commit's scores are examined deeply: all that a keep could rest on, and what no one has seen before.

        None where the baseline cannot be rebuilt from its weights: then no score is more than screened.
        """
        if not self.can_be_rebuilt():
            return None
        noise = self.noise().sd
        passed = [row.trial for row in self._trials_of(who.commit_hash) if row.trial and row.trial.leak_bound_bpb]
        asked = sum(trial.deep_prefixes for trial in passed)
        if purpose is Purpose.CALIBRATE:
            return DeepWish(lambda _score: not passed, noise, asked)  # once: it shows that the file can be rebuilt
        if purpose is Purpose.PAIR:
            return DeepWish(lambda _score: True, noise, asked)
        incumbent = self.incumbent_estimate()

        def is_promising(score: float) -> bool:
            return judge(Evidence(incumbent, [score], [], noise), self.policy).status is not Status.DISCARD

        def is_far_outside(score: float) -> bool:
            return score < incumbent.mean - _FAR_OUTSIDE * noise

        return DeepWish(is_promising if purpose is Purpose.FIRST else is_far_outside, noise, asked)

    def _allowances(self) -> dict[str, Any]:
        """What a candidate may do before the clock and while it is examined, from the baseline's own trials."""
        baseline = self._trials_of(self.ledger.experiment(self.tag, BASELINE).commit_hash)
        trials = [row.trial for row in baseline if row.trial and row.trial.val_bpb is not None]
        return {
            "startup_allowance": allowance([trial.startup_used for trial in trials], self.arena.rules),
            "exam_allowance": allowance([trial.exam_used for trial in trials], self.arena.rules),
            "usual_tok_sec": median_speed(baseline) or 0.0,
        }

    def can_be_rebuilt(self) -> bool:
        """Whether the baseline's file says how to rebuild its model from its weights."""
        baseline = self.ledger.experiment(self.tag, BASELINE)
        return defines_function(self._text_of(baseline), REBUILD)

    def close(self) -> None:
        """End the process that waits for an order, if there is one."""
        self.spare.close()

    def _text_of(self, who: Experiment) -> str:
        text = who.proposal.files.get(self.session.entry)
        return text if text is not None else self.workspace.read_surface(who.commit_hash or "", self.session.entry)

    def _hyperparameters(self, source: str) -> dict[str, Any]:
        try:
            found = read_constants(source, self.session.preset)
        except SyntaxError:
            return {}  # the trial says so itself
        return {name: literal.value for name, literal in found.literals.items()}

    def _done(self, number: int, purpose: Purpose, repeat: int = 0) -> Trial | None:
        """The accepted trial of that purpose, when it was run before a resume."""
        seed = {
            Purpose.FIRST: self.seed_for("first", number, 0),
        }.get(purpose, self.seed_for("pair", number, repeat))
        rows = [
            row
            for row in self.ledger.trials(self.tag, number)
            if row.purpose is purpose and row.seed == seed and row.trial
        ]
        ended = [row.trial for row in rows if row.trial and row.trial.outcome is not Outcome.ABANDONED]
        settled = [trial for trial in ended if not trial.disturbed]
        if settled:
            return settled[-1]
        return ended[-1] if len(ended) > _RERUNS else None

    def _experiment_of(self, commit: str) -> Experiment:
        found = [e for e in self.ledger.experiments(self.tag) if e.commit_hash == commit]
        if not found:
            raise LedgerError(
                f"no experiment of {self.tag} made commit {commit[:10]}", hint=f"autoresearch history {self.tag}"
            )
        return found[0]

    def _show(self, glimpse: Glimpse, number: int, purpose: Purpose, what: str) -> None:
        """Pass a running trial's state on, with what the session knows besides."""
        self.reporter.glimpse({"glimpse": glimpse, "experiment": number, "purpose": purpose, "description": what})
