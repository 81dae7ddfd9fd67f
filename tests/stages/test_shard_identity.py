"""What shards are identified by: the settings that decide their bytes, in one encoding, without defaults."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.curation.config import (
    MEASURED,
    NOT_JUDGED,
    STORED,
    CurationConfig,
    decode_limits,
    judge_config,
    stored_size,
)
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.scoring.bounds import ScoreBounds
from data_pipelines.shapes.config import ShapesConfig
from models.mllm.config import LevelSampling, SamplingConfig
from orchestrator.identity import semantic_config
from orchestrator.shards import Shard
from orchestrator.stage import Location, StageKind
from orchestrator.testing import FolderInputs
from stages.draw_benchmark import DRAW_BENCHMARK, DrawBenchmarkConfig
from stages.generate_shapes import GENERATE_SHAPES
from stages.ingest import INGEST, IngestStageConfig
from tests.orchestrator.grown_config import grown

OTHER_VALUES: Mapping[str, Any] = {  # a valid value other than that of `CURATION` for each setting
    "anchors": ((64, 64), (48, 96)),
    "formats": ("PNG",),
    "repair_captions": ("caption_pii",),
    "allowed_licenses": ("CC0-1.0",),
    "languages": ("en",),
    "score_bounds": {"fit": ScoreBounds(at_least=0.2)},
    "duplicate_scope": "off",
    "max_crop": 0.3,
    "semantic_distance": 0.1,
    "semantic_probes": 4,
    "max_stored_side": 256,
    "stored_quality": 80,
}
CURATION = CurationConfig(anchors=((64, 64),), max_stored_side=128)


class MapStartedError(Exception):
    """Ends a stage where it begins its map."""


@dataclass(kw_only=True)
class MapContext:
    """A stage's context up to its first map, whose identity it keeps."""

    identity: Any = None

    def input(self, slot: str) -> Any:
        return type("Artifact", (), {"fingerprint": slot, "path": Path(slot)})

    def inputs(self, slot: str) -> Sequence[Any]:
        return ()

    def execution(self, settings: type[Any]) -> Any:
        return settings()

    @property
    def node_inputs(self) -> FolderInputs:
        return FolderInputs()

    @property
    def tombstones(self) -> Mapping[str, frozenset[str]]:
        return {}

    @property
    def source_digests(self) -> Mapping[str, str]:
        return {}

    def map_shards(self, _worker: Any, shards: Sequence[Shard], *, identity: Any, **_rest: Any) -> Any:
        self.identity = [identity, [[shard.items, shard.identity] for shard in shards]]
        raise MapStartedError


def map_identity(kind: StageKind[Any], config: Any) -> Any:
    context: Any = MapContext()
    with pytest.raises(MapStartedError):
        kind.run(config, context)
    return json.loads(json.dumps(context.identity))


@pytest.fixture
def configs(tmp_path: Path) -> Mapping[str, tuple[StageKind[Any], Any, Any]]:
    """By kind: a configuration and one that gives other bytes."""
    data = tmp_path / "a.jsonl"
    data.write_text('{"conversations": []}\n')
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    ingest = IngestStageConfig(read=IngestConfig(source="a"), paths=(Location(data),))
    shapes = ShapesConfig(seed=1, understanding=4, generation=4, editing=4, text=4)
    level = LevelSampling()
    draw = DrawBenchmarkConfig(
        format="prompts",
        data=Location(prompts),
        size=(64, 64),
        sampling=SamplingConfig(text=level, semantic=level, pixel=level),
    )
    return {
        "ingest": (INGEST, ingest, replace(ingest, read=IngestConfig(source="b"))),
        "generate_shapes": (GENERATE_SHAPES, shapes, replace(shapes, max_shapes=2)),
        "draw_benchmark": (DRAW_BENCHMARK, draw, replace(draw, diffusion_steps=3)),
    }


@pytest.mark.parametrize("name", ["ingest", "generate_shapes", "draw_benchmark"])
def test_a_new_setting_with_a_default_keeps_the_shards(
    name: str, configs: Mapping[str, tuple[StageKind[Any], Any, Any]]
) -> None:
    kind, config, other = configs[name]
    identity = map_identity(kind, config)
    assert map_identity(kind, grown(config)) == identity
    assert map_identity(kind, other) != identity


@pytest.mark.parametrize("name", [field.name for field in fields(CurationConfig)])
def test_a_setting_of_a_curation_identifies_the_shards_of_exactly_the_steps_that_read_it(name: str) -> None:
    value = getattr(CURATION, name)
    usual: Any = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else None
    changed = replace(CURATION, **{name: OTHER_VALUES.get(name, usual)})
    assert changed != CURATION

    def is_identity(**part: Any) -> bool:
        return semantic_config(changed, **part) != semantic_config(CURATION, **part)

    assert is_identity(only=MEASURED) == (decode_limits(changed) != decode_limits(CURATION))
    assert is_identity(only=STORED) == (stored_size(changed) != stored_size(CURATION))
    assert is_identity(without=NOT_JUDGED) == (judge_config(changed) != judge_config(CURATION))
    assert semantic_config(grown(changed), without=NOT_JUDGED) == semantic_config(changed, without=NOT_JUDGED)
