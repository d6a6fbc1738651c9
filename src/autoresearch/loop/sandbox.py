"""Moved to `autoresearch.sandbox`; these names stay until their last importer has moved too."""

from autoresearch.sandbox.environment import clean_environment, interpreter
from autoresearch.sandbox.process_tree import ProcessTree, kill_leftover

__all__ = ["ProcessTree", "clean_environment", "interpreter", "kill_leftover"]
