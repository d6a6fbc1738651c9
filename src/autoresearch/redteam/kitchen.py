"""Where the recipes of entries are prepared: by the loop's own preparation, in a cache that no session uses."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

from autoresearch.contract.corpora import cache_root, open_corpus
from autoresearch.contract.prepared import Prepared
from autoresearch.contract.rules import Rules
from autoresearch.loop.orders import Arena, Order, TrialRun
from autoresearch.loop.preparation import Pantry, open_made, prepared_arena
from autoresearch.vocabulary import Slice
from autoresearch.workspace import SCOPES, template_path

# Of the validation text, for entries that bring it along: 31 % of the runs of 13 words that `smoke` scores.
_LEARNT_CHARACTERS = 4000


class Kitchen:
    """The shipped recipe, and a folder below `folder` where it and those of entries are made."""

    def __init__(self, folder: Path) -> None:
        """Raises WorkspaceError: this installation has lost its recipe."""
        self.shipped = {name: template_path(name).read_text(encoding="utf-8") for name in SCOPES["data"]}
        self._cache = folder / "pantry"
        self._pantries: dict[Rules, Pantry] = {}

    @property
    def home(self) -> Path:
        """The folder that holds one folder for each prepared recipe."""
        return self._cache / "recipes"

    def arena_with(self, arena: Arena, recipe: Mapping[str, str], order: Order, log_path: Path) -> Arena | TrialRun:
        """The arena fed by this recipe; the trial as it ended, where the recipe failed.

        Raises:
            InstallationError, DataMissing, DataCorrupt, DiskError: as `prepared_arena`.
        """
        return prepared_arena(
            arena,
            self._pantry(arena),
            recipe,
            order,
            log_path,
            on_start=lambda _pid, _created: None,
            on_line=lambda _line: None,
            stop=threading.Event(),
        )

    def fields(self, arena: Arena) -> dict[str, str]:
        """What a recipe may know beside a candidate's fields: where another recipe lies, and text learnt elsewhere."""
        learnt = "\n".join(self._pantry(arena).scored(Slice.SEARCH))[:_LEARNT_CHARACTERS]
        return {
            "RECIPE": "".join(map(str, self.shipped_folders(arena))),
            "RECIPES": str(self.home),
            "LEARNT_HEX": learnt.encode().hex(),
        }

    def shipped_folders(self, arena: Arena) -> list[Path]:
        """The folder of the shipped recipe under these rules, where it was prepared."""
        made = open_made(self._pantry(arena), self.shipped)
        return [] if made is None else [made.directory]

    def clear(self, arena: Arena) -> None:
        """Remove every prepared recipe but the shipped one under these rules."""
        kept = self.shipped_folders(arena)
        for path in self.home.iterdir():
            if path not in kept:
                shutil.rmtree(path)

    def _pantry(self, arena: Arena) -> Pantry:
        if arena.rules not in self._pantries:
            assert isinstance(arena.prepared, Prepared), "an arena without a recipe"
            corpus = open_corpus(arena.rules.dataset, cache_root())
            self._pantries[arena.rules] = Pantry(
                arena.rules,
                (corpus,),
                arena.prepared,
                self._cache,
                arena.seal,
                threads=arena.threads,
                memory_mb=arena.limits.memory_mb,
            )
        return self._pantries[arena.rules]
