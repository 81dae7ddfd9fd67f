"""Input settings are read back as they were saved, and a malformed file is refused."""

import json
from pathlib import Path

import pytest

from data_pipelines.images.model_input import InputSizes
from data_pipelines.inference.input_settings import INPUT_FILE, ModelInput, load_input, save_input
from models.json_config import ConfigError

SETTINGS = ModelInput(sizes=InputSizes(pixel_factor=8, max_pixels=128**2), anchors=((64, 64), (48, 96)))


def test_settings_are_read_back_as_they_were_saved(tmp_path: Path) -> None:
    save_input(SETTINGS, tmp_path)
    assert load_input(tmp_path) == SETTINGS


def test_a_file_with_other_fields_is_refused(tmp_path: Path) -> None:
    save_input(SETTINGS, tmp_path)
    path = tmp_path / INPUT_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scale": 2}))
    with pytest.raises(ConfigError, match=r"input\.json.*scale"):
        load_input(tmp_path)
