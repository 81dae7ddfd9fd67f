"""The files of a model folder are listed without loading it, and folders that cannot be loaded are refused."""

import json
from pathlib import Path

import pytest

from data_pipelines.scoring.model_files import class_labels, model_files


def write(folder: Path, *names: str, **config: object) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(json.dumps(config) if name == "config.json" else "")
    return folder


def test_only_files_that_loading_may_read_are_listed(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "config.json", "model.safetensors", "merges.txt", "model.bin", "code.py")
    (folder / "cache.json").mkdir()
    assert sorted(model_files(folder)) == ["config.json", "merges.txt", "model.safetensors"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("model.safetensors",), "no config.json"),
        (("config.json", "pytorch_model.bin"), "no safetensors; other weights"),
    ],
)
def test_folders_that_cannot_be_loaded_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        model_files(write(tmp_path / "m", *names))


def test_labels_come_in_the_order_of_the_configuration(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "config.json", id2label={"0": "safe", "1": "unsafe"})
    assert class_labels(folder) == ["safe", "unsafe"]
    assert class_labels(write(tmp_path / "n", "config.json")) == []
