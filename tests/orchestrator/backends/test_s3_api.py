from pathlib import Path

import obstore
import pytest

from orchestrator.backends import s3_api
from orchestrator.backends.object_store import ObjectStore
from orchestrator.backends.transfers import MIB
from orchestrator.errors import StoreError

TOO_LARGE = (
    "<Code>InvalidRequest</Code><Message>The specified copy source is larger than the maximum allowable size for a "
    "copy source: 5368709120</Message>"
)


@pytest.fixture
def big(s3, s3_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A store with an object that is too large for one copy, and so is copied in two parts."""
    monkeypatch.setattr(s3_api, "COPY_PART_BYTES", 5 * MIB)
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4096 * 12)
    s3_store.upload(tmp_path / "file", "source")
    s3.refusals = {("PUT", "/target? "): TOO_LARGE}
    return s3_store


def test_a_copy_beyond_the_size_of_one_request_is_made_in_parts(big: ObjectStore) -> None:
    big.link("source", "target")
    head = big.connection.call(lambda clients: obstore.head(clients.requests, "target"))
    assert str(head["e_tag"]).strip('"').endswith("-2")
    assert big.digest("target") == big.digest("source")
    assert big.s3 is not None
    assert list(big.s3.unfinished_uploads()) == []


def test_a_copy_in_parts_that_fails_leaves_nothing(s3, big: ObjectStore) -> None:
    s3.refusals[("PUT", "partNumber=2")] = "<Code>AccessDenied</Code>"
    with pytest.raises(
        StoreError, match=r"cannot copy 'source' to 'target' in parts: .*AccessDenied.*Check the rights"
    ):
        big.link("source", "target")
    assert big.s3 is not None
    assert list(big.s3.unfinished_uploads()) == []
    assert big.digest("target") is None


def test_unfinished_uploads_are_listed_below_the_prefix_and_aborted(s3_store: ObjectStore) -> None:
    api = s3_store.s3
    assert api is not None
    for key in (f"{api.prefix}a/data/file", "another/prefix/file"):
        api.client.create_multipart_upload(Bucket=api.bucket, Key=key)
    found = list(api.unfinished_uploads())
    assert [upload.key for upload in found] == ["a/data/file"]
    assert found[0].begun_s > 1e9
    api.abort_upload(found[0])
    api.abort_upload(found[0])  # somebody else was faster
    assert list(api.unfinished_uploads()) == []
