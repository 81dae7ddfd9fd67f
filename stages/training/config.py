"""Settings of the training loop, shared by every trained stage: those that decide the result, and execution."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from orchestrator.stage import Execution

MAX_BF16_BETA = 0.99  # a step then moves a value by 1 %, and two neighbours in bf16 differ by 0.4 to 0.8 %


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    name: Literal["adam", "adamw", "muon"] = "adamw"  # muon: for the matrices of repeated layers, the rest with adamw
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_share: float = 0.03  # of all steps, linear from 0
    final_share: float = 0.0  # of the peak learning rate, at the end of a cosine schedule
    clip_norm: float = 1.0  # of the gradient of one pass; 0 switches clipping off
    states: Literal["fp32", "bf16"] = "fp32"  # the type in which both moments are kept; a step is computed in fp32

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_share < 1:
            raise ValueError(
                f"warmup_share: {self.warmup_share} is not in [0, 1): a share of the steps, after which some are left"
            )
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share: {self.final_share} is not in [0, 1]")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {self.betas}, expected each in [0, 1)")
        if self.eps <= 0 or self.weight_decay < 0 or self.clip_norm < 0:
            raise ValueError(
                f"eps, weight_decay, clip_norm: {self.eps}, {self.weight_decay}, {self.clip_norm}; expected eps "
                "above 0 and none of the others below"
            )
        if self.states == "bf16" and self.name == "muon":
            raise ValueError("states: bf16 with name: muon, which keeps its momentum in fp32; set states: fp32")
        if self.states == "bf16" and self.betas[1] > MAX_BF16_BETA:
            raise ValueError(
                f"states: bf16 with betas {self.betas}: the second moment changes by {1 - self.betas[1]:.2g} of itself "
                f"in a step, which bf16 does not hold; set states: fp32, or the second beta to at most {MAX_BF16_BETA}"
            )


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length, data order and optimizer of one training run.

    A step consumes `micro_batches_per_step` micro-batches. They are distributed to the workers round-robin, and their
    gradients are summed and divided by the weight of the whole step, so the result does not depend on the number of
    workers. `skip_window`, `max_skips` and `skip_spikes_z` are no execution: they decide which data are trained after a
    non-finite loss or a spike.
    """

    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {
        "micros_per_step": "micro_batches_per_step",
        "most_skips": "max_skips",
        "keep_checkpoints": "execution.keep_checkpoints",
        "strategy": "execution.strategy",
    }
    steps: int  # optimizer steps
    micro_batches_per_step: int  # micro-batches of one step, over all workers; at least one for each worker
    seed: int
    skip_window: int = 100  # steps; skipped data begin at a multiple of it, wherever checkpoints were made
    precision: Literal["fp32", "bf16"] = "fp32"
    optimizer: OptimizerConfig = OptimizerConfig()
    max_skips: int = 2  # windows of data that may be skipped after a non-finite loss, before the stage fails
    average_decay: float = 0.0  # of a moving average of the weights, which is then the stage's result; 0: no average
    skip_spikes_z: float = 0.0  # robust z-score from which the data of a finite spike are skipped too; 0: never

    def __post_init__(self) -> None:
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay: {self.average_decay} is not in [0, 1)")
        if self.skip_spikes_z < 0:
            raise ValueError(f"skip_spikes_z: {self.skip_spikes_z} is less than 0")
        if self.max_skips < 0:
            raise ValueError(f"max_skips: {self.max_skips} is less than 0")
        for name in ("steps", "micro_batches_per_step", "skip_window"):
            if getattr(self, name) < 1:  # the three fields share one rule
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """What is watched while a training runs. Has no influence on what is trained."""

    every: int = 10  # steps between two comparisons of the workers with one another
    straggler_share: float = 0.25  # a worker that needs so much longer than the median for its part of a step is slow
    straggler_window: int = 3  # comparisons in a row after which a slow worker is named
    spike_z: float = 8.0  # robust z-score of a loss or gradient norm that counts as a spike; 0: none does
    verify_every: int = 0  # one step in so many, chosen at random, is computed twice and compared; 0: none is
    prove_nodes: bool = True  # measure every worker's device, link, disk and clock before the first step
    peak_tflops: float = 0.0  # of one worker's device, dense bf16; 0: from the device table, on a CPU unknown
    validate_every: int = 0  # steps between two validations on held-out data; 0: none
    validate_micro_batches: int = 8  # at most, over all workers
    validate_beside: bool = False  # by a worker of its own, of committed checkpoints, as soon as one more has room
    keep_best: str = ""  # a metric of the validation, such as "language/loss": its best checkpoint is kept as well

    def __post_init__(self) -> None:
        for name in ("every", "straggler_window", "validate_micro_batches"):
            if getattr(self, name) < 1:  # the fields share one rule
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        for name in ("straggler_share", "spike_z", "verify_every", "peak_tflops", "validate_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 0")
        if self.keep_best and not self.validate_every:
            raise ValueError("keep_best: needs the metrics of a validation; set validate_every")
        if self.validate_beside and not self.validate_every:
            raise ValueError("validate_beside: true without validate_every: nothing is validated")
        if self.validate_beside and self.keep_best:
            raise ValueError(
                f"keep_best: {self.keep_best} with validate_beside, whose checkpoints may be gone when judged; "
                "set validate_beside: false"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingExecution(Execution):
    """How a training is carried out. Results of different strategies agree within a tolerance, see `identity.py`."""

    keep_checkpoints: int = 2
    # A whole copy on each worker; parameters and states in shards; or ZeRO, of the package deepspeed.
    strategy: Literal["ddp", "fsdp2", "deepspeed"] = "ddp"
    shard_workers: int = 0  # fsdp2: workers that hold one copy together, best those of a node; 0: all of them
    watch: WatchSettings = WatchSettings()
    zero_stage: int = 0  # deepspeed: 1 shards optimizer states, 2 gradients too, 3 the parameters of layers too
    cpu_offload: bool = False  # deepspeed: optimizer states, and their step, in host memory
    # Folder on the own disk of each node, for a copy of each worker's part of the newest checkpoint; "": none.
    local_checkpoints: str = ""
    # The same on the disk of another node, from which a worker on a new node gets it that takes a lost one's place.
    peer_checkpoints: bool = False

    def __post_init__(self) -> None:
        if self.keep_checkpoints < 1:
            raise ValueError(f"keep_checkpoints: {self.keep_checkpoints} is less than 1")
        if self.local_checkpoints and not self.local_checkpoints.startswith("/"):
            raise ValueError(
                f"local_checkpoints: {self.local_checkpoints!r} depends on where a worker starts; give an absolute path"
            )
        if self.peer_checkpoints and not self.local_checkpoints:
            raise ValueError(
                "peer_checkpoints: true without local_checkpoints, the folder in which a node keeps copies"
            )
        if self.shard_workers < 0:
            raise ValueError(f"shard_workers: {self.shard_workers} is less than 0")
        if self.shard_workers and self.strategy != "fsdp2":
            raise ValueError(
                f"shard_workers: {self.shard_workers} with strategy {self.strategy}; only fsdp2 has a mesh"
            )
        if self.strategy == "deepspeed" and self.zero_stage not in (1, 2, 3):
            raise ValueError(f"zero_stage: {self.zero_stage} with strategy deepspeed; set it to 1, 2 or 3")
        if self.strategy != "deepspeed" and (self.zero_stage or self.cpu_offload):
            found = f"zero_stage: {self.zero_stage}" if self.zero_stage else "cpu_offload: true"
            raise ValueError(f"{found} with strategy {self.strategy}; only deepspeed has it")
        if self.strategy == "deepspeed" and self.watch.verify_every:
            raise ValueError("watch.verify_every: DeepSpeed computes no step twice; set it to 0, or strategy: fsdp2")


@dataclass(frozen=True, kw_only=True)
class RecomputingExecution(TrainingExecution):
    """Of a model whose activations need not be kept: less memory, the same result."""

    checkpoint_activations: bool = False  # recompute each layer or block in the backward pass
    checkpoint_selective: bool = False  # of these, keep matrix products, convolutions and attention: less is recomputed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint_selective and not self.checkpoint_activations:
            raise ValueError("checkpoint_selective: true without checkpoint_activations: nothing is recomputed")


NO_RECOMPUTING = RecomputingExecution()


def split_micro_batches(loop: LoopConfig, micro_batch_size: int, halvings: int) -> tuple[LoopConfig, int]:
    """The loop with smaller micro-batches, after running out of memory, and into how many parts each is split.

    A step consumes the same data in the same order; the number of parts divides `micro_batch_size` (rows or images).
    """
    parts = math.gcd(2**halvings, micro_batch_size)
    return replace(loop, micro_batches_per_step=loop.micro_batches_per_step * parts), parts
