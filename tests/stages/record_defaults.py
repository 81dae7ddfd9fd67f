"""Writes the table of defaults that `test_defaults.py` compares with: `python -m tests.stages.record_defaults`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.curation.contamination import ContaminationVerdict
from data_pipelines.curation.copies import CopyVerdict
from data_pipelines.curation.drawing_look import LookQuestion
from data_pipelines.duplicates.near_hashes import SearchTask
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.model_input import InputSizes
from data_pipelines.shapes.world import WorldFile
from data_pipelines.training_data.image_index import ImageSelection
from data_pipelines.training_data.sample_rows import SampleSelection
from models.mllm.vocabulary import VisionVocabulary
from orchestrator.artifact import JSON
from orchestrator.planning.defaults import forbidden_changes, recorded_defaults
from stages import STAGE_KINDS

TABLE = Path(__file__).with_name("recorded_defaults.json")
COMMAND = "python -m tests.stages.record_defaults"
# Classes of values that are part of identities of shards, but not of a config; each use of `semantic_json` in a stage.
SHARD_VALUES = {
    "curate": (CopyVerdict, ContaminationVerdict, SearchTask, DecodeLimits, LookQuestion),
    "generate_shapes": (WorldFile,),
    "index_images": (ImageSelection,),
    "index_samples": (SampleSelection, VisionVocabulary, InputSizes),
}


def current() -> dict[str, JSON]:
    return recorded_defaults(STAGE_KINDS, SHARD_VALUES)


def recorded() -> Mapping[str, JSON]:
    table: Mapping[str, JSON] = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    return table


def main() -> int:
    forbidden = forbidden_changes(recorded(), current())
    if forbidden:
        sys.stderr.write("\n".join(["not recorded:", *forbidden]) + "\n")
        return 1
    TABLE.write_text(json.dumps(current(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
