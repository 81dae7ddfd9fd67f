"""The thresholds of curation, and which of its steps reads which.

The results of a step depend only on the settings it is given, so a changed threshold repeats no more than it must.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from data_pipelines.images.limits import (
    IMAGE_FORMATS,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    OTHER_FORMATS,
    DecodeLimits,
    StoredSize,
)
from data_pipelines.scoring.bounds import ScoreBounds

DUPLICATE_SCOPES = ("sample", "image_in_task", "image", "off")
REPAIRABLE = ("caption_mojibake", "caption_control_chars", "caption_special_tokens", "caption_html", "caption_url",
              "caption_pii")  # fmt: skip
LANGUAGE_CODE = re.compile("[a-z]{2}|und")
# Fields that measuring an image reads, and those that storing it reduced reads too.
MEASURED = ("formats", "max_pixels", "max_file_bytes")
STORED = ("max_stored_side", "stored_quality")
# Fields that no judgement about a single record reads: limits of decoding, what counts as a copy, what is stored.
NOT_JUDGED = frozenset(
    ["formats", "max_pixels", "max_file_bytes", "duplicate_scope", "near_duplicates", "mirrored_images",
     "phash_distance", "colour_distance", "semantic_distance", "semantic_probes", "max_stored_side", "stored_quality"]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Limits on images and texts, what counts as a duplicate, and the sizes that training will use.

    `duplicate_scope`: "sample" compares records of one task with the same text (for data in which one image serves
    many records on purpose), "image_in_task" all records of a task, "image" all records, "off" none.
    """

    anchors: tuple[tuple[int, int], ...]  # (height, width) in pixels that images are cropped to
    max_crop: float = 0.2  # share of an image that the crop to its anchor may cut off
    # images
    formats: tuple[str, ...] = IMAGE_FORMATS  # also DDS, ICNS, ICO, PCX, PPM, PSD, QOI, SGI and TGA, where named
    min_side: int = 64  # pixels, upright
    max_aspect: float = 5.0  # long side / short side
    max_pixels: int = MAX_PIXELS
    max_file_bytes: int = MAX_FILE_BYTES
    min_contrast: float = 2.0  # standard deviation of the grey values, 0..127; less is blank
    min_neighbour_correlation: float = 0.2  # -1..1 between neighbouring pixels; less is noise
    min_sharpness: float = 0.2  # 0..1, see `images.measures.sharpness`; 0 keeps blurred images
    respect_opt_out: bool = True  # drop images whose metadata reserves them from training
    # texts
    min_caption_chars: int = 2
    max_caption_chars: int = 4000
    drop_personal_data: bool = True  # mail addresses, telephone and card numbers in captions
    repair_captions: tuple[str, ...] = ()  # reasons, any of `REPAIRABLE`, whose texts are repaired and not dropped
    allowed_licenses: tuple[str, ...] = ()  # empty: all, also records without a licence
    languages: tuple[str, ...] = ()  # ISO 639-1 codes, and "und" for undetermined captions; empty: all
    # scores, see the stage kind `score_images`
    score_bounds: Mapping[str, ScoreBounds] = field(default_factory=dict)  # by the name of the score
    # duplicates
    duplicate_scope: str = "sample"
    near_duplicates: bool = True
    mirrored_images: bool = True  # with near_duplicates: images that repeat another one with left and right swapped
    phash_distance: int = 10  # of 64 bits
    colour_distance: float = 20.0  # mean over an 8 x 8 RGB miniature, 0..255
    semantic_distance: float | None = None  # 1 - cosine of embeddings, 0..2; images nearer than this are copies
    semantic_probes: int | None = None  # cells of near embeddings to search in; null: all, exact, slow beyond a million
    # what is written
    max_stored_side: int | None = None  # pixels; larger images are stored resized, as JPEG; null: all original bytes
    stored_quality: int = 92  # of these JPEGs, 1..95
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {
        "mirrored_pictures": "mirrored_images",
        "thumbnails_per_reason": "removed; `illume audit` makes its small images when it writes a page",
        "thumbnail_side": "removed; `illume audit` makes its small images when it writes a page",
    }

    def __post_init__(self) -> None:
        problem = next(itertools.chain(self._wrong_names(), self._wrong_numbers()), None)
        if problem is not None:
            raise ValueError(problem)

    def _wrong_names(self) -> Iterator[str]:
        if self.duplicate_scope not in DUPLICATE_SCOPES:
            known = ", ".join(DUPLICATE_SCOPES)
            yield f"duplicate_scope: found {self.duplicate_scope!r}, expected one of {known}"
        known_formats = (*IMAGE_FORMATS, *OTHER_FORMATS)
        unknown_formats = sorted(set(self.formats) - set(known_formats))
        if unknown_formats or not self.formats:
            yield f"formats: found {unknown_formats or 'nothing'}, expected some of {', '.join(known_formats)}"
        odd = [code for code in self.languages if not LANGUAGE_CODE.fullmatch(code)]
        if odd:
            yield f"languages: found {odd}, expected ISO 639-1 codes such as 'en', or 'und'"
        beyond = sorted(set(self.repair_captions) - set(REPAIRABLE))
        if beyond:
            yield f"repair_captions: found {beyond}, expected some of {', '.join(REPAIRABLE)}"

    def _wrong_numbers(self) -> Iterator[str]:
        if not self.anchors or any(min(anchor) < 1 for anchor in self.anchors):
            yield "anchors: expected at least one (height, width) of positive pixels"
        if not 0 <= self.max_crop < 1 or self.max_aspect < 1:
            yield "max_crop must lie in 0..1 and max_aspect must be at least 1"
        if not 0 <= self.phash_distance <= 15:
            yield f"phash_distance: found {self.phash_distance}, expected 0 to 15 of 64 bits"
        if self.semantic_probes is not None and self.semantic_probes < 1:
            yield f"semantic_probes: found {self.semantic_probes}, expected at least 1"
        if self.semantic_distance is not None and not 0 < self.semantic_distance <= 2:
            yield f"semantic_distance: found {self.semantic_distance:g}, expected more than 0, at most 2"
        needed = max((max(anchor) for anchor in self.anchors), default=1)
        if self.max_stored_side is not None and self.max_stored_side < needed:
            yield (
                f"max_stored_side: found {self.max_stored_side}, expected at least {needed}, the longest side of an "
                "anchor, or training would enlarge what was made small"
            )
        if not 1 <= self.stored_quality <= 95:
            yield f"stored_quality: found {self.stored_quality}, expected 1 to 95"
        if min(self.min_side, self.max_pixels, self.max_file_bytes) < 1:
            yield "min_side, max_pixels and max_file_bytes must be positive"


def decode_limits(config: CurationConfig) -> DecodeLimits:
    """The settings that measuring reads: images are decoded again only when one of these changes."""
    return DecodeLimits(formats=config.formats, max_pixels=config.max_pixels, max_file_bytes=config.max_file_bytes)


def stored_size(config: CurationConfig) -> StoredSize | None:
    """The size and quality that larger images are stored at, None if all are stored as their original bytes."""
    if config.max_stored_side is None:
        return None
    return StoredSize(max_side=config.max_stored_side, quality=config.stored_quality)


def judge_config(config: CurationConfig) -> CurationConfig:
    """The settings that judging reads; every field that it does not read has its default value."""
    read = {item.name: vars(config)[item.name] for item in fields(config) if item.name not in NOT_JUDGED}
    return CurationConfig(**read)
