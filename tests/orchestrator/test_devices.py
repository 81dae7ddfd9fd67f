import json
from pathlib import Path

import pytest

from orchestrator.devices import Device, devices, find_device
from orchestrator.errors import RecipeError


def test_names_in_any_spelling() -> None:
    assert find_device("h100")[0] == "H100-SXM"
    assert find_device("NVIDIA-H100-80GB-HBM3")[0] == "H100-SXM"
    assert find_device("A100-sxm-40gb")[1].memory_gb == 40


def test_no_name_means_two_devices() -> None:
    names = [name.lower() for canonical, device in devices().items() for name in (canonical, *device.names)]
    assert len(names) == len(set(names))


def test_unknown_name_suggests_one() -> None:
    with pytest.raises(RecipeError, match=r"gpu: 'H100-SMX': did you mean 'H100-SXM'"):
        find_device("H100-SMX")


def test_measured_memory_counts_before_the_share() -> None:
    assert find_device("H100")[1].usable_bytes == 78 * 2**30
    assert find_device("L40S")[1].usable_bytes == pytest.approx(48e9 * 0.97)


def test_a_device_without_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Device(bf16_tflops=1, memory_gb=0, memory_gbs=1, link_gbs=1)


def test_figures_are_those_of_the_reference(shared: Path) -> None:
    specs = json.loads((shared / "reference" / "planner" / "gpu_specs.json").read_text())["gpus"]
    assert specs.keys() == devices().keys()
    for name, spec in specs.items():
        device = devices()[name]
        assert (device.bf16_tflops, device.memory_gb, device.link_gbs) == (
            spec["bf16_tflops"],
            spec["hbm_gb"],
            spec["ic_gbs"],
        )
        assert device.usable_gib == spec.get("usable_gib", 0)
