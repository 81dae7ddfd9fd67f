"""Settings of the loader: the mixture of datasets, the order of samples, and how they are packed into rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from models.errors import DataError

VALIDATION_SPLIT = "val"  # of the samples that a model is judged by while it trains


class LoadingError(DataError):
    """Training data cannot be used as configured; the message says where and why."""


@dataclass(frozen=True, kw_only=True)
class MixturePart:
    """The samples of a dataset with one of some tasks, and their weight in the stream."""

    tasks: tuple[str, ...]  # of "text", "understanding", "generation", "editing"
    weight: float  # relative to the other parts, counted in samples
    dataset: int = 0  # index of the dataset among the stage's, from 0
    split: str = "train"
    condition_dropout: float | None = None  # of this part, in place of that of all; with 1.0 images are reconstructed

    def __post_init__(self) -> None:
        check_condition_dropout(self.condition_dropout or 0.0)
        unknown = sorted(set(self.tasks) - {"text", "understanding", "generation", "editing"})
        if unknown or not self.tasks:
            raise ValueError(
                f"tasks: found {', '.join(unknown) or 'none'}; "
                "expected some of text, understanding, generation, editing"
            )
        if not self.weight > 0 or self.weight == float("inf"):
            raise ValueError(f"weight: {self.weight}, expected a positive number")
        if self.dataset < 0:
            raise ValueError(f"dataset: {self.dataset}, expected a number from 0")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """The stream of samples and the rows packed from it. Every value changes what is trained."""

    parts: tuple[MixturePart, ...]
    seed: int
    row_tokens: int  # tokens of one packed row
    rows_per_step: int = 0  # rows of one optimizer step, over all workers; or `samples_per_step`
    samples_per_step: int = 0  # instead: samples of one step, on average over the steps; decides its number of rows
    packing: Literal["next_fit", "best_fit"] = "next_fit"  # best_fit: in windows of the stream, with less padding
    condition_dropout: float = 0.1  # share of generation and editing samples whose condition is dropped
    semantic_noise: float = 0.0  # share of the semantic codes of answers that the model reads as random ones
    min_pixels: int = 32**2  # area limits of understanding images
    max_pixels: int = 768**2
    held_out_share: float = 0.0  # of the samples, never trained on, to judge the model by: those of some images
    fit_understanding_to_anchor: bool = False  # crop those that match an anchor too, so that batches share sizes
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {
        "too_long": "execution.too_long",
        "max_left_out_share": "execution.max_dropped_share",
    }

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: empty; name at least one part of a dataset")
        if self.row_tokens < 1:
            raise ValueError(f"row_tokens: {self.row_tokens}, expected at least 1")
        if self.samples_per_step < 0 or (self.samples_per_step and self.rows_per_step):
            raise ValueError(
                f"samples_per_step: {self.samples_per_step} with rows_per_step {self.rows_per_step}; expected one of "
                "them, at least 1"
            )
        if self.rows_per_step < 1 and not self.samples_per_step:
            raise ValueError(f"rows_per_step: {self.rows_per_step}, expected at least 1, or samples_per_step")
        check_condition_dropout(self.condition_dropout)
        if not 0 <= self.semantic_noise <= 1:
            raise ValueError(f"semantic_noise: {self.semantic_noise}, expected a share from 0 to 1")
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share: {self.held_out_share}, expected a share from 0 to below 1")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"min_pixels, max_pixels: {self.min_pixels}, {self.max_pixels}; expected 0 < min <= max")

    def condition_dropout_of(self, part: MixturePart) -> float:
        """The share of the generation and editing samples of a part whose condition is dropped."""
        return self.condition_dropout if part.condition_dropout is None else part.condition_dropout

    @property
    def drops_conditions(self) -> bool:
        """Whether any part has samples whose condition is dropped, so that the lengths without it are needed."""
        return any(self.condition_dropout_of(part) > 0 for part in self.parts)


def check_condition_dropout(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"condition_dropout: {share}, expected a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class LoadingGuards:
    """When the samples of a training are refused as a whole. They decide whether it begins, never what it trains."""

    max_dropped_share: float = 0.05  # of the samples of all parts; building the index fails above it
    too_long: Literal["drop", "error"] = "drop"  # samples that do not fit into a row

    def __post_init__(self) -> None:
        if not 0 <= self.max_dropped_share <= 1:
            raise ValueError(f"max_dropped_share: {self.max_dropped_share}, expected a share from 0 to 1")
