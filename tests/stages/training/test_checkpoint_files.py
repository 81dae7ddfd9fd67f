"""Training states as files, and the skipped data in them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from stages.training.checkpoint_files import (
    AVERAGE_PREFIX,
    Progress,
    Skip,
    Snapshot,
    has_weights,
    load_state,
    load_trained_weights,
    read_progress,
)


def test_a_data_step_leads_back_to_the_optimizer_step_that_consumed_it() -> None:
    progress = Progress(step=30, skips=(Skip(at=5, count=3), Skip(at=5, count=2), Skip(at=9, count=1)))
    consumed = {progress.data_step(step): step for step in range(30)}
    assert len(consumed) == 30
    assert {data_step: progress.optimizer_step(data_step) for data_step in range(36)} == {
        data_step: consumed.get(data_step) for data_step in range(36)
    }


def trained_model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def test_a_saved_state_is_loaded_bit_for_bit_with_its_optimizer(tmp_path: Path) -> None:
    model, optimizer = trained_model()
    progress = Progress(step=3, skips=(Skip(at=1, count=2),))
    Snapshot.capture(weights={"model": model}, optimizers={"fit": optimizer}, progress=progress).write(tmp_path)
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    fresh_optimizer = torch.optim.AdamW(fresh.parameters(), lr=0.1)
    assert load_state(tmp_path, weights={"model": fresh}, optimizers={"fit": fresh_optimizer}) == progress
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())
    for index, slots in optimizer.state_dict()["state"].items():
        for key, value in slots.items():
            assert torch.equal(value, fresh_optimizer.state_dict()["state"][index][key]), key


def test_a_snapshot_does_not_change_with_further_training(tmp_path: Path) -> None:
    model, optimizer = trained_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    snapshot = Snapshot.capture(weights={"model": model}, optimizers={"fit": optimizer}, progress=Progress(step=3))
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in snapshot.weights["model"].items())
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])


def test_a_checkpoint_of_other_modules_is_refused(tmp_path: Path) -> None:
    model, optimizer = trained_model()
    Snapshot.capture(weights={"model": model}, optimizers={"fit": optimizer}, progress=Progress()).write(tmp_path)
    with pytest.raises(ValueError, match=r"the checkpoint holds .*'model'.*, but this stage needs .*'other'"):
        load_state(tmp_path, weights={"other": model}, optimizers={"fit": optimizer})


def test_the_moving_average_is_the_result_where_one_was_kept(tmp_path: Path) -> None:
    model, _ = trained_model()
    average, _ = trained_model()
    with torch.no_grad():
        average[0].weight.fill_(7)  # type: ignore[index]  # a Sequential
    Snapshot.capture(
        weights={"model": model, AVERAGE_PREFIX + "model": average}, optimizers={}, progress=Progress()
    ).write(tmp_path)
    assert has_weights(tmp_path, "model")
    assert not has_weights(tmp_path, "other")
    load_trained_weights(tmp_path, "model", model)
    assert torch.equal(model.state_dict()["0.weight"], torch.full((4, 3), 7.0))


def test_a_folder_without_a_state_has_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path) == Progress(step=0, skips=())
