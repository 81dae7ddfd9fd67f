"""How a trained model was shown its pictures, kept beside its weights so that inference shows them the same way."""

from dataclasses import dataclass
from pathlib import Path

from data_pipelines.images.model_input import InputSizes
from models import json_config
from models.dualvitok.geometry import Size

INPUT_FILE = "input.json"


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    sizes: InputSizes
    anchors: tuple[Size, ...]  # (height, width): the sizes that pictures are cropped to, drawn at and edited at


def save_input(found: ModelInput, folder: Path) -> None:
    (folder / INPUT_FILE).write_text(json_config.to_json(found))


def load_input(folder: Path) -> ModelInput:
    """Raises: ConfigError for a file that is not what `save_input` wrote."""
    path = folder / INPUT_FILE
    return json_config.from_json(ModelInput, path.read_text(), where=str(path))
