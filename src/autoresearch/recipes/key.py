"""The name that a prepared recipe is kept under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from autoresearch.contract.rules import CONTRACT_VERSION, Rules
from autoresearch.contract.tokenizer import SPLIT_PATTERN
from autoresearch.recipes.artefact import FORMAT_VERSION


def key_of(files: Mapping[str, str], text: Mapping[str, str], validation: str, rules: Rules) -> str:
    """Hash of everything the content depends on: the recipe, the training text, the contract, the formats.

    text: sha256 of each dataset's training text, by name. validation: sha256 of the validation text.
    """
    body = {
        "versions": [FORMAT_VERSION, CONTRACT_VERSION, SPLIT_PATTERN],
        "files": dict(sorted(files.items())),
        "text": dict(text),
        "validation": validation,
        "contract": [rules.vocab_size, rules.max_seq_len, rules.num_eval_rows, rules.preset],
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]
