# Edited by the data program (program_data.md). Everything in this file may change; no other file may.
"""
How text becomes rows of tokens: `build` once, before training; `feed` while the budget runs. The tables and small
functions that they follow are in data_sources.py.

    python prepare.py        data and tokenizer for the contract that fits this machine, once
    python train.py          then trains on them, in one process

In a sealed trial both functions run in a sandbox of their own: they see training text and nothing else, they have a
deadline and a limit on disk, and train.py gets its names from the referee instead of from here.
"""

from pathlib import Path

import data_sources as sources
from autoresearch.recipes.filters import length_within, repeated_lines_within, repeated_ngrams_within
from autoresearch.recipes.mixing import Mixture
from autoresearch.recipes.quality import scorer
from autoresearch.recipes.selection import select
from autoresearch.recipes.tokens import train_table


def build(text, out):
    """Read the training text, leave a tokenizer and groups of documents in `out`.

    text: `.names` of the datasets, `.documents(name)` in their order, `.vocab_size`, `.row_len`, `.seed`.
    out: `.write_tokenizer(table)`, then `.write_group("DATASET/TIER", documents)` for each group.
    """
    num_weights = min(len(sources.TIER_WEIGHTS), len(sources.LATE_TIER_WEIGHTS))
    assert num_weights >= sources.NUM_TIERS, "give each of the NUM_TIERS tiers a weight in data_sources.py"
    chosen = select(
        text,
        [name for name, weight in sources.SOURCE_WEIGHTS.items() if weight > 0] or [sources.DATASET or text.names[0]],
        clean=sources.clean,
        filters={
            "length": length_within(sources.MIN_CHARACTERS, sources.MAX_CHARACTERS),
            "repeated lines": repeated_lines_within(sources.MAX_REPEATED_LINES),
            "repeated n-grams": repeated_ngrams_within(sources.MAX_REPEATED_NGRAMS),
            "keep": sources.keep,
        },
        duplicates=sources.DUPLICATES,
        near_duplicate=sources.NEAR_DUPLICATE,
    )
    if sources.NUM_TIERS > 1:
        chosen.rank(scorer(sources.QUALITY, own=sources.quality), sources.NUM_TIERS)
    out.describe(removed=chosen.removed, order=sources.ORDER, buffer_size=sources.BUFFER_SIZE)
    out.write_tokenizer(train_table(chosen.documents(), sources.VOCAB_SIZE or text.vocab_size))
    for group in chosen.groups:  # "embedded/0", ...
        out.write_group(group, chosen.documents(group))


def feed(artefact, seed, row_len):
    """What hands out rows: an object with `take(num_rows, progress)` -> [num_rows, row_len] token ids, and `epoch`.

    artefact: what `build` left: `.groups`, by name; each has `.num_tokens` and `.rows(...)`, an endless stream.
    """
    streams = {
        name: group.rows(seed=seed, row_len=row_len, order=sources.ORDER, buffer_size=sources.BUFFER_SIZE)
        for name, group in artefact.groups.items()
    }
    sizes = {name: group.num_tokens for name, group in artefact.groups.items()}
    return Mixture(streams, lambda progress: sources.weights(progress, sizes), seed)


def __getattr__(name):
    """MAX_SEQ_LEN, TIME_BUDGET, SEED, PRESET, Tokenizer, make_dataloader, evaluate_bpb: for a train.py run by hand.

    Made when they are first asked for, so that a sealed trial can import this file without any prepared data.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    from autoresearch.recipes.by_hand import names_by_hand

    globals().update(names_by_hand(Path(__file__).parent, dataset=sources.DATASET))
    if name not in globals():
        raise AttributeError(f"prepare offers no {name}")
    return globals()[name]


def main():
    from autoresearch.cli import main as autoresearch
    from autoresearch.recipes.by_hand import prepare_by_hand

    dataset = ["--dataset", sources.DATASET] if sources.DATASET else []
    status = autoresearch(["prepare", "--contract", __getattr__("PRESET"), *dataset])
    if status == 0:
        prepare_by_hand(Path(__file__).parent, dataset=sources.DATASET)  # nothing to do for the recipe as shipped
    return status


if __name__ == "__main__":
    raise SystemExit(main())
