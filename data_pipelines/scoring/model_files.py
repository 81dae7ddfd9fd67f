"""Reads the file list and labels of model folders in the layout of transformers, without loading the model."""

import json
from pathlib import Path

READ_ENDINGS = (".json", ".safetensors", ".txt", ".model", ".jinja")  # of files that loading a model may read


def model_files(folder: Path) -> dict[str, Path]:
    """The files that a model is loaded from, by name.

    Raises: FileNotFoundError for a folder without a configuration or without safetensors.
    """
    found = {path.name: path for path in sorted(folder.glob("*")) if path.suffix in READ_ENDINGS and path.is_file()}
    if "config.json" not in found:
        raise FileNotFoundError(f"{folder}: no config.json; give the folder of a model of transformers")
    if not any(name.endswith(".safetensors") for name in found):
        raise FileNotFoundError(f"{folder}: no safetensors; other weights are not read, convert them first")
    return found


def class_labels(folder: Path) -> list[str]:
    """The names of a classifier's classes, in the order of its configuration; empty if it names none."""
    labels = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label", {})
    return [str(label) for label in labels.values()]
