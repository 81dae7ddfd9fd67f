"""The same recipe with its artifacts in an object store: the same bytes, and the store alone is enough to go on."""

from pathlib import Path

import pytest

from orchestrator.artifacts import ArtifactStore
from orchestrator.store import open_store
from tests.end_to_end.desk import TINY, Desk
from tests.orchestrator import conftest as orchestrator_fixtures

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

s3_server = orchestrator_fixtures.s3_server
postgresql = orchestrator_fixtures.postgresql
postgresql_server = orchestrator_fixtures.postgresql_server
postgresql_url = orchestrator_fixtures.postgresql_url


def test_the_whole_recipe_on_s3_and_postgresql_which_is_restarted_under_it(
    s3_server: orchestrator_fixtures.S3Server,
    postgresql: orchestrator_fixtures.PostgresqlServer,
    postgresql_url: str,
    finished: Desk,
    tmp_path: Path,
) -> None:
    url = s3_server.url("recipe")
    names = ("here", "elsewhere")
    for name in names:
        (tmp_path / name).mkdir()
    environment = {"ILLUME_TRACKING": "none", "ILLUME_STORE": url}
    here = Desk(folder=tmp_path / "here", environment={**environment, "ILLUME_DATABASE": postgresql_url})
    elsewhere = Desk(folder=tmp_path / "elsewhere", environment=environment)
    store = open_store(url)
    with here.start("run", str(TINY)) as driver:
        driver.wait_until(lambda: "curate" in store.folders("artifacts"))
        postgresql.restart()
        driver.wait_until(lambda: "train_tokenizer" in store.folders("artifacts"))
        postgresql.restart()
        assert driver.process.wait(400) == 0, driver.log.read_text()
    found = {
        (one.manifest.stage_kind, str(one.manifest.fingerprint)): {
            entry.path: entry.sha256 for entry in one.manifest.files
        }
        for one in ArtifactStore(store, tmp_path / "cache").all()
    }
    assert found == finished.digests()
    assert set(here.actions(str(TINY)).values()) == {"reuse"}
    assert set(elsewhere.actions(str(TINY)).values()) == {"reuse"}  # another machine: no index, no cache
    assert elsewhere.illume("verify", "--json").data == {"checked": len(found), "problems": []}
    assert not (here.store).exists()
