"""Settings of ingest: how source files are read into records, and the size limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

FORMATS = ("auto", "illume", "webdataset", "parquet", "arrow", "csv", "image_caption_pairs", "images_only")
FOLDER_FORMATS = ("image_caption_pairs", "images_only")  # whose source is a folder of images
CAPTION_TASKS = ("understanding", "generation")
CAPTION_CHOICES = ("seeded", "first", "all")


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """The source format, defaults for fields that a record leaves out, and limits against hostile files."""

    source: str  # name of the dataset, kept with every record
    # "illume" JSON, "webdataset" tars, "parquet", "arrow" (saved by `datasets`), "csv" also with tabs,
    # "image_caption_pairs": with .txt files, "images_only": without captions, as in an evaluation set;
    # "auto": detected for each file, and a folder of images with captions is read as one
    format: str = "auto"
    # Which key, column or ending of a tar's member holds the image and the caption, e.g. "jpg;png" and
    # "txt;json.caption": the first that is there; "": the usual names
    image: str = ""
    caption: str = ""
    license: str = ""  # default, if neither the record nor the metadata file states one
    split: str = ""  # "train" or "val" for all; "": from the record, else from the file's name, else "train"
    caption_tasks: tuple[str, ...] = ("understanding",)  # a captioned image gives one record for each
    caption_choice: str = (
        "seeded"  # of a list of captions: "seeded" takes one by its digest, "first", "all": a record each
    )
    caption_seed: int = 0  # of "seeded"
    rows_per_shard: int = 0  # 0: one shard per file (image folders: 2,000 images per shard)
    max_image_bytes: int = 64 << 20
    max_line_bytes: int = 8 << 20  # of one JSON value
    max_unpacked_bytes: int = 32 << 30  # of one compressed file

    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "format": {"images": "image_caption_pairs", "pictures": "images_only"}
    }

    def names_of(self, field_name: str) -> tuple[str, ...]:
        """The names stated by `image` or `caption`, () for the usual ones."""
        stated = self.image if field_name == "image" else self.caption
        return tuple(name.strip().lstrip(".") for name in stated.split(";") if name.strip())

    def __post_init__(self) -> None:
        if self.format in self.RENAMED_VALUES["format"]:
            raise ValueError(f"format: {self.format!r} is called {self.RENAMED_VALUES['format'][self.format]!r} now")
        if self.format not in FORMATS:
            raise ValueError(f"format: found {self.format!r}, expected one of {', '.join(FORMATS)}")
        if self.split not in ("", "train", "val"):
            raise ValueError(f"split: found {self.split!r}, expected 'train', 'val' or ''")
        unknown = sorted(set(self.caption_tasks) - set(CAPTION_TASKS))
        if unknown or not self.caption_tasks:
            raise ValueError(
                f"caption_tasks: found {unknown or 'nothing'}, expected some of {', '.join(CAPTION_TASKS)}"
            )
        if self.caption_choice not in CAPTION_CHOICES:
            known = ", ".join(CAPTION_CHOICES)
            raise ValueError(f"caption_choice: found {self.caption_choice!r}, expected one of {known}")
        if not self.source.strip():
            raise ValueError("source: found an empty name, expected the name of the dataset")
        if self.rows_per_shard < 0 or min(self.max_image_bytes, self.max_line_bytes, self.max_unpacked_bytes) < 1:
            raise ValueError("rows_per_shard must not be negative, and the limits must be positive")
