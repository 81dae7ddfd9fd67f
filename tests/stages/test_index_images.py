"""The index of images as a stage: made once by a durable map, equal to the one that a training makes itself."""

from pathlib import Path

import pytest

from orchestrator.errors import PrecheckError
from stages.index_images import INDEX_IMAGES
from stages.programs.decoder_config import DECODER_IMAGES
from stages.programs.image_data import make_index
from stages.programs.index_config import IndexImagesConfig
from stages.programs.index_use import check_index_config
from tests.stages.index_world import Attempt, write_inputs


@pytest.mark.parametrize("config", [IndexImagesConfig(), IndexImagesConfig(tasks=("generation",)), DECODER_IMAGES])
def test_workers_make_what_one_process_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: IndexImagesConfig
) -> None:
    monkeypatch.setattr("orchestrator.shard_map.map_run.POLL_S", 0.002)
    inputs = write_inputs(tmp_path / "inputs")
    make_index(tmp_path / "expected", inputs["datasets"], config, inputs["tokens"] if config.tokenized else None)
    attempt = Attempt(kind=INDEX_IMAGES, folder=tmp_path, inputs=inputs)
    made, metrics = attempt.run(config)
    for expected in (tmp_path / "expected").iterdir():
        assert (made / expected.name).read_bytes() == expected.read_bytes(), expected.name
    assert metrics["images"] > 5
    attempt.run(config)
    assert attempt.counts() == [(0, 5), (5, 0)]


def test_an_index_of_other_images_is_refused() -> None:
    with pytest.raises(PrecheckError, match="has another tasks, tokenized than this stage needs"):
        check_index_config("train_decoder", {"index": IndexImagesConfig()}, DECODER_IMAGES)
