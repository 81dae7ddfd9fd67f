"""The same recipe with its artifacts in an object store: the same bytes, and the store alone is enough to continue."""

from functools import partial
from pathlib import Path

import pytest

from orchestrator.artifacts.artifact_store import ArtifactStore
from orchestrator.store.store import Store, open_store
from tests.end_to_end.desk import TINY, Desk
from tests.orchestrator import conftest as orchestrator_fixtures

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

s3_server = orchestrator_fixtures.s3_server
postgresql = orchestrator_fixtures.postgresql
postgresql_server = orchestrator_fixtures.postgresql_server
postgresql_url = orchestrator_fixtures.postgresql_url


def has_attempts(store: Store, stage_kind: str) -> bool:
    return stage_kind in store.folders("artifacts")


@pytest.mark.parametrize(
    ("command", "restarts_after"),
    [
        pytest.param((str(TINY), "--until", "curated"), ("ingest",), id="data"),
        pytest.param((str(TINY),), ("curate", "train_tokenizer"), id="whole", marks=pytest.mark.slow),
    ],
)
def test_the_recipe_on_s3_and_postgresql_which_crashes_under_it(
    s3_server: orchestrator_fixtures.S3Server,
    postgresql: orchestrator_fixtures.PostgresqlServer,
    postgresql_url: str,
    finished: Desk,
    tmp_path: Path,
    command: tuple[str, ...],
    restarts_after: tuple[str, ...],
) -> None:
    url = s3_server.url("recipe")
    names = ("here", "elsewhere")
    for name in names:
        (tmp_path / name).mkdir()
    environment = {"ILLUME_TRACKING": "none", "ILLUME_STORE": url}
    here = Desk(folder=tmp_path / "here", environment={**environment, "ILLUME_DATABASE": postgresql_url})
    elsewhere = Desk(folder=tmp_path / "elsewhere", environment=environment)
    store = open_store(url)
    with here.start("run", *command) as driver:
        for kind in restarts_after:
            driver.wait_until(partial(has_attempts, store, kind))
            postgresql.restart()
        assert driver.process.wait(400) == 0, driver.log.read_text()
    found = {
        (artifact.manifest.stage_kind, str(artifact.manifest.fingerprint)): {
            entry.path: entry.sha256 for entry in artifact.manifest.files
        }
        for artifact in ArtifactStore(store, tmp_path / "cache").all()
    }
    quiet = finished.digests()
    assert found == (quiet if len(command) == 1 else {place: quiet[place] for place in found})
    assert len(found) >= 3
    assert set(here.actions(*command).values()) == {"reuse"}
    assert set(elsewhere.actions(*command).values()) == {"reuse"}  # another machine: no index, no cache
    assert elsewhere.illume("verify", "--json").data == {"format": 1, "checked": len(found), "problems": []}
    assert not (here.store).exists()
