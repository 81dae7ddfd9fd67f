"""Machine types: what one node of a cluster is. Used to plan; where work runs is decided by the profile's cluster."""

import re
from dataclasses import dataclass

from orchestrator.devices import Device, find_device
from orchestrator.errors import RecipeError

_GPUS_PER_NODE = 8
_OVERHEAD_GIB = 1.5  # of the device's context and the communication library
_FRAGMENTED_SHARE = 0.07  # of the memory, lost to fragmentation


@dataclass(frozen=True, kw_only=True)
class MachineType:
    """One kind of node."""

    gpu: str = ""  # a name of `devices.yaml`, for instance H100; "": no accelerator
    gpus: int = 0  # accelerators of one node
    cpus: float = 0.0  # of one node; 0: unknown
    memory_gib: float = 0.0  # of one node's host; 0: unknown
    nodes: int = 1  # at most
    spot: bool = False  # can be taken away
    preemptions_per_day: float = 0.0  # of a whole run, where `spot`
    network_gbs: float = 50.0  # between nodes, for each accelerator, one direction, GB/s
    price_per_gpu_hour: float | None = None  # null: from the price file
    bf16_tflops: float = 0.0  # 0: of the device table
    usable_gib: float = 0.0  # of one accelerator; 0: of the device table

    def __post_init__(self) -> None:
        if self.gpus and not self.gpu:
            raise ValueError("gpus without gpu: name the accelerator, for instance gpu: H100")
        if min(self.gpus, self.cpus, self.memory_gib, self.preemptions_per_day, self.usable_gib, self.bf16_tflops) < 0:
            raise ValueError("counts, sizes and rates cannot be negative")
        if self.nodes < 1 or self.network_gbs <= 0:
            raise ValueError("expected at least one node and a network above 0 GB/s")

    @property
    def total_gpus(self) -> int:
        return self.gpus * self.nodes


@dataclass(frozen=True, kw_only=True)
class Accelerators:
    """The accelerators of a machine type, with its own figures over those of the table."""

    name: str
    per_node: int
    total: int
    usable_bytes: float  # for the training itself: less context and fragmentation
    peak_flops: float  # dense bf16
    link_bytes_s: float  # inside a node, one direction
    network_bytes_s: float  # between nodes, one direction


def accelerators(machine: MachineType) -> Accelerators:
    """Raises: RecipeError: nobody knows the accelerator, and the machine type does not describe it."""
    if not machine.gpu:
        raise RecipeError("machines: this machine type has no accelerator (gpu)")
    name, device = _device(machine)
    usable = machine.usable_gib * 2**30 if machine.usable_gib else device.usable_bytes
    return Accelerators(
        name=name,
        per_node=machine.gpus,
        total=machine.total_gpus,
        usable_bytes=usable * (1 - _FRAGMENTED_SHARE) - _OVERHEAD_GIB * 2**30,
        peak_flops=(machine.bf16_tflops or device.bf16_tflops) * 1e12,
        link_bytes_s=device.link_gbs / 2 * 1e9,
        network_bytes_s=machine.network_gbs * 1e9,
    )


def _device(machine: MachineType) -> tuple[str, Device]:
    try:
        return find_device(machine.gpu)
    except RecipeError:
        if not (machine.bf16_tflops and machine.usable_gib):
            raise
        own = Device(
            bf16_tflops=machine.bf16_tflops,
            memory_gb=machine.usable_gib * 2**30 / 1e9,
            memory_gbs=1000.0,
            link_gbs=64.0,
            usable_gib=machine.usable_gib,
        )
        return machine.gpu, own


def machine_from_text(text: str) -> MachineType:
    """`64xH100`, or `64xH100/4` with four in a node. Raises: RecipeError: anything else."""
    match = re.fullmatch(r"(\d+)\s*[x*]\s*([\w.-]+)(?:/(\d+))?", text.strip())
    if match is None or int(match[1]) < 1 or match[3] == "0":
        raise RecipeError(f"--gpus: found {text!r}, expected a number and an accelerator, for instance 64xH100")
    count, per_node = int(match[1]), min(int(match[3] or _GPUS_PER_NODE), int(match[1]))
    if count % per_node:
        raise RecipeError(f"--gpus: {count} accelerators are no whole number of nodes of {per_node}")
    name, _ = find_device(match[2])
    return MachineType(gpu=name, gpus=per_node, nodes=count // per_node)
