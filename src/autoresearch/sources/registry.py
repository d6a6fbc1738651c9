"""Where the datasets known by name come from, and what is particular about each.

Sizes and layouts are those of the repositories' pages as of November 2026; nothing breaks when one grows, because a
dataset stays at the commit it was first fetched at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch.contract.dataset_names import HubName, KnownName


@dataclass(frozen=True)
class HubSource:
    """One dataset of the Hub and how it is used.

    files: pattern of the training files, instead of what configuration and split say. validation_file: the one that
    is pinned for validation. num_shards: training files used unless told otherwise; None: all that fit
    `sources.gather.DEFAULT_BYTES`. lines_are_articles: rows are lines, and headings say where an article begins.
    """

    name: HubName
    files: str | None = None
    validation_file: str | None = None
    num_shards: int | None = None
    lines_are_articles: bool = False


HUB_SOURCES: Mapping[str, HubSource] = {
    # 6,543 shards of about 90 MB, shuffled; the last one is the benchmark's validation text. Ten hold more text than
    # an H100 reads in one trial.
    "climbmix": HubSource(
        HubName("karpathy/climbmix-400b-shuffle"),
        files="shard_*.parquet",
        validation_file="shard_06542.parquet",
        num_shards=10,
    ),
    # One file of 2.7 million stories, 2.2e9 characters, shuffled and free of duplicates; no validation split.
    "tinystories": HubSource(HubName("karpathy/tinystories-gpt4-clean")),
    # 14 files of about 2 GB, 10e9 tokens; one is several times what a trial reads.
    "fineweb-edu": HubSource(HubName("HuggingFaceFW/fineweb-edu"), files="sample/10BT/*.parquet", num_shards=1),
    # Rows are lines. Without joining them every heading would stand in the training text and in the validation text.
    "wikitext": HubSource(HubName("Salesforce/wikitext", config="wikitext-103-raw-v1"), lines_are_articles=True),
}


def hub_source(name: KnownName | HubName) -> HubSource:
    """The source of a dataset that is not embedded."""
    return HUB_SOURCES[name.name] if isinstance(name, KnownName) else HubSource(name)
