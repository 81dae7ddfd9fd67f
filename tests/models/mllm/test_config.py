"""Sizes of the unified model and settings of sampling: refusals, JSON."""

from dataclasses import replace

import pytest

from models.mllm.config import LevelSampling, LossWeights, MllmConfig, SamplingConfig
from tests.models.mllm.conftest import make_config


def test_impossible_sampling_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected temperature > 0"):
        LevelSampling(temperature=0)
    with pytest.raises(ValueError, match="force_image with max_images 0"):
        SamplingConfig(
            text=LevelSampling(), semantic=LevelSampling(), pixel=LevelSampling(), force_image=True, max_images=0
        )


def test_configuration_survives_json() -> None:
    assert MllmConfig.from_json(make_config().to_json()) == make_config()
    assert MllmConfig.from_json(MllmConfig.published_7b().to_json()) == MllmConfig.published_7b()


def test_heads_must_share_the_width_evenly() -> None:
    text = make_config().text
    with pytest.raises(ValueError, match=r"text\.hidden_size: 36 over 4 heads; heads need an equal, even width"):
        replace(text, hidden_size=36)
    with pytest.raises(ValueError, match=r"num_key_value_heads: 3 does not divide num_heads \(4\)"):
        replace(text, num_key_value_heads=3)


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (-1.0, 1.0, 1.0)])
def test_at_least_one_kind_of_token_must_have_a_weight(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="expected none below 0 and at least one above"):
        LossWeights(text=weights[0], semantic=weights[1], pixel=weights[2])
