"""The image sizes that a model was trained with, saved with its weights so that inference uses the same."""

from dataclasses import dataclass
from pathlib import Path

from data_pipelines.images.model_input import InputSizes
from models import json_config
from models.dualvitok.geometry import Size

INPUT_FILE = "input.json"


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    sizes: InputSizes
    anchors: tuple[Size, ...]  # (height, width); images are cropped to, generated at and edited at these sizes


def save_input(model_input: ModelInput, folder: Path) -> None:
    (folder / INPUT_FILE).write_text(json_config.to_json(model_input))


def load_input(folder: Path) -> ModelInput:
    """The settings that `save_input` wrote to `folder`. Raises: ConfigError for a malformed file."""
    path = folder / INPUT_FILE
    return json_config.from_json(ModelInput, path.read_text(), where=str(path))
