"""The table of stage kinds. To add a stage: write its file and put its constant here.

Public, and changed only with a note in CHANGELOG.md: `STAGE_KINDS`, the kinds by name, whose configurations are the
`config` of recipes; `stages/recipes/*.yaml`; `stages.finished_run.FinishedRun`, the models of a run; and
`stages.provenance.trace.Trace`, what `illume trace` finds.

Example: `STAGE_KINDS["curate"].inputs`
"""

from collections.abc import Mapping
from typing import Any

from orchestrator.stage import StageKind
from stages.adopt import ADOPT_DECODER, ADOPT_MLLM, ADOPT_TOKENIZER
from stages.curate import CURATE
from stages.draw_benchmark import DRAW_BENCHMARK
from stages.evaluate import EVALUATE
from stages.export import EXPORT
from stages.extend_vocabulary import EXTEND_VOCABULARY
from stages.generate_shapes import GENERATE_SHAPES
from stages.index_images import INDEX_IMAGES
from stages.index_samples import INDEX_SAMPLES
from stages.ingest import INGEST
from stages.score_images import SCORE_IMAGES
from stages.score_tokenizer import SCORE_TOKENIZER
from stages.tokenize_images import TOKENIZE_IMAGES
from stages.train_decoder import TRAIN_DECODER
from stages.train_mllm import TRAIN_MLLM
from stages.train_tokenizer import TRAIN_TOKENIZER
from stages.train_vision import TRAIN_VISION

STAGE_KINDS: Mapping[str, StageKind[Any]] = {
    kind.name: kind
    for kind in (
        GENERATE_SHAPES,
        INGEST,
        SCORE_IMAGES,
        CURATE,
        INDEX_IMAGES,
        INDEX_SAMPLES,
        TRAIN_VISION,
        TRAIN_TOKENIZER,
        SCORE_TOKENIZER,
        TOKENIZE_IMAGES,
        EXTEND_VOCABULARY,
        TRAIN_MLLM,
        TRAIN_DECODER,
        ADOPT_TOKENIZER,
        ADOPT_MLLM,
        ADOPT_DECODER,
        EVALUATE,
        DRAW_BENCHMARK,
        EXPORT,
    )
}
