"""Small images of a stored dataset come from the records in the store; from a remote store not too much is fetched."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.artifact import ArtifactKey, FileEntry, Fingerprint, Manifest
from orchestrator.commands.shared import thumbnails
from orchestrator.errors import CorruptArtifactError
from stages import STAGE_KINDS
from tests.data_pipelines.curation.curated import curate, drawn, encoded, records_of

RECORDS = ArtifactKey("ingest", "a" * 64)


@dataclass
class Artifacts:
    """A store with one artifact of records."""

    folder: Path
    is_local: bool = True
    is_damaged: bool = False
    accepted: list[str] = field(default_factory=list)

    @property
    def store(self) -> Any:
        return SimpleNamespace(is_local=self.is_local)

    def stored(self, key: ArtifactKey) -> Any:
        files = (FileEntry(path="images/part.tar", bytes=2000, sha256="0" * 64),)
        manifest = manifest_of("records@1", key, files=files)
        return SimpleNamespace(manifest=manifest) if key == RECORDS else None

    def open(self, key: ArtifactKey, *, only: Callable[[str], bool]) -> Any:
        if self.is_damaged:
            raise CorruptArtifactError("damaged")
        names = [
            "images/part.tar",
            "index/part.parquet",
            "records/part.parquet",
            "records/b.parquet",
            "orphans.parquet",
        ]
        self.accepted = [name for name in names if only(name)]
        return SimpleNamespace(path=self.folder)


def manifest_of(kind: str, key: ArtifactKey, **fields: Any) -> Manifest:
    defaults: dict[str, Any] = {"payload": {}, "files": (), "metrics": {}}
    return Manifest(
        kind=kind, stage_kind=key.stage_kind, fingerprint=Fingerprint(key.fingerprint), **{**defaults, **fields}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    records = records_of(folder, [("a", encoded(drawn(1)), "a scene"), ("b", encoded(drawn(2)), "")])
    curate(records, folder)
    return folder


@pytest.mark.parametrize(
    ("artifacts", "fingerprint", "shown"),
    [
        ({}, RECORDS.fingerprint, ["drop", "keep"]),
        ({"is_local": False}, RECORDS.fingerprint, ["drop", "keep"]),
        ({"is_damaged": True}, RECORDS.fingerprint, []),
        ({}, "b" * 64, []),  # no longer in the store
    ],
)
def test_images_are_those_of_the_records_in_the_store(
    made: Path, tmp_path: Path, artifacts: dict[str, bool], fingerprint: str, shown: list[str]
) -> None:
    store: Any = Artifacts(made / "records", **artifacts)
    dataset = manifest_of("dataset@1", ArtifactKey("curate", "c" * 64), inputs={"records": (fingerprint,)})
    view = thumbnails.stored_thumbnails(store, STAGE_KINDS, dataset, made / "data", tmp_path / "view")
    rows = [row for file in view.iterdir() for row in pq.read_table(file).to_pylist()]
    assert sorted(row["verdict"] for row in rows if row["jpeg"]) == shown
    assert store.accepted == (["images/part.tar", "index/part.parquet", "records/part.parquet"] if shown else [])


def test_large_images_are_not_fetched(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "MAX_DOWNLOAD_BYTES", 1999)
    store: Any = Artifacts(made / "records", is_local=False)
    dataset = manifest_of("dataset@1", ArtifactKey("curate", "c" * 64), inputs={"records": (RECORDS.fingerprint,)})
    thumbnails.stored_thumbnails(store, STAGE_KINDS, dataset, made / "data", tmp_path / "view")
    assert store.accepted == []
