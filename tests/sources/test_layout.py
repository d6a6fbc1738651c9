"""Which files of a repository are what, and which datasets are known."""

from __future__ import annotations

import pytest

from autoresearch.contract.dataset_names import EMBEDDED, KNOWN, HubName
from autoresearch.sources.layout import Layout, layout_of
from autoresearch.sources.registry import HUB_SOURCES, HubSource
from autoresearch.vocabulary import DataMissing, UsageError


def layout(paths: list[str], name: str = "o/n", configs: list[dict] | None = None, **more: str) -> Layout:
    return layout_of(HubSource(HubName(name, **more)), paths, configs or [])


def test_every_known_dataset_has_a_source_and_no_other():
    assert (EMBEDDED, *HUB_SOURCES) == KNOWN


def test_climbmix_is_6542_training_shards_and_the_pinned_one():
    paths = ["README.md", *(f"shard_{n:05d}.parquet" for n in range(6543))]
    found = layout_of(HUB_SOURCES["climbmix"], paths, [])
    assert found.validation == ("shard_06542.parquet",)
    assert (len(found.training), found.training[0], found.training[-1]) == (
        *(6542, "shard_00000.parquet", "shard_06541.parquet"),
    )
    assert HUB_SOURCES["climbmix"].num_shards == 10


def test_a_repository_without_the_pinned_shard_is_not_climbmix():
    with pytest.raises(DataMissing, match=r"has no shard_06542\.parquet"):
        layout_of(HUB_SOURCES["climbmix"], [f"shard_{n:05d}.parquet" for n in range(9)], [])


def test_the_fineweb_sample_is_its_own_folder():
    paths = [*(f"sample/10BT/{n:03d}_00000.parquet" for n in range(14)), "sample/100BT/000.parquet", "data/x/0.parquet"]
    found = layout_of(HUB_SOURCES["fineweb-edu"], paths, [{"config_name": "default", "data_files": "data/*/*"}])
    assert (len(found.training), found.validation) == (13, ("sample/10BT/013_00000.parquet",))


@pytest.mark.parametrize(
    ("paths", "training", "validation"),
    [
        (["train.parquet", "validation.parquet", "test.parquet"], ["train.parquet"], ["validation.parquet"]),
        (["data/train-0.jsonl", "data/dev-0.jsonl"], ["data/train-0.jsonl"], ["data/dev-0.jsonl"]),
        (["train/0.txt", "valid/0.txt"], ["train/0.txt"], ["valid/0.txt"]),
        (["a.parquet", "b.parquet", "c.parquet"], ["a.parquet", "b.parquet"], ["c.parquet"]),
        (["train-0.parquet", "train-1.parquet"], ["train-0.parquet"], ["train-1.parquet"]),
        (["only.parquet"], ["only.parquet"], []),
        (["constrained.parquet"], ["constrained.parquet"], []),
        ([".hidden/x.parquet", "_private.parquet", "README.md"], [], []),
    ],
)
def test_names_say_which_split_a_file_belongs_to(paths, training, validation):
    assert layout(paths) == Layout(tuple(training), tuple(validation))


def test_the_card_wins_over_names():
    configs = [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": ["a/*", "b/**"]}, {"split": "dev", "path": "c.jsonl"}],
        }
    ]
    paths = ["a/1.parquet", "a/deep/no.parquet", "b/deep/2.parquet", "c.jsonl", "train.parquet"]
    assert layout(paths, configs=configs) == Layout(("a/1.parquet", "b/deep/2.parquet"), ("c.jsonl",))


@pytest.mark.parametrize("described", ["x.parquet", ["x.parquet"], {"train": "x.parquet"}])
def test_the_card_may_be_short(described):
    assert layout(["x.parquet", "y.parquet"], configs=[{"data_files": described}]).training == ("x.parquet",)


def test_a_configuration_is_chosen_by_name_or_is_the_default():
    configs = [{"config_name": name, "data_dir": name} for name in ("en", "default")]
    paths = ["en/train.parquet", "default/train.parquet"]
    assert layout(paths, configs=configs).training == ("default/train.parquet",)
    assert layout(paths, configs=configs, config="en").training == ("en/train.parquet",)
    with pytest.raises(UsageError, match="no configuration fr: en, default") as raised:
        layout(paths, configs=configs, config="fr")
    assert raised.value.hint == "autoresearch prepare --dataset hf:o/n:en"


def test_a_folder_can_be_a_configuration():
    paths = ["en/train.parquet", "de/train.parquet"]
    assert layout(paths, config="de").training == ("de/train.parquet",)
    with pytest.raises(UsageError, match="no configuration fr"):
        layout(paths, config="fr")


def test_another_split_is_trained_on_when_it_is_named():
    paths = ["train.parquet", "validation.parquet", "test.parquet"]
    assert layout(paths, config="default", split="test") == Layout(("test.parquet",), ("validation.parquet",))
    assert layout(paths, config="default", split="validation") == Layout(("validation.parquet",), ())
