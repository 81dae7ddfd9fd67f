"""Checkpoints of today and of before, read slice by slice; those that do not fit are refused before a byte is read."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stages.training.checkpoints.progress import PROGRESS_FILE
from stages.training.checkpoints.reader import (
    AVERAGE_PREFIX,
    CheckpointError,
    check_shapes,
    has_weights,
    load_trained_weights,
    open_checkpoint,
    weight_name,
)
from stages.training.checkpoints.slices import TensorSlice, slice_file, tensor_digest, whole

TABLE = torch.arange(20.0).view(5, 4)


def write(folder: Path, *parts: list[TensorSlice], frozen: dict[str, str] | None = None, format: int = 3) -> Path:
    """A checkpoint of one file for each writer."""
    names = sorted({item.name for part in parts for item in part})
    state = {"format": format, "step": 3, "skips": [], "tensors": names, "frozen": frozen or {}}
    folder.mkdir(exist_ok=True)
    (folder / PROGRESS_FILE).write_text(json.dumps(state))
    for number, part in enumerate(parts):
        (folder / f"worker-{number:05d}.safetensors").write_bytes(b"".join(slice_file(part).chunks()))
    return folder


def rows(start: int, stop: int) -> TensorSlice:
    return TensorSlice(name="weights/m/table", shape=(5, 4), offset=(start, 0), tensor=TABLE[start:stop].contiguous())


@pytest.mark.parametrize("bounds", [(0, 5), (0, 2, 5), (0, 2, 4, 5)])
@pytest.mark.parametrize("wanted", [(0, 5), (1, 4), (4, 5)])
def test_any_block_is_read_from_any_division(bounds: tuple[int, ...], wanted: tuple[int, int], tmp_path: Path) -> None:
    parts = [[rows(start, stop)] for start, stop in pairwise(bounds)]
    parts[-1].append(whole("weights/m/count", torch.tensor(7)))
    reader = open_checkpoint(write(tmp_path / "c", *parts))
    start, stop = wanted
    assert torch.equal(reader.read("weights/m/table", (start, 0), (stop - start, 4)), TABLE[start:stop])
    assert reader.read("weights/m/count", (), ()).item() == 7


def test_a_worker_whose_file_is_not_there_is_missed(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", [rows(0, 2)], [rows(2, 5)])
    (folder / "worker-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"parts of 1 tensors are missing: weights/m/table; the file of a worker"):
        open_checkpoint(folder)


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"format 9; expected 2 or 3"):
        open_checkpoint(write(tmp_path / "c", [], format=9))


def test_a_checkpoint_of_another_model_is_refused_with_names_and_shapes(tmp_path: Path) -> None:
    reader = open_checkpoint(write(tmp_path / "c", [rows(0, 5), whole("weights/other/x", torch.ones(1))]))
    with pytest.raises(CheckpointError) as refused:
        check_shapes(reader, {"weights/m/table": (5, 5), "weights/m/bias": (5,)}, where="here")
    assert str(refused.value) == (
        "here: a checkpoint of another model; nothing was loaded. 1 missing: weights/m/bias; 1 unexpected: "
        "weights/other/x; 1 of another shape: weights/m/table [5, 4] instead of [5, 5]; raise the kind's version"
    )


def part_of(module: nn.Module, name: str, frozen: tuple[str, ...] = ()) -> list[TensorSlice]:
    return [whole(weight_name(name, key), value) for key, value in module.state_dict().items() if key not in frozen]


def test_what_did_not_train_stays_as_it_was_built_and_is_compared(tmp_path: Path) -> None:
    trained, built = nn.Linear(3, 2), nn.Linear(3, 2)
    digest = {weight_name("m", "bias"): tensor_digest(built.bias)}
    folder = write(tmp_path / "c", part_of(trained, "m", frozen=("bias",)), frozen=digest)
    bias = built.bias.detach().clone()
    load_trained_weights(folder, "m", built)
    assert torch.equal(built.weight, trained.weight)
    assert torch.equal(built.bias, bias)
    with pytest.raises(CheckpointError, match=r"1 tensors that do not train differ .* weights/m/bias"):
        load_trained_weights(folder, "m", nn.Linear(3, 2))


def test_the_moving_average_is_the_result_where_one_was_kept(tmp_path: Path) -> None:
    model, average = nn.Linear(3, 2), nn.Linear(3, 2)
    folder = write(tmp_path / "c", part_of(model, "m"), part_of(average, f"{AVERAGE_PREFIX}m"))
    assert has_weights(folder, "m")
    assert not has_weights(folder, "other")
    load_trained_weights(folder, "m", model)
    assert torch.equal(model.weight, average.weight)


def test_a_checkpoint_of_the_former_format_is_read_by_names(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    save_file(dict(model.state_dict()), str(tmp_path / "weights-m.safetensors"))
    slots = {"0.exp_avg": torch.ones(2, 3), "0.step": torch.tensor(4.0), "1.exp_avg": torch.zeros(2)}
    save_file(slots, str(tmp_path / "optimizer-fit.safetensors"))
    state = {"format": 2, "step": 4, "skips": [], "weights": ["m"], "optimizers": ["fit"]}
    (tmp_path / PROGRESS_FILE).write_text(json.dumps(state))
    reader = open_checkpoint(tmp_path, {"fit": ["weight", "bias"]})
    assert set(reader.shapes) == {
        "weights/m/weight",
        "weights/m/bias",
        "optimizer/fit/weight/exp_avg",
        "optimizer/fit/weight/step",
        "optimizer/fit/bias/exp_avg",
    }
    assert reader.read("optimizer/fit/weight/exp_avg", (1, 0), (1, 3)).tolist() == [[1.0, 1.0, 1.0]]
    other = nn.Linear(3, 2)
    load_trained_weights(tmp_path, "m", other)
    assert torch.equal(other.weight, model.weight)
