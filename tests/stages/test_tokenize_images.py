"""Which shards of datasets are tokenized, and what identifies them."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from models.dualvitok import weights
from models.dualvitok.model import DualViTok
from orchestrator.artifact import Artifact, FileEntry, Fingerprint, Manifest
from orchestrator.errors import PrecheckError
from orchestrator.testing import folder_context
from stages.tokenize_images import TOKENIZE_IMAGES, TokenizeImagesConfig, shards_to_tokenize
from tests.data_pipelines.conftest import Wanted, write_dataset
from tests.data_pipelines.tiny_run import TOKENIZER

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


def test_the_metrics_say_how_much_of_the_codebooks_is_in_use(tmp_path: Path) -> None:
    samples = [replace(sample, anchors=((64, 64),)) for sample in SAMPLES]
    folder, _ = dataset(tmp_path / "1", "one", samples)
    (tmp_path / "tokenizer").mkdir()
    weights.save(DualViTok(TOKENIZER), tmp_path / "tokenizer")
    inputs = {"datasets": folder, "tokenizer": tmp_path / "tokenizer"}
    context = folder_context(TOKENIZE_IMAGES, tmp_path / "work", inputs=inputs)
    metrics = TOKENIZE_IMAGES.run(TokenizeImagesConfig(), context)
    assert metrics["rows"] == len(SAMPLES)
    for book in ("semantic", "pixel"):
        assert 0 < metrics[f"{book}_codes_used"] <= 1
        assert metrics[f"{book}_perplexity"] >= 1
    assert TOKENIZE_IMAGES.warnings is not None
    collapsed = {**metrics, "pixel_codes_used": 0.001, "pixel_codes_per_entry": 9.0}
    assert "the pixel codebook has collapsed" in TOKENIZE_IMAGES.warnings(collapsed)[0]
