# Edited by the data program (program_data.md). Everything in this file may change; no other file may.
"""
One-time preparation, and the names that train.py imports.

    python prepare.py        data and tokenizer for the contract that fits this machine, once
    python train.py          then trains by the same names, in one process

In a sealed trial these names come from the referee instead, and this file is not read by the candidate.
"""

from autoresearch.contract.standalone import standalone_names
from data_sources import DATASET

_names = standalone_names(dataset=DATASET)

MAX_SEQ_LEN = _names["MAX_SEQ_LEN"]  # tokens in a row
TIME_BUDGET = _names["TIME_BUDGET"]  # of training; in seconds, CPU seconds on `tiny`
SEED = _names["SEED"]
PRESET = _names["PRESET"]  # the contract in force: tiny, small, standard, long, smoke
Tokenizer = _names["Tokenizer"]
make_dataloader = _names["make_dataloader"]
evaluate_bpb = _names["evaluate_bpb"]


def main():
    from autoresearch.cli import main as autoresearch

    dataset = ["--dataset", DATASET] if DATASET else []
    return autoresearch(["prepare", "--contract", PRESET, *dataset])


if __name__ == "__main__":
    raise SystemExit(main())
