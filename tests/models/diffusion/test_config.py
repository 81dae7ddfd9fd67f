"""Sizes of the diffusion decoder: the published outputs, refusals, JSON."""

from dataclasses import replace
from typing import Any

import pytest

from models.diffusion.config import PUBLISHED_OUTPUTS, DecoderConfig, NoiseSchedule, Perturbation
from models.dualvitok.geometry import PUBLISHED_ANCHORS
from tests.models.diffusion.conftest import PLAIN


def test_every_anchor_and_256_has_an_output_of_twice_its_size() -> None:
    doubled = [(2 * height, 2 * width) for height, width in PUBLISHED_ANCHORS]
    assert set(PUBLISHED_OUTPUTS) == {*doubled, (512, 512)}
    # The published table: index of the output in the list.
    assert [PUBLISHED_OUTPUTS.index(size) for size in doubled] == [0, 2, 1, 8, 7, 10, 9, 6, 5, 4, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": ()}, "expected at least one"),
        ({"outputs": ((60, 64),)}, "sides multiples of 8 pixels"),
        ({"cell_px": 5}, "does not divide 16"),
        ({"space": "latent"}, "cells of 8 pixels"),
    ],
)
def test_configurations_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)


def test_configuration_survives_json() -> None:
    assert DecoderConfig.from_json(PLAIN.to_json()) == PLAIN
    assert DecoderConfig.from_json(DecoderConfig.published().to_json()) == DecoderConfig.published()


def test_epsilon_cannot_be_predicted_from_pure_noise() -> None:
    with pytest.raises(ValueError, match=r"schedule\.zero_terminal_snr: .*; use the prediction v_prediction or sample"):
        NoiseSchedule(prediction="epsilon", zero_terminal_snr=True)


def test_shares_of_the_perturbation_are_between_0_and_1() -> None:
    with pytest.raises(ValueError, match="expected shares from 0 to 1"):
        Perturbation(drop_pixel=1.5)
