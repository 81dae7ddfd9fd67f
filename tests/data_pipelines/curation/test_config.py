"""Each step of curation depends only on the settings that it reads, and wrong settings are refused."""

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from data_pipelines.curation.config import (
    NOT_JUDGED,
    CurationConfig,
    decode_limits,
    judge_config,
)
from data_pipelines.images.limits import DecodeLimits
from tests.data_pipelines.curation.curated import CONFIG


def test_each_step_depends_only_on_the_settings_that_it_reads() -> None:
    copies = replace(CONFIG, duplicate_scope="image", phash_distance=3, colour_distance=1.0, mirrored_images=False)
    assert judge_config(copies) == judge_config(CONFIG) != judge_config(replace(CONFIG, min_side=33))
    assert (
        decode_limits(copies)
        == decode_limits(replace(CONFIG, min_side=33))
        != decode_limits(replace(CONFIG, max_pixels=99))
    )
    fields = {field.name for field in dataclasses.fields(CurationConfig)}
    assert fields > NOT_JUDGED
    assert {field.name for field in dataclasses.fields(DecodeLimits)} <= NOT_JUDGED
    assert DecodeLimits() == decode_limits(CurationConfig(anchors=((64, 64),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": ()}, "anchors: expected at least one"),
        ({"duplicate_scope": "all"}, "duplicate_scope: found 'all', expected one of"),
        ({"formats": ("EPS",)}, "formats: found"),
        ({"phash_distance": 40}, "phash_distance: found 40"),
        ({"max_stored_side": 63}, "max_stored_side: found 63, expected at least 64"),
        ({"stored_quality": 96}, "stored_quality: found 96, expected 1 to 95"),
        ({"repair_captions": ("caption_long",)}, "repair_captions: found .'caption_long'"),
    ],
)
def test_an_invalid_config_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurationConfig(**{"anchors": ((64, 64),), **change})
