"""The benchmark of curation measures images that are kept."""

import importlib
from pathlib import Path

import pytest

from data_pipelines.curation.config import CurationConfig
from data_pipelines.datasets.ingested_reader import record_shards


def test_drawn_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # where a benchmark finds its neighbours
    benchmark = importlib.import_module("bench_curation")
    records = benchmark.write_records(tmp_path, benchmark.drawn_jpegs(6, 512))
    config = CurationConfig(anchors=benchmark.ANCHORS, duplicate_scope="image")
    benchmark.curate(records, record_shards(records), tmp_path / "output", config, None)
    monkeypatch.setattr(benchmark, "MIN_KEPT", 1.1)
    with pytest.raises(SystemExit, match="curation kept 6 of 6 images"):
        benchmark.curate(records, record_shards(records), tmp_path / "again", config, None)
