"""The one door to the data program's surface: its prepare.py run as a module, in whatever process calls this.

In a trial that is a process in a sandbox of its own. Nothing else in this package runs code that research edits.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from autoresearch.vocabulary import WorkspaceError

_FILES = ("data_sources", "prepare")  # in the order in which they are loaded: the second imports the first
_FUNCTIONS = ("build", "feed")


def load_surface(folder: Path) -> ModuleType:
    """The module `prepare` of that folder, with its own `data_sources`, under these names in `sys.modules`.

    Loaded by path: the folder does not come onto the module search path, so that a file in it shadows no library.

    Raises:
        WorkspaceError: a file is missing, or prepare.py does not define what a recipe must. Whatever the surface raises
        while it is imported flies through.
    """
    for name in _FILES:
        path = folder / f"{name}.py"
        if not path.is_file():
            raise WorkspaceError(f"no {name}.py in {folder}", hint=f"git checkout -- {name}.py")
        spec = spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None, "a path that ends in .py has a loader"
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    missing = [name for name in _FUNCTIONS if not callable(vars(module).get(name))]
    if missing:
        raise WorkspaceError(
            f"prepare.py defines no {' and no '.join(missing)}", hint="see the one that `autoresearch init` writes"
        )
    return module
