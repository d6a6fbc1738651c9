# Edited by the data program (program_data.md). Everything in this file may change; no other file may.
"""
Which text to train on.

`embedded` comes with the package. The others are folders of parquet shards with a `text` column in the cache
(~/.cache/autoresearch/NAME/shards/); `autoresearch prepare` says what is missing and where to put it.
"""

DATASET = None  # None = the contract's own: embedded for tiny, tinystories for small and long, climbmix for standard
