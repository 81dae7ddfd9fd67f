"""The contract between the training loop and a strategy, which is execution: results agree within a tolerance.

The loop keeps the data, weights of micro-batches, metrics, skips and the pace of checkpoints. A strategy keeps modules,
optimizers and what one worker holds of them. All workers call the same methods in the same order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from stages.training.checkpoints.slices import TensorSlice
from stages.training.program import MicroBatch, Pass, PassOutput


class Strategy(Protocol):
    """A program spread over the workers."""

    @property
    def equal_micro_steps(self) -> bool:
        """Whether every worker must make as many micro-steps as the others, since each of them exchanges data."""

    @property
    def frozen(self) -> Mapping[str, str]:
        """Digests of the tensors that do not train and are not saved, by name."""

    def load(self, folder: Path) -> None:
        """Load a checkpoint of any strategy and number of workers.

        Raises: CheckpointError, before it changes anything.
        """

    def begin_step(self, training_pass: Pass, factor: float) -> None:
        """Clear the gradients, and set the learning rates to `factor` of their peaks."""

    def micro_step(
        self, training_pass: Pass, micro_batch: MicroBatch, *, step: int, scale: float, is_last: bool
    ) -> PassOutput:
        """Forward and backward of a micro-batch. The gradient is the mean over the workers of their sums, each times
        its `scale`."""

    def evaluate(self, training_pass: Pass, micro_batch: MicroBatch, *, step: int) -> PassOutput:
        """The forward pass alone, without gradients. Where parameters are sharded, all workers call it as often."""

    def clip(self, training_pass: Pass) -> torch.Tensor:
        """Complete and clip the gradients. Returns their norm over all workers before that: a scalar on the device."""

    def apply(self, training_pass: Pass) -> None:
        """The optimizer's step."""

    def end_step(self, step: int) -> None:
        """Update the moving average of the weights, if there is one."""

    def learning_rates(self, training_pass: Pass) -> Sequence[float]:
        """Of the groups of a pass, as they are now."""

    def gradient_norms(self, training_pass: Pass, norm: float) -> Mapping[str, float]:
        """By part of the model, after `clip`: they add up to `norm`, which that returned. Called by all workers."""

    def slices(self) -> list[TensorSlice]:
        """What this worker writes of the training's state: the files of all workers together hold each tensor once."""
