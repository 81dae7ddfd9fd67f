"""The closer look at images of writing, formulas, forms, slides and charts, which hashes alone call copies.

A drawing is known by the few greys that it has. Photographs are judged by their hashes, as before.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
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


class DrawingLook:
    """The `CloserLook` of a curation: reads the images of two candidates again if the first image of both is drawn."""

    def __init__(self, records: Mapping[str, Path], limits: DecodeLimits) -> None:
        self._records, self._limits = records, limits
        self._drawings: dict[int, tuple[str, tuple[str, ...]]] = {}  # candidate -> its shard, its images' SHA-256
        self._images: OrderedDict[str, Image.Image | None] = OrderedDict()
        self._shards: OrderedDict[str, ShardImages] = OrderedDict()
        self._different: Counter[int] = Counter()
        self._crop_searches = 0

    def __enter__(self) -> "DrawingLook":
        return self

    def __exit__(self, *_: object) -> None:
        while self._shards:
            self._shards.popitem()[1].__exit__()

    def add(self, index: int, shard: str, row: Mapping[str, Any]) -> None:
        """Remember a candidate, a row of an analysis, if its first image is a drawing."""
        if row["images"] and json.loads(row["scores"] or "{}").get("entropy", 8.0) <= MAX_DRAWING_ENTROPY:
            self._drawings[index] = (shard, tuple(row["images"]))

    def same(self, index: int, other: int, *, mirrored: bool) -> bool:
        if index not in self._drawings or other not in self._drawings:
            return True
        if max(self._different[index], self._different[other]) >= MAX_DIFFERENT:
            return False
        (shard, digests), (other_shard, other_digests) = self._drawings[index], self._drawings[other]
        pairs = zip(digests, other_digests, strict=True)
        if all(self._show_the_same((shard, one), (other_shard, two), mirrored) for one, two in pairs):
            return True
        self._different.update((index, other))
        return False

    def _show_the_same(self, one: tuple[str, str], other: tuple[str, str], mirrored: bool) -> bool:
        if one[1] == other[1] and not mirrored:
            return True
        first, second = self._image(*one), self._image(*other)
        if first is None or second is None:
            return True  # the hashes decide
        self._crop_searches += 1
        if mirrored:
            second = second.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return show_the_same(first, second, cropped=self._crop_searches <= MAX_CROP_SEARCHES)

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
