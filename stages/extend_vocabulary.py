"""Makes the token vocabulary: a text tokenizer, trained or adopted, and the image tokens after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import PrecheckError
from orchestrator.learning import Learned
from orchestrator.stage import Location, Slot, StageContext, StageKind
from stages.node_data import OPTIONAL_DATASETS, open_inputs


@dataclass(frozen=True, kw_only=True)
class ExtendVocabularyConfig:
    resolutions: tuple[int, ...]  # pixels; side lengths for which there are a height and a width tag
    text_vocabulary: int = 0  # size of the text tokenizer to train; 0: adopt `text_tokenizer`
    first_id: int = 0  # of the image tokens in an adopted tokenizer, e.g. 151665 for Qwen2.5; 0: right after the text
    text_tokenizer: Location = Location("")  # a tokenizer.json to adopt

    def __post_init__(self) -> None:
        if bool(self.text_vocabulary) == bool(self.text_tokenizer):
            raise ValueError("give either text_vocabulary (train one) or text_tokenizer (adopt a tokenizer.json)")


def sources(config: ExtendVocabularyConfig) -> Mapping[str, Path]:
    return {"tokenizer.json": Path(config.text_tokenizer)} if config.text_tokenizer else {}


def run(config: ExtendVocabularyConfig, context: StageContext) -> Mapping[str, float]:
    from data_pipelines.tokens.vocabulary import build_vocabulary

    open_inputs(context.node_inputs)
    return build_vocabulary(
        [artifact.path for artifact in context.inputs("datasets")],
        context.input("tokenizer").path,
        context.output,
        resolutions=config.resolutions,
        text_vocabulary=config.text_vocabulary,
        first_id=config.first_id,
        text_tokenizer=Path(config.text_tokenizer) if config.text_tokenizer else None,
    )


def precheck(config: ExtendVocabularyConfig, inputs: Mapping[str, Any]) -> None:
    if config.text_vocabulary and not inputs.get("datasets"):
        raise PrecheckError("extend_vocabulary: text_vocabulary trains a text tokenizer, so it needs datasets")


EXTEND_VOCABULARY = StageKind(
    name="extend_vocabulary",
    version=2,
    config=ExtendVocabularyConfig,
    run=run,
    inputs={"datasets": OPTIONAL_DATASETS, "tokenizer": Slot(kind="tokenizer@1")},
    output="vocabulary@1",
    learned=Learned(from_samples=False, is_model=False),
    sources=sources,
    precheck=precheck,
    metrics={"text_ids": "ids of text tokens, and the first id of an image token", "vision_ids": "ids of image tokens"},
)
