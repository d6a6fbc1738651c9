# Edited by the data program (program_data.md). Everything in this file may change; no other file may.
"""
Which text to train on, what is thrown away, and how the rest is mixed. `prepare.py` reads every name in this file.

The defaults are the contract's own plain preparation: every document of one dataset, once per epoch, shuffled.
Validation text, byte counts and the score are not here: they belong to the referee, and nothing in this file reaches them.

Some recipes:
    two datasets, 80/20      SOURCE_WEIGHTS = {"tinystories": 0.8, "embedded": 0.2}
    a byte tokenizer         VOCAB_SIZE = 260
    short documents first    ORDER = "short_first"
    good text at the end     NUM_TIERS = 4, LATE_FROM = 0.7, LATE_TIER_WEIGHTS = (1.0, 0.3, 0.0, 0.0)
    own rules                write keep(), clean(), quality() or weights()
"""

from autoresearch.recipes.mixing import shares

# ----------------------------------------------------------------------------------------------------------------------
# Sources

DATASET = None  # None = the session's own: embedded for tiny, tinystories for small and long, climbmix for standard
SOURCE_WEIGHTS = {}  # dataset -> share of rows; {} = DATASET alone. A weight of 0 leaves the dataset out

# ----------------------------------------------------------------------------------------------------------------------
# Filters. A document that fails one is dropped before anything else sees it

MIN_CHARACTERS = 0  # shorter documents are dropped
MAX_CHARACTERS = 0  # longer ones too; 0 = no limit
MAX_REPEATED_LINES = 1.0  # share of a document's lines that stand earlier in it; Gopher drops above 0.3
MAX_REPEATED_NGRAMS = (
    1.0  # share of its runs of 5 words that stand earlier in it; Gopher drops about 0.15 (of characters)
)
DUPLICATES = "keep"  # "keep"; "exact" = one of each, case and white space aside; "near" = one of each family
NEAR_DUPLICATE = 0.8  # for "near": share of 5-word runs in common (Jaccard) from which two documents are a family

# ----------------------------------------------------------------------------------------------------------------------
# Tiers. Documents are ranked by quality and cut into NUM_TIERS tiers with equally many characters, the best in tier 0

NUM_TIERS = 1  # at most as many as there are weights below
QUALITY = "words"  # "words", "pairs": as the training text usually reads; "compression": as it usually compresses; "own": quality()
TIER_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of tier 0, 1, 2, 3: rows it gives, relative to its size
LATE_FROM = 1.0  # progress (0..1 of the budget) at which phase two begins; 1 = never
LATE_TIER_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # in phase two

# ----------------------------------------------------------------------------------------------------------------------
# Tokenizer, order and packing

VOCAB_SIZE = 0  # ids, 4 specials included; 0 = the contract's, 260 = bytes
ORDER = "shuffled"  # of the documents in an epoch: "shuffled", "as_is", "short_first", "long_first"
BUFFER_SIZE = 1000  # documents that the packer chooses from; more packs tighter, and mixes the order more


def keep(text):
    """True for a document to train on. Asked after the filters above, of the text as `clean` left it."""
    return True


def clean(text):
    """The document as it is to be trained on: cut, normalized, repaired. An empty result drops it."""
    return text


def quality(text):
    """For QUALITY = "own": any number, higher is better. Only ranks are used."""
    return float(len(text))


def weights(progress, sizes):
    """Share of the next rows that each group gives, {"embedded/0": 1.0, ...}; a group left out gives none.

    progress: 0..1, the part of the budget that is spent. sizes: tokens of every group; a group is "DATASET/TIER".
    The numbers need not sum to 1. Asked again for every batch.
    """
    late = LATE_FROM < 1 and progress >= LATE_FROM
    return shares(sizes, SOURCE_WEIGHTS, LATE_TIER_WEIGHTS if late else TIER_WEIGHTS)
