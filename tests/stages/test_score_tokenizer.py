"""Which samples a tokenizer is scored on."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import PrecheckError
from orchestrator.stage import Location
from stages.score_tokenizer import ScoreTokenizerConfig, _check_digest, _shards, needs
from tests.data_pipelines.conftest import Wanted, write_dataset


@dataclass(frozen=True)
class Context:
    """The part of a stage's context that is read before any work begins."""

    folders: tuple[Path, ...]

    def inputs(self, slot: str) -> list[Any]:
        assert slot == "datasets"
        return [SimpleNamespace(path=folder, fingerprint=folder.name) for folder in self.folders]


@pytest.fixture
def context(tmp_path: Path) -> Any:
    samples = [
        Wanted(task="understanding", turns=("<image>\nWhat?", str(n)), anchors=((64, 64),), split="val")
        for n in range(20)
    ]
    write_dataset(tmp_path / "dataset", samples, per_shard=8)
    return Context((tmp_path / "dataset",))


@pytest.mark.parametrize(("samples", "expected"), [(0, [8, 8, 4]), (5, [2, 2, 1]), (100, [8, 8, 4]), (1, [1])])
def test_samples_are_spread_evenly_over_the_dataset(context: Any, samples: int, expected: list[int]) -> None:
    shards = _shards(ScoreTokenizerConfig(samples=samples), context)
    assert [len(shard.items) for shard in shards] == expected
    items = [item for shard in shards for item in shard.items]
    assert len(set(items)) == len(items)


def test_a_split_without_samples_is_refused(context: Any) -> None:
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
