"""The decoder's sizes in the configuration of transformers."""

from typing import Any

import pytest

from models.mllm.config import MllmConfig, TextModelConfig
from models.mllm.text_model import text_config_from_published, text_config_to_published
from models.strict_weights import WeightsError
from tests.models.mllm.conftest import make_config


@pytest.mark.parametrize("config", [make_config().text, MllmConfig.published_3b().text, MllmConfig.published_7b().text])
def test_sizes_survive_the_way_to_transformers_and_back(config: TextModelConfig) -> None:
    settings = text_config_to_published(config, rows=100)
    assert settings["vocab_size"] == 100
    assert text_config_from_published(settings, where="config.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "config.json: rotary positions of type .*yarn"),
        ({"hidden_size": "wide"}, "expected the configuration of a Qwen2 model"),
        ({"num_attention_heads": 5}, "text.hidden_size: 32 over 5 heads"),
    ],
)
def test_another_architecture_is_refused(change: dict[str, Any], message: str) -> None:
    settings = text_config_to_published(make_config().text, rows=100) | change
    with pytest.raises(WeightsError, match=message):
        text_config_from_published(settings, where="config.json")


def test_older_files_state_the_rotary_base_at_the_top_level() -> None:
    settings = text_config_to_published(make_config().text, rows=100)
    settings.pop("rope_parameters")
    assert text_config_from_published(settings | {"rope_theta": 5000.0}, where="config.json").rope_theta == 5000.0
