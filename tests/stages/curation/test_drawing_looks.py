"""Close looks at drawn images: by a map they find what the driver finds, and none is made twice."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from data_pipelines.curation.drawing_look import LookQuestion, look_at
from data_pipelines.images.limits import DecodeLimits
from orchestrator.testing import folder_context
from stages.curate import CURATE
from stages.curation import drawing_looks
from stages.curation.drawing_looks import looks_on_workers
from tests.data_pipelines.curation.curated import encoded, records_of
from tests.data_pipelines.images.drawings import COPIES, equation


def drawn_pairs(folder: Path) -> tuple[Path, list[LookQuestion]]:
    """The records of three formulas and a copy of each, and all questions about them."""
    import pyarrow.parquet as pq

    images = [equation(Random(seed)) for seed in range(3)]
    images += [COPIES["JPEG of quality 90"](image) for image in images]
    samples = [(str(number), encoded(image.convert("RGB")), "words") for number, image in enumerate(images)]
    records = records_of(folder, samples)
    (table,) = (records / "records").iterdir()
    digests = [row["images"][0] for row in pq.read_table(table).to_pylist()]
    questions = [
        LookQuestion(shard=table.stem, images=(one,), other_shard=table.stem, other_images=(other,),
                     mirrored=False, cropped=False)
        for number, one in enumerate(digests)
        for other in digests[number + 1 :]
    ]  # fmt: skip
    return records, questions


def test_a_map_answers_as_the_driver_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, questions = drawn_pairs(tmp_path)
    folders = {questions[0].shard: records}
    wanted = look_at(questions, folders, DecodeLimits())
    assert [question for question, same in zip(questions, wanted, strict=True) if same] == [
        questions[at] for at in (2, 7, 11)  # each formula and its own copy
    ]  # fmt: skip
    monkeypatch.setattr(drawing_looks, "MIN_LOOKS_FOR_MAP", 1)
    monkeypatch.setattr(drawing_looks, "LOOKS_PER_SHARD", 4)
    context = folder_context(CURATE, tmp_path / "work", inputs={"records": [records]})
    answer = looks_on_workers(context, folders, DecodeLimits())
    shuffled: Sequence[int] = Random(1).sample(range(len(questions)), len(questions))
    assert answer([questions[at] for at in shuffled]) == [wanted[at] for at in shuffled]
