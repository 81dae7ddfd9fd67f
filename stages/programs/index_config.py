"""Configs of the stages that index training data: what of a training's config decides its index, and nothing else."""

from dataclasses import dataclass, replace

from data_pipelines.training_data.config import VALIDATION_SPLIT, LoaderConfig, LoadingGuards
from orchestrator.stage import Execution


@dataclass(frozen=True, kw_only=True)
class IndexedSamples:
    """The samples of a dataset with some of the tasks."""

    tasks: tuple[str, ...]
    dataset: int = 0  # index of the dataset among the stage's, from 0
    split: str = "train"


@dataclass(frozen=True, kw_only=True)
class IndexSamplesConfig:
    """The fields have the names of `train_mllm`'s `data`, and its defaults."""

    parts: tuple[IndexedSamples, ...]  # as in the training, without weights
    row_tokens: int  # tokens of one packed row; longer samples are dropped
    drops_conditions: bool = True  # the condition_dropout of any part of the training is more than 0
    min_pixels: int = 32**2  # area limits of understanding images
    max_pixels: int = 768**2
    held_out_share: float = 0.0
    fit_understanding_to_anchor: bool = False

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: empty; name at least one part of a dataset")


@dataclass(frozen=True, kw_only=True)
class IndexSamplesExecution(Execution, LoadingGuards):
    def __post_init__(self) -> None:
        LoadingGuards.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class IndexImagesConfig:
    tasks: tuple[str, ...] = ()  # of the samples whose first image is indexed; empty: all
    tokenized: bool = False  # only images with codes
    split: str = "train"


def validation_split(images: IndexImagesConfig) -> IndexImagesConfig:
    """The same images of the validation split."""
    return replace(images, split=VALIDATION_SPLIT)


def samples_index_config(data: LoaderConfig) -> IndexSamplesConfig:
    """What decides the index of a training's samples."""
    return IndexSamplesConfig(
        parts=tuple(IndexedSamples(tasks=part.tasks, dataset=part.dataset, split=part.split) for part in data.parts),
        row_tokens=data.row_tokens,
        drops_conditions=data.drops_conditions,
        min_pixels=data.min_pixels,
        max_pixels=data.max_pixels,
        held_out_share=data.held_out_share,
        fit_understanding_to_anchor=data.fit_understanding_to_anchor,
    )
