"""The unified model in small as a training program: the published phases on random rows, of which some hold images."""

from dataclasses import dataclass
from pathlib import Path

import torch

from models.mllm.batch import PackedBatch, part_of_rows
from models.mllm.compiled import compile_layers
from models.mllm.model import UnifiedMllm
from models.mllm.phases import find_phase, parameter_groups
from models.mllm.sequence_parallel import sequence_group
from models.mllm.vision import VisionBranch
from models.mllm.vocabulary import PIXEL_FEATURE, SEMANTIC_FEATURE
from models.mllm.weights import WEIGHTS_FILE, empty_model
from models.recompute import recompute
from stages.programs.mllm import LanguagePass
from stages.training.checkpoints.reader import open_weights
from stages.training.program import MicroBatch, Pass, micro_batch_seed
from tests.models.mllm.conftest import make_config

RATE = 3e-3
CPU = torch.device("cpu")
CONFIG = make_config(tie_embeddings=True)


@dataclass(frozen=True, kw_only=True)
class TinyTask:
    phase: str
    seed: int = 3
    hold_step: int = -1  # at which every worker waits for ever, to be killed
    start: str = ""  # folder of the model to continue from
    backend: str = ""  # that compiles the layers, which are recomputed, too
    sequence_workers: int = 1


class TinyMllm:
    rebuilds_frozen = True
    sources = ("first documents", "second documents")

    def __init__(self, task: TinyTask, device: torch.device = CPU) -> None:
        self._task, self.sequence_workers = task, task.sequence_workers
        self._group = sequence_group(task.sequence_workers) if task.sequence_workers > 1 else None
        self.initial = open_weights({Path(task.start) / WEIGHTS_FILE: ""}, "mllm") if task.start else None
        self.model = empty_model(CONFIG, with_vision=True) if task.start else new_model(task.seed).to(device)
        self.model.train()
        if task.backend:
            compile_layers(self.model.language.layers, backend=task.backend)
            recompute(self.model.language.layers)
        phase = find_phase(task.phase)
        groups = parameter_groups(self.model, phase, learning_rates=dict.fromkeys(phase.learning_rates, RATE))
        units = tuple(self.model.language.layers)
        self.passes = (Pass(name="language", module=LanguagePass(self.model), groups=groups, units=units),)
        self.weights = {"mllm": self.model}

    def micro_batch(self, step: int, index: int) -> MicroBatch:
        """One row of 96 tokens, or this worker's part; each third has images of one size, each fourth of two sizes."""
        seed = micro_batch_seed(self._task.seed, step, index)
        generator = torch.Generator().manual_seed(seed)
        sides = [8, 16] if seed % 4 == 0 else [8] if seed % 3 == 0 else []
        batch = random_row(sides, generator)
        weight = self.model.trained_weight(batch.labels_BT, batch.segments_BT)
        names = tuple(f"row-{step}-{index}-{document}" for document in range(2))
        if self._group is not None:
            batch = part_of_rows(batch, self._group, [num_features(side) for side in sides])
        return MicroBatch(data=batch, weight=weight, seed=seed, samples=names, sources=(0, 1))


def num_features(side: int) -> tuple[int, int]:
    """Semantic and pixel features of a square image."""
    return max(1, side // 28) ** 2, (side // 4) ** 2


def new_model(seed: int) -> UnifiedMllm:
    torch.manual_seed(seed)
    return UnifiedMllm(CONFIG, VisionBranch(CONFIG.vision))


def random_row(sides: list[int], generator: torch.Generator, tokens: int = 96) -> PackedBatch:
    """Two documents of random ids and padding; images of these sides are at the start of the second one."""
    ids = torch.randint(0, 100, (1, tokens), generator=generator)
    first = tokens // 3
    at = first + 1
    for side in sides:
        semantic, pixels = num_features(side)
        ids[0, at : at + semantic] = SEMANTIC_FEATURE
        ids[0, at + semantic : at + semantic + pixels] = PIXEL_FEATURE
        at += semantic + pixels
    segments = torch.ones_like(ids)
    segments[0, first:] = 2
    segments[0, tokens - 8 :] = 0
    positions = torch.cat([torch.arange(first), torch.arange(tokens - first)])[None]
    images = [torch.rand(3, side, side, generator=generator) * 2 - 1 for side in sides]
    labels = torch.where(ids >= 0, ids, -100)
    return PackedBatch(
        ids_BT=ids, labels_BT=labels, positions_BT=positions, segments_BT=segments, images=images, documents=(2,)
    )
