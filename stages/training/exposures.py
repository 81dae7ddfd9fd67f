"""Which optimizer steps of a training loop consumed which samples: computed from the order of its data.

Steps are not logged but follow from the order, which is arithmetic, and from the windows that the training skipped.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from orchestrator.learning import Exposures, Samples, Training
from stages.training.checkpoints.progress import PROGRESS_FILE, Progress, parse_progress, read_progress
from stages.training.config import LoopConfig

if TYPE_CHECKING:
    from data_pipelines.training_data.image_batches import ImageBatches

Integers = npt.NDArray[np.int64]
# (ids of the samples, data step to stop before) -> pairs (position of the sample, data step), sorted by sample
DataSteps = Callable[[Sequence[str], int], tuple[Integers, Integers]]


def loop_exposures(training: Training[Any], loop: LoopConfig, samples: Samples, data_steps: DataSteps) -> Exposures:
    """The exposures of a training that `stages.training.loop` carries out."""
    checkpoints = {step: parse_progress(data) for step, data in training.checkpoint_files(PROGRESS_FILE).items()}
    folder = training.output(lambda path: path == PROGRESS_FILE)
    if folder is not None:
        steps, progress = loop.steps, read_progress(folder)
    elif checkpoints:  # not finished yet
        steps, progress = list(checkpoints.items())[-1]
    else:
        return Exposures(num_steps=0, steps={})
    if not samples:
        return Exposures(num_steps=steps, steps={}, checkpoints=dict.fromkeys(checkpoints, False))
    ids = sorted(samples)
    states = [(steps, progress), *checkpoints.items()]
    before = max(state.data_step(step - 1) + 1 for step, state in states)
    which, consumed = data_steps(ids, before)
    first, optimizer_steps = training.first_step, _optimizer_steps(consumed, progress)
    trained = np.flatnonzero((optimizer_steps >= first) & (optimizer_steps < steps))
    owners, optimizer_steps = which[trained], optimizer_steps[trained]
    bounds = np.flatnonzero(np.diff(owners)) + 1
    parts = zip(np.split(owners, bounds), np.split(optimizer_steps, bounds), strict=True)
    distinct = np.unique(consumed)
    return Exposures(
        num_steps=steps,
        steps={ids[owner[0]]: found.tolist() for owner, found in parts if len(found)},
        checkpoints={step: _saw_any(distinct, state, step, first) for step, state in checkpoints.items()},
    )


def image_exposures(
    training: Training[Any], loop: LoopConfig, samples: Samples, make_batches: Callable[[], "ImageBatches"]
) -> Exposures:
    """The exposures of a training on single images, which knows a sample by its first image."""

    def data_steps(ids: Sequence[str], before: int) -> tuple[Integers, Integers]:
        images = _FirstImages(ids, samples)
        micros = loop.micro_batches_per_step
        which, micro_batches = make_batches().exposures(images.digests, before=before * micros)
        return images.owners(which, micro_batches // micros)

    return loop_exposures(training, loop, samples, data_steps)


class _FirstImages:
    """The first images of samples; several samples may share one."""

    def __init__(self, ids: Sequence[str], samples: Samples) -> None:
        pairs = sorted({(samples[sample_id][0], rank) for rank, sample_id in enumerate(ids) if samples[sample_id]})
        self.digests = sorted({image for image, _ in pairs})
        self._owners = np.array([rank for _, rank in pairs], dtype=np.int64)
        numbers = {image: number for number, image in enumerate(self.digests)}
        self._numbers = np.array([numbers[image] for image, _ in pairs], dtype=np.int64)

    def owners(self, which: Integers, steps: Integers) -> tuple[Integers, Integers]:
        """From pairs (image, step), sorted by image, the pairs (sample, step), sorted and distinct."""
        first, last = (np.searchsorted(which, self._numbers, side=side) for side in ("left", "right"))
        at = np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in zip(first, last, strict=True))])
        pairs = np.unique(np.stack([np.repeat(self._owners, last - first), steps[at.astype(np.int64)]]), axis=1)
        return pairs[0], pairs[1]


def _saw_any(data_steps: Integers, progress: Progress, step: int, first: int = 0) -> bool:
    found = _optimizer_steps(data_steps, progress)
    return bool(((found >= first) & (found < step)).any())


def _optimizer_steps(data_steps: Integers, progress: Progress) -> Integers:
    """The optimizer steps that consumed the data steps; -1 where a data step was skipped."""
    distinct, at = np.unique(data_steps, return_inverse=True)
    found = [progress.optimizer_step(step) for step in distinct.tolist()]
    return np.array([-1 if step is None else step for step in found], dtype=np.int64)[at]
