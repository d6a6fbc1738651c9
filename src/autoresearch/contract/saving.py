"""A checkpoint folder of a run by hand: AUTORESEARCH_SAVE=DIR python train.py.

    DIR/checkpoint.safetensors   the weights as they were handed over, the model's configuration in their header
    DIR/tokenizer.json           the tokenizer that they were trained with
    DIR/train.py                 the experiment file, under its own name
    DIR/metrics.json             contract, seed and val_bpb; val_bpb is null where the examination refused the model

The same names as in a session's snapshots (records/snapshots.py), so that quantize, export and sample take either.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch.contract.tokenizer import FILE_NAME, Tokenizer
from autoresearch.files import disk_error, write_json, write_whole

VARIABLE = "AUTORESEARCH_SAVE"
WEIGHTS_NAME = "checkpoint.safetensors"
METRICS_NAME = "metrics.json"


class CheckpointFolder:
    """Where a run by hand leaves its checkpoint. Each file is whole or absent; an earlier run's are replaced."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder now: a path that cannot be written is told before training, not after.

        Raises:
            DiskError: it cannot be made.
        """
        self.folder = folder.absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.folder) from error

    def save(self, weights: bytes, tokenizer: Tokenizer, facts: Mapping[str, Any]) -> None:
        """Write everything; the weights last but one, so that they never stand beside another run's tokenizer for good.

        Raises:
            DiskError: the disk is full or read-only.
        """
        experiment = Path(sys.argv[0])
        if experiment.suffix == ".py" and experiment.is_file():
            write_whole(self.folder / experiment.name, experiment.read_bytes())
        write_whole(self.folder / FILE_NAME, tokenizer.to_json())
        write_whole(self.folder / WEIGHTS_NAME, weights)
        write_json(self.folder / METRICS_NAME, dict(facts))
