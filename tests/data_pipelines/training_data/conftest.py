"""Two small datasets with tokens, how they are rendered, and the training data of a config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.images.model_input import InputSizes
from data_pipelines.tokens.text_tokenizer import ChatTokenizer, train_text_tokenizer
from data_pipelines.training_data.config import LoaderConfig, LoadingGuards
from data_pipelines.training_data.index import Rendering
from data_pipelines.training_data.index_build import build_training_index
from data_pipelines.training_data.loader import TrainingData
from data_pipelines.training_data.sources import SourceFolders
from models.mllm.vocabulary import VisionVocabulary


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    chat = ChatTokenizer(train_text_tokenizer([f"word{n} user assistant image" for n in range(50)], 300))
    vocabulary = VisionVocabulary(
        first_id=chat.num_text_ids + 3, semantic_codes=64, pixel_codes=192, resolutions=(64, 128)
    )
    sizes = InputSizes(pixel_factor=8, min_pixels=32**2, max_pixels=64**2)
    return Rendering(tokenizer=chat, vocabulary=vocabulary, sizes=sizes)


@pytest.fixture(scope="module")
def made(make_dataset: Callable[..., Any]) -> list[Any]:
    return [make_dataset(60, name="first"), make_dataset(33, name="second")]


@pytest.fixture(scope="module")
def open_data(made: list[Any], rendering: Rendering, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    sources = [SourceFolders(dataset=dataset.dataset, tokens=dataset.tokens) for dataset in made]
    built: dict[str, Path] = {}

    def open_(config: LoaderConfig) -> TrainingData:
        key = repr(config)
        if key not in built:
            built[key] = tmp_path_factory.mktemp("index")
            build_training_index(sources, config, rendering, built[key], LoadingGuards(max_dropped_share=0.9))
        return TrainingData(sources, config, rendering, built[key])

    return open_
