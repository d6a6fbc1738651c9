"""Which device nodes are passed on, on made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.sandbox.devices import device_nodes, lease

# Minor numbers need not follow the order of the bus: the driver numbers devices as it meets them.
GPUS = (("0000:1b:00.0", 1, "GPU-aaaa1111"), ("0000:05:00.0", 0, "GPU-bbbb2222"), ("0000:c3:00.0", 2, "GPU-bbcc3333"))


@pytest.fixture
def nvidia(tmp_path):
    """(dev, proc) of a machine with three NVIDIA devices."""
    dev, proc = tmp_path / "dev", tmp_path / "proc"
    (dev / "nvidia-caps").mkdir(parents=True)
    shared = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/nvidia-cap1", "null", "nvidia-nvswitchctl")
    for name in (*shared, "nvidia0", "nvidia1", "nvidia2"):
        (dev / name).touch()
    for bus, minor, uuid in GPUS:
        folder = proc / "driver" / "nvidia" / "gpus" / bus
        folder.mkdir(parents=True)
        folder.joinpath("information").write_text(
            f"Model: \t\t NVIDIA Something\nIRQ:   \t\t 24\nGPU UUID: \t {uuid}\nBus Location: \t {bus}\n"
            f"Device Minor: \t {minor}\nGPU Excluded:\t No\n"
        )
    return dev, proc


def cards(nodes: list[Path]) -> list[str]:
    return [path.name for path in nodes if path.name.removeprefix("nvidia").isdigit()]


def test_a_machine_without_accelerators_has_no_nodes(tmp_path):
    assert device_nodes({}, tmp_path, tmp_path) == []


def test_every_card_is_passed_when_none_is_leased_by_name(nvidia):
    nodes = device_nodes({}, *nvidia)
    assert cards(nodes) == ["nvidia0", "nvidia1", "nvidia2"]
    assert {"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-cap1"} <= {path.name for path in nodes}
    assert not {"null", "nvidia-nvswitchctl"} & {path.name for path in nodes}


@pytest.mark.parametrize(
    ("value", "names", "uuids"),
    [
        ("0", ["nvidia0"], "GPU-bbbb2222"),
        ("1", ["nvidia1"], "GPU-aaaa1111"),
        ("2,0", ["nvidia0", "nvidia2"], "GPU-bbcc3333,GPU-bbbb2222"),
        ("GPU-aaaa1111", ["nvidia1"], "GPU-aaaa1111"),
        ("GPU-aa", ["nvidia1"], "GPU-aaaa1111"),
        ("1,-1,0", ["nvidia1"], "GPU-aaaa1111"),  # CUDA's list ends at the first that is no device
    ],
)
def test_only_the_leased_cards_are_passed_and_named_by_uuid(nvidia, value, names, uuids):
    found = lease({"CUDA_VISIBLE_DEVICES": value}, *nvidia)
    assert cards(found.nodes) == names
    assert found.variables == {"CUDA_VISIBLE_DEVICES": uuids}


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_a_hidden_machine_passes_nothing(nvidia, value):
    assert device_nodes({"CUDA_VISIBLE_DEVICES": value}, *nvidia) == []


@pytest.mark.parametrize("value", ["7", "GPU-bb", "GPU-zz"])  # no such number, ambiguous, unknown
def test_a_name_that_means_no_card_passes_no_card(nvidia, value):
    assert cards(device_nodes({"CUDA_VISIBLE_DEVICES": value}, *nvidia)) == []


def test_a_slice_of_a_card_passes_every_card(nvidia):
    found = lease({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, *nvidia)
    assert len(cards(found.nodes)) == 3
    assert found.variables == {}


def test_without_the_drivers_list_every_card_is_passed_under_the_name_it_has(nvidia, tmp_path):
    found = lease({"CUDA_VISIBLE_DEVICES": "1"}, nvidia[0], tmp_path / "elsewhere")
    assert len(cards(found.nodes)) == 3
    assert found.variables == {}


@pytest.fixture
def amd(tmp_path):
    """dev of a machine with two AMD devices."""
    (tmp_path / "dri").mkdir()
    for name in ("kfd", "dri/renderD128", "dri/renderD129", "dri/card0", "dri/card1"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ["kfd", "renderD128", "renderD129"]),
        ({"HIP_VISIBLE_DEVICES": "1"}, ["kfd", "renderD129"]),
        ({"ROCR_VISIBLE_DEVICES": "0"}, ["kfd", "renderD128"]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-1234"}, ["kfd", "renderD128", "renderD129"]),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"ROCR_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_amd_devices_follow_their_variables(amd, environment, names):
    assert [path.name for path in device_nodes(environment, amd, amd)] == names


def test_a_leased_amd_device_is_numbered_from_zero_where_it_is_alone(amd):
    assert lease({"HIP_VISIBLE_DEVICES": "1"}, amd, amd).variables["HIP_VISIBLE_DEVICES"] == "0"
