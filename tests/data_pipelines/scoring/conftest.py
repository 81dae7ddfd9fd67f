"""Tiny scorers and the records that they score."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from data_pipelines.scoring.scorers import Similarity
from tests.data_pipelines.curation.curated import drawn, encoded, records_of
from tests.data_pipelines.scoring.scored import CAPTIONS
from tests.data_pipelines.scoring.tiny_scorers import write_classifier, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def similarity(clip: Path) -> Similarity:
    return Similarity(clip, "cpu", torch.float32)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven records: three plain images, one again with other words, a broken one, one without words, a long one."""
    data = [encoded(drawn(seed)) for seed in range(3)]
    long = encoded(Image.new("RGB", (600, 4), (200, 10, 10)))
    lines = [(f"p{number}", data[number], CAPTIONS[number]) for number in range(3)]
    lines += [
        ("again", data[0], CAPTIONS[1]),
        ("broken", data[1][:90], "a"),
        ("silent", data[2], " "),
        ("l", long, "l"),
    ]
    return records_of(tmp_path_factory.mktemp("records"), lines)
