import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.backends.object_store import ObjectStore
from orchestrator.backends.transfers import MIB
from orchestrator.commands.gc import gc_command
from orchestrator.history.database.database import Database
from orchestrator.retention.old_versions import OLD_VERSIONS
from orchestrator.retention.unfinished_uploads import abort_uploads, find_unfinished_uploads
from orchestrator.store.store import Store
from tests.orchestrator.conftest import MemoryStore

LATER_S = 4e9
KEY = "artifacts/curate/ab/abcd/attempts/{}/data/deep/part"


def nobody(_attempt: str) -> bool:
    return False


def begin(store: ObjectStore, key: str) -> None:
    api = store.s3
    assert api is not None
    where = {"Bucket": api.bucket, "Key": f"{api.prefix}{key}"}
    upload = api.client.create_multipart_upload(**where)["UploadId"]
    api.client.upload_part(**where, UploadId=upload, PartNumber=1, Body=bytes(6 * MIB))


def test_uploads_of_dead_attempts_are_aborted_after_a_while(s3_store: ObjectStore) -> None:
    for attempt in ("dead", "live"):
        begin(s3_store, KEY.format(attempt))
    begin(s3_store, "shards/curate/ab/abcd/live-0123456789abcdef/data/part")
    assert find_unfinished_uploads(s3_store, before_s=0.0, is_live=nobody) == []
    found = find_unfinished_uploads(s3_store, before_s=LATER_S, is_live=lambda attempt: attempt == "live")
    assert [(upload.key, upload.bytes) for upload in found] == [(KEY.format("dead"), 6 * MIB)]
    assert abort_uploads(s3_store, found) == 6 * MIB
    left = find_unfinished_uploads(s3_store, before_s=LATER_S, is_live=nobody)
    assert [next(part for part in upload.key.split("/") if part.startswith("live")) for upload in left] == [
        "live",
        "live-0123456789abcdef",
    ]


def test_a_bucket_that_does_not_allow_the_listing_is_named(s3, s3_store: Store, caplog) -> None:
    s3.refusals = {("GET", "uploads"): "<Code>AccessDenied</Code>"}
    assert find_unfinished_uploads(s3_store, before_s=LATER_S, is_live=nobody) == []
    assert "uploads that were never finished are not collected: " in caplog.text
    assert "AccessDenied" in caplog.text


def test_other_stores_have_none(local_store: Store) -> None:
    for store in (local_store, MemoryStore()):
        assert find_unfinished_uploads(store, before_s=LATER_S, is_live=nobody) == []
        assert abort_uploads(store, []) == 0


def test_gc_lists_and_aborts_them(s3_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILLUME_HOME", str(tmp_path / "home"))
    Database(str(tmp_path / "home" / "index.db")).close()
    begin(s3_store, KEY.format("dead"))
    options = ["--store", s3_store.url, "--tracking", "none", "--older-than-h", "0"]
    listed = CliRunner().invoke(gc_command, [*options, "--json"])
    assert listed.exit_code == 0, listed.output
    report = json.loads(listed.stdout)
    assert [(item["reason"], item["bytes"]) for item in report["garbage"]] == [("upload", 6 * MIB)]
    deleted = CliRunner().invoke(gc_command, [*options, "--delete"])
    assert deleted.exit_code == 0, deleted.output
    assert "deleted 1 items, 6.0 MiB" in deleted.stdout
    assert find_unfinished_uploads(s3_store, before_s=LATER_S, is_live=nobody) == []
    assert OLD_VERSIONS not in deleted.stdout
