"""The skipped data of a training, and its state file."""

from pathlib import Path

from stages.training.checkpoints.progress import Progress, Skip, parse_progress, read_progress


def test_a_data_step_leads_back_to_the_optimizer_step_that_consumed_it() -> None:
    progress = Progress(step=30, skips=(Skip(at=5, count=3), Skip(at=5, count=2), Skip(at=9, count=1)))
    consumed = {progress.data_step(step): step for step in range(30)}
    assert len(consumed) == 30
    assert {data_step: progress.optimizer_step(data_step) for data_step in range(36)} == {
        data_step: consumed.get(data_step) for data_step in range(36)
    }


def test_a_folder_without_a_state_has_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path) == Progress(step=0, skips=())


def test_the_state_of_the_former_format_is_read() -> None:
    state = b'{"format": 2, "step": 7, "skips": [{"at": 5, "count": 2}], "weights": ["m"], "optimizers": []}'
    assert parse_progress(state) == Progress(step=7, skips=(Skip(at=5, count=2),))
