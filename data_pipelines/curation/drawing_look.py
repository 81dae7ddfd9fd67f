"""The closer look at images of writing, formulas, forms, slides and charts, which hashes alone call copies.

A drawing is known by the few greys that it has. Photographs are judged by their hashes, as before. Looks take long, so
they are collected and answered together, by as many processes as there are: copies are searched for again with the
answers until no question is left. The last search asks and decides as one that looks at once would.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipelines.datasets.ingested_reader import ShardImages
from data_pipelines.datasets.records import Reject
from data_pipelines.images.closer_look import LOOK_SIDE, show_the_same
from data_pipelines.images.decoding import decode_within
from data_pipelines.images.limits import DecodeLimits

MAX_DRAWING_ENTROPY = 6.0  # bits of the grey histogram; photographs have more, but for dark and misty ones
MAX_CACHED_IMAGES = 128  # of at most a megabyte
MAX_OPEN_SHARDS = 8
# Each pair among a million forms is a candidate, and hardly one is a copy. The work is bounded: an image that differs
# from this many is kept, and after so many full searches for crops the frames alone are compared.
MAX_DIFFERENT = 8
MAX_CROP_SEARCHES = 5000


@dataclass(frozen=True, kw_only=True)
class LookQuestion:
    """Whether the images of two samples show the same, one by one."""

    shard: str
    images: tuple[str, ...]  # SHA-256
    other_shard: str
    other_images: tuple[str, ...]
    mirrored: bool  # those of the other sample with left and right swapped
    cropped: bool  # also if one is a crop of the other, which takes ten times as long


Answer = Callable[[Sequence[LookQuestion]], Sequence[bool]]


class DrawingLook:
    """The `CloserLook` of a curation: collects the pairs whose first images are drawn, and knows the answers given."""

    def __init__(self) -> None:
        self._drawings: dict[int, tuple[str, tuple[str, ...]]] = {}  # candidate -> its shard, its images' SHA-256
        self._answers: dict[tuple[int, int, bool], bool] = {}
        self._open: dict[tuple[int, int, bool], LookQuestion] = {}
        self._different: Counter[int] = Counter()

    def add(self, index: int, shard: str, row: Mapping[str, Any]) -> None:
        """Remember a candidate, a row of an analysis, if its first image is a drawing."""
        if row["images"] and json.loads(row["scores"] or "{}").get("entropy", 8.0) <= MAX_DRAWING_ENTROPY:
            self._drawings[index] = (shard, tuple(row["images"]))

    def same(self, index: int, other: int, *, mirrored: bool) -> bool:
        if index not in self._drawings or other not in self._drawings:
            return True
        if max(self._different[index], self._different[other]) >= MAX_DIFFERENT:
            return False
        key = (index, other, mirrored)
        if key not in self._answers and key not in self._open:
            (shard, images), (other_shard, other_images) = self._drawings[index], self._drawings[other]
            self._open[key] = LookQuestion(
                shard=shard,
                images=images,
                other_shard=other_shard,
                other_images=other_images,
                mirrored=mirrored,
                cropped=len(self._answers) + len(self._open) < MAX_CROP_SEARCHES,
            )
        if self._answers.get(key, False):
            return True
        self._different.update((index, other))  # until it is answered they count as different
        return False

    def settle(self, answer: Answer) -> bool:
        """Have the open questions answered, and begin anew. Returns whether there were any."""
        self._different.clear()
        questions = list(self._open.values())
        if questions:
            self._answers.update(zip(self._open, answer(questions), strict=True))
            self._open.clear()
        return bool(questions)


def look_at(questions: Sequence[LookQuestion], records: Mapping[str, Path], limits: DecodeLimits) -> list[bool]:
    """The answers. `records`: for each shard the folder of the artifact that holds it."""
    with _Images(records, limits) as images:
        return [images.show_the_same(question) for question in questions]


class _Images:
    """Reads images of shards again, each in grey, the newest few of them kept."""

    def __init__(self, records: Mapping[str, Path], limits: DecodeLimits) -> None:
        self._records, self._limits = records, limits
        self._images: OrderedDict[str, Image.Image | None] = OrderedDict()
        self._shards: OrderedDict[str, ShardImages] = OrderedDict()

    def __enter__(self) -> "_Images":
        return self

    def __exit__(self, *_: object) -> None:
        while self._shards:
            self._shards.popitem()[1].__exit__()

    def show_the_same(self, question: LookQuestion) -> bool:
        return all(
            self._pair_shows_the_same(question, digest, other)
            for digest, other in zip(question.images, question.other_images, strict=True)
        )

    def _pair_shows_the_same(self, question: LookQuestion, digest: str, other: str) -> bool:
        if digest == other and not question.mirrored:
            return True
        first, second = self._image(question.shard, digest), self._image(question.other_shard, other)
        if first is None or second is None:
            return True  # the hashes decide
        if question.mirrored:
            second = second.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return show_the_same(first, second, cropped=question.cropped)

    def _image(self, shard: str, digest: str) -> Image.Image | None:
        """The image in grey, upright, at most `LOOK_SIDE` long; None if it cannot be decoded now."""
        if digest in self._images:
            self._images.move_to_end(digest)
            return self._images[digest]
        found = decode_within(
            self._shard(shard).read(digest),
            self._limits,
            lambda decoded: decoded.upright().convert("L"),
            needed_share=lambda size: LOOK_SIDE / max(size),
        )
        image = None if isinstance(found, Reject) else found
        if image is not None:
            image.thumbnail((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BOX)
        self._images[digest] = image
        if len(self._images) > MAX_CACHED_IMAGES:
            self._images.popitem(last=False)
        return image

    def _shard(self, name: str) -> ShardImages:
        if name not in self._shards:
            self._shards[name] = ShardImages(self._records[name], name)
            if len(self._shards) > MAX_OPEN_SHARDS:
                self._shards.popitem(last=False)[1].__exit__()
        self._shards.move_to_end(name)
        return self._shards[name]
