"""Which shards of datasets are tokenized, and what identifies them."""

import hashlib
from pathlib import Path

import pytest

from orchestrator.artifact import Artifact, FileEntry, Fingerprint, Manifest
from orchestrator.errors import PrecheckError
from stages.tokenize_images import shards_to_tokenize
from tests.data_pipelines.conftest import Wanted, write_dataset

SAMPLES = [
    Wanted(task="generation", turns=(f"Generate {{resolution_tag}} {n}\n", "<image>"), anchors=((32, 32),))
    for n in range(4)
]


def artifact(folder: Path) -> Artifact:
    """A folder as a committed artifact, with the parts of a manifest that a stage reads."""
    files = tuple(
        FileEntry(
            path=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    fingerprint = Fingerprint(hashlib.sha256(str(folder).encode()).hexdigest())
    manifest = Manifest(
        kind="dataset@1", stage_kind="curate", fingerprint=fingerprint, payload={}, files=files, metrics={}
    )
    return Artifact(path=folder, manifest=manifest, manifest_sha256="")


def dataset(folder: Path, name: str, samples: list[Wanted] = SAMPLES) -> tuple[Path, list[str]]:
    """A dataset whose shards are named after it, and its samples' ids."""
    return folder / "dataset", write_dataset(folder / "dataset", samples, name=name, per_shard=2)


def test_every_shard_with_images_to_generate_is_tokenized(tmp_path: Path) -> None:
    samples = [*SAMPLES, Wanted(task="text", turns=("Say", "so"))]
    first, ids = dataset(tmp_path / "1", "one", samples)
    second, _ = dataset(tmp_path / "2", "two")
    shards = shards_to_tokenize([artifact(first), artifact(second)], ("generation", "editing"))
    assert [shard.name for shard in shards] == ["one-00000", "one-00001", "two-00000", "two-00001"]
    assert shards[0].items == tuple(ids[:2])


def test_the_identity_depends_on_the_images_and_not_on_their_location(tmp_path: Path) -> None:
    first, _ = dataset(tmp_path / "1", "one")
    again, _ = dataset(tmp_path / "2", "one")
    found = [shards_to_tokenize([artifact(folder)], ("generation",)) for folder in (first, again)]
    assert [(shard.items, shard.identity) for shard in found[0]] == [
        (shard.items, shard.identity) for shard in found[1]
    ]


def test_two_shards_of_one_name_are_not_tokenized_into_one_file(tmp_path: Path) -> None:
    both = [artifact(dataset(tmp_path / folder, "one")[0]) for folder in ("1", "2")]
    with pytest.raises(PrecheckError, match=r"both have a shard 'one-00000'; tokenize each in a stage of its own, or"):
        shards_to_tokenize(both, ("generation",))
