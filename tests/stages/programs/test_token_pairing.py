"""Which tokens belong to which dataset."""

from pathlib import Path

import pytest

from orchestrator.errors import PrecheckError
from stages.programs.token_pairing import pair_tokens
from tests.data_pipelines.conftest import Wanted, write_dataset

SAMPLES = [Wanted(task="text", turns=("Say", "so"))]


def dataset(folder: Path, name: str) -> Path:
    """A dataset whose shards are named after it."""
    write_dataset(folder / "dataset", SAMPLES, name=name)
    return folder / "dataset"


def test_datasets_are_paired_with_their_tokens_in_order(tmp_path: Path) -> None:
    one, two = dataset(tmp_path / "1", "same"), dataset(tmp_path / "2", "same")
    pairs = pair_tokens("train_mllm", [one, two], [tmp_path / "t1", tmp_path / "t2"])
    assert [(pair.dataset, pair.tokens) for pair in pairs] == [(one, tmp_path / "t1"), (two, tmp_path / "t2")]


def test_tokens_made_of_several_datasets_serve_them_all(tmp_path: Path) -> None:
    one, two = dataset(tmp_path / "1", "one"), dataset(tmp_path / "2", "two")
    pairs = pair_tokens("train_mllm", [one, two], [tmp_path / "tokens"])
    assert [(pair.dataset, pair.tokens) for pair in pairs] == [(one, tmp_path / "tokens"), (two, tmp_path / "tokens")]


def test_datasets_that_share_tokens_and_a_shard_name_are_refused(tmp_path: Path) -> None:
    one, two = dataset(tmp_path / "1", "same"), dataset(tmp_path / "2", "same")
    with pytest.raises(PrecheckError, match=r"train_decoder: the datasets .* both have a shard 'same-00000' and share"):
        pair_tokens("train_decoder", [one, two], [tmp_path / "tokens"])


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_a_number_of_tokens_that_fits_nothing_is_refused(tmp_path: Path, num_tokens: int) -> None:
    folders = [dataset(tmp_path / str(number), f"d{number}") for number in range(3)]
    tokens = [tmp_path / f"t{number}" for number in range(num_tokens)]
    with pytest.raises(PrecheckError, match=rf"train_mllm: 3 datasets but {num_tokens} token artifacts; give one for"):
        pair_tokens("train_mllm", folders, tokens)
