"""Images of evaluation sets are found in training data however they were changed, and others are left alone."""

import hashlib
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from data_pipelines.curation import contamination
from data_pipelines.curation.config import CurationConfig
from data_pipelines.curation.contamination import EvaluationImages, EvaluationShard, find_contaminated
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.judge import ANALYSIS_SCHEMA
from data_pipelines.images.facts import ImageFacts, measure_image

CONFIG = CurationConfig(anchors=((64, 64),))
GREY = bytes([120]) * 192


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample by the facts about its images; None: an image that cannot be decoded."""

    name: str
    facts: Sequence[ImageFacts | None]
    files: tuple[str, ...] = ()  # digests; empty: one of its own for each image
    split: str = "train"
    reason: str | None = None

    @property
    def digests(self) -> list[str]:
        return list(self.files or (f"{self.name}/{slot}" for slot in range(len(self.facts))))


def drawn(seed: int) -> Image.Image:
    """Coloured blocks on a slope, different for each seed."""
    dice = random.Random(seed)
    image = Image.linear_gradient("L").rotate(90 * (seed % 4)).resize((160, 120)).convert("RGB")
    pen = ImageDraw.Draw(image)
    for _ in range(9):
        x, y = dice.randrange(130), dice.randrange(95)
        box = (x, y, x + dice.randrange(15, 70), y + dice.randrange(15, 60))
        pen.rectangle(box, fill=tuple(dice.randrange(256) for _ in range(3)))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def shown(name: str, *files: bytes, split: str = "train", reason: str | None = None) -> Sample:
    found = [measure_image(data, CONFIG) for data in files]
    facts = [fact if isinstance(fact, ImageFacts) else None for fact in found]
    digests = tuple(hashlib.sha256(data).hexdigest() for data in files)
    return Sample(name=name, facts=facts, files=digests, split=split, reason=reason)


def hashed(name: str, phash: int, *, mirrored: int = 0, look: bytes = GREY) -> Sample:
    fact = ImageFacts(
        format="png", width=8, height=8, phash=phash, mirrored_phash=mirrored, pixel_digest=name, miniature=look
    )
    return Sample(name=name, facts=[fact])


def write_analysis(path: Path, samples: Sequence[Sample], *, without: Sequence[int] = ()) -> Path:
    rows = []
    for row, sample in enumerate(samples):
        facts = [fact for fact in sample.facts if fact is not None]
        fields = {
            "row": row,
            "sample_id": f"id of {sample.name}",
            "split": sample.split,
            "task": "understanding",
            "text_digest": "words",
            "images": sample.digests,
            "reason": sample.reason,
            "phash": [fact.phash for fact in facts],
            "mirrored_phash": [fact.mirrored_phash for fact in facts],
            "pixel_digest": [fact.pixel_digest for fact in facts],
            "miniature": [fact.miniature for fact in facts],
        }
        if row not in without:
            rows.append(fields)
    pq.write_table(pa.Table.from_pylist(rows, schema=ANALYSIS_SCHEMA), path)
    return path


def evaluation_shard(
    folder: Path, samples: Sequence[Sample], *, source: str = "bench", without: Sequence[int] = ()
) -> EvaluationShard:
    """`without`: rows that the analysis lacks, because their process died."""
    columns = {
        "source": [source] * len(samples),
        "sample_id": [f"id of {sample.name}" for sample in samples],
        "external_id": [sample.name or None for sample in samples],
        "images": pa.array([sample.digests for sample in samples], pa.list_(pa.string())),
        "reject": pa.array([sample.reason for sample in samples], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / f"{source}.records.parquet")
    analysis = write_analysis(folder / f"{source}.analysis.parquet", samples, without=without)
    return EvaluationShard(records=folder / f"{source}.records.parquet", analysis=analysis)


def found_in(
    folder: Path, train: Sequence[Sample], bench: Sequence[Sample], config: CurationConfig = CONFIG
) -> dict[str, str]:
    """Details by the names of contaminated samples."""
    folder.mkdir(exist_ok=True)
    evaluation = EvaluationImages([evaluation_shard(folder, bench)])
    verdicts = find_contaminated({"a": write_analysis(folder / "a.parquet", train)}, evaluation, config)["a"]
    assert all(verdict.reason == "contaminated" for verdict in verdicts)
    return {train[verdict.row].name: verdict.detail for verdict in verdicts}


def brighter(image: Image.Image) -> Image.Image:
    return image.point(lambda value: min(255, int(value * 1.15)))


CHANGES: Mapping[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "same": (encoded, "the same file as in sample 'b7' of the evaluation set 'bench'"),
    "other file": (lambda image: encoded(image, "BMP"), "the same pixels as in sample 'b7'"),
    "re-encoded": (lambda image: encoded(image, "JPEG", quality=60), "looks like a picture of sample 'b7'"),
    "resized": (lambda image: encoded(image.resize((300, 225))), "looks like a picture of sample 'b7'"),
    "cropped": (lambda image: encoded(image.crop((2, 2, 158, 119))), "looks like a picture of sample 'b7'"),
    "brighter": (lambda image: encoded(brighter(image)), "looks like a picture of sample 'b7'"),
    "mirrored": (lambda image: encoded(ImageOps.mirror(image), "JPEG"), "looks like a mirrored picture of sample 'b7'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_of_an_evaluation_set_is_found_however_it_was_changed(change: str, tmp_path: Path) -> None:
    bench = [shown(f"b{seed}", encoded(drawn(seed))) for seed in range(12)]
    others = [shown(f"other {seed}", encoded(drawn(seed))) for seed in range(100, 120)]
    make, detail = CHANGES[change]
    found = found_in(tmp_path, [*others, shown("copy", make(drawn(7)))], bench)
    assert found.keys() == {"copy"}
    assert found["copy"].startswith(detail)


def test_the_most_certain_match_is_reported_with_its_differing_bits(tmp_path: Path) -> None:
    bench = [hashed("far", 0b1111), hashed("near", 0b0011), hashed("mirrored", 0b0001)]
    train = [hashed("one", 0b0001, mirrored=0b0001)]
    assert found_in(tmp_path, train, bench) == {
        "one": "looks like a picture of sample 'mirrored' of the evaluation set 'bench' (0 of 64 bits differ)"
    }
    assert found_in(tmp_path, train, bench[:2])["one"].endswith(
        "'near' of the evaluation set 'bench' (1 of 64 bits differ)"
    )


def test_any_image_of_a_sample_counts_and_validation_samples_are_dropped_too(tmp_path: Path) -> None:
    bench = [shown("b", encoded(drawn(1)), encoded(drawn(2)))]
    train = [
        shown("second of two", encoded(drawn(50)), encoded(drawn(2))),
        shown("held out", encoded(drawn(1)), split="val"),
        shown("no picture"),
        shown("other", encoded(drawn(51))),
    ]
    assert found_in(tmp_path, train, bench).keys() == {"second of two", "held out"}


def test_what_is_dropped_anyway_keeps_its_own_reason(tmp_path: Path) -> None:
    data = encoded(drawn(1))
    assert found_in(tmp_path, [shown("small", data, reason="too_small")], [shown("b", data)]) == {}


def test_images_that_the_thresholds_would_drop_count_in_an_evaluation_set(tmp_path: Path) -> None:
    bench = [shown("b", encoded(drawn(1)), reason="too_small")]
    assert found_in(tmp_path, [shown("one", encoded(drawn(1), "JPEG"))], bench).keys() == {"one"}


def test_like_shapes_in_other_colours_are_other_images(tmp_path: Path) -> None:
    bench = [hashed("b", 5, look=bytes([200]) * 192), hashed("c", 5, look=bytes([60]) * 192)]
    assert found_in(tmp_path, [hashed("one", 5, look=bytes([130]) * 192)], bench) == {}
    assert found_in(tmp_path, [hashed("one", 5, look=bytes([70]) * 192)], bench)["one"].startswith(
        "looks like a picture of sample 'c'"
    )


def test_appearance_is_compared_by_the_limits_of_copies(tmp_path: Path) -> None:
    data = encoded(drawn(1))
    bench = [shown("b", data)]
    train = [
        shown("same", data),
        shown("alike", encoded(drawn(1), "JPEG")),
        shown("mirrored", encoded(ImageOps.mirror(drawn(1)))),
    ]
    assert len(found_in(tmp_path, train, bench)) == 3
    unmirrored = CurationConfig(anchors=((64, 64),), mirrored_images=False)
    assert found_in(tmp_path, train, bench, unmirrored).keys() == {"same", "alike"}
    exact = CurationConfig(anchors=((64, 64),), near_duplicates=False, duplicate_scope="off")
    assert found_in(tmp_path, train, bench, exact).keys() == {"same"}


def test_an_image_that_cannot_be_decoded_is_found_by_its_bytes_and_counted(tmp_path: Path) -> None:
    broken = encoded(drawn(1))[:200]
    bench = [
        shown("fine", encoded(drawn(3))),
        shown("broken", broken),
        shown("", encoded(drawn(4))),
        Sample(name="no picture", facts=[], reason="missing_file"),
    ]
    evaluation = EvaluationImages([evaluation_shard(tmp_path, bench, without=[2])])
    assert evaluation.unread == 3
    assert len(evaluation.files) == 3
    train = [hashed("other", 1), shown("died there", encoded(drawn(4)))]
    train.append(Sample(name="same bytes", facts=[hashed("x", 2).facts[0]], files=shown("", broken).files))
    verdicts = find_contaminated({"a": write_analysis(tmp_path / "a.parquet", train)}, evaluation, CONFIG)["a"]
    assert [verdict.row for verdict in verdicts] == [1, 2]
    assert verdicts[0].detail == "the same file as in sample 'id of ' of the evaluation set 'bench'"


def test_of_several_sets_the_first_by_name_is_reported_whatever_their_order(tmp_path: Path) -> None:
    shards = [evaluation_shard(tmp_path, [shown("x", encoded(drawn(1)))], source=name) for name in ("zoo", "art")]
    analysis = {"a": write_analysis(tmp_path / "a.parquet", [shown("one", encoded(drawn(1)))])}
    details = {
        find_contaminated(analysis, EvaluationImages(order), CONFIG)["a"][0].detail for order in (shards, shards[::-1])
    }
    assert details == {"the same file as in sample 'x' of the evaluation set 'art'"}


def test_empty_sets_and_empty_shards_hold_nothing(tmp_path: Path) -> None:
    train = [shown("one", encoded(drawn(1)))]
    for number, (some, bench) in enumerate([([], train), (train, []), ([], []), ([shown("text")], train)]):
        assert found_in(tmp_path / str(number), some, bench) == {}
    assert find_contaminated({}, EvaluationImages([]), CONFIG) == {}


def test_no_copy_points_to_a_contaminated_sample(tmp_path: Path) -> None:
    data = encoded(drawn(1))
    train = [shown("first", data), shown("second", data), shown("third", data)]
    files = {"a": write_analysis(tmp_path / "a.parquet", train)}
    assert [copy.row for copy in find_duplicates(files, CONFIG)["a"]] == [1, 2]
    left = find_duplicates(files, CONFIG, without={"a": {0}})["a"]
    assert [(copy.row, copy.duplicate_of) for copy in left] == [(2, "id of second")]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), distance=st.integers(0, 15), colours=st.sampled_from([0.0, 20.0]))
def test_no_kept_image_looks_like_an_evaluation_image(
    seed: int, distance: int, colours: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dice = random.Random(seed)
    centres = [dice.getrandbits(64) for _ in range(3)]
    looks = [(bytes([value]) * 12 + bytes([90]) * 12) * 8 for value in (80, 110, 150)]  # the left half differs

    def made(name: str) -> Sample:
        near = [dice.choice(centres) for _ in range(2)]
        for _ in range(dice.randrange(12)):
            near = [value ^ 1 << dice.randrange(64) for value in near]
        return hashed(name, near[0], mirrored=near[1], look=dice.choice(looks))

    bench, train = [made(f"b{number}") for number in range(25)], [made(f"t{number}") for number in range(40)]
    config = CurationConfig(anchors=((64, 64),), phash_distance=distance, colour_distance=colours)
    found = found_in(tmp_path_factory.mktemp("looks"), train, bench, config)
    assert found.keys() == {sample.name for sample in train if any(alike(sample, other, config) for other in bench)}


def alike(one: Sample, other: Sample, config: CurationConfig) -> bool:
    """Said once more in the plainest way."""
    mine, theirs = one.facts[0], other.facts[0]
    assert mine is not None
    assert theirs is not None
    small, flipped = (np.frombuffer(mine.miniature, np.uint8).reshape(8, 8, 3).astype(int)[:, ::s] for s in (1, -1))
    wanted = np.frombuffer(theirs.miniature, np.uint8).reshape(8, 8, 3).astype(int)
    return any(
        (phash ^ theirs.phash).bit_count() <= config.phash_distance
        and np.abs(look - wanted).mean() <= config.colour_distance
        for phash, look in ((mine.phash, small), (mine.mirrored_phash, flipped))
    )


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=20), st.integers(1, 9))
def test_ranges_are_expanded_in_order(ranges: list[tuple[int, int]], at_once: int) -> None:
    starts, counts = (np.array([pair[side] for pair in ranges], dtype=np.int64) for side in range(2))
    parts = list(contamination._expand_ranges(starts, counts, at_once))
    found = [pair for indices, numbers in parts for pair in zip(indices.tolist(), numbers.tolist(), strict=True)]
    assert found == [(i, start + step) for i, (start, count) in enumerate(ranges) for step in range(count)]
    longest = max((count for _, count in ranges), default=0)
    assert all(len(indices) <= max(at_once, longest) for indices, _ in parts)
