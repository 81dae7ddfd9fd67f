"""The pages of datasets, from a made-up history and a store with one artifact."""

import sys

import pytest
from starlette.testclient import TestClient

from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.artifacts.artifact_store import ManifestDraft
from orchestrator.history.made_artifacts import made_artifacts, uses_of
from orchestrator.identity import fingerprint_of
from tests.orchestrator.web.conftest import MadeUp, fingerprint

PAYLOAD: dict[str, JSON] = {"kind": "curate", "version": 1}
CURATED = fingerprint_of(PAYLOAD)


@pytest.fixture
def run(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run whose stage `curated` made a dataset that is in the store."""
    conftest = sys.modules[type(made_up).__module__]
    monkeypatch.setattr(
        conftest, "fingerprint", lambda recipe, name: CURATED if name == "curated" else fingerprint(recipe, name)
    )
    made_up.start("r1")
    for stage in ("raw", "curated"):
        made_up.commit("r1", stage)
    artifacts = made_up.workspace.artifacts
    attempt = artifacts.new_attempt(ArtifactKey("curate", CURATED), "a1")
    (attempt.data / "data.txt").write_text("one")
    metrics = {"keep": 8.0, "duplicate": 1.0, "drop": 1.0, "reason caption_<b>": 1.0, "kept_bytes": 3.0}
    artifacts.commit(attempt, ManifestDraft(kind="dataset@1", payload=PAYLOAD, metrics=metrics), epoch=1)
    return "r1"


def test_a_stored_version_has_rows_verdicts_and_size(client: TestClient, run: str) -> None:
    rows = client.get("/api/v1/datasets").json()["datasets"]
    (curated,) = [row for row in rows if row["stage"] == "curated"]
    assert (curated["rows"], curated["is_there"], curated["run"]) == (8.0, True, run)
    assert [verdict["name"] for verdict in curated["verdicts"]] == ["keep", "duplicate", "drop"]
    page = client.get("/datasets").text
    assert "curated: 8 keep, 1 duplicate, 1 drop" in page
    assert "deleted" in page  # `raw` is not in the store


def test_the_page_of_one_says_why_samples_were_not_kept_and_what_was_made_from_it(client: TestClient, run: str) -> None:
    page = client.get(f"/datasets/{CURATED}").text
    assert "caption &lt;b&gt;" in page
    assert f"illume audit {run}:curated --page audit.html" in page
    view = client.get(f"/api/v1/datasets/{CURATED}").json()
    assert [relative["stage"] for relative in view["made_from"]] == ["raw"]
    assert [relative["stage"] for relative in view["made_into"]] == ["tokens"]


def test_a_version_that_is_gone_and_one_that_never_was_are_pages(client: TestClient, run: str) -> None:
    assert "not in the store any more" in client.get(f"/datasets/{fingerprint('tiny', 'raw')}").text
    assert client.get(f"/datasets/{'0' * 64}").status_code == 404


def test_search_and_bad_addresses(client: TestClient, run: str) -> None:
    assert len(client.get("/api/v1/datasets?q=CURA").json()["datasets"]) == 1
    assert "No dataset fits" in client.get("/datasets?q=%25").text
    assert client.get("/datasets?before=soon").status_code == 400


def test_newest_first_by_name_and_by_the_start_of_the_fingerprint(made_up: MadeUp) -> None:
    made_up.start("r1")
    for stage in ("raw", "curated"):
        made_up.commit("r1", stage)
    database = made_up.workspace.database
    assert [made.stage_id for made in made_artifacts(database, ["curate"], limit=9)] == ["curated", "raw"]
    assert [made.stage_id for made in made_artifacts(database, ["curate"], text="RAW", limit=9)] == ["raw"]
    start = fingerprint("tiny", "raw")[:20]
    assert [made.stage_id for made in made_artifacts(database, ["curate"], text=start, limit=9)] == ["raw"]
    assert made_artifacts(database, ["curate"], text="%", limit=9) == []
    assert made_artifacts(database, ["ingest"], limit=9) == []


def test_uses_name_what_stands_above_and_below(made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.start("r2")
    uses = uses_of(made_up.workspace.database, fingerprint("tiny", "curated"), limit=9)
    assert {use.run_id for use in uses} == {"r1", "r2"}
    assert [name for name, _, _ in uses[0].upstream] == ["raw"]
    assert [name for name, _, _ in uses[0].downstream] == ["tokens"]
