"""The index of the training data: samples that cannot be trained are left out, wrong data are refused."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.tokens.token_shards import TokenizerIdentity, TokensError
from data_pipelines.training_data.config import LoaderConfig, LoadingError, LoadingGuards, MixturePart
from data_pipelines.training_data.index import Rendering, index_settings
from data_pipelines.training_data.index_build import build_training_index
from data_pipelines.training_data.order import TrainingOrder
from data_pipelines.training_data.sources import SourceFolders
from tests.data_pipelines.training_data.loader_configs import TASKS, TWO_PARTS, config_of
from tests.orchestrator.grown_config import grown

FIFTH = LoadingGuards(max_dropped_share=0.2)


def test_samples_that_cannot_be_trained_are_dropped_with_their_reason(
    make_dataset: Callable[..., Any], wanted: Callable[..., Any], rendering: Rendering, tmp_path: Path
) -> None:
    good = [wanted(task="text", turns=(f"Say {n}", "yes")) for n in range(20)]
    bad = [
        wanted(task="text", turns=("Say", "word " * 900)),
        wanted(task="understanding", turns=("No image here", "yes"), anchors=((64, 64),)),
        wanted(task="generation", turns=("Draw {resolution_tag}", "<image>"), anchors=((64, 64),)),
        wanted(task="text", turns=("Say", "no"), verdict="drop"),
        wanted(task="text", turns=("Say", "no"), split="val"),
    ]
    made = make_dataset([*good, *bad], name="bad")
    source = SourceFolders(dataset=made.dataset, tokens=made.tokens)
    config = config_of()
    index = build_training_index([source], config, rendering, tmp_path / "a", FIFTH)
    assert index.dropped == {"too_long": 1, "cannot_be_rendered": 1}
    lines = [json.loads(line) for line in (tmp_path / "a/dropped.jsonl").read_text().splitlines()]
    assert {line["sample_id"]: line["reason"] for line in lines} == {
        made.ids[20]: "too_long",
        made.ids[21]: "cannot_be_rendered",
    }
    order = TrainingOrder(index, config)
    assert order.steps_that_saw([made.ids[20], made.ids[23], made.ids[24]], before_step=50) == [[], [], []]
    assert order.steps_that_saw([made.ids[22]], before_step=50)[0]
    with pytest.raises(LoadingError, match="lengthen row_tokens, or set too_long: drop"):
        build_training_index([source], config, rendering, tmp_path / "b", LoadingGuards(too_long="error"))
    with pytest.raises(LoadingError, match=r"2 of 23 samples cannot be trained .* max_dropped_share 0\.05"):
        build_training_index([source], config_of(), rendering, tmp_path / "c")


def test_samples_whose_images_were_not_tokenized_are_dropped(
    make_dataset: Callable[..., Any], rendering: Rendering, tmp_path: Path
) -> None:
    absent = hashlib.sha256(b"gaps/2").hexdigest()
    made = make_dataset(12, name="gaps", without=[absent])
    source = SourceFolders(dataset=made.dataset, tokens=made.tokens)
    index = build_training_index([source], config_of(), rendering, tmp_path / "a", FIFTH)
    assert made.ids[2] == absent
    assert index.dropped == {"no_codes": 1}


def test_wrong_data_are_refused_before_training(
    make_dataset: Callable[..., Any], made: list[Any], rendering: Rendering, tmp_path: Path
) -> None:
    sources = [SourceFolders(dataset=dataset.dataset, tokens=dataset.tokens) for dataset in made]
    other = TokenizerIdentity(sha256="b" * 64, semantic_codes=64, pixel_codes=192, pixel_factor=8)
    mixed = make_dataset(8, name="mixed", tokenizer=other)
    wide = TokenizerIdentity(sha256="b" * 64, semantic_codes=65, pixel_codes=192, pixel_factor=8)
    wider = make_dataset(8, name="wider", tokenizer=wide)

    def build(config: LoaderConfig, used: list[SourceFolders]) -> None:
        build_training_index(used, config, rendering, tmp_path / f"index-{len(list(tmp_path.iterdir()))}")

    with pytest.raises(TokensError, match="with the same tokenizer"):
        build(config_of(*TWO_PARTS), [sources[0], SourceFolders(dataset=mixed.dataset, tokens=mixed.tokens)])
    with pytest.raises(LoadingError, match="make both from the same image tokenizer"):
        build(config_of(), [SourceFolders(dataset=wider.dataset, tokens=wider.tokens)])
    with pytest.raises(LoadingError, match="need image tokens, but dataset 0 has none"):
        build(config_of(), [SourceFolders(dataset=made[0].dataset)])
    with pytest.raises(LoadingError, match="there are 1 datasets"):
        build(config_of(MixturePart(tasks=TASKS, weight=1, dataset=1)), sources[:1])
    with pytest.raises(LoadingError, match="no kept sample of split 'test' with tasks text"):
        build(config_of(MixturePart(tasks=("text",), weight=1, split="test")), sources)


def test_a_new_setting_with_a_default_keeps_the_order_of_a_begun_training(rendering: Rendering) -> None:
    config = config_of(*TWO_PARTS)
    settings = index_settings(config, rendering)
    grown_rendering = replace(rendering, vocabulary=grown(rendering.vocabulary), sizes=grown(rendering.sizes))
    assert index_settings(grown(config), grown_rendering) == settings
    assert index_settings(replace(config, row_tokens=9), rendering) != settings
