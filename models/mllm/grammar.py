"""The grammar of answers: text anywhere outside images, and inside an image exactly its rows and levels.

Every row of a batch has its own state, so rows may be at different positions of different images. An image is only
begun if the tokens left are enough for all of it, so the number of codes is always exact.
Source: ILLUME+ released sampler. There the first row's state is used for the whole batch, and an end of image without a
beginning, tags in any order and images that cannot be finished are allowed.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from models.errors import DataError
from models.mllm.vocabulary import PIXEL_FEATURE, SEMANTIC_FEATURE, Grid, Ids, VisionVocabulary

Kind = Literal["text", "semantic", "pixel"]
GridSize = Callable[[int, int], Grid]  # height and width in pixels -> rows and columns of codes


class PromptError(DataError):
    """A prompt that cannot be answered as requested."""


@dataclass(frozen=True)
class Rules:
    """The part of the grammar that all rows share. `resolutions` (height, width) limits what the model may choose."""

    vocabulary: VisionVocabulary
    semantic_grid: GridSize
    pixel_grid: GridSize
    end_id: int  # ends an answer
    resolutions: Collection[Grid] | None = None

    @cached_property
    def block_lengths(self) -> dict[Grid, int]:
        """Tokens of a block for each resolution that the model may choose, by (height, width)."""
        sides = self.vocabulary.resolutions
        chosen = self.resolutions if self.resolutions is not None else [(h, w) for h in sides for w in sides]
        lengths = {}
        for resolution in chosen:
            try:
                lengths[resolution] = len(self.plan(resolution))
            except ValueError:
                continue  # not a size that this tokenizer supports
        return lengths

    def plan(self, resolution: Grid) -> Ids:
        """The block of an image with placeholders for its codes. Raises: ValueError for an impossible size."""
        if resolution not in self._plans:
            grids = self.semantic_grid(*resolution), self.pixel_grid(*resolution)
            self._plans[resolution] = self.vocabulary.feature_block_ids(*grids)
        return self._plans[resolution]

    @cached_property
    def _plans(self) -> dict[Grid, Ids]:
        return {}


@dataclass(frozen=True)
class Allowed:
    """The ids that may follow: a range, and some others outside it."""

    ids: range
    others: tuple[int, ...] = ()

    @property
    def single_id(self) -> int | None:
        """The id, if there is no choice."""
        if len(self.ids) + len(self.others) != 1:
            return None
        return self.others[0] if self.others else self.ids[0]


@dataclass
class RowState:
    """The state of one answer. `tokens_left` and `images_left`: how many may still be generated."""

    rules: Rules
    tokens_left: int
    images_left: int
    force_image: bool = False
    stop_after_image: bool = False
    resolution: Grid | None = None  # (height, width) in pixels of the next image
    finished: bool = False
    spans: list[tuple[int, int, Grid]] = field(default_factory=list)  # begin, end, resolution of each image
    generated: list[int] = field(default_factory=list)
    _plan: Ids | None = None
    _offset: int = 0
    _tag: Literal["none", "height", "both"] = "none"  # resolution tags directly before the next token
    _height: int = 0

    @property
    def in_image(self) -> bool:
        return self._plan is not None

    @property
    def image_start(self) -> int:
        """Index of the current image's first token in `generated`."""
        return len(self.generated) - self._offset

    @property
    def kind(self) -> Kind:
        """The kind of the next token, which decides how it is sampled."""
        code = SEMANTIC_FEATURE if self._plan is None else self._plan[self._offset]
        if self._plan is None or code >= 0:
            return "text"
        return "semantic" if code == SEMANTIC_FEATURE else "pixel"

    def begin(self, prompt_ids: Ids) -> None:
        """Read resolution tags from the prompt: the last ones count; at the end of the prompt, they require an image.

        Raises: PromptError if an image is required, but has no resolution or not enough tokens left.
        """
        vocabulary, given = self.rules.vocabulary, self.resolution
        heights, widths = _within(prompt_ids, vocabulary.height_range), _within(prompt_ids, vocabulary.width_range)
        pairs = np.flatnonzero(heights[:-1] & widths[1:])
        if len(pairs):
            self.resolution = vocabulary.tag_sizes(*prompt_ids[pairs[-1] : pairs[-1] + 2].tolist())
            self._tag = "both" if pairs[-1] == len(prompt_ids) - 2 else "none"
        if given is not None:
            if self._tag == "both" and given != self.resolution:
                raise PromptError(
                    f"prompt: ends with the tags of {self.resolution}, but the resolution is {given} (HxW)"
                )
            self.resolution = given
        if self._must_start_image() and not self._can_start():
            self._raise_cannot_start()

    def allowed(self) -> Allowed:
        """The ids that may follow: at least one, unless the row is finished."""
        vocabulary = self.rules.vocabulary
        if self._plan is not None:
            required = int(self._plan[self._offset])
            if required == SEMANTIC_FEATURE:
                return Allowed(vocabulary.semantic_range)
            if required == PIXEL_FEATURE:
                return Allowed(vocabulary.pixel_range)
            return Allowed(range(0), (required,))
        if self._must_start_image():
            return Allowed(range(0), (vocabulary.start_of_image,))
        feasible = self._feasible_resolutions()
        if self._tag == "height":
            return Allowed(range(0), tuple(vocabulary.width_id(w) for h, w in feasible if h == self._height))
        heights = sorted({vocabulary.height_id(height) for height, _ in feasible})
        start = (vocabulary.start_of_image,) if self._can_start() else ()
        return Allowed(range(vocabulary.first_id), (*start, *heights))

    def accept(self, token: int) -> None:
        """Append a token. Raises: ValueError if it is not allowed here."""
        allowed = self.allowed()
        if self.finished or not (token in allowed.ids or token in allowed.others):
            raise ValueError(f"token {token} is not allowed after {len(self.generated)} tokens")
        self.generated.append(token)
        self.tokens_left -= 1
        if self._plan is not None:
            self._advance()
        elif token == self.rules.vocabulary.start_of_image:
            assert self.resolution is not None, "an image begins only with a resolution"
            self._plan, self._offset, self._tag = self.rules.plan(self.resolution), 1, "none"
            self.images_left -= 1
            self.force_image = False
        else:
            self._read_text(token)

    def forced(self) -> list[int]:
        """Accept and return all tokens that follow without a choice."""
        tokens = []
        while not self.finished and (token := self.allowed().single_id) is not None:
            self.accept(token)
            tokens.append(token)
        return tokens

    def _advance(self) -> None:
        assert self._plan is not None, "only called inside an image"
        assert self.resolution is not None, "only called inside an image"
        self._offset += 1
        if self._offset == len(self._plan):
            end = len(self.generated)
            self.spans.append((end - len(self._plan), end, self.resolution))
            self._plan = None
            self.finished = self.stop_after_image or self.tokens_left == 0

    def _read_text(self, token: int) -> None:
        vocabulary = self.rules.vocabulary
        if token in vocabulary.height_range:
            self._tag, self._height = "height", vocabulary.resolutions[token - vocabulary.height_range.start]
        elif token in vocabulary.width_range:
            self._tag = "both"
            self.resolution = (self._height, vocabulary.resolutions[token - vocabulary.width_range.start])
        self.finished = token == self.rules.end_id or self.tokens_left == 0

    def _must_start_image(self) -> bool:
        return self.force_image or self._tag == "both"

    def _can_start(self) -> bool:
        if self.resolution is None or self.images_left == 0:
            return False
        try:
            return len(self.rules.plan(self.resolution)) <= self.tokens_left
        except ValueError:
            return False

    def _feasible_resolutions(self) -> list[Grid]:
        """Resolutions that the model may write next: those whose tags and block fit into the tokens left."""
        if self.images_left == 0:
            return []
        tags = 1 if self._tag == "height" else 2
        return [size for size, length in self.rules.block_lengths.items() if length + tags <= self.tokens_left]

    def _raise_cannot_start(self) -> None:
        if self.images_left == 0:
            raise PromptError(
                "prompt: ends with resolution tags, but max_images is 0; allow an image or remove the tags"
            )
        if self.resolution is None:
            raise PromptError("prompt: an image is required, but neither the prompt nor the request gives a resolution")
        length = len(self.rules.plan(self.resolution))  # raises ValueError for an impossible size
        raise PromptError(
            f"prompt: an image of {self.resolution[0]}x{self.resolution[1]} (HxW) takes {length} tokens, but "
            f"max_new_tokens leaves {self.tokens_left}; raise it"
        )


def _within(ids: Ids, wanted: range) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return (ids >= wanted.start) & (ids < wanted.stop)
