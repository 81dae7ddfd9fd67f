"""Which samples a tokenizer is scored on."""

from pathlib import Path

import pytest

from orchestrator.errors import PrecheckError
from orchestrator.stage import Location
from orchestrator.testing import FolderContext, folder_context
from stages.score_tokenizer import SCORE_TOKENIZER, ScoreTokenizerConfig, _check_digest, _shards, needs
from tests.data_pipelines.conftest import Wanted, write_dataset


@pytest.fixture
def context(tmp_path: Path) -> FolderContext:
    samples = [
        Wanted(task="understanding", turns=("<image>\nWhat?", str(n)), anchors=((64, 64),), split="val")
        for n in range(20)
    ]
    write_dataset(tmp_path / "dataset", samples, per_shard=8)
    return folder_context(
        SCORE_TOKENIZER, tmp_path / "work", inputs={"tokenizer": tmp_path / "dataset", "datasets": tmp_path / "dataset"}
    )


@pytest.mark.parametrize(("samples", "expected"), [(0, [8, 8, 4]), (5, [2, 2, 1]), (100, [8, 8, 4]), (1, [1])])
def test_samples_are_spread_evenly_over_the_dataset(context: FolderContext, samples: int, expected: list[int]) -> None:
    shards = _shards(ScoreTokenizerConfig(samples=samples), context)
    assert [len(shard.items) for shard in shards] == expected
    items = [item for shard in shards for item in shard.items]
    assert len(set(items)) == len(items)


def test_a_split_without_samples_is_refused(context: FolderContext) -> None:
    with pytest.raises(PrecheckError, match=r"no kept sample of .* in split 'test'; see `illume audit`"):
        _shards(ScoreTokenizerConfig(split="test"), context)


def test_other_inception_weights_than_stated_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inception.pth").write_bytes(b"weights")
    config = ScoreTokenizerConfig(
        inception_sha256="a" * 64, inception_weights=Location(str(tmp_path / "inception.pth"))
    )
    with pytest.raises(PrecheckError, match=f"config.inception_sha256 says {'a' * 64}"):
        _check_digest(config)
    assert set(needs(config)) == {"inception_weights"}
    assert needs(ScoreTokenizerConfig()) == {}
