"""Runs the catalogue: every entry through the real referee, one after the other, with everything planted around it."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from autoresearch.backends.hardware import detect, device_kind
from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.contract.prepared import Prepared, prepare
from autoresearch.contract.rules import Clock, Rules, rules_for
from autoresearch.loop.candidate import Candidate, worth_preloading
from autoresearch.loop.orders import Arena, DeepWish, Order, TrialRun, allowance
from autoresearch.loop.referee import run_trial
from autoresearch.loop.spare import start_candidate
from autoresearch.redteam.decoys import Decoys, new_mark
from autoresearch.redteam.doors import knock
from autoresearch.redteam.entries import ENTRY_NAME, Entry, Kind, recipe_for, replace_rules, source_for
from autoresearch.redteam.judging import Judged, Result, describe, judge, judge_trial
from autoresearch.redteam.kitchen import Kitchen
from autoresearch.sandbox.layers import Seal
from autoresearch.vocabulary import AutoresearchError, Outcome, Trial
from autoresearch.workspace import template_path

SEED = 1337
_SECONDS_TO_SEARCH = 4  # what an entry may spend on walking through files, {{SECONDS}}
_SECONDS_TO_SEARCH_FULL = 60
# Deadlines of a trial here: an honest one of `smoke` takes 1.5 s with torch imported ahead. A shared machine was seen to give
# a run 4 % of its cores for an hour, 25 times slower. Entries that hang bring a deadline of their own.
_DEADLINES = {"startup_cap": 240.0, "wall_deadline": 160.0, "exam_deadline": 120.0, "trial_deadline": 480.0}


class RedteamError(AutoresearchError):
    """The red team cannot judge anything here: the unedited train.py does not run."""


def redteam_rules() -> Rules:
    """`smoke`, eight steps on a clock that counts them, with deadlines that end a hanging candidate soon."""
    return replace_rules(rules_for("smoke"), _DEADLINES)


@dataclass(frozen=True)
class Settings:
    """How often and how long."""

    times_cheat: int = 1
    times_control: int = 1
    seconds_to_search: int = _SECONDS_TO_SEARCH

    @classmethod
    def full(cls) -> Settings:
        return cls(times_cheat=3, times_control=20, seconds_to_search=_SECONDS_TO_SEARCH_FULL)


class Runner:
    """One run of the red team. A context manager: it holds the decoys and the process that waits for its order.

    Raises (on entering):
        DataMissing: no corpus. WorkspaceError: this installation has lost train.py.
    """

    def __init__(self, seal: Seal, settings: Settings, *, train_text: str | None = None) -> None:
        self._seal = seal
        self._settings = settings
        self._base = train_text if train_text is not None else template_path(ENTRY_NAME).read_text(encoding="utf-8")
        self._arenas: dict[Rules, Arena] = {}
        self._prepared: dict[tuple[int, int, int], Prepared] = {}
        self._honest: dict[tuple[Rules, int, bool], Trial] = {}
        self._held = frozenset(str(part) for part in seal.parts)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoresearch-redteam-")))
            self._log_path = self._folder / "run.log"
            self._kitchen = Kitchen(self._folder)
            self._decoys = self._plant()
            stack.callback(lambda: self._decoys.__exit__(None, None, None))
            self._waiting: Candidate | None = None
            stack.callback(self._end_waiting)
            self._exits = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def _plant(self) -> Decoys:
        rules = redteam_rules()
        return Decoys(rules, self._prepared_for(rules)).__enter__()

    def log(self) -> str:
        """What the candidate of the last trial said."""
        return self._log_path.read_text(errors="replace")

    def run(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Judged]]:
        """Every entry's result, as it becomes known.

        Raises:
            RedteamError: the unedited train.py does not finish, so that nothing can be compared with it.
            CatalogueError: an entry does not fit this train.py.
        """
        for entry in entries:
            yield entry, self._run_entry(entry)

    def _run_entry(self, entry: Entry) -> Judged:
        began = time.monotonic()
        if entry.door is not None:
            seen = [knock(entry, self._base, self._folder)]
            return judge(entry, seen, self._held, seconds=time.monotonic() - began)
        times = self._settings.times_control if entry.kind == "control" else self._settings.times_cheat
        shown: list[tuple[Result, str]] = []
        trials: list[Trial] = []
        for number in range(times):
            for trial, result in self._series(entry, SEED + number):
                trials.append(trial)
                shown.append(result)
        return judge(entry, shown, self._held, trials=trials, seconds=time.monotonic() - began)

    def _series(self, entry: Entry, seed: int) -> Iterator[tuple[Trial, tuple[Result, str]]]:
        """The trials in a row that belong to one attempt: the later ones look for what the first has left."""
        rules = entry.rules(redteam_rules())
        compared = rules.clock is Clock.STEPS or entry.compares_work or entry.recipe
        honest = self.honest(rules, seed, recipe=entry.recipe) if compared else None
        arena = self._arena_for(rules)
        kept = self._kitchen.shipped_folders(arena) if entry.recipe else []
        mark = new_mark()
        note = f"note-{secrets.token_hex(16)}"
        for turn in range(entry.repeat):
            if turn == 0:
                self._mend_decoys()
            values = {
                **self._decoys.fields(),
                "MARK": mark,
                "NOTE": note if turn == 0 else "",
                "TURN": str(turn + 1),
                "SECONDS": str(self._settings.seconds_to_search),
                **(self._kitchen.fields(arena) if entry.recipe else {}),
            }
            source = self._base if entry.recipe else source_for(entry, self._base, values)
            recipe = recipe_for(entry, self._kitchen.shipped, values) if entry.recipe else None
            watch = self._decoys.watch(mark, self._log_path, kept)
            done = self._trial(rules, source, seed, recipe=recipe, deep=entry.deep, honest=honest)
            ours = [self._waiting.tree.pid] if self._waiting else []
            is_last = turn == entry.repeat - 1
            seen = watch.seen(
                done.trial,
                honest,
                said=done.log,
                note=note if turn else "",
                ours=ours,
                places=[self._folder, self._kitchen.home],
                is_last=is_last,
            )
            yield done.trial, judge_trial(entry, seen)
        if entry.recipe and entry.kind is Kind.CHEAT:
            self._kitchen.clear(arena)  # a cheat is to be prepared again when it is tried again

    def _trial(
        self,
        rules: Rules,
        source: str,
        seed: int,
        *,
        recipe: Mapping[str, str] | None = None,
        deep: bool = False,
        honest: Trial | None = None,
    ) -> TrialRun:
        """One trial; `log` is all that was said in it, while a recipe was prepared too."""
        arena = self._arena_for(rules)
        order = Order(
            {ENTRY_NAME: source},
            ENTRY_NAME,
            seed,
            deep=DeepWish(lambda _score: True, rules.noise_prior) if deep else None,
            startup_allowance=allowance([honest.startup_used], rules) if honest else None,
            exam_allowance=allowance([honest.exam_used], rules) if honest else None,
            usual_tok_sec=honest.tok_sec if honest else 0.0,
        )
        before = ""
        if recipe is not None:
            self._log_path.write_bytes(b"")  # one that was prepared before says nothing
            prepared = self._kitchen.arena_with(arena, recipe, order, self._log_path)
            if isinstance(prepared, TrialRun):
                return prepared
            arena, before = prepared, self.log()
        done = run_trial(
            arena,
            order,
            self._log_path,
            on_examination=self._start_waiting,
            spare=self._take_waiting(),
            fresh=self._fresh,
        )
        self._start_waiting()  # also after one that never came to its examination
        return TrialRun(done.trial, before + done.log)

    def _start_waiting(self) -> None:
        """Start the next candidate's process ahead, with torch imported; we have to know its number (`ours`)."""
        if self._waiting is None:
            self._waiting = start_candidate(self._arena_for(redteam_rules()), worth_preloading(self._base))

    def _take_waiting(self) -> Candidate | None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.tree.poll() is not None:
            waiting.close()  # it died while it waited
            return None
        return waiting

    def _fresh(self) -> Candidate:
        self._start_waiting()
        fresh = self._take_waiting()
        self._start_waiting()
        return fresh or start_candidate(self._arena_for(redteam_rules()))

    def _end_waiting(self) -> None:
        if (waiting := self._take_waiting()) is not None:
            waiting.close()

    def honest(self, rules: Rules, seed: int, *, recipe: bool = False) -> Trial:
        """The unedited train.py's trial under the same rules and seed, fed by the shipped recipe or plainly; kept.

        Raises:
            RedteamError: it does not finish.
        """
        key = (replace_rules(rules, {name: 0.0 for name in _DEADLINES}), seed, recipe)
        if key not in self._honest:
            shipped = self._kitchen.shipped if recipe else None
            trial = self._trial(replace_rules(rules, _longest(rules)), self._base, seed, recipe=shipped).trial
            if trial.outcome is not Outcome.FINISHED:
                raise RedteamError(
                    f"the unedited train.py does not finish here ({describe(trial)})\n{trial.log_tail}".rstrip(),
                    hint="autoresearch doctor",
                )
            self._honest[key] = trial
        return self._honest[key]

    def _mend_decoys(self) -> None:
        """Plant anew what an earlier entry has harmed. Nobody's child may start meanwhile, so the spare goes first."""
        if self._decoys.harmed():
            self._end_waiting()
            self._decoys.__exit__(None, None, None)
            self._decoys = self._plant()

    def _arena_for(self, rules: Rules) -> Arena:
        if rules not in self._arenas:
            kind = device_kind(detect(allow_accelerator=False))
            self._arenas[rules] = Arena(rules, self._prepared_for(rules), kind, accelerators=False, seal=self._seal)
        return self._arenas[rules]

    def _prepared_for(self, rules: Rules) -> Prepared:
        shape = (rules.max_seq_len, rules.vocab_size, rules.eval_tokens)
        if shape not in self._prepared:
            self._prepared[shape] = prepare(rules, open_corpus(rules.dataset, cache_root()), cache_root())
        return self._prepared[shape]


def _longest(rules: Rules) -> dict[str, float]:
    """Deadlines for the honest run: an entry's own may be made for one that hangs."""
    return {name: max(getattr(rules, name), value) for name, value in _DEADLINES.items()}
