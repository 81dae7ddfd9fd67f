import pytest

from clusters.planner.machines import MachineType, accelerators, machine_from_text
from orchestrator.errors import RecipeError


def test_from_text() -> None:
    assert machine_from_text("64xH100") == MachineType(gpu="H100-SXM", gpus=8, nodes=8)
    assert machine_from_text("4xL40S") == MachineType(gpu="L40S", gpus=4, nodes=1)
    assert machine_from_text("16 x H200/4").nodes == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("H100", "expected a number and an accelerator"),
        ("0xH100", "expected a number"),
        ("12xH100", "no whole number of nodes of 8"),
        ("8xH1000000", "gpu: 'H1000000'"),
        ("8xH100/0", "expected a number"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        machine_from_text(text)


def test_own_figures_count_before_the_table() -> None:
    table = accelerators(MachineType(gpu="H100", gpus=8))
    own = accelerators(MachineType(gpu="H100", gpus=8, usable_gib=40, bf16_tflops=500))
    assert own.usable_bytes < table.usable_bytes / 1.8
    assert own.peak_flops == 500e12


def test_an_accelerator_that_nobody_knows_needs_its_own_figures() -> None:
    with pytest.raises(RecipeError, match="give bf16_tflops and usable_gib"):
        accelerators(MachineType(gpu="Novel-1", gpus=4))
    described = accelerators(MachineType(gpu="Novel-1", gpus=4, nodes=2, usable_gib=100, bf16_tflops=400))
    assert (described.name, described.total) == ("Novel-1", 8)


def test_context_and_fragmentation_are_left_out() -> None:
    assert accelerators(MachineType(gpu="H100", gpus=8)).usable_bytes < 72 * 2**30


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="name the accelerator"):
        MachineType(gpus=8)
    with pytest.raises(ValueError, match="at least one node"):
        MachineType(nodes=0)
    with pytest.raises(RecipeError, match="has no accelerator"):
        accelerators(MachineType(cpus=32))
