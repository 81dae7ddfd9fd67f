"""The same recipe with its artifacts in an object store: the same bytes, and the store alone is enough to go on."""

from pathlib import Path

import pytest

from orchestrator.artifacts import ArtifactStore
from orchestrator.store import open_store
from tests.end_to_end.desk import TINY, Desk
from tests.orchestrator import conftest as orchestrator_fixtures

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

s3_server = orchestrator_fixtures.s3_server
COMMAND = (str(TINY), "--until", "curated")


def test_an_object_store_holds_the_same_bytes_and_is_enough(
    s3_server: orchestrator_fixtures.S3Server, finished: Desk, tmp_path: Path
) -> None:
    url = s3_server.url("recipe")
    names = ("here", "elsewhere")
    for name in names:
        (tmp_path / name).mkdir()
    environment = {"ILLUME_TRACKING": "none", "ILLUME_STORE": url}
    here, elsewhere = (Desk(folder=tmp_path / name, environment=environment) for name in names)
    here.illume("run", *COMMAND)
    stored = ArtifactStore(open_store(url), tmp_path / "cache").all()
    found = {
        (one.manifest.stage_kind, str(one.manifest.fingerprint)): {
            entry.path: entry.sha256 for entry in one.manifest.files
        }
        for one in stored
    }
    quiet = finished.digests()
    assert len(found) == 3
    assert found == {place: quiet[place] for place in found}
    assert set(elsewhere.actions(*COMMAND).values()) == {"reuse"}  # another machine: no index, no cache
    assert elsewhere.illume("verify", "--json").data == {"checked": 3, "problems": []}
    assert not (here.store).exists()
