"""A session's transitions: each reads the ledger, acts, and records, so that any of them can be run again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from autoresearch.contract.channel import REBUILD
from autoresearch.loop.brevity import brevity_of
from autoresearch.loop.candidate import remove_dead_folders
from autoresearch.loop.fed import refused_as_repeated
from autoresearch.loop.objective import Objective, noise_in
from autoresearch.loop.orders import Arena, DeepWish, Glimpse, Order, TrialRun
from autoresearch.loop.peers import accepted, allowances, beside_its_peers, score_of
from autoresearch.loop.preparation import Pantry, prepared_arena
from autoresearch.loop.program_files import by_hand_command, files_of, hyperparameters_of, trained_file
from autoresearch.loop.referee import run_trial
from autoresearch.loop.scoring import scored_under, trained_for
from autoresearch.loop.session_records import SessionRecords
from autoresearch.loop.settings import Settings
from autoresearch.loop.spare import Spare
from autoresearch.loop.verdict import Brevity, Estimate, Evidence, Noise, Policy, estimate_of, judge, judge_failure
from autoresearch.loop.wishes import deep_wish
from autoresearch.proposers.constants import defines_function
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
        pantry: Pantry | None = None,
        base_recipe: dict[str, str] | None = None,
        objective: Objective | None = None,
    ) -> None:
        """base_recipe: the workspace's recipe where it is not the shipped one. objective: None for val_bpb itself."""
        self.workspace = workspace
        self.ledger = ledger
        self.session = session
        self.arena = arena
        self.settings = settings
        self.reporter = reporter
        self.stop = stop
        self.pantry = pantry
        self.base_recipe = base_recipe
        self.objective = objective
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
        return noise_in(self.ledger, self.session)

    def incumbent_estimate(self) -> Estimate:
        """Mean score of the incumbent on the search slice: its place when it was kept, and its re-runs since."""
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
            if trial.score is None:
                raise SessionStopped(
                    f"the {'baseline' if incumbent.number == BASELINE else 'incumbent'} does not run ({trial.outcome}: {trial.reason})\n{trial.log_tail}".rstrip(),
                    hint=f"{by_hand_command(self.session)}   (then commit the mended file and start a new tag)",
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
                    f"no deep examination: {self.experiment_file} defines no {REBUILD}(weights), so scores are only screened "
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
        if first.score is None:
            return judge_failure(first.outcome, first.reason)
        incumbent = self._experiment_of(experiment.incumbent)
        pairs: list[tuple[float, float]] = []
        while True:
            noise, brevity = self.noise().sd, self._brevity_of(experiment)
            verdict = judge(Evidence(self.incumbent_estimate(), [first.score], pairs, noise, brevity), self.policy)
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
            if candidate.score is None:
                return judge_failure(candidate.outcome, f"on a repeat: {candidate.reason}")
            if opponent.score is None:
                raise SessionStopped(
                    f"the incumbent (experiment {incumbent.number}) no longer runs ({opponent.outcome}: {opponent.reason})\n{opponent.log_tail}".rstrip(),
                    hint=f"autoresearch research {self.tag} --resume   (when the machine is well again)",
                )
            pairs.append((candidate.score, opponent.score))

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
        baseline = self.ledger.experiment(self.tag, BASELINE).commit_hash
        entry, files = self.experiment_file, {self.experiment_file: self._text_of(who)}
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
            hyperparameters=hyperparameters_of(files_of(self.workspace, self.session, who), self.session.preset),
        )
        write_run(self.workspace.data_dir, run_json(identity, None))

        def on_start(pid: int, created: float) -> None:
            self.ledger.trial_process(trial_id, pid, created)

        def on_glimpse(glimpse: Glimpse) -> None:
            self._show(glimpse, number, purpose, what)

        order = Order(
            files,
            entry,
            seed,
            part,
            self._deep_wish(who, purpose),
            is_trusted=who.number == BASELINE,
            **allowances(self._trials_of(baseline), self.arena.rules) if who.number != BASELINE else {},
        )
        arena = self._arena_of(who, purpose, order, on_start, on_glimpse)
        if isinstance(arena, TrialRun):
            done = arena  # the recipe could not be prepared, or feeds what another did
        else:
            fresh = partial(self.spare.fresh, files[entry])
            done = run_trial(
                arena,
                order if self.objective is None else trained_for(order),
                self.workspace.run_log_path,
                on_start=on_start,
                on_glimpse=on_glimpse,
                on_examination=lambda: self.spare.start(files[entry]),
                spare=self.spare.take(),
                fresh=fresh,
                stop=self.stop,
            )
            if self.objective is not None:
                done = scored_under(self.objective, arena, order, done, fresh, on_glimpse, self.stop)
        peers = self._trials_of(who.commit_hash)
        trial = beside_its_peers(done.trial, peers, self._trials_of(baseline), self.arena.rules.clock)
        if done.weights is not None and purpose in (Purpose.CALIBRATE, Purpose.FIRST, Purpose.PAIR):
            # stored for every finished candidate; those of discarded ones are dropped with the verdict
            self.records.keep_weights(done.weights, arena)
        self.ledger.end_trial(trial_id, trial, done.log)
        write_run(self.workspace.data_dir, run_json(identity, trial))
        return trial

    def _arena_of(
        self,
        who: Experiment,
        purpose: Purpose,
        order: Order,
        on_start: Callable[[int, float], None],
        on_glimpse: Callable[[Glimpse], None],
    ) -> Arena | TrialRun:
        """Where the trial runs: on the contract's own text, or on what the experiment's recipe makes of it.

        A recipe that fails, or an idea whose rows were all fed before, has ended the trial: that is what comes back then.
        """
        recipe = self._recipe_of(who)
        if recipe is None:
            return self.arena
        assert self.pantry is not None, "a session with a recipe is begun with a pantry"
        on_glimpse(Glimpse("preparation"))
        arena = prepared_arena(
            self.arena,
            self.pantry,
            recipe,
            order,
            self.workspace.run_log_path,
            on_start=on_start,
            on_line=lambda line: on_glimpse(Glimpse(f"preparation: {line}")),
            stop=self.stop,
        )
        if purpose is not Purpose.FIRST or self.session.program != "data" or isinstance(arena, TrialRun):
            return arena
        before = [found for found in self.ledger.experiments(self.tag) if found.number < who.number]
        texts = ((found.number, files_of(self.workspace, self.session, found)) for found in before)
        return refused_as_repeated(arena, self.pantry, texts, order, self.stop) or arena

    def _recipe_of(self, who: Experiment) -> dict[str, str] | None:
        """The recipe that feeds this experiment: its own in the data program, else the workspace's; None for the shipped one."""
        if self.session.program == "data":
            return files_of(self.workspace, self.session, who)
        return self.base_recipe

    def _deep_wish(self, who: Experiment, purpose: Purpose) -> DeepWish | None:
        """When this trial is examined deeply; None where the baseline cannot be rebuilt: no score is more than screened."""
        if not self.can_be_rebuilt():
            return None
        trials = [row.trial for row in self._trials_of(who.commit_hash) if row.trial]
        noise = self.noise().sd
        incumbent = None if purpose is Purpose.CALIBRATE else self.incumbent_estimate()
        brevity = self._brevity_of(who) if purpose is Purpose.FIRST else Brevity()
        return deep_wish(purpose, trials, incumbent, noise, self.policy, brevity)

    def _brevity_of(self, who: Experiment) -> Brevity:
        """What the experiment leaves out of the incumbent that it is to beat."""
        return brevity_of(self.workspace, self.session, who, self.ledger.experiments(self.tag))

    def can_be_rebuilt(self) -> bool:
        """Whether the baseline's file says how to rebuild its model from its weights."""
        baseline = self.ledger.experiment(self.tag, BASELINE)
        return defines_function(self._text_of(baseline), REBUILD)

    def close(self) -> None:
        """End the process that waits for an order, if there is one."""
        self.spare.close()

    @property
    def experiment_file(self) -> str:
        """The file that is trained: the one that research edits, or in the data program the frozen one."""
        return trained_file(self.session)

    def _text_of(self, who: Experiment) -> str:
        """The experiment file as this experiment trains it."""
        text = who.proposal.files.get(self.experiment_file)
        return text if text is not None else self.workspace.read_surface(who.commit_hash or "", self.experiment_file)

    def _done(self, number: int, purpose: Purpose, repeat: int = 0) -> Trial | None:
        """The accepted trial of that purpose, when it was run before a resume."""
        seed = self.seed_for(*(("first", number, 0) if purpose is Purpose.FIRST else ("pair", number, repeat)))
        rows = [row for row in self.ledger.trials(self.tag, number) if (row.purpose, row.seed) == (purpose, seed)]
        return accepted([row.trial for row in rows if row.trial], _RERUNS)

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
